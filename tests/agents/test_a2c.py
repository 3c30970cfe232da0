"""A2C against the gradient of its objective, and against REINFORCE where they are the same."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.agents.expectation import (
    FAR,
    TOLERANCE,
    exact_values,
    expected_gradient,
    make_policy,
    one_by_one,
    precise,
)
from tests.agents.tiny import (
    all_episodes,
    enumerate_exactly,
    episodes_of,
    flat_gradient,
    gradients_of_update,
    relative_error,
    residual,
    tiny_task,
    twin_of,
    widened,
    with_kl,
)
from textrl_agents.a2c import A2C, A2CConfig
from textrl_agents.agent import StopTraining
from textrl_agents.episodes import Episodes
from textrl_agents.policies import Policy
from textrl_agents.reinforce import REINFORCE, REINFORCEConfig
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task(size=3)


@pytest.fixture(scope="module")
def batch() -> tuple[Policy, Episodes]:
    """23 episodes of one to five tokens, in no order of length."""
    task = tiny_task(limit=5)
    policy = precise(task, away=0.5, max_tokens=20)
    played = all_episodes(task)
    rows = np.random.default_rng(0).integers(len(played), size=23)
    return policy, episodes_of(task, policy, [*(played[i] for i in rows), played[0]])


def a2c(policy: Policy, **settings: Any) -> A2C:
    return A2C(policy, config=A2CConfig(**{"value_coefficient": 0.0, **settings}))


@pytest.mark.parametrize("kind", ["residual", "causal_lm"])
def test_with_whole_returns_a2c_expects_the_gradient_of_the_objective(
    kind: str, task: Task
) -> None:
    policy = make_policy(kind, task)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    found = expected_gradient(a2c(policy, gae_lambda=1.0), task, one_by_one(exact))
    assert relative_error(found, flat_gradient(exact.objective, twin)) < TOLERANCE


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.95])
def test_at_any_lambda_only_wrong_values_bias_it(smoothing: float, task: Task) -> None:
    policy = precise(task, away=0.5)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    values = exact_values(exact)

    def knowing(episodes: Episodes) -> Episodes:
        prompt, ids = int(episodes.prompt_index[0]), episodes.response_ids[0].tolist()
        known = [values[prompt, tuple(ids[:t])] for t in range(len(ids))]
        return replace(episodes, values=np.array([known]))

    agent, expected = a2c(policy, gae_lambda=smoothing), flat_gradient(exact.objective, twin)
    batches = one_by_one(exact)
    assert relative_error(expected_gradient(agent, task, batches, knowing), expected) < TOLERANCE
    assert relative_error(expected_gradient(agent, task, batches), expected) > FAR


def test_it_adds_the_gradients_of_value_and_entropy(task: Task) -> None:
    policy = precise(task, away=0.5)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    agent = a2c(policy, gae_lambda=1.0, value_coefficient=0.5, entropy_coefficient=0.3)
    found = expected_gradient(agent, task, one_by_one(exact))
    wanted = exact.objective
    for i, weight in enumerate(exact.weights):
        errors = (exact.values[i] - exact.returns_to_go(i)).square() / 2
        wanted = wanted + weight * (0.3 * exact.entropies[i] - 0.5 * errors).sum()
    assert relative_error(found, flat_gradient(wanted, twin)) < TOLERANCE


def handed_over(agent: A2C, episodes: Episodes) -> dict[str, Any]:
    """Returns what an update hands to the step."""
    noted: dict[str, Any] = {}

    def note(agent: A2C, episodes: Episodes, **settings: Any) -> dict[str, float]:
        noted.update(settings)
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("textrl_agents.a2c.policy_gradient_step", note)
        agent.update(episodes, np.random.default_rng(0))
    return noted


def test_the_value_learns_the_lambda_return(batch: tuple[Policy, Episodes]) -> None:
    """λ = 1: all that is still earned. λ = 0: the reward and the next value."""
    policy, episodes = batch
    mask = episodes.response_mask
    earned = np.where(mask, episodes.rewards[:, ::-1].cumsum(axis=1)[:, ::-1], 0.0)
    nexts = episodes.rewards + np.pad(episodes.values[:, 1:], ((0, 0), (0, 1)))
    for smoothing, expected in ((1.0, earned), (0.0, nexts)):
        targets = handed_over(a2c(policy, gae_lambda=smoothing), episodes)["targets"]
        np.testing.assert_allclose(targets[mask], expected[mask], atol=1e-12)


def test_standardised_advantages_leave_the_targets_in_units_of_the_score(
    batch: tuple[Policy, Episodes],
) -> None:
    policy, episodes = batch
    plain = handed_over(a2c(policy), episodes)
    scaled = handed_over(a2c(policy, standardise_advantages=True), episodes)
    np.testing.assert_array_equal(scaled["targets"], plain["targets"])
    tokens = scaled["advantages"][episodes.response_mask]
    assert (tokens.mean(), tokens.std()) == pytest.approx((0.0, 1.0), abs=1e-6)


def test_with_whole_returns_it_is_reinforce_with_the_value_as_baseline(
    batch: tuple[Policy, Episodes],
) -> None:
    policy, episodes = batch
    config = REINFORCEConfig(baseline="value", value_coefficient=0.5, entropy_coefficient=0.1)
    agent = a2c(policy, gae_lambda=1.0, value_coefficient=0.5, entropy_coefficient=0.1)
    (one,) = gradients_of_update(agent, episodes)
    (other,) = gradients_of_update(REINFORCE(policy, config=config), episodes)
    assert relative_error(one, other) < 1e-12


@pytest.mark.parametrize("size", [1, 4, 7, 23])
def test_micro_batches_of_unequal_lengths_add_up_to_the_gradient_of_the_batch(
    size: int, batch: tuple[Policy, Episodes]
) -> None:
    policy, episodes = batch
    settings = {"value_coefficient": 0.5, "entropy_coefficient": 0.1}
    (whole,) = gradients_of_update(a2c(policy, micro_batch_size=24, **settings), episodes)
    (parts,) = gradients_of_update(a2c(policy, micro_batch_size=size, **settings), episodes)
    assert relative_error(parts, whole) < 1e-12


def test_extra_padding_columns_leave_the_gradient_as_it_is(batch: tuple[Policy, Episodes]) -> None:
    policy, episodes = batch
    agent = a2c(policy, standardise_advantages=True, value_coefficient=0.5, gae_lambda=0.9)
    (narrow,) = gradients_of_update(agent, episodes)
    (wide,) = gradients_of_update(agent, widened(episodes, 6))
    assert relative_error(wide, narrow) < 1e-12


def test_a_stopped_and_resumed_run_is_the_run_that_was_never_stopped(tmp_path: Any) -> None:
    task = tiny_task()
    config = A2CConfig(episodes_per_batch=16)
    whole = A2C(residual(task, away=0.2), config=config)
    whole.learn(with_kl(task, whole.policy, 16), total_tokens=200)
    part = A2C(residual(task, away=0.2), config=config)

    def stop(row: Mapping[str, float]) -> None:
        if row["iteration"] == 2:
            raise StopTraining

    part.learn(with_kl(task, part.policy, 16), total_tokens=200, progress=stop)
    part.save(tmp_path / "agent")
    resumed = A2C.load(tmp_path / "agent", device="cpu")
    resumed.learn(with_kl(task, resumed.policy, 16), total_tokens=200)
    assert resumed.log.rows == whole.log.rows


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gae_lambda": 1.5}, r"gae_lambda must be in \[0, 1\]; got 1.5"),
        ({"value_coefficient": -1.0}, "value_coefficient must be 0 or more; got -1.0"),
    ],
)
def test_a_setting_outside_its_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        A2CConfig(**settings)
