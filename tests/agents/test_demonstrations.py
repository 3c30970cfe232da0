"""Demonstrations: how they are laid out, what PPO's gradient gains by them, and what is learnt."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import textrl_agents
import textrl_envs  # noqa: F401 - registers the environments
from tests.agents.expectation import TOLERANCE, precise
from tests.agents.tiny import (
    EOS,
    Response,
    all_episodes,
    enumerate_exactly,
    episodes_of,
    flat_gradient,
    gradients_of_update,
    played_in,
    relative_error,
    residual,
    tiny_task,
    twin_of,
    vector_env,
    with_kl,
)
from textrl_agents import StopTraining
from textrl_agents.demonstrations import demonstration_episodes
from textrl_agents.episodes import Episodes
from textrl_agents.policies import TablePolicy
from textrl_agents.ppo import PPO, PPOConfig
from textrl_benchmarks.evaluation import Evaluation, evaluate
from textrl_envs.demonstrations import Demonstrations
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task
from textrl_envs.wrappers.vector import KLPenalty

SHOWN: list[tuple[int, Response]] = [(1, (2, EOS)), (0, (3, 1, 2)), (1, (EOS,)), (0, (1, EOS))]
"""Prompt 0 is "a", prompt 1 "b a c"; none needs all the columns there are."""


def shown_task() -> Task:
    shown = Demonstrations(
        np.array([prompt for prompt, _ in SHOWN]), tuple(np.array(y) for _, y in SHOWN)
    )
    return dataclasses.replace(tiny_task(), load_demonstrations=lambda: shown)


# --- as episodes ---


def test_prompts_and_responses_are_laid_out_as_a_collector_would() -> None:
    task = shown_task()
    policy = residual(task, away=0.5)
    found = demonstration_episodes(vector_env(task))
    assert found.input_ids.shape == (4, task.max_tokens)
    assert found.response_mask.shape == (4, task.max_new_tokens)
    expected = episodes_of(task, policy, SHOWN)
    found = found.select(np.arange(4))
    for name in ("input_ids", "attention_mask", "prompt_lengths", "response_mask", "prompt_index"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    assert played_in(found) == SHOWN


def test_what_was_never_sampled_is_0() -> None:
    found = demonstration_episodes(vector_env(shown_task()))
    assert found.ref_log_probs is None
    for name in ("log_probs", "values", "entropies", "task_rewards", "rewards", "bootstrap_values"):
        assert not getattr(found, name).any()
    assert not found.finish_reason.any()


@pytest.mark.parametrize("kind", ["residual", "table"])
def test_a_policy_reads_them_as_it_reads_its_own(kind: str) -> None:
    task = shown_task()
    policy = residual(task, away=0.5) if kind == "residual" else TablePolicy(task)
    found = policy.evaluate(demonstration_episodes(vector_env(task))).log_probs
    expected = episodes_of(task, policy, SHOWN)
    np.testing.assert_allclose(
        found.detach().double().numpy(), expected.log_probs[expected.response_mask], atol=1e-6
    )


def test_those_of_imitate_are_texts_that_succeed() -> None:
    envs = gym.make_vec("textrl/Imitate-v0", num_envs=4, demonstrations=20)
    wrapped = KLPenalty(envs, policy=residual(envs.unwrapped.task))  # type: ignore[attr-defined]
    task: Task = envs.unwrapped.task  # type: ignore[attr-defined]
    found, shown = demonstration_episodes(wrapped), wrapped.unwrapped.demonstrations  # type: ignore[attr-defined]
    assert len(found) == 20
    for row in range(20):
        prompt = int(shown.prompt_index[row])
        begins, ids = int(task.prompts.lengths[prompt]), shown.response_ids[row].tolist()
        text = [*task.prompts.token_ids[prompt, :begins].tolist(), *ids]
        assert found.input_ids[row, : len(text)].tolist() == text
        assert found.attention_mask[row].sum() == len(text)
        assert found.response_mask[row].sum() == len(ids)
        assert found.response_ids[row, : len(ids)].tolist() == ids
        assert ids[-1] == task.tokenizer.eos_token_id


def test_an_environment_without_demonstrations_is_refused_before_anything_is_played() -> None:
    task = tiny_task()
    policy = residual(task)
    agent = PPO(policy, config=PPOConfig(demonstration_coefficient=0.5))
    with pytest.raises(
        InvalidInputError,
        match=r"has no demonstrations.*Imitate-v0 has\. Set demonstration_coefficient to 0",
    ):
        agent.learn(with_kl(task, policy), total_tokens=100)
    assert agent.iteration == 0


@pytest.mark.parametrize("weight", [-1.0, math.nan])
def test_a_weight_below_0_is_refused(weight: float) -> None:
    with pytest.raises(InvalidInputError, match="demonstration_coefficient must be"):
        PPOConfig(demonstration_coefficient=weight)


# --- in the gradient of PPO ---


def shown_agent(coefficient: float, **settings: Any) -> tuple[Task, PPO]:
    """An agent that has seen what is to be learnt from, without having learnt."""
    task = shown_task()
    given = {"epochs": 1, "minibatches": 1, **settings}
    config = PPOConfig(demonstration_coefficient=coefficient, **given)
    agent = PPO(precise(task, away=0.5), config=config)
    agent.learn(vector_env(task), total_tokens=0)
    return task, agent


@pytest.mark.parametrize("coefficient", [0.3, 2.0])
def test_the_gradient_gains_the_coefficient_times_that_of_the_mean_nll(coefficient: float) -> None:
    """The likelihood is that of a float64 copy, a token: without masks or padding."""
    gradients = []
    for weight in (0.0, coefficient):
        task, agent = shown_agent(weight)
        episodes = episodes_of(task, agent.policy, all_episodes(task)[::9])
        (gradient,) = gradients_of_update(agent, episodes)
        gradients.append(gradient)
    twin = twin_of(agent.policy)
    exact = enumerate_exactly(task, twin)
    log_probs = torch.cat([exact.log_probs[exact.played.index(y)] for y in SHOWN])
    expected = coefficient * flat_gradient(-log_probs.mean(), twin)
    assert relative_error(gradients[1] - gradients[0], expected) < TOLERANCE


def test_the_loss_of_demonstrations_is_logged_where_there_are_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, agent = shown_agent(0.5, epochs=2)
    episodes = episodes_of(task, agent.policy, all_episodes(task)[::9])
    monkeypatch.setattr(agent, "step_optimizer", lambda: 0.0)  # the weights stay
    stats = agent.update(episodes, np.random.default_rng(0))
    log_probs = agent.policy.evaluate(demonstration_episodes(vector_env(task))).log_probs
    assert stats["demonstration_loss"] == pytest.approx(-float(log_probs.detach().mean()), abs=1e-6)
    _, agent = shown_agent(0.0)
    assert "demonstration_loss" not in agent.update(episodes, np.random.default_rng(0))


def test_as_many_are_drawn_as_there_are_episodes_none_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, agent = shown_agent(1.0, epochs=20, minibatches=2)
    episodes = episodes_of(task, agent.policy, SHOWN)
    drawn: list[list[int]] = []
    original = Episodes.select

    def select(self: Episodes, rows: Any) -> Episodes:
        if self is agent._mixes[0].episodes:
            drawn.append(rows.tolist())
        return original(self, rows)

    monkeypatch.setattr(Episodes, "select", select)
    agent.update(episodes, np.random.default_rng(0))
    assert len(drawn) == 40
    assert all(len(set(rows)) == len(rows) == 2 for rows in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=4)
    assert counts.min() > 10  # any of them, and not the first alone


def test_with_coefficient_0_not_a_byte_changes() -> None:
    runs = []
    for task in (tiny_task(), shown_task()):
        policy = residual(task)
        agent = PPO(policy, config=PPOConfig(episodes_per_batch=32), seed=1)
        runs.append((agent.learn(with_kl(task, policy), total_tokens=300).rows, agent))
    assert runs[0][0] == runs[1][0]
    for first, second in zip(*(agent.policy.parameters() for _, agent in runs), strict=True):
        assert torch.equal(first, second)


def test_a_run_saved_and_loaded_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    def stop(row: Mapping[str, float]) -> None:
        if row["iteration"] == 2:
            raise StopTraining

    def begin() -> tuple[Task, PPO]:
        task = shown_task()
        config = PPOConfig(episodes_per_batch=32, demonstration_coefficient=1.0)
        return task, PPO(residual(task), config=config, seed=3)

    task, whole = begin()
    whole.learn(with_kl(task, whole.policy), total_tokens=300)
    task, agent = begin()
    agent.learn(with_kl(task, agent.policy), total_tokens=300, progress=stop)
    agent.save(tmp_path / "agent")
    loaded = PPO.load(tmp_path / "agent", device="cpu")
    loaded.learn(with_kl(shown_task(), loaded.policy), total_tokens=300)
    assert len(whole.log.rows) > 3
    assert loaded.log.rows == whole.log.rows
    for name, tensor in whole.policy.state_dict().items():
        assert torch.equal(tensor, loaded.policy.state_dict()[name])


def test_the_likelihood_of_what_was_shown_rises() -> None:
    task = shown_task()
    agent = PPO(
        residual(task),
        config=PPOConfig(
            episodes_per_batch=32, demonstration_coefficient=5.0, learning_rate_schedule="constant"
        ),
    )
    rows = agent.learn(with_kl(task, agent.policy), total_tokens=800).rows
    assert rows[-1]["demonstration_loss"] < rows[0]["demonstration_loss"] - 0.1


# --- learning ---


def imitate(coefficient: float) -> Evaluation:
    envs = gym.make_vec("textrl/Imitate-v0", num_envs=64)
    agent = textrl_agents.make(
        "ppo", envs, device="cpu", demonstration_coefficient=coefficient, seed=0
    )
    charged = KLPenalty(envs, policy=agent.policy)
    agent.learn(charged, total_tokens=60_000)
    return evaluate(agent, charged, episodes=1024)


@pytest.mark.slow
def test_ppo_alone_does_not_find_what_it_is_not_shown() -> None:
    """Measured over seeds 0-2: .00."""
    assert abs(imitate(0.0).normalised_score.mean) < 0.05


@pytest.mark.slow
def test_ppo_learns_from_demonstrations_what_it_would_not_find() -> None:
    """Measured over seeds 0-2: .56 to .57."""
    assert 0.4 < imitate(1.0).normalised_score.mean <= 1.0
