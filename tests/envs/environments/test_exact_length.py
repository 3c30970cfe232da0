"""ExactLength: so many words, and an end."""

from typing import Any

import pytest

from tests.envs.environments.responses import agree_with, score
from textrl_envs.environments import build_task
from textrl_envs.environments.exact_length import NUMBERS
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("exact_length", {})


def test_the_words_before_the_end_are_counted(task: Task) -> None:
    assert task.prompts.texts[0].startswith("tell in five words : ")
    assert score(task, "saw a boat . the <eos>") == 1
    assert score(task, "saw a boat . <eos>") == 0
    assert score(task, "saw a boat . the child <eos>") == 0
    assert score(task, "saw a boat . the") == 0
    assert score(task, "<eos>") == 0


def test_the_reward_is_the_rule(task: Task) -> None:
    def rule(prompt: str, words: list[str]) -> float:
        wanted = NUMBERS.index(prompt.split()[2]) + 1
        return float(words[-1] == "<eos>" and len(words) == wanted + 1)

    agree_with(task, rule)
    agree_with(build_task("exact_length", {"lengths": [1, 16, 3]}), rule)


def test_every_length_comes_with_four_openings(task: Task) -> None:
    numbers = [text.split()[2] for text in task.prompts.texts]
    assert numbers == [*["five"] * 4, *["eight"] * 4, *["eleven"] * 4, *["fourteen"] * 4]
    assert len({text.split(" : ")[1] for text in task.prompts.texts}) == 4


@pytest.mark.parametrize("bad", [0, 17, -1, 2.0, "5", True])
def test_a_length_without_a_number_is_refused(bad: Any) -> None:
    message = f"Each of lengths must be an integer from 1 to 16; got {bad!r}"
    with pytest.raises(InvalidInputError, match=message):
        build_task("exact_length", {"lengths": [5, bad]})


def test_lengths_without_room_or_none_at_all_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="from 1 to 7; got 8"):
        build_task("exact_length", {"max_new_tokens": 8})
    bad: Any
    for bad in ([], 5, "5"):
        with pytest.raises(InvalidInputError, match="lengths must be a sequence of integers; got"):
            build_task("exact_length", {"lengths": bad})


def test_a_length_given_twice_is_refused() -> None:
    # Two prompts would be the same, and no optimum would be known.
    with pytest.raises(InvalidInputError, match=r"lengths must be different; got \(5, 8, 5\)"):
        build_task("exact_length", {"lengths": [5, 8, 5]})
