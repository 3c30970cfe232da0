"""Mixture: from easy to impossible."""

import pytest

from tests.envs.environments.responses import agree_with, score
from textrl_envs.environments import build_task
from textrl_envs.environments.mixture import LEVELS
from textrl_envs.optimum import Optimum, optimum
from textrl_envs.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("mixture", {})


@pytest.fixture(scope="module")
def solved(task: Task) -> Optimum:
    return optimum(task)


def in_order(prompt: str, words: list[str]) -> float:
    request = prompt.removeprefix("tell of ").split(" : ")[0].split(" and ")
    rest = iter(words)
    return float(all(word in rest for word in [*request, "<eos>"]))


def test_every_request_has_its_own_words(task: Task) -> None:
    requests = [text.split(" : ")[0] for text in task.prompts.texts[::8]]
    assert requests == [f"tell of {' and '.join(words)}" for words in LEVELS]
    assert len(task.prompts) == 40
    text = "saw a boat near a ring under the tower . <eos>"
    assert [score(task, text, prompt=prompt) for prompt in range(0, 40, 8)] == [1, 1, 0, 0, 0]
    assert score(task, "tell tell and tell <eos>", prompt=39) == 1


def test_the_reward_is_the_rule(task: Task) -> None:
    agree_with(task, in_order, number=600)


def test_the_levels_go_from_easy_to_impossible(solved: Optimum) -> None:
    chances = solved.at_reference.rewards.reshape(5, 8).mean(axis=1)
    values = solved.values.reshape(5, 8).mean(axis=1)
    # Two of the levels ask for two words each, and are alike.
    assert chances[0] > 5 * chances[1:3].max() > 5 * chances[1:3].min() > 25 * chances[3]
    assert chances[3] > 1000 * chances[4]
    assert values[0] > values[1:3].max() > values[1:3].min() > values[3] > values[4]
    assert chances[0] == pytest.approx(1 / 6, abs=0.02)  # as the docstring says
    assert chances[-1] < 1e-6
    assert values[0] > 0.8


def test_the_last_level_is_worth_nothing(solved: Optimum) -> None:
    assert solved.values[32:].max() < 1e-3
    assert solved.values[:32].min() > 0.2
