"""Direct preference optimisation: the loss, the labels, and the optimum that it leads to."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import textrl_agents
import textrl_envs  # noqa: F401 - registers the environments
from tests.agents.expectation import FAR, TOLERANCE, in_groups, precise
from tests.agents.tiny import (
    Exact,
    all_episodes,
    enumerate_exactly,
    episodes_of,
    flat_gradient,
    gradients_of_update,
    relative_error,
    residual,
    tiny_task,
    twin_of,
    vector_env,
    with_kl,
)
from textrl_agents import StopTraining
from textrl_agents.direct_preference import (
    DirectPreferenceConfig,
    DirectPreferenceOptimisation,
    preferences,
)
from textrl_agents.episodes import Episodes
from textrl_agents.losses import preference_loss
from textrl_agents.policies import Policy, TablePolicy
from textrl_benchmarks.evaluation import Evaluation, evaluate
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import optimum
from textrl_envs.task import Task
from textrl_envs.wrappers.vector import KLPenalty

BETA = 0.3
"""Of the tiny tasks."""


def make_agent(policy: Policy, **settings: Any) -> DirectPreferenceOptimisation:
    given = {"epochs": 1, "minibatches": 1, "episodes_per_batch": 32, **settings}
    agent = DirectPreferenceOptimisation(policy, config=DirectPreferenceConfig(**given), seed=3)
    agent.kl_coefficient = BETA
    return agent


# --- the loss ---


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_loss_of_one_pair_is_equation_7() -> None:
    log_ratios = torch.tensor([0.7, -1.2], dtype=torch.float64)
    wins = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    loss = preference_loss(log_ratios, wins, kl_coefficient=0.3, num_groups=1)
    assert float(loss) == pytest.approx(-math.log(sigmoid(0.3 * (0.7 + 1.2))))
    loss = preference_loss(log_ratios, wins.T, kl_coefficient=0.3, num_groups=1)
    assert float(loss) == pytest.approx(-math.log(sigmoid(-0.3 * (0.7 + 1.2))))


def random_comparison(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Log-ratios of two prompts of three responses, and labels of all kinds."""
    rng = np.random.default_rng(seed)
    groups = np.array([0, 0, 0, 1, 1, 1])
    wins = preferences(groups, rng.normal(size=6), "soft", rng)
    return torch.from_numpy(rng.normal(size=6) * 4), torch.from_numpy(wins)


def test_the_gradient_of_the_loss_agrees_with_finite_differences() -> None:
    log_ratios, wins = random_comparison()

    def loss(at: Tensor) -> Tensor:
        return preference_loss(at, wins, kl_coefficient=0.3, num_groups=2)

    leaf = log_ratios.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    step = 1e-5
    for i in range(6):
        shift = step * torch.eye(6, dtype=torch.float64)[i]
        slope = (loss(log_ratios + shift) - loss(log_ratios - shift)) / (2 * step)
        assert float(gradient[i]) == pytest.approx(float(slope), abs=1e-9)


def test_only_differences_within_a_prompt_count() -> None:
    log_ratios, wins = random_comparison()
    moved = log_ratios + torch.tensor([2.0, 2.0, 2.0, -1.0, -1.0, -1.0])
    losses = [
        preference_loss(x, wins, kl_coefficient=0.3, num_groups=2) for x in (log_ratios, moved)
    ]
    assert float(losses[0]) == pytest.approx(float(losses[1]), abs=1e-12)


# --- labels ---


def test_soft_labels_are_the_probabilities_of_bradley_and_terry() -> None:
    groups, scores = np.array([0, 0, 0, 1, 1]), np.array([0.0, 1.0, 3.0, 2.0, 2.0])
    found = preferences(groups, scores, "soft", np.random.default_rng(0))
    # Three pairs of the first prompt share a weight of 1; the second has one pair.
    assert found[1, 0] == pytest.approx(sigmoid(1.0) / 3)
    assert found[0, 1] == pytest.approx(sigmoid(-1.0) / 3)
    assert found[2, 0] == pytest.approx(sigmoid(3.0) / 3)
    assert found[3, 4] == found[4, 3] == pytest.approx(0.5)
    assert not found[:3, 3:].any()
    assert not found[3:, :3].any()
    assert not np.diag(found).any()


def test_ranked_labels_take_the_higher_score_and_drop_equals() -> None:
    groups, scores = np.array([0, 0, 0]), np.array([2.0, 0.5, 2.0])
    found = preferences(groups, scores, "ranked", np.random.default_rng(0)) * 3
    np.testing.assert_allclose(found, [[0, 1, 0], [0, 0, 0], [0, 1, 0]], atol=1e-15)


def test_drawn_labels_are_one_or_the_other_and_on_average_the_soft_ones() -> None:
    groups, scores = np.array([0, 0, 0, 1, 1]), np.array([0.0, 1.0, 3.0, 2.0, -1.0])
    rng = np.random.default_rng(0)
    soft = preferences(groups, scores, "soft", rng)
    is_pair = soft > 0
    drawn = np.stack([preferences(groups, scores, "bradley_terry", rng) for _ in range(4000)])
    for one in drawn[:100]:
        np.testing.assert_allclose((one + one.T)[is_pair], (soft + soft.T)[is_pair])
    assert set(np.unique(drawn.round(12))) == {0.0, round(1 / 3, 12), 1.0}
    np.testing.assert_allclose(drawn.mean(axis=0), soft, atol=4 * 0.5 / math.sqrt(4000))


@pytest.mark.parametrize("labels", ["soft", "bradley_terry", "ranked"])
def test_every_prompt_counts_alike_however_many_responses_it_has(labels: Any) -> None:
    groups = np.repeat([0, 1, 2], [2, 5, 9])
    scores = np.arange(16.0)
    found = preferences(groups, scores, labels, np.random.default_rng(0))
    assert [found[groups == g].sum() for g in range(3)] == pytest.approx([1.0, 1.0, 1.0])


# --- the gradient of the agent ---


def all_of_one_prompt(task: Task, prompt: int) -> list[Any]:
    return [y for y in all_episodes(task) if y[0] == prompt]


def log_ratios_of(exact: Exact) -> Tensor:
    return exact.log_prob - exact.ref_log_prob


@pytest.mark.parametrize("micro_batch_size", [1, 4, 99])
def test_the_gradient_is_that_of_the_loss_over_all_pairs_of_each_prompt(
    micro_batch_size: int,
) -> None:
    """Twelve responses in three groups, of unequal lengths; the exact loss knows no masks."""
    task = tiny_task(size=3)
    policy = precise(task, away=0.5)
    exact = enumerate_exactly(task, twin_of(policy))
    chosen = [0, 7, 3, 12, 16, 29, 20, 22, 5, 1, 9, 14]
    played = [exact.played[i] for i in chosen]
    agent = make_agent(policy, group_size=4, micro_batch_size=micro_batch_size)
    (found,) = gradients_of_update(agent, episodes_of(task, policy, played))
    loss = torch.zeros((), dtype=torch.float64)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    ratios = log_ratios_of(exact)
    for start in (0, 4, 8):
        for i in chosen[start : start + 4]:
            for j in chosen[start : start + 4]:
                if i != j:
                    label = sigmoid(float(exact.scores[i] - exact.scores[j]))
                    margin = BETA * (ratios[i] - ratios[j])
                    loss = loss - label * torch.nn.functional.logsigmoid(margin) / (6 * 3)
    assert relative_error(found, flat_gradient(loss, twin)) < TOLERANCE


def label_of(labels: str, gain: float) -> float:
    """The weight of "the first is preferred", where the first scores `gain` more."""
    return sigmoid(gain) if labels == "soft" else float(gain > 0)


@pytest.mark.parametrize("labels", ["soft", "ranked"])
def test_over_all_pairs_it_expects_the_gradient_of_the_enumerated_loss(labels: str) -> None:
    """Two responses of the policy's own to each prompt; which are met is held fixed."""
    task = tiny_task(size=3, limit=2)
    policy = precise(task, away=0.5)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    agent = make_agent(policy, group_size=2, labels=labels)
    found = np.zeros(sum(p.numel() for p in policy.parameters()))
    for weight, played in in_groups(exact, 2):
        for gradient in gradients_of_update(agent, episodes_of(task, policy, played)):
            found += weight * gradient
    chances, ratios = exact.weights * exact.num_prompts, log_ratios_of(exact)
    loss = torch.zeros((), dtype=torch.float64)
    for i, (prompt, _) in enumerate(exact.played):
        for j, (other, _) in enumerate(exact.played):
            if prompt == other and i != j:
                chance = chances[i] * chances[j] / exact.num_prompts
                gain, margin = float(exact.scores[i] - exact.scores[j]), ratios[i] - ratios[j]
                for sign in (1, -1):
                    likelihood = torch.nn.functional.logsigmoid(sign * BETA * margin)
                    loss = loss - chance * label_of(labels, sign * gain) * likelihood
    assert relative_error(found, flat_gradient(loss, twin)) < TOLERANCE


def test_minibatches_weighted_by_their_prompts_add_up_to_the_gradient_of_the_batch() -> None:
    task = tiny_task(size=3)
    policy = precise(task, away=0.5)
    played = [all_episodes(task)[i] for i in np.random.default_rng(2).permutation(28)]
    episodes = episodes_of(task, policy, played)
    (whole,) = gradients_of_update(make_agent(policy, group_size=4), episodes)
    parts = gradients_of_update(make_agent(policy, group_size=4, minibatches=3), episodes)
    sizes = [len(part) for part in np.array_split(np.arange(7), 3)]
    weighted = sum(n * part for n, part in zip(sizes, parts, strict=True)) / 7
    assert relative_error(np.asarray(weighted), whole) < TOLERANCE
    assert relative_error(np.mean(parts, axis=0), whole) > FAR


def optimal_table(task: Task) -> TablePolicy:
    """Returns the table that is π*: at every node of the graph, A*/β above the reference."""
    policy, best = TablePolicy(task), optimum(task)
    prompts = [task.prompts.token_ids[i, :n].tolist() for i, n in enumerate(task.prompts.lengths)]
    with torch.no_grad():
        for prompt, y in all_episodes(task):
            for t in range(len(y)):
                ids = np.array([[*prompts[prompt], *y[:t]]])
                ids = np.pad(ids, ((0, 0), (0, task.max_tokens - ids.shape[1])))
                mask = np.arange(task.max_tokens) < len(prompts[prompt]) + t
                obs = {"input_ids": ids, "attention_mask": mask[None].astype(np.int8)}
                time, node, *_ = policy.mdp.locate(obs)
                advantages = best.policy.advantages(obs)[0] / task.kl_coefficient
                policy.table[time[0], node[0]] = torch.from_numpy(advantages)
    return policy


def expected_pair_gradient(policy: Policy, task: Task, weights: Any) -> Any:
    """Sums the gradients of all pairs of responses to a prompt, by the weight of the pair."""
    agent, played = make_agent(policy, group_size=2), all_episodes(task)
    total = 0.0
    for prompt in range(len(task.prompts)):
        rows = [i for i, (p, _) in enumerate(played) if p == prompt]
        for i in rows:
            for j in rows[: rows.index(i)]:
                episodes = episodes_of(task, policy, [played[i], played[j]])
                (gradient,) = gradients_of_update(agent, episodes)
                total = total + weights[i] * weights[j] * gradient
    return total


@pytest.mark.parametrize("seed", [0, 1])
def test_with_soft_labels_the_expected_gradient_is_0_at_the_known_optimum(seed: int) -> None:
    """Whatever the pairs are drawn from, here anything: at π* each pair's own gradient is 0."""
    task = tiny_task(size=3, limit=2)
    best = optimal_table(task)
    found = best.exact()
    assert float(found.values(BETA).mean()) == pytest.approx(optimum(task).value, abs=1e-12)
    weights = np.random.default_rng(seed).random(len(all_episodes(task)))
    at_optimum = expected_pair_gradient(best, task, weights)
    at_reference = expected_pair_gradient(TablePolicy(task), task, weights)
    assert np.linalg.norm(at_optimum) < 1e-12 * np.linalg.norm(at_reference)


def test_at_the_reference_the_gradient_is_to_first_order_that_of_leave_one_out() -> None:
    """β/4 times the sum over pairs of Δr Δ∇log π; the scores are small, so that σ is straight."""
    task = tiny_task(size=3, limit=2)
    policy = TablePolicy(task)
    played = all_of_one_prompt(task, 0)[:4]
    episodes = episodes_of(task, policy, played)
    small = Episodes(**{**episodes.arrays(), "task_rewards": 1e-3 * episodes.task_rewards})
    (found,) = gradients_of_update(make_agent(policy, group_size=4), small)
    scores, total = small.scores, 0.0
    for i in range(4):
        others = np.delete(scores, i).mean()
        log_prob = policy.evaluate(episodes.select(np.array([i]))).log_probs.sum()
        policy.zero_grad()
        log_prob.backward()  # type: ignore[no-untyped-call]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.parameters()]
        total = total - (scores[i] - others) * torch.cat([p.reshape(-1) for p in parts]).numpy()
    # Over six pairs, each of four episodes meets three others.
    np.testing.assert_allclose(found, BETA / 4 * 3 / 6 * total, rtol=1e-5, atol=1e-12)


# --- the agent ---


def test_ranked_equals_leave_nothing_to_learn_and_take_no_step() -> None:
    task = tiny_task(reward=lambda p, r, **_: [0.5] * len(r))
    policy = residual(task, away=0.5)
    agent = make_agent(policy, labels="ranked", episodes_per_batch=32)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    (row,) = agent.learn(with_kl(task, policy), total_tokens=1).rows
    assert row["optimizer_steps"] == row["loss"] == row["gradient_norm"] == 0
    assert all(torch.equal(before[name], x) for name, x in policy.state_dict().items())
    assert not agent.optimizer.state


def test_responses_to_one_prompt_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny_task()
    policy = residual(task)
    agent = make_agent(policy, group_size=4, epochs=3, minibatches=2, micro_batch_size=6)
    episodes = episodes_of(task, policy, all_episodes(task)[:24])
    selected: list[list[int]] = []
    original = Episodes.select

    def select(self: Episodes, rows: Any) -> Episodes:
        selected.append(rows.tolist())
        return original(self, rows)

    monkeypatch.setattr(Episodes, "select", select)
    stats = agent.update(episodes, np.random.default_rng(0))
    assert stats["optimizer_steps"] == 6
    assert {len(rows) for rows in selected} <= {4, 8}
    assert all([*map(rows.count, rows)] == [1] * len(rows) for rows in selected)
    for rows in selected:
        groups, counts = np.unique(np.array(rows) // 4, return_counts=True)
        assert set(counts) == {4}
        assert len(groups) in (1, 2)


def test_the_accuracy_is_the_share_of_pairs_that_the_policy_orders_as_labelled() -> None:
    task = tiny_task(size=3)
    policy = residual(task, away=0.5)
    played = all_of_one_prompt(task, 0)[:6]
    episodes = episodes_of(task, policy, played)
    agent = make_agent(policy, group_size=6, labels="ranked")
    agent.step_optimizer = lambda: 0.0  # type: ignore[method-assign]
    stats = agent.update(episodes, np.random.default_rng(0))
    ratios, scores = episodes.kl, episodes.scores  # log π − log π_ref of each
    pairs = [(i, j) for i in range(6) for j in range(i)]
    right = [(ratios[i] - ratios[j]) * (scores[i] - scores[j]) > 0 for i, j in pairs]
    assert stats["accuracy"] == pytest.approx(np.mean(right))


def test_an_environment_without_a_kl_penalty_is_refused() -> None:
    task = tiny_task()
    policy = residual(task)
    with pytest.raises(InvalidInputError, match=r"needs the β of a KL penalty, above 0; got nan"):
        make_agent(policy).learn(vector_env(task), total_tokens=1)
    with pytest.raises(InvalidInputError, match=r"above 0; got 0"):
        make_agent(policy).learn(with_kl(task, policy, coefficient=0.0), total_tokens=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_size": 1}, "group_size must be at least 2; got 1"),
        ({"labels": "best"}, r"labels must be one of \('soft', 'bradley_terry', 'ranked'\)"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"minibatches": 17}, r"minibatches must be in 1\.\.16, the prompts; got 17"),
        ({"entropy_coefficient": 0.1}, "entropy_coefficient must be 0"),
    ],
)
def test_a_setting_outside_its_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        DirectPreferenceConfig(**settings)


@pytest.mark.parametrize("labels", ["soft", "bradley_terry", "ranked"])
def test_a_run_saved_and_loaded_goes_on_to_the_same_bytes(labels: Any, tmp_path: Path) -> None:
    def stop(row: Mapping[str, float]) -> None:
        if row["iteration"] == 2:
            raise StopTraining

    def begin() -> tuple[Task, DirectPreferenceOptimisation]:
        task = tiny_task()
        return task, make_agent(residual(task), labels=labels, epochs=2, minibatches=2)

    task, whole = begin()
    whole.learn(with_kl(task, whole.policy), total_tokens=300)
    task, agent = begin()
    agent.learn(with_kl(task, agent.policy), total_tokens=300, progress=stop)
    agent.save(tmp_path / "agent")
    loaded = DirectPreferenceOptimisation.load(tmp_path / "agent", device="cpu")
    loaded.learn(with_kl(tiny_task(), loaded.policy), total_tokens=300)
    assert len(whole.log.rows) > 3
    assert loaded.log.rows == whole.log.rows
    for name, tensor in whole.policy.state_dict().items():
        assert torch.equal(tensor, loaded.policy.state_dict()[name])


# --- completions from a file ---


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_ranked_completions_are_learnt_without_generating(tmp_path: Path) -> None:
    task = tiny_task(limit=4)
    policy = residual(task)
    envs = with_kl(task, policy)
    path = write(
        tmp_path / "ranked.jsonl",
        {"prompt": "a", "completions": ["a b", "c", "b b b"], "ranking": [1, 3, 2]},
        {"prompt": "b a c", "completions": ["c", "a"], "ranking": [1, 2]},
    )
    agent = make_agent(policy, learning_rate=1e-2)
    first = agent.learn_ranked(path, envs, epochs=1)
    last = agent.learn_ranked(path, envs, epochs=60)
    assert first["loss"] == pytest.approx(math.log(2))  # π = π_ref: every pair is a coin's throw
    assert last["loss"] < 0.5
    assert last["accuracy"] > 0.9
    assert agent.tokens == 0
    assert envs.unwrapped.tokens_generated == 0  # type: ignore[attr-defined]
    played = [(0, (1, 2, 0)), (0, (3, 0)), (0, (2, 2, 2, 0)), (1, (3, 0)), (1, (1, 0))]
    kl = episodes_of(task, policy, played).kl
    assert kl[0] > kl[2] > kl[1]
    assert kl[3] > kl[4]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "a"}, r"line 1: expected \{\"prompt\".*KeyError: 'completions'"),
        ({"prompt": "a", "completions": ["b"], "ranking": [1]}, "two completions or more"),
        ({"prompt": "a", "completions": ["b", "c"], "ranking": [1]}, "and a rank for each"),
        ({"prompt": "a", "completions": ["b", 3], "ranking": [1, 2]}, "all of them texts"),
        ({"prompt": "d", "completions": ["b", "c"], "ranking": [1, 2]}, "'d' is no prompt of"),
        (
            {"prompt": "a", "completions": ["b b b", "c"], "ranking": [1, 2]},
            "a completion has 4 tokens, EOS included; the environment allows 3",
        ),
    ],
)
def test_a_broken_line_is_named(line: Any, message: str, tmp_path: Path) -> None:
    task = tiny_task()
    policy = residual(task)
    path = write(tmp_path / "ranked.jsonl", line)
    with pytest.raises(InvalidInputError, match=message):
        make_agent(policy).learn_ranked(path, with_kl(task, policy), epochs=1)


# --- learning ---


def trained(name: str, *, policy: str | None = None, **settings: Any) -> Evaluation:
    envs = gym.make_vec(name, num_envs=64)
    agent = textrl_agents.make(
        "direct_preference_optimisation", envs, policy=policy, device="cpu", **settings
    )
    charged = KLPenalty(envs, policy=agent.policy)
    agent.learn(charged, total_tokens=60_000)
    return evaluate(agent, charged, episodes=1024)
