"""PPO, A2C and DQN of Stable-Baselines3, unmodified, against what is known exactly."""

from collections.abc import Iterator

import gymnasium as gym
import numpy as np
import pytest
import torch

import textrl_agents
import textrl_envs  # noqa: F401 - registers the environments
from textrl_agents.policies import FixedPolicy
from textrl_benchmarks.evaluation import evaluate
from textrl_envs.wrappers.vector import KLPenalty


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The numbers below were measured with one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("sb3_ppo", 0.7), ("sb3_ppo_lm", 0.6)])
def test_ppo_comes_near_the_optimum_of_keyword_and_not_above_it(name: str, least: float) -> None:
    """The reference is 0, the optimum 1.

    Measured over seeds 0-2: .857, .900 and .813 by its own network; .801, .576 and .821 by a
    language model, which learns more slowly and reaches .92 in 150,000 tokens (docs/sb3.md).
    """
    envs = gym.make_vec("textrl/Keyword-v0", num_envs=64)
    agent = textrl_agents.make(name, envs, seed=0, device="cpu")
    charged = KLPenalty(envs, policy=agent)
    agent.learn(charged, total_tokens=60_000)
    reached = evaluate(agent, charged, episodes=2048, seed=0).normalised_score
    assert reached.mean > least
    assert reached.interval[0] <= 1.0


@pytest.mark.slow
def test_a2c_learns_what_words_are_worth_against_their_kl() -> None:
    """Measured over seeds 0-2 on KLTrade-v0: .613, .694 and .680, where the reference is 0."""
    envs = gym.make_vec("textrl/KLTrade-v0", num_envs=64)
    agent = textrl_agents.make("sb3_a2c", envs, seed=0, device="cpu")
    charged = KLPenalty(envs, policy=agent)
    agent.learn(charged, total_tokens=60_000)
    reached = evaluate(agent, charged, episodes=1024, seed=0).normalised_score
    assert reached.mean > 0.4
    assert reached.interval[0] <= 1.0


@pytest.mark.slow
def test_dqn_learns_to_add_without_ever_seeing_the_reference() -> None:
    """Measured over seeds 0-2 on SumVerify-v0: scores of .297, .276 and .200, the reference's .040.

    It has no KL, and so no normalised score.
    """
    envs = gym.make_vec("textrl/SumVerify-v0", num_envs=64)
    agent = textrl_agents.make("sb3_dqn", envs, seed=0, device="cpu")
    agent.learn(envs, total_tokens=60_000)
    reached = evaluate(agent, envs, episodes=1024, seed=0)
    reference = evaluate(FixedPolicy(envs.unwrapped.reference), envs, episodes=1024, seed=0)  # type: ignore[attr-defined]
    assert reached.reward.mean > reference.reward.mean + 0.1
    assert np.isnan(reached.normalised_score.mean)
