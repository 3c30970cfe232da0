import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.tiny import (
    Floats,
    all_episodes,
    causal_policy,
    causal_reference,
    enumerate_exactly,
    episodes_of,
    residual,
    tiny_gpt2,
    tiny_llama,
    tiny_task,
    twin_of,
    vector_env,
    with_kl,
)
from textrl_agents.collector import Collector
from textrl_agents.episodes import Episodes
from textrl_agents.losses import clipped_policy_loss, clipped_value_loss
from textrl_agents.policies import Policy
from textrl_agents.ppo import PPO, PPOConfig
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task


def make(kind: str) -> tuple[Task, Policy]:
    if kind == "residual":
        task = tiny_task(limit=6)
        return task, residual(task, away=0.5)
    model = tiny_llama if kind == "llama" else tiny_gpt2
    task = tiny_task(limit=6, reference=causal_reference(model()))
    return task, causal_policy(model(seed=1))


@pytest.fixture
def ratios(monkeypatch: pytest.MonkeyPatch) -> list[Floats]:
    """Lists the ratios of new and old policy in every optimiser's step."""
    seen: list[Floats] = []

    def note(log_probs: torch.Tensor, old: torch.Tensor, *args: Any, **settings: Any) -> Any:
        seen.append((log_probs - old).exp().detach().double().numpy())
        return clipped_policy_loss(log_probs, old, *args, **settings)

    monkeypatch.setattr("textrl_agents.ppo.clipped_policy_loss", note)
    return seen


@pytest.mark.parametrize("kind", ["residual", "gpt2", "llama"])
def test_the_ratio_is_one_in_the_first_minibatch_and_not_after_it(
    kind: str, ratios: list[Floats]
) -> None:
    task, policy = make(kind)
    config = PPOConfig(episodes_per_batch=40, learning_rate=1e-2)
    log = PPO(policy, config=config).learn(with_kl(task, policy, 8), total_tokens=200)
    assert len(ratios) == 16 * len(log.rows)
    for row, iteration in enumerate(log.rows):
        steps = ratios[16 * row : 16 * row + 16]
        errors = [np.abs(step - 1).max() for step in steps]
        assert errors[0] < 1e-5
        assert min(errors[1:]) > 1e-3
        assert iteration["first_ratio_error"] == pytest.approx(errors[0], abs=1e-7)
        # The estimates logged are those of the last step, and the mean over all.
        last = steps[-1]
        assert iteration["update_kl"] == pytest.approx(np.mean(last - 1 - np.log(last)), abs=1e-5)
        clipped = np.mean([np.mean(np.abs(step - 1) > 0.2) for step in steps])
        assert iteration["clip_fraction"] == pytest.approx(clipped, abs=1e-6)


def test_every_episode_is_in_one_minibatch_of_every_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    selected: list[list[int]] = []
    original = Episodes.select

    def select(self: Episodes, rows: Any) -> Episodes:
        selected.append(rows.tolist())
        return original(self, rows)

    task = tiny_task()
    policy = residual(task)
    episodes = episodes_of(task, policy, all_episodes(task)[:10])
    monkeypatch.setattr(Episodes, "select", select)
    agent = PPO(policy, config=PPOConfig(episodes_per_batch=10, epochs=3, minibatches=4))
    agent.update(episodes, np.random.default_rng(0))
    assert len(selected) == 12
    epochs = [sorted(itertools.chain(*selected[4 * i : 4 * i + 4])) for i in range(3)]
    assert epochs == [list(range(10))] * 3
    assert len({tuple(part) for part in selected}) > 8  # shuffled anew


def test_the_values_targets_are_in_units_of_the_score_though_advantages_are_scaled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    targets: list[Floats] = []

    def note(values: Any, old: Any, target: torch.Tensor, **settings: Any) -> Any:
        targets.append(target.double().numpy())
        return clipped_value_loss(values, old, target, **settings)

    monkeypatch.setattr("textrl_agents.ppo.clipped_value_loss", note)
    task = tiny_task()
    policy = residual(task, away=0.5)
    episodes = episodes_of(task, policy, all_episodes(task)[::5])
    agent = PPO(policy, config=PPOConfig(epochs=1, minibatches=1, gae_lambda=1.0))
    agent.update(episodes, np.random.default_rng(0))
    expected = [
        sum(episodes.rewards[row, t:length])
        for row, length in enumerate(episodes.lengths)
        for t in range(length)
    ]
    np.testing.assert_allclose(targets[0], expected, atol=1e-5)


def target_kl_run(target_kl: float | None) -> list[dict[str, float]]:
    task = tiny_task()
    policy = residual(task)
    config = PPOConfig(
        episodes_per_batch=32, epochs=4, minibatches=2, target_kl=target_kl, learning_rate=1e-2
    )
    return PPO(policy, config=config).learn(with_kl(task, policy, 16), total_tokens=300).rows


def test_target_kl_stops_the_epochs_of_a_batch() -> None:
    """An epoch that has begun is finished; the test comes after it."""
    assert {row["optimizer_steps"] for row in target_kl_run(None)} == {8}
    assert {row["optimizer_steps"] for row in target_kl_run(1e3)} == {8}
    assert {row["optimizer_steps"] for row in target_kl_run(1e-12)} == {2}
    between = target_kl_run(float(np.median([row["update_kl"] for row in target_kl_run(None)])) / 2)
    assert {row["optimizer_steps"] for row in between} & {4, 6}


def test_an_entropy_bonus_raises_the_entropy() -> None:
    task = tiny_task(beta=0.0, reward=lambda p, r, **_: [0.0] * len(r))
    entropies = []
    for coefficient in (0.0, 1.0):
        policy = residual(task)
        config = PPOConfig(
            episodes_per_batch=32, entropy_coefficient=coefficient, learning_rate=1e-2
        )
        PPO(policy, config=config).learn(vector_env(task, 16), total_tokens=800)
        exact = enumerate_exactly(task, twin_of(policy))
        entropies.append(float(torch.stack([h[0] for h in exact.entropies]).mean().detach()))
    assert entropies[1] > entropies[0] + 0.05
    assert entropies[1] > 0.97 * math.log(4)


def test_a_larger_clip_lets_the_policy_move_further() -> None:
    task = tiny_task()
    moved = []
    for clip in (0.02, 0.5):
        policy = residual(task)
        config = PPOConfig(
            episodes_per_batch=64, clip=clip, learning_rate=2e-2, learning_rate_schedule="constant"
        )
        agent = PPO(policy, config=config)
        log = agent.learn(with_kl(task, policy, 64), total_tokens=500)
        moved.append(np.mean([row["update_kl"] for row in log.rows]))
    assert moved[1] > 1.5 * moved[0]


def test_explained_variance_is_one_for_exact_values_and_zero_for_none() -> None:
    task = tiny_task()
    policy = residual(task)
    episodes = episodes_of(task, policy, all_episodes(task)[::3])
    agent = PPO(policy, config=PPOConfig(epochs=1, minibatches=1, gae_lambda=1.0))
    stats = agent.update(episodes, np.random.default_rng(0))
    assert stats["explained_variance"] == pytest.approx(0.0, abs=1e-12)
    to_go = np.cumsum(episodes.rewards[:, ::-1], axis=1)[:, ::-1]
    knowing = replace(episodes, values=np.where(episodes.response_mask, to_go, 0.0))
    stats = agent.update(knowing, np.random.default_rng(0))
    assert stats["explained_variance"] == pytest.approx(1.0, abs=1e-9)


def test_an_update_that_is_cut_off_uses_the_value_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Floats] = []

    def note(values: Any, old: Any, target: torch.Tensor, **settings: Any) -> Any:
        seen.append(target.double().numpy())
        return clipped_value_loss(values, old, target, **settings)

    monkeypatch.setattr("textrl_agents.ppo.clipped_value_loss", note)
    task = tiny_task(limit=2)
    policy = residual(task, away=0.5)
    episodes = episodes_of(task, policy, [(0, (1, 2))] * 2)
    episodes = replace(episodes, bootstrap_values=np.array([0.0, 7.0]))
    agent = PPO(policy, config=PPOConfig(epochs=1, minibatches=1, gae_lambda=1.0))
    agent.update(episodes, np.random.default_rng(0))
    np.testing.assert_allclose(seen[0][2:] - seen[0][:2], 7.0, atol=1e-5)


def test_equal_seeds_collect_and_update_alike() -> None:
    weights = []
    for seed in (0, 0, 1):
        task = tiny_task()
        policy = residual(task)
        config = PPOConfig(episodes_per_batch=16)
        PPO(policy, config=config, seed=seed).learn(with_kl(task, policy), total_tokens=150)
        weights.append(torch.cat([p.detach().reshape(-1) for p in policy.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_minibatches_must_fit_the_batch() -> None:
    with pytest.raises(InvalidInputError, match=r"minibatches must be in 1..episodes_per_batch"):
        PPOConfig(episodes_per_batch=3, minibatches=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"minibatches": 0}, "minibatches must be in 1"),
        ({"clip": 0.0}, "clip must be positive; got 0.0"),
        ({"value_clip": -1.0}, "value_clip must be positive; got -1.0"),
        ({"value_coefficient": -1.0}, "value_coefficient must be 0 or more; got -1.0"),
        ({"gae_lambda": 1.5}, r"gae_lambda must be in \[0, 1\]; got 1.5"),
        ({"target_kl": 0.0}, "target_kl must be positive or None; got 0.0"),
        ({"learning_rate": -1e-3}, "learning_rate must be positive or None; got -0.001"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite float or None; got nan"),
    ],
)
def test_a_setting_outside_its_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        PPOConfig(**settings)


def test_an_agent_without_a_kl_wrapper_learns_from_the_score_alone() -> None:
    task = tiny_task()
    policy = residual(task)
    envs = vector_env(task, 16)
    agent = PPO(policy, config=PPOConfig(episodes_per_batch=32))
    row = agent.learn(envs, total_tokens=1).rows[0]
    episodes = Collector(envs).collect(residual(task), 32, seed=[0, 2, 0])
    assert row["return"] == row["reward"] == pytest.approx(episodes.scores.mean())
    assert math.isnan(row["kl"])
    assert math.isnan(row["kl_coefficient"])
