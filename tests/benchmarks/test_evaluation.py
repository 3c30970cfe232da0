import gymnasium as gym
import numpy as np
import pytest

import textrl_envs  # noqa: F401 - registers the ids
from textrl_agents.policies import FixedPolicy, ResidualPolicy
from textrl_benchmarks.evaluation import Estimate, evaluate
from textrl_envs.errors import InvalidInputError
from textrl_envs.wrappers.vector import AdaptiveCoefficient, KLPenalty


def test_the_standard_error_is_that_of_independent_episodes() -> None:
    estimate = Estimate.of(np.array([0.0, 1.0, 1.0, 0.0]))
    assert estimate.mean == 0.5
    assert estimate.standard_error == pytest.approx(np.sqrt(1 / 3) / 2)


def test_the_reference_has_its_exact_reward_and_no_kl() -> None:
    envs = gym.make_vec("textrl/Keyword-v0", num_envs=64)
    found = evaluate(FixedPolicy(envs.unwrapped.reference), envs, episodes=4096)  # type: ignore[attr-defined]
    assert found.kl.mean == pytest.approx(0, abs=1e-12)
    # 0.022342 by backward recursion over time, last word and automaton state
    assert abs(found.reward.mean - 0.022342) < 4 * found.reward.standard_error
    assert found.regularised_return.mean == pytest.approx(found.reward.mean)


def test_an_adaptive_coefficient_is_left_as_it_is() -> None:
    envs = gym.make_vec("textrl/Keyword-v0", num_envs=8)
    policy = ResidualPolicy(envs.unwrapped.reference, max_tokens=40)  # type: ignore[attr-defined]
    coefficient = AdaptiveCoefficient(value=0.1, target=1.0, batch_size=1, horizon=10)
    wrapped = KLPenalty(envs, policy=policy, coefficient=coefficient)
    evaluate(policy, wrapped, episodes=16)
    assert coefficient.value == 0.1


def test_equal_seeds_give_equal_samples() -> None:
    envs = gym.make_vec("textrl/Keyword-v0", num_envs=8)
    policy = FixedPolicy(envs.unwrapped.reference)  # type: ignore[attr-defined]
    assert evaluate(policy, envs, episodes=16, seed=3) == evaluate(
        policy, envs, episodes=16, seed=3
    )


def test_one_episode_has_no_standard_error() -> None:
    envs = gym.make_vec("textrl/Keyword-v0", num_envs=1)
    with pytest.raises(InvalidInputError, match="at least 2 episodes; got 1"):
        evaluate(FixedPolicy(envs.unwrapped.reference), envs, episodes=1)  # type: ignore[attr-defined]
