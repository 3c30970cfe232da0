"""The figures of docs/serving.md, at a small budget."""

import copy
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import textrl_envs  # noqa: F401 - registers the environments
from textrl_agents.policies import LSTMPolicy, Policy, make_policy
from textrl_agents.serving import quantised
from textrl_benchmarks import serving_page
from textrl_benchmarks.evaluation import evaluate
from textrl_benchmarks.serving_page import ENVIRONMENTS, Measured, measure

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"


@pytest.fixture(scope="module")
def measured() -> list[Measured]:
    return list(measure("textrl/Keyword-v0", total_tokens=2000, episodes=128))


def test_the_smaller_policies_stand_beside_their_teacher(measured: list[Measured]) -> None:
    teacher, in_8_bits, distilled, alone = measured
    assert (teacher.loss, teacher.loss_error, teacher.divergence) == (0.0, 0.0, 0.0)
    assert distilled.num_bytes == alone.num_bytes < in_8_bits.num_bytes < teacher.num_bytes
    for one in measured[1:]:
        assert one.loss == pytest.approx(teacher.score - one.score, abs=1e-9)
        assert one.divergence > 0
        assert one.tokens_per_second > 0
    assert in_8_bits.divergence < min(distilled.divergence, alone.divergence)


def test_two_that_are_the_same_are_told_apart_by_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers are common, so that the loss of a copy is 0 and not 0 ± something."""

    def twice(envs: object, *, total_tokens: int) -> list[tuple[str, Policy]]:
        policy = make_policy(envs, device="cpu")
        return [("PPO", policy), ("copy", copy.deepcopy(policy))]

    monkeypatch.setattr(serving_page, "policies", twice)
    _, same = measure("textrl/Keyword-v0", total_tokens=1, episodes=64)
    assert (same.loss, same.loss_error) == (0.0, 0.0)


def test_the_score_is_that_of_evaluate_but_for_sampling() -> None:
    name = "textrl/KeywordDense-v0"
    envs = gym.make_vec(name, num_envs=64)
    policy = LSTMPolicy(vocabulary_size=46, reference=envs.unwrapped.reference, device="cpu")  # type: ignore[attr-defined]
    found = evaluate(policy, envs, episodes=1024)
    played = serving_page._play(name, policy, 1024)
    error = np.hypot(played.returns.std() / 32, found.regularised_return.standard_error)
    assert abs(played.returns.mean() - found.regularised_return.mean) < 4 * error


def test_quantising_leaves_the_returns_of_most_episodes_as_they_are() -> None:
    envs = gym.make_vec("textrl/Keyword-v0", num_envs=8)
    policy = make_policy(envs, device="cpu")
    served = quantised(policy)
    first, second = (serving_page._play("textrl/Keyword-v0", p, 256) for p in (policy, served))
    assert np.mean(first.scores == second.scores) > 0.9


def test_the_page_has_a_row_for_every_policy() -> None:
    page = PAGE.read_text()
    for name in ENVIRONMENTS:
        rows = [line for line in page.splitlines() if line.startswith(f"| `{name[7:]}`")]
        assert len(rows) == 4
    assert "python -m textrl_benchmarks.serving_page" in page
