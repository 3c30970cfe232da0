from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.agents.tiny import tiny_task, vector_env
from tests.benchmarks.leaderboard.one_cell import agent_file
from textrl_agents import agent_names
from textrl_agents.policies import ResidualPolicy, TablePolicy
from textrl_benchmarks.leaderboard.running.contestants import (
    BASELINES,
    NULL_AGENTS,
    kind_of,
    make_contestant,
)
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import optimum
from textrl_envs.wrappers.vector import KLPenalty

LEARNER = """
from textrl_agents import TrainingLog

class Learner:
    @classmethod
    def make(cls, envs, *, seed, device, returns=None):
        agent = cls()
        agent.returns = TrainingLog() if returns is None else returns
        return agent

    def act(self, obs, *, greedy=False):
        return [1] * len(obs["input_ids"])

    def learn(self, envs, *, total_tokens, progress=None):
        self.learnt_in, self.budget = envs, total_tokens
        return self.returns

class Scored(Learner):
    def log_probs(self, obs, actions):
        return [0.0] * len(actions)

class ScoredByPolicy(Learner):
    policy = Scored()
"""


def learner(folder: Path, name: str, **settings: Any) -> Any:
    envs = vector_env(tiny_task(), 4)
    return make_contestant(agent_file(folder, LEARNER, name), envs, settings=settings), envs


def test_the_baselines_are_the_null_agents_and_both_anchors() -> None:
    assert {name for name in agent_names() if name.startswith("null_")} == set(NULL_AGENTS)
    kinds = [kind_of(name) for name in BASELINES]
    assert kinds == ["null"] * 5 + ["reference", "optimum"]
    assert kind_of("sb3_ppo") == kind_of("file.py:Null") == "agent"


@pytest.mark.parametrize("entry", BASELINES)
def test_every_baseline_plays_and_is_scored(entry: str) -> None:
    envs = vector_env(tiny_task(), 16)
    contestant = make_contestant(entry, envs, seed=1)
    obs, _ = envs.reset(seed=0)
    step = contestant.policy.step(obs, np.random.default_rng(0))
    assert step.actions.shape == step.log_probs.shape == step.values.shape == (16,)
    assert contestant.scorer is not None
    scored = contestant.scorer.log_probs(obs, step.actions)
    np.testing.assert_allclose(step.log_probs, scored, atol=1e-12)


def test_the_values_of_the_optimum_are_exact() -> None:
    task = tiny_task()
    envs = vector_env(task, 2)
    obs, _ = envs.reset(seed=0, options={"prompt_index": np.array([0, 1])})
    policy = make_contestant("optimum", envs).policy
    np.testing.assert_allclose(policy.next_values(obs), optimum(task).values, atol=1e-12)


def test_an_agent_of_the_suite_plays_with_its_policy() -> None:
    envs = vector_env(tiny_task(), 4)
    contestant = make_contestant("ppo", envs, seed=3, settings={"epochs": 2})
    agent: Any = contestant.agent
    plays_and_scores: list[Any] = [contestant.policy, contestant.scorer]
    assert all(one is agent.policy for one in plays_and_scores)
    assert isinstance(agent.policy, ResidualPolicy)
    assert (agent.seed, agent.config.epochs) == (3, 2)
    table = make_contestant("ppo", envs, policy="table")
    assert isinstance(table.policy, TablePolicy)


@pytest.mark.parametrize("name", ["Scored", "ScoredByPolicy"])
def test_what_has_log_probs_learns_with_its_kl_charged(tmp_path: Path, name: str) -> None:
    contestant, envs = learner(tmp_path, name)
    contestant.learn(envs, 40)
    assert isinstance(contestant.agent.learnt_in, KLPenalty)
    assert contestant.agent.learnt_in.charge.policy is contestant.scorer
    assert contestant.agent.learnt_in.env is envs
    assert contestant.agent.budget == 40
    expected = contestant.agent if name == "Scored" else contestant.agent.policy
    assert contestant.scorer is expected


def test_what_has_none_learns_the_score_alone(tmp_path: Path) -> None:
    contestant, envs = learner(tmp_path, "Learner")
    contestant.learn(envs, 40)
    assert contestant.agent.learnt_in is envs
    assert contestant.scorer is None
    obs, _ = envs.reset(seed=0)
    step = contestant.policy.step(obs, np.random.default_rng(0))
    assert np.isnan(step.log_probs).all()
    assert not step.values.any()


def test_learn_must_return_a_log(tmp_path: Path) -> None:
    contestant, envs = learner(tmp_path, "Learner", returns=3)
    with pytest.raises(InvalidInputError, match=r"learn must return a .*TrainingLog; got 3"):
        contestant.learn(envs, 40)


@pytest.mark.parametrize("entry", ["reference", "optimum"])
def test_an_anchor_neither_learns_nor_takes_settings(entry: str) -> None:
    envs = vector_env(tiny_task(), 4)
    with pytest.raises(InvalidInputError, match="only plays; give it budget_tokens=0"):
        make_contestant(entry, envs).learn(envs, 100)
    with pytest.raises(InvalidInputError, match="has no settings"):
        make_contestant(entry, envs, settings={"rate": 1})
    with pytest.raises(InvalidInputError, match="no policy to choose"):
        make_contestant(entry, envs, policy="table")
