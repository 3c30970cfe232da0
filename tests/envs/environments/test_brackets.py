"""Brackets: all closed in the end."""

from typing import Any

import pytest

from tests.envs.environments.responses import agree_with, score
from textrl_envs.environments import build_task
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("brackets", {})


def is_balanced(prompt: str, words: list[str], pairs: int, depth: int) -> float:
    is_open, deepest, closed = prompt.count("("), 0, 0
    for word in words:
        is_open += (word == "(") - (word == ")")
        closed += word == ")"
        deepest = max(deepest, is_open)
        if is_open < 0:
            return 0.0
    return float(is_open == 0 and deepest <= depth and closed >= pairs and words[-1] == "<eos>")


def test_what_is_open_has_to_be_closed(task: Task) -> None:
    assert task.prompts.texts == ["close :", "close ( :", "close ( ( :", "close ( ( ( :"]
    assert score(task, "( a ) ( ) <eos>") == 1
    assert score(task, "a ) ( b ) ) <eos>", prompt=2) == 1  # as in the docstring
    assert score(task, "( a ) <eos>") == 0  # one pair only
    assert score(task, "( ) ( ) ( ) ( <eos>") == 0
    assert score(task, "( ) ( ) ( ) ) ( <eos>") == 0
    assert score(task, "( ( ( ( ( ( ) ) ) ) ) ) <eos>") == 1
    assert score(task, "( ( ( ( ( ( ( ) ) ) ) ) ) ) <eos>") == 0  # seven deep
    assert score(task, "( ) ( ) ( )") == 0


def test_the_reward_is_the_rule(task: Task) -> None:
    agree_with(task, lambda prompt, words: is_balanced(prompt, words, 2, 6))
    other = build_task("brackets", {"pairs": 0, "depth": 3, "max_new_tokens": 9})
    agree_with(other, lambda prompt, words: is_balanced(prompt, words, 0, 3))


@pytest.mark.parametrize(
    ("name", "bad", "least"),
    [("pairs", -1, 0), ("pairs", 1.0, 0), ("depth", 2, 3), ("depth", "6", 3), ("depth", True, 3)],
)
def test_a_bad_number_is_refused(name: str, bad: Any, least: int) -> None:
    message = f"{name} must be an integer of at least {least}; got {bad!r}"
    with pytest.raises(InvalidInputError, match=message):
        build_task("brackets", {name: bad})
