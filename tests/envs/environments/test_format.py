"""Format: the automaton against the regular expression of the docstring."""

import re

import pytest

from tests.envs.environments.responses import agree_with, score
from textrl_envs.environments import build_task
from textrl_envs.environments.format import COUNTS, format_records
from textrl_envs.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("format_records", {})


def matches(prompt: str, words: list[str]) -> float:
    """Matches the docstring's own pattern, white space between tokens being left out."""
    pattern = re.search(r"`(\(.*\))\{n\}`", format_records.__doc__ or "")
    assert pattern
    number = COUNTS.index(prompt.split()[1]) + 1
    full = f"{pattern[1]}{{{number}}}".replace(" ", "")
    return float(words[-1] == "<eos>" and re.fullmatch(full, "".join(words[:-1])) is not None)


def test_records_of_a_name_a_colon_two_digits_and_a_semicolon_are_wanted(task: Task) -> None:
    assert task.prompts.texts == ["write one records", "write two records", "write three records"]
    assert score(task, "anna : 4 2 ; <eos>") == 1
    assert score(task, "anna : 4 2 ; emma : 1 7 ; <eos>", prompt=1) == 1
    assert score(task, "anna : 4 2 ; emma : 1 7 ; <eos>") == 0
    assert score(task, "anna : 4 2 ; <eos>", prompt=1) == 0
    assert score(task, "anna : 4 2 ;") == 0
    assert score(task, "anna 4 2 ; <eos>") == 0
    assert score(task, "anna : 4 ; <eos>") == 0
    assert score(task, "anna : 4 2 3 ; <eos>") == 0
    assert score(task, "anna : 4 2 , <eos>") == 0
    assert score(task, "write : 4 2 ; <eos>") == 0


def test_the_automaton_is_the_regular_expression(task: Task) -> None:
    agree_with(task, matches, number=600)
    agree_with(build_task("format_records", {"max_new_tokens": 16}), matches)


def test_there_is_room_for_three_records(task: Task) -> None:
    three = "anna : 4 2 ; " * 3 + "<eos>"
    assert len(three.split()) == 16 <= task.max_new_tokens
    assert score(task, three, prompt=2) == 1
