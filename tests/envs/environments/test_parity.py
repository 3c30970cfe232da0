"""Parity: ones a multiple of three."""

from typing import Any

import pytest

from tests.envs.environments.responses import agree_with, score
from textrl_envs.environments import build_task
from textrl_envs.environments.parity import parity
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("parity", {})


def is_multiple(prompt: str, words: list[str], modulus: int, least: int) -> float:
    ones = prompt.split().count("1") + words.count("1")
    bits = words.count("0") + words.count("1")
    return float(ones % modulus == 0 and bits >= least and words[-1] == "<eos>")


def test_ones_of_prompt_and_response_are_counted(task: Task) -> None:
    assert task.prompts.texts[2] == "0 1 1 0 :"
    assert score(task, "1 0 0 0 0 0 <eos>", prompt=2) == 1
    assert score(task, "1 0 0 1 0 0 0 1 <eos>", prompt=2) == 0
    assert score(task, "0 0 0 0 0 0 <eos>", prompt=2) == 0
    assert score(task, "1 0 0 0 0 <eos>", prompt=2) == 0  # five bits
    assert score(task, "1 0 0 0 : 0 <eos>", prompt=2) == 0  # a colon is no bit
    assert score(task, "1 0 0 0 0 0", prompt=2) == 0
    assert score(task, "1 1 1 1 1 1 1 <eos>", prompt=5) == 1


def test_the_example_of_the_docstring_is_right(task: Task) -> None:
    response = "1 0 0 1 0 0 1 1 <eos>"
    assert f'"0 1 1 0 :", then the response, such as "{response}"' in (parity.__doc__ or "")
    assert score(task, response, prompt=2) == 1


def test_the_reward_is_the_rule(task: Task) -> None:
    agree_with(task, lambda prompt, words: is_multiple(prompt, words, 3, 6))
    other = build_task("parity", {"modulus": 5, "least": 0, "kl_coefficient": 0.05})
    agree_with(other, lambda prompt, words: is_multiple(prompt, words, 5, 0))


def test_prompts_of_every_remainder_are_presented(task: Task) -> None:
    ones = [text.count("1") % 3 for text in task.prompts.texts]
    assert set(ones) == {0, 1, 2}


@pytest.mark.parametrize(
    ("name", "bad", "least"),
    [("modulus", 1, 2), ("modulus", 3.0, 2), ("least", -1, 0), ("least", "6", 0)],
)
def test_a_bad_number_is_refused(name: str, bad: Any, least: int) -> None:
    message = f"{name} must be an integer of at least {least}; got {bad!r}"
    with pytest.raises(InvalidInputError, match=message):
        build_task("parity", {name: bad})
