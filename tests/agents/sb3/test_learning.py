"""Stable-Baselines3's PPO, unmodified, against a known optimum."""

from collections.abc import Iterator

import gymnasium as gym
import pytest
import torch

import textrl_agents
import textrl_envs  # noqa: F401 - registers the environments
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
