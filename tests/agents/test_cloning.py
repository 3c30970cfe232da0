"""Cloning: what is read, when it stops, what is kept, and what is learnt."""

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
from tests.agents.expectation import FAR, TOLERANCE, expected_gradient, precise
from tests.agents.tiny import (
    EOS,
    Response,
    causal_policy,
    enumerate_exactly,
    episodes_of,
    flat_gradient,
    gradients_of_update,
    played_in,
    relative_error,
    residual,
    tiny_gpt2,
    tiny_task,
    twin_of,
    vector_env,
)
from textrl_agents import StopTraining
from textrl_agents.cloning import Cloning, CloningConfig
from textrl_agents.demonstrations import demonstration_episodes
from textrl_agents.policies import Policy, TablePolicy
from textrl_benchmarks.evaluation import evaluate
from textrl_envs.demonstrations import Demonstrations
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task
from textrl_envs.wrappers.vector import KLPenalty

RESPONSES: list[Response] = [(1, 2, EOS), (3, EOS), (1, EOS), (2, 2, 3), (EOS,)]


def shown_task(count: int = 20, **settings: Any) -> Task:
    shown = Demonstrations(
        np.arange(count) % 2, tuple(np.array(RESPONSES[i % 5]) for i in range(count))
    )
    return dataclasses.replace(tiny_task(**settings), load_demonstrations=lambda: shown)


def make_agent(policy: Policy, **settings: Any) -> Cloning:
    given = {"episodes_per_batch": 8, "minibatches": 2, "learning_rate": 1e-2, **settings}
    return Cloning(policy, config=CloningConfig(**given), seed=3)


def weights_of(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def is_equal(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


# --- what is read ---


def test_every_demonstration_is_read_once_an_epoch_or_held_out() -> None:
    task = shown_task(20)
    agent = make_agent(residual(task), held_out_fraction=0.2, patience=None)
    agent.learn(vector_env(task), total_tokens=0)
    assert (len(agent.learnt), len(agent.held_out)) == (16, 4)
    texts = [
        sorted(map(tuple, part.input_ids.tolist()))
        for part in (
            agent.learnt.joined(agent.held_out),
            demonstration_episodes(vector_env(task)),
        )
    ]
    assert [t[: len(texts[1][0])] for t in texts[0]] == texts[1]
    for _ in range(3):  # epochs of two iterations
        read = []
        for _ in range(2):
            read += agent._next_part().prompt_index.tolist()
            agent.iteration += 1
        assert sorted(read) == sorted(agent.learnt.prompt_index.tolist())


def test_tokens_are_those_of_demonstrations_read_in_training() -> None:
    task = shown_task(20)
    agent = make_agent(residual(task), patience=None)
    envs = vector_env(task)
    rows = agent.learn(envs, total_tokens=100).rows
    epoch = agent.learnt.num_tokens
    assert rows[2]["tokens"] == epoch  # 18 of them in three iterations
    assert rows[5]["tokens"] == 2 * epoch
    assert agent.tokens >= 100 > rows[-2]["tokens"]
    assert envs.tokens_generated == 0


def test_the_gradient_is_that_of_the_mean_nll_a_token() -> None:
    task = shown_task(12)
    policy = precise(task, away=0.5)
    episodes = demonstration_episodes(vector_env(task))
    (found,) = gradients_of_update(make_agent(policy, minibatches=1), episodes)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    shown = [exact.log_probs[exact.played.index(y)] for y in played_in(episodes)]
    assert relative_error(found, flat_gradient(-torch.cat(shown).mean(), twin)) < TOLERANCE


def test_over_all_that_is_shown_it_expects_the_gradient_of_the_cross_entropy() -> None:
    """Demonstrations of the reference, every response by its chance: Σ π_ref(y) log π(y)."""
    task = shown_task()
    policy = precise(task, away=0.5)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    shown = (exact.ref_log_prob.exp() / exact.num_prompts).detach()
    batches = [(float(w), [y]) for w, y in zip(shown, exact.played, strict=True)]
    found = expected_gradient(make_agent(policy, minibatches=1), task, batches)
    expected = flat_gradient((shown * exact.log_prob).sum(), twin)
    assert relative_error(found, expected) < TOLERANCE


@pytest.mark.parametrize("size", [1, 3, 7])
def test_micro_batches_of_unequal_lengths_add_up_to_the_gradient_of_the_batch(size: int) -> None:
    task = shown_task(13)
    policy = precise(task, away=0.5)
    episodes = demonstration_episodes(vector_env(task))
    whole, parts = (
        gradients_of_update(make_agent(policy, minibatches=1, micro_batch_size=n), episodes)[0]
        for n in (13, size)
    )
    assert relative_error(parts, whole) < TOLERANCE


def test_minibatches_weighted_by_their_tokens_add_up_to_the_gradient_of_the_batch() -> None:
    task = shown_task(13)
    policy = precise(task, away=0.5)
    episodes = demonstration_episodes(vector_env(task))
    (whole,) = gradients_of_update(make_agent(policy, minibatches=1), episodes)
    parts = gradients_of_update(make_agent(policy, minibatches=4), episodes)
    tokens = [episodes.lengths[rows].sum() for rows in np.array_split(np.arange(13), 4)]
    weighted = sum(n * part for n, part in zip(tokens, parts, strict=True)) / sum(tokens)
    assert relative_error(np.asarray(weighted), whole) < TOLERANCE
    assert relative_error(np.mean(parts, axis=0), whole) > FAR


def test_what_would_need_generated_texts_is_unknown_in_the_log() -> None:
    task = shown_task()
    (row,) = make_agent(residual(task)).learn(vector_env(task), total_tokens=1).rows
    assert all(math.isnan(row[name]) for name in ("reward", "kl", "return", "entropy"))
    assert "normalised_score" not in row


# --- when it stops, and what is kept ---


def test_it_stops_when_patience_is_over_and_keeps_the_best_weights() -> None:
    """Two demonstrations that contradict the one held out: its loss can only rise."""
    task = shown_task(10)
    policy = residual(task)
    agent = make_agent(policy, patience=3, learning_rate=0.3)
    seen: list[dict[str, torch.Tensor]] = []

    def note(row: Mapping[str, float]) -> None:
        seen.append(weights_of(policy))

    rows = agent.learn(vector_env(task), total_tokens=10**6, progress=note).rows
    losses = [row["held_out_loss"] for row in rows]
    best = int(np.argmin(losses))
    assert len(rows) == best + 1 + 3
    assert not is_equal(seen[best], seen[-1])
    assert is_equal(seen[best], policy.state_dict())
    held_out = policy.evaluate(agent.held_out).log_probs
    assert -float(held_out.detach().mean()) == pytest.approx(losses[best], abs=1e-6)
    assert agent.learn(vector_env(task), total_tokens=10**6).rows == agent.log.rows == rows
    assert is_equal(seen[best], policy.state_dict())


def test_without_patience_the_budget_is_spent_and_the_best_weights_are_kept_too() -> None:
    task = shown_task(10)
    policy = residual(task)
    agent = make_agent(policy, patience=None, learning_rate=0.3)
    rows = agent.learn(vector_env(task), total_tokens=600).rows
    losses = [row["held_out_loss"] for row in rows]
    assert rows[-1]["tokens"] >= 600
    assert losses[-1] > min(losses)
    held_out = policy.evaluate(agent.held_out).log_probs
    assert -float(held_out.detach().mean()) == pytest.approx(min(losses), abs=1e-6)


@pytest.mark.parametrize("settings", [{}, {"dropout": 0.3}, {"frozen_layers": 1}])
@pytest.mark.parametrize("stop_at", [2, 5])
def test_a_run_saved_and_loaded_goes_on_to_the_same_bytes(
    settings: dict[str, Any], stop_at: int, tmp_path: Path
) -> None:
    def stop(row: Mapping[str, float]) -> None:
        if row["iteration"] == stop_at:
            raise StopTraining

    def begin() -> tuple[Task, Cloning]:
        task = shown_task()
        return task, make_agent(residual(task), patience=4, learning_rate=0.05, **settings)

    task, whole = begin()
    whole.learn(vector_env(task), total_tokens=400)
    task, agent = begin()
    agent.learn(vector_env(task), total_tokens=400, progress=stop)
    agent.save(tmp_path / "agent")
    loaded = Cloning.load(tmp_path / "agent", device="cpu")
    loaded.learn(vector_env(shown_task()), total_tokens=400)
    assert len(whole.log.rows) > stop_at
    assert [str(row) for row in loaded.log.rows] == [str(row) for row in whole.log.rows]
    assert is_equal(whole.policy.state_dict(), loaded.policy.state_dict())


# --- regularisation ---


def test_dropout_is_on_in_training_alone_and_leaves_the_global_generator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = shown_task()
    episodes = demonstration_episodes(vector_env(task))
    policy = residual(task, away=0.5)
    plain = policy.evaluate(episodes).log_probs.detach()
    state = torch.get_rng_state()
    gradients = [
        gradients_of_update(make_agent(policy, minibatches=1, dropout=rate), episodes)[0]
        for rate in (0.0, 0.5, 0.5)
    ]
    assert relative_error(gradients[1], gradients[0]) > 0.05
    assert np.array_equal(gradients[1], gradients[2])
    assert torch.equal(policy.evaluate(episodes).log_probs.detach(), plain)
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_layers_stay_and_the_others_learn() -> None:
    task = shown_task(reference=None)
    policy = causal_policy(tiny_gpt2())
    before = weights_of(policy)
    agent = make_agent(policy, frozen_layers=1)
    agent.learn(vector_env(task), total_tokens=60)
    frozen = ("wte", "wpe", "h.0", "lm_head", "value_head")  # the head is tied; nothing is valued
    for name, tensor in policy.state_dict().items():
        assert torch.equal(before[name], tensor) == any(part in name for part in frozen), name
    assert all(p.requires_grad for p in policy.parameters())


def test_a_policy_without_blocks_cannot_be_frozen() -> None:
    task = shown_task()
    with pytest.raises(InvalidInputError, match="frozen_layers must be at most 0"):
        make_agent(TablePolicy(task), frozen_layers=1)
    with pytest.raises(InvalidInputError, match="at most 1, the blocks of GPT2Model; got 2"):
        make_agent(residual(task), frozen_layers=2)
    with pytest.raises(InvalidInputError, match="dropout needs a Transformers decoder"):
        make_agent(TablePolicy(task), dropout=0.1).learn(vector_env(task), total_tokens=1)


def test_weight_decay_takes_its_share_off_the_matrices() -> None:
    """The gradients are 0, so that decay alone moves: by learning rate times share a step."""
    task = shown_task()
    policy = residual(task, away=0.5)
    agent = make_agent(policy, weight_decay=0.5, learning_rate=0.1)
    before = weights_of(policy)
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    agent.step_optimizer()
    after = policy.state_dict()
    torch.testing.assert_close(after["head.weight"], before["head.weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(after["trunk.h.0.ln_1.weight"], before["trunk.h.0.ln_1.weight"])


# --- errors ---


def test_an_environment_with_too_few_demonstrations_is_refused() -> None:
    task = tiny_task()
    agent = make_agent(residual(task))
    with pytest.raises(InvalidInputError, match=r"has no demonstrations.*take an agent that needs"):
        agent.learn(vector_env(task), total_tokens=1)
    with pytest.raises(InvalidInputError, match=r"two demonstrations, .*; got 1"):
        agent.learn(vector_env(shown_task(1)), total_tokens=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"held_out_fraction": 0.0}, r"held_out_fraction must be in \(0, 1\); got 0.0"),
        ({"patience": 0}, "patience must be at least 1 or None; got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\); got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"frozen_layers": -1}, "frozen_layers must be 0 or more"),
        ({"minibatches": 0}, "minibatches must be at least 1"),
        ({"entropy_coefficient": 0.1}, "entropy_coefficient must be 0"),
        ({"average_decay": 0.9}, "average_decay must be None"),
        ({"dropout": 0.1, "gradient_checkpointing": True}, "dropout must be 0 with gradient"),
    ],
)
def test_a_setting_outside_its_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        CloningConfig(**settings)


# --- learning ---


def test_a_table_clones_what_was_shown() -> None:
    """The likelihood of held-out demonstrations rises; the deterministic ones are nearly sure."""
    task = shown_task(200)
    policy = TablePolicy(task)
    agent = make_agent(policy, learning_rate=0.1, episodes_per_batch=64, weight_decay=0.0)
    rows = agent.learn(vector_env(task), total_tokens=6_000).rows
    # Five responses, equally often: the entropy is log 5 a response, of 2.2 tokens.
    assert rows[0]["held_out_loss"] > 1.2
    assert min(row["held_out_loss"] for row in rows) < 1.15 * math.log(5) / 2.2
    played = [(i % 2, RESPONSES[i % 5]) for i in range(10)]
    chances = np.exp(episodes_of(task, policy, played).log_probs.sum(axis=1))
    assert chances.sum() > 1.8  # of 2, one a prompt


@pytest.mark.slow
def test_many_demonstrations_are_worth_more_than_few() -> None:
    scores = []
    for count in (30, 3000):
        envs = gym.make_vec("textrl/Imitate-v0", num_envs=64, demonstrations=count)
        agent = textrl_agents.make("supervised", envs, device="cpu", seed=0, learning_rate=2e-3)
        agent.learn(envs, total_tokens=100_000)
        charged = KLPenalty(envs, policy=agent.policy)
        scores.append(evaluate(agent, charged, episodes=1024).normalised_score.mean)
    assert scores[1] > scores[0] + 0.3
