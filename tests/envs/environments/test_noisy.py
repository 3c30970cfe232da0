"""Noisy: Keyword before a judge who errs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from textrl_envs.environments import build_task
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import optimum
from textrl_envs.rewards.noise import LabelNoise
from textrl_envs.task import Task
from textrl_envs.text_env import TextEnv
from textrl_envs.vector_env import TextVectorEnv

RIGHT = "saw a lantern near the harbour . <eos>"
WRONG = "saw a lantern . <eos>"


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("noisy", {})


def play(env: TextEnv, text: str, seed: int | None = None) -> dict[str, Any]:
    env.reset(seed=seed)
    for token in env.task.tokenizer.encode(text):
        _, reward, is_over, _, info = env.step(token)
    assert is_over
    assert reward == info["score"]
    return info


def test_a_label_is_paid_right_or_wrong_and_the_true_one_is_told(task: Task) -> None:
    env = TextEnv(task)
    for text, label in ((RIGHT, 1.0), (WRONG, 0.0)):
        infos = [play(env, text, seed) for seed in range(400)]
        paid = np.array([info["score"] for info in infos])
        assert {info["noiseless_score"] for info in infos} == {label}
        is_high = paid > 0.5
        np.testing.assert_allclose(paid, np.where(is_high, 4 / 3, -1 / 3))  # as in the docstring
        flipped = np.mean(is_high != label)
        assert abs(flipped - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 400)
        assert abs(paid.mean() - label) < 4 * paid.std() / np.sqrt(400)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25, 0.49])
@pytest.mark.parametrize("score", [0.0, 1.0])
def test_the_noise_is_exactly_unbiased(rate: float, score: float) -> None:
    # The mean over the uniform number is the sum over the two cases, of which one has the rate.
    noise = LabelNoise(rate)
    below, above = noise(np.full(2, score), np.array([rate - 1e-9, rate + 1e-9]))
    assert rate * below + (1 - rate) * above == pytest.approx(score, abs=1e-12)
    grid = (np.arange(100_000) + 0.5) / 100_000
    assert noise(np.full(100_000, score), grid).mean() == pytest.approx(
        score, abs=1e-3 / (1 - 2 * rate)
    )


def test_the_noise_is_fresh_in_every_episode(task: Task) -> None:
    env = TextEnv(task)
    env.reset(seed=0)
    paid = {play(env, RIGHT)["score"] for _ in range(40)}
    assert len(paid) == 2


def test_scalar_and_vector_environment_have_the_same_noise(task: Task) -> None:
    tokens = task.tokenizer.encode(RIGHT)
    envs = TextVectorEnv(task, num_envs=32)
    envs.reset(seed=7)
    for token in tokens:
        _, rewards, _, _, infos = envs.step(np.full(32, token))
    scalar = [play(TextEnv(task), RIGHT, 7 + row)["score"] for row in range(32)]
    assert rewards.tolist() == infos["score"].tolist() == scalar
    assert len(set(scalar)) == 2
    np.testing.assert_array_equal(infos["noiseless_score"], 1.0)


def test_noise_has_no_part_in_which_prompts_are_drawn(task: Task) -> None:
    quiet = replace(task, noise=None)
    indices = []
    for one in (task, quiet):
        env = TextEnv(one)
        indices.append([env.reset(seed=seed)[1]["prompt_index"] for seed in range(20)])
    assert indices[0] == indices[1]


def test_the_optimum_is_that_of_keyword(task: Task) -> None:
    noisy, clean = optimum(task), optimum(build_task("keyword", {}))
    np.testing.assert_array_equal(noisy.values, clean.values)
    assert noisy.reference_value == clean.reference_value
    assert noisy.kl == clean.kl


def test_no_flips_are_no_noise() -> None:
    env = TextEnv(build_task("noisy", {"flip_rate": 0}))
    assert {play(env, RIGHT, seed)["score"] for seed in range(20)} == {1.0}
    assert {play(env, WRONG, seed)["score"] for seed in range(20)} == {0.0}


@pytest.mark.parametrize("bad", [-0.1, 0.5, 1, "0.2", True, float("nan")])
def test_a_bad_rate_is_refused(bad: Any) -> None:
    message = rf"flip_rate must be a number in \[0, 0\.5\); got {bad!r}"
    with pytest.raises(InvalidInputError, match=message):
        build_task("noisy", {"flip_rate": bad})
