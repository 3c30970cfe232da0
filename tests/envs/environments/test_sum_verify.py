"""SumVerify: the sum of two numbers."""

from typing import Any

import pytest

from tests.envs.environments.responses import agree_with, score
from textrl_envs.environments import build_task
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("sum_verify", {})


def is_sum(prompt: str, words: list[str]) -> float:
    a, b = (int(number) for number in prompt.removesuffix(" =").split(" + "))
    return float(words == [*str(a + b), "<eos>"])


def test_the_sum_and_an_end_are_wanted(task: Task) -> None:
    prompt = task.prompts.texts.index("7 + 8 =")
    assert score(task, "1 5 <eos>", prompt=prompt) == 1
    assert score(task, "1 5 5", prompt=prompt) == 0
    assert score(task, "1 5 =", prompt=prompt) == 0
    assert score(task, "1 4 <eos>", prompt=prompt) == 0
    prompt = task.prompts.texts.index("0 + 4 =")
    assert score(task, "4 <eos>", prompt=prompt) == 1
    assert score(task, "0 4 <eos>", prompt=prompt) == 0  # a leading zero
    assert score(task, "0 <eos>", prompt=task.prompts.texts.index("0 + 0 =")) == 1


def test_the_reward_is_the_rule(task: Task) -> None:
    agree_with(task, is_sum, number=600)
    agree_with(build_task("sum_verify", {"largest": 2, "kl_coefficient": 0.02}), is_sum)


def test_every_pair_of_numbers_comes_once_with_its_answer(task: Task) -> None:
    texts = [f"{a} + {b} =" for a in range(10) for b in range(10)]
    assert task.prompts.texts == texts
    for text, about in zip(texts, task.prompts.metadata, strict=True):
        assert is_sum(text, [*about["answer"].split(), "<eos>"])
    assert len(build_task("sum_verify", {"largest": 1}).prompts) == 4


@pytest.mark.parametrize("bad", [0, 10, -1, 2.5, "9", False])
def test_a_bad_largest_number_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"largest must be an integer .*got {bad!r}"):
        build_task("sum_verify", {"largest": bad})
