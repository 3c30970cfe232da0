from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.tiny import (
    all_episodes,
    enumerate_exactly,
    episodes_of,
    gradients_of_update,
    played_in,
    relative_error,
    residual,
    tiny_task,
    twin_of,
    vector_env,
    with_kl,
)
from textrl_agents.agent import StopTraining
from textrl_agents.collector import Collector
from textrl_agents.episodes import Episodes
from textrl_agents.policies import NetworkPolicy, Policy
from textrl_agents.reinforce import REINFORCE, REINFORCEConfig
from textrl_envs.errors import InvalidInputError


@pytest.fixture
def advantages_given(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Lists the advantages that reach the loss."""
    given: list[torch.Tensor] = []

    def note(log_probs: torch.Tensor, advantages: torch.Tensor, *, num_tokens: int) -> torch.Tensor:
        given.append(advantages.double())
        return -(advantages * log_probs).sum() / num_tokens

    monkeypatch.setattr("textrl_agents.policy_gradient.policy_gradient_loss", note)
    return given


def small_batch(seed: int = 0) -> tuple[REINFORCE, Episodes]:
    task = tiny_task()
    policy = residual(task, away=0.5)
    played = all_episodes(task)
    rng = np.random.default_rng(seed)
    chosen = [played[int(i)] for i in rng.integers(len(played), size=12)]
    return REINFORCE(policy), episodes_of(task, policy, chosen)


def with_baseline(agent: REINFORCE, baseline: Any, **settings: Any) -> REINFORCE:
    return REINFORCE(agent.policy, config=REINFORCEConfig(baseline=baseline, **settings))


def returns_to_go(episodes: Episodes) -> list[float]:
    return [
        sum(episodes.rewards[row, t:length])
        for row, length in enumerate(episodes.lengths)
        for t in range(length)
    ]


def update(agent: REINFORCE, episodes: Episodes) -> dict[str, float]:
    return agent.update(episodes, np.random.default_rng(0))


def test_without_a_baseline_the_return_to_go_is_the_advantage(
    advantages_given: list[torch.Tensor],
) -> None:
    agent, episodes = small_batch()
    update(with_baseline(agent, "none"), episodes)
    np.testing.assert_allclose(advantages_given[0], returns_to_go(episodes), atol=1e-6)


def test_the_value_baseline_is_the_value_when_the_token_was_sampled(
    advantages_given: list[torch.Tensor],
) -> None:
    agent, episodes = small_batch()
    update(with_baseline(agent, "value"), episodes)
    values = episodes.values[episodes.response_mask]
    np.testing.assert_allclose(
        advantages_given[0], np.array(returns_to_go(episodes)) - values, atol=1e-6
    )


def test_leave_one_out_subtracts_the_mean_return_of_the_prompts_other_episodes(
    advantages_given: list[torch.Tensor],
) -> None:
    agent, episodes = small_batch()
    update(with_baseline(agent, "leave_one_out"), episodes)
    expected = []
    to_go = iter(returns_to_go(episodes))
    for row, length in enumerate(episodes.lengths):
        others = [
            sum(episodes.rewards[other])
            for other in range(12)
            if other != row and episodes.prompt_index[other] == episodes.prompt_index[row]
        ]
        expected += [next(to_go) - np.mean(others) for _ in range(length)]
    np.testing.assert_allclose(advantages_given[0], expected, atol=1e-6)


def test_the_running_mean_is_of_earlier_batches_alone(
    advantages_given: list[torch.Tensor],
) -> None:
    """b_0 = 0, b_1 = m_0, b_2 = 0.75 m_0 + 0.25 m_1."""
    agent, _ = small_batch()
    agent = with_baseline(agent, "running_mean", running_mean_decay=0.75)
    batches = [small_batch(seed)[1] for seed in (0, 1, 2)]
    means = [np.mean([sum(row) for row in batch.rewards]) for batch in batches]
    baselines = [0.0, means[0], 0.75 * means[0] + 0.25 * means[1]]
    for batch, baseline in zip(batches, baselines, strict=True):
        update(agent, batch)
        np.testing.assert_allclose(
            advantages_given[-1], np.array(returns_to_go(batch)) - baseline, atol=1e-6
        )


def test_the_prompt_mean_is_of_the_prompts_earlier_batches_alone(
    advantages_given: list[torch.Tensor],
) -> None:
    """A prompt that is new has the running mean of all, and in the first batch 0."""
    agent, _ = small_batch()
    agent = with_baseline(agent, "prompt_mean", running_mean_decay=0.75)
    batches = [small_batch(seed)[1] for seed in (0, 1, 2)]
    only_first = np.flatnonzero(batches[0].prompt_index == 0)
    batches[0] = batches[0].select(only_first)

    def means(batch: Episodes) -> tuple[float, list[float]]:
        by_prompt = [batch.returns[batch.prompt_index == prompt] for prompt in (0, 1)]
        return float(batch.returns.mean()), [float(x.mean()) if len(x) else 0.0 for x in by_prompt]

    (all_0, (a_0, _)), (_, (a_1, b_1)), _ = (means(batch) for batch in batches)
    baselines = [(0.0, 0.0), (a_0, all_0), (0.75 * a_0 + 0.25 * a_1, b_1)]
    for batch, baseline in zip(batches, baselines, strict=True):
        update(agent, batch)
        expected = np.repeat(np.array(baseline)[batch.prompt_index], batch.lengths)
        np.testing.assert_allclose(
            advantages_given[-1], np.array(returns_to_go(batch)) - expected, atol=1e-6
        )
    assert all_0 != pytest.approx(b_1)


def test_the_greedy_baseline_is_what_the_prompts_likeliest_response_returned(
    advantages_given: list[torch.Tensor],
) -> None:
    agent, episodes = small_batch()
    agent = with_baseline(agent, "greedy")
    task = tiny_task()
    agent.greedy = episodes_of(task, agent.policy, [(0, (1, 2, 1)), (1, (2, 0))])
    update(agent, episodes)
    baseline = np.repeat(agent.greedy.returns[episodes.prompt_index], episodes.lengths)
    np.testing.assert_allclose(
        advantages_given[0], np.array(returns_to_go(episodes)) - baseline, atol=1e-6
    )


def test_greedy_responses_are_played_once_a_prompt_and_paid_for() -> None:
    task = tiny_task()
    policy = residual(task, away=0.5)
    envs = with_kl(task, policy, 8)
    agent = REINFORCE(policy, config=REINFORCEConfig(baseline="greedy", episodes_per_batch=8))
    episodes = agent.collect(Collector(envs))
    assert agent.greedy is not None
    prompts = agent.greedy.prompt_index.tolist()
    assert prompts == sorted(set(episodes.prompt_index.tolist()))
    spent = envs.unwrapped.tokens_generated  # type: ignore[attr-defined]
    assert spent == episodes.num_tokens + agent.greedy.num_tokens
    other = REINFORCE(
        residual(task), config=REINFORCEConfig(baseline="greedy", episodes_per_batch=8)
    )
    log = other.learn(with_kl(task, other.policy, 8), total_tokens=1)
    assert other.greedy is not None
    tokens = log.rows[0]["length"] * 8 + other.greedy.num_tokens
    assert log.rows[0]["tokens"] == pytest.approx(tokens)


# --- earlier episodes ---


def reusing(policy: Policy, **settings: Any) -> REINFORCE:
    given: dict[str, Any] = {"baseline": "none", "reuse": 2, "episodes_per_batch": 12, **settings}
    agent = REINFORCE(policy, config=REINFORCEConfig(**given))
    agent.kl_coefficient = 0.3
    return agent


def test_as_many_batches_are_kept_as_are_wanted_the_newest_first() -> None:
    agent, _ = small_batch()
    agent = reusing(agent.policy)
    batches = [small_batch(seed)[1] for seed in range(4)]
    for number, batch in enumerate(batches, start=1):
        update(agent, batch)
        assert agent.earlier is not None
        newest = batches[max(0, number - 2) : number][::-1]
        assert played_in(agent.earlier) == [y for kept in newest for y in played_in(kept)]
    again = reusing(agent.policy, reuse=0)
    update(again, batches[0])
    assert again.earlier is None


def test_an_earlier_episode_counts_by_its_ratio_with_the_kl_of_now_and_its_own_baseline(
    advantages_given: list[torch.Tensor],
) -> None:
    """The running mean has taken the episode in since: its baseline is what it was before."""
    task, rows = tiny_task(), 12
    agent, old = small_batch(0)
    agent = reusing(
        residual(task, away=0.4, seed=3), baseline="running_mean", max_ratio=1.5, reuse=1
    )
    agent.memory["running_mean"] = 0.7
    newest = small_batch(1)[1]
    update(agent, old)
    now = episodes_of(task, agent.policy, played_in(old))  # after the step that it led to
    update(agent, newest)
    ratios = np.minimum(np.exp((now.log_probs - old.log_probs).sum(axis=1)), 1.5)
    assert 0 < (ratios == 1.5).sum() < rows
    advantages = np.array(returns_to_go(now)) - 0.7
    expected = np.repeat(ratios, old.lengths) * advantages
    found = advantages_given[-1][newest.num_tokens :]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_run_that_reuses_episodes_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    task = tiny_task()
    config = REINFORCEConfig(baseline="prompt_mean", reuse=2, episodes_per_batch=16)
    whole = REINFORCE(residual(task, away=0.2), config=config)
    whole.learn(with_kl(task, whole.policy, 16), total_tokens=300)
    part = REINFORCE(residual(task, away=0.2), config=config)

    def stop(row: Mapping[str, float]) -> None:
        if row["iteration"] == 3:
            raise StopTraining

    part.learn(with_kl(task, part.policy, 16), total_tokens=300, progress=stop)
    part.save(tmp_path / "agent")
    resumed = REINFORCE.load(tmp_path / "agent", device="cpu")
    resumed.learn(with_kl(task, resumed.policy, 16), total_tokens=300)
    assert len(whole.log.rows) > 4
    assert resumed.log.rows == whole.log.rows


def test_without_a_reference_earlier_episodes_are_paid_as_they_were() -> None:
    task = tiny_task()
    agent = REINFORCE(residual(task), config=REINFORCEConfig(reuse=1, episodes_per_batch=16))
    log = agent.learn(vector_env(task, 16), total_tokens=100)
    assert len(log.rows) > 2
    assert agent.earlier is not None
    np.testing.assert_array_equal(agent.earlier.rewards, agent.earlier.task_rewards)


@pytest.mark.parametrize("size", [1, 5, 23])
def test_micro_batches_add_up_with_earlier_episodes_too(size: int) -> None:
    found = []
    for part in (24, size):
        agent, old = small_batch(0)
        policy = residual(tiny_task(), away=0.4, seed=3).double()
        agent = reusing(policy, baseline="value", micro_batch_size=part, entropy_coefficient=0.1)
        agent.earlier = old
        found += gradients_of_update(agent, small_batch(1)[1])
    assert relative_error(found[1], found[0]) < 1e-12


def test_standardised_advantages_are_so_over_the_tokens_of_the_whole_batch(
    advantages_given: list[torch.Tensor],
) -> None:
    agent, episodes = small_batch()
    agent = with_baseline(agent, "none", standardise_advantages=True, micro_batch_size=5)
    update(agent, episodes)
    assert len(advantages_given) == 3
    plain = np.array(returns_to_go(episodes))
    expected = (plain - plain.mean()) / plain.std()
    np.testing.assert_allclose(torch.cat(advantages_given), expected, atol=1e-5)


def test_one_batch_is_one_step_of_the_optimiser() -> None:
    agent, episodes = small_batch()
    agent = with_baseline(agent, "value", micro_batch_size=5)
    update(agent, episodes)
    steps = {float(state["step"]) for state in agent.optimizer.state.values()}
    assert steps == {1.0}
    assert all(p.grad is None or not p.grad.any() for p in agent.policy.parameters())


def test_the_logged_losses_do_not_depend_on_the_micro_batches() -> None:
    found = []
    for size in (12, 5):
        agent, episodes = small_batch()
        agent = with_baseline(agent, "value", micro_batch_size=size)
        found.append(update(agent, episodes))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0]["value_loss"] > 0


def test_the_value_is_trained_only_where_it_is_the_baseline() -> None:
    for baseline, is_trained in (("value", True), ("none", False), ("leave_one_out", False)):
        agent, episodes = small_batch()
        assert isinstance(agent.policy, NetworkPolicy)
        before = agent.policy.value_head.weight.clone()
        update(with_baseline(agent, baseline), episodes)
        assert torch.equal(agent.policy.value_head.weight, before) is not is_trained


def test_the_value_learns_the_expected_return() -> None:
    task = tiny_task(size=3)
    policy = residual(task, width=16)
    config = REINFORCEConfig(
        baseline="value", episodes_per_batch=64, learning_rate=1e-2, value_coefficient=5.0
    )
    agent = REINFORCE(policy, config=config)
    agent.learn(with_kl(task, policy, 64), total_tokens=8000)
    exact = enumerate_exactly(task, twin_of(policy))
    values, returns = np.zeros(2), np.zeros(2)
    for i, (prompt, _) in enumerate(exact.played):
        values[prompt] = float(exact.values[i][0].detach())
        returns[prompt] += 2 * float(exact.weights[i] * exact.returns_to_go(i)[0])
    np.testing.assert_allclose(values, returns, atol=0.15)


@pytest.mark.parametrize(
    ("baseline", "group_size"), [("leave_one_out", 4), ("greedy", 1), ("none", 1), ("value", 1)]
)
def test_episodes_are_collected_in_groups_for_leave_one_out_alone(
    baseline: Any, group_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def collect(self: Collector, *args: Any, **kwargs: Any) -> Episodes:
        asked.append(kwargs["group_size"])
        return original(self, *args, **kwargs)

    original = Collector.collect
    monkeypatch.setattr(Collector, "collect", collect)
    task = tiny_task()
    policy = residual(task)
    config = REINFORCEConfig(baseline=baseline, group_size=4, episodes_per_batch=16)
    REINFORCE(policy, config=config).learn(vector_env(task, 8), total_tokens=1)
    assert asked == [group_size]


def test_an_entropy_bonus_raises_the_entropy() -> None:
    """Nothing else is paid, and the return-free policy would stay where it is."""
    task = tiny_task(beta=0.0, reward=lambda p, r, **_: [0.0] * len(r))
    entropies = []
    for coefficient in (0.0, 1.0):
        policy = residual(task)
        config = REINFORCEConfig(
            episodes_per_batch=32, entropy_coefficient=coefficient, learning_rate=2e-2
        )
        agent = REINFORCE(policy, config=config)
        agent.learn(vector_env(task, 16), total_tokens=2500)
        exact = enumerate_exactly(task, twin_of(policy))
        entropies.append(float(torch.stack([h[0] for h in exact.entropies]).mean().detach()))
    assert entropies[1] > entropies[0] + 0.05
    assert entropies[1] > 0.97 * np.log(4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"baseline": "mean"}, r"baseline must be one of \('none', 'running_mean', .*got 'mean'"),
        ({"group_size": 0}, "group_size must be at least 1; got 0"),
        ({"running_mean_decay": 1.0}, r"running_mean_decay must be in \[0, 1\); got 1.0"),
        ({"reuse": -1}, "reuse must be 0 or more; got -1"),
        ({"max_ratio": 0.0}, "max_ratio must be positive; got 0.0"),
        ({"micro_batch_size": 0}, "micro_batch_size must be at least 1; got 0"),
        ({"value_coefficient": -0.5}, "value_coefficient must be 0 or more; got -0.5"),
        ({"episodes_per_batch": 0}, "episodes_per_batch must be at least 1; got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive or None; got 0.0"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm must be positive; got 0.0"),
        ({"entropy_coefficient": -1.0}, "entropy_coefficient must be 0 or more; got -1.0"),
    ],
)
def test_a_setting_outside_its_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        REINFORCEConfig(**settings)
