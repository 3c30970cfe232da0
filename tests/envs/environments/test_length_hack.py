"""LengthHack: every token is paid."""

import math

import numpy as np
import pytest

from tests.envs.environments.responses import agree_with, score
from textrl_envs.environments import build_task
from textrl_envs.optimum import optimum
from textrl_envs.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("length_hack", {})


def test_a_response_is_paid_for_its_tokens(task: Task) -> None:
    assert score(task, "<eos>") == 1 / 32
    assert score(task, "saw a boat . <eos>") == 5 / 32
    assert score(task, " ".join(["boat"] * 32)) == 1
    assert score(task, " ".join([*["boat"] * 31, "<eos>"])) == 1


def test_the_reward_is_the_rule(task: Task) -> None:
    agree_with(task, lambda _, words: len(words) / 32)
    other = build_task("length_hack", {"max_new_tokens": 7, "kl_coefficient": 0.2})
    agree_with(other, lambda _, words: len(words) / 7)


def test_without_a_price_the_best_is_never_to_stop(task: Task) -> None:
    solved = optimum(task, kl_coefficient=1e-3)
    assert solved.reward > 0.9999
    # What it costs is exactly the chance that the reference goes on for so long by itself.
    laws = solved.laws()
    chance = [law.probs[law.scores > 1 - 1e-9].sum() for law in laws]
    assert solved.kl == pytest.approx(-np.mean(np.log(chance)), abs=0.01)
    assert math.isclose(optimum(task).reward, 1, abs_tol=0.1)
