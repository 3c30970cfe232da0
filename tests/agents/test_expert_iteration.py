import dataclasses
from collections.abc import Mapping, Sequence
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
    enumerate_exactly,
    episodes_of,
    flat_gradient,
    gradients_of_update,
    played_in,
    random_ngram,
    relative_error,
    residual,
    tiny_task,
    twin_of,
    vector_env,
    with_kl,
)
from textrl_agents import StopTraining
from textrl_agents.collector import Collector
from textrl_agents.episodes import Episodes
from textrl_agents.expert_iteration import ExpertIteration, ExpertIterationConfig
from textrl_agents.policies import Policy
from textrl_benchmarks.evaluation import Evaluation, evaluate
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import optimum
from textrl_envs.task import Task
from textrl_envs.wrappers.vector import AdaptiveCoefficient, KLPenalty

A: Response = (1, 2, 3)
B: Response = (2, EOS)
C: Response = (EOS,)
D: Response = (3, 3, EOS)
E: Response = (1, EOS)

Scored = tuple[Response, float]


def batch(task: Task, policy: Policy, played: Sequence[Scored]) -> Episodes:
    """Writes responses with scores of choice, to the two prompts in turn; no KL is charged."""
    episodes = episodes_of(task, policy, [(i % 2, y) for i, (y, _) in enumerate(played)])
    task_rewards = np.zeros_like(episodes.task_rewards)
    task_rewards[np.arange(len(played)), episodes.lengths - 1] = [score for _, score in played]
    return dataclasses.replace(
        episodes, task_rewards=task_rewards, rewards=task_rewards, ref_log_probs=None
    )


def make_agent(policy: Policy, **settings: Any) -> ExpertIteration:
    given = {"episodes_per_batch": 32, "learning_rate": 1e-2, **settings}
    return ExpertIteration(policy, config=ExpertIterationConfig(**given), seed=5)


class Played:
    """An agent that is given batches by hand."""

    def __init__(self, **settings: Any) -> None:
        self.task = tiny_task()
        self.policy = precise(self.task, away=0.5)
        self.agent = make_agent(self.policy, **{"epochs": 1, **settings})

    def update(self, *played: Scored) -> dict[str, float]:
        episodes = batch(self.task, self.policy, played)
        return self.agent.update(episodes, np.random.default_rng(0))

    @property
    def remembered(self) -> list[Response]:
        return [] if self.agent.best is None else [y for _, y in played_in(self.agent.best)]


# --- what is remembered ---


def test_the_best_of_a_batch_are_remembered() -> None:
    run = Played(kept=3)
    stats = run.update((A, 0.3), (B, 0.9), (C, 0.1), (D, 0.7), (E, 0.5))
    assert run.remembered == [B, D, E]
    assert stats["kept"] == 3
    assert run.agent.best is not None
    np.testing.assert_array_equal(run.agent.best.prompt_index, [1, 1, 0])
    np.testing.assert_array_equal(run.agent.best.scores, [0.9, 0.7, 0.5])


def test_better_ones_take_the_place_of_worse_ones_and_worse_ones_do_not() -> None:
    run = Played(kept=2)
    run.update((A, 0.0), (B, 0.5), (C, 0.6))
    run.update((D, 0.4), (E, 0.55))
    assert set(run.remembered) == {C, E}
    run.update((A, 0.1), (A, 0.2))
    assert set(run.remembered) == {C, E}


def test_of_equally_good_ones_the_newest_are_remembered() -> None:
    run = Played(kept=2)
    run.update((A, 1.0), (C, 0.0))
    run.update((B, 1.0), (C, 0.0))
    assert run.remembered == [B, A]
    run.update((C, 0.0), (D, 1.0))
    assert run.remembered == [D, B]
    run.update((E, 1.0), (A, 1.0))
    assert run.remembered == [E, A]


def test_of_equally_good_ones_those_are_remembered_that_the_policy_says_too_rarely() -> None:
    """Best is the regularised return under the policy as it is, whatever was paid when sampled."""
    task = tiny_task()
    policy = precise(task, away=0.5)
    agent = make_agent(policy, epochs=1, kept=2)
    agent.kl_coefficient = task.kl_coefficient
    exact = enumerate_exactly(task, policy)
    played = [(0, A), (0, B), (0, C), (0, D), (0, E)]
    episodes = episodes_of(task, policy, played)
    scores = np.zeros_like(episodes.task_rewards)
    scores[np.arange(5), episodes.lengths - 1] = [1.0, 1.0, 0.0, 1.0, 1.0]
    episodes = dataclasses.replace(episodes, task_rewards=scores, rewards=scores)
    log_ratios = [
        float(exact.log_probs[exact.played.index(y)].detach().sum()) - float(row.sum())
        for y, row in zip(played, episodes.ref_log_probs, strict=True)  # type: ignore[arg-type]
    ]
    log_ratios[2] = np.inf  # C has the lowest score
    expected = sorted(np.argsort(log_ratios)[:2])
    agent.update(episodes, np.random.default_rng(0))
    assert agent.best is not None
    assert played_in(agent.best) == [played[i] for i in expected]
    returns = [1 - task.kl_coefficient * log_ratios[i] for i in expected]
    np.testing.assert_allclose(agent.best.returns, returns, atol=1e-12)


def test_none_of_the_lowest_score_is_remembered_though_there_is_room() -> None:
    run = Played(kept=100)
    run.update((A, 0.0), (B, 1.0), (C, 0.0))
    assert run.remembered == [B]


def test_the_lowest_score_is_the_lowest_of_all_batches() -> None:
    run = Played(kept=100)
    run.update((A, 0.0), (B, 0.0))
    assert run.remembered == []
    run.update((C, -1.0), (D, 0.0))  # now 0 is no longer the worst
    assert run.remembered == [D]
    run.update((E, -0.5), (A, -0.5))  # the worst of its batch, and yet not the worst
    assert set(run.remembered) == {D, E, A}


def test_nothing_changes_before_the_first_success() -> None:
    run = Played()
    before = {name: tensor.clone() for name, tensor in run.policy.state_dict().items()}
    for _ in range(2):
        stats = run.update((A, 0.0), (B, 0.0), (C, 0.0))
        assert stats == {"kept": 0, "loss": 0.0, "gradient_norm": 0.0}
    assert not run.agent.optimizer.state
    assert all(torch.equal(before[name], x) for name, x in run.policy.state_dict().items())
    assert run.agent.best is None
    assert run.update((A, 0.0), (B, 1.0)).keys() == stats.keys()  # one header for the log
    assert any(not torch.equal(before[name], x) for name, x in run.policy.state_dict().items())


# --- the update ---


def mean_negative_log_likelihood(task: Task, twin: Policy, played: Sequence[Any]) -> torch.Tensor:
    exact = enumerate_exactly(task, twin)
    places = [exact.played.index(y) for y in played]
    return -torch.cat([exact.log_probs[i] for i in places]).mean()


def test_the_update_is_an_adam_step_on_the_mean_negative_log_likelihood_a_token() -> None:
    """From a float64 copy, without losses, masks or padding. E was not good enough to count."""
    run = Played(minibatches=1, learning_rate=3e-3, max_gradient_norm=1e9)
    twin = twin_of(run.policy)
    good = [(0, A), (1, B), (0, C), (1, D)]
    loss = mean_negative_log_likelihood(run.task, twin, good)
    gradient = flat_gradient(loss, twin)
    before = flat_weights(run.policy)
    stats = run.update((A, 1.0), (B, 0.5), (C, 1.0), (D, 1.0), (E, 0.0))
    assert stats["loss"] == pytest.approx(float(loss.detach()), rel=1e-12)
    assert stats["gradient_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-12)
    # Adam's first step: both running means are the gradient's own.
    expected = before - 3e-3 * gradient / (np.abs(gradient) + 1e-5)
    np.testing.assert_allclose(flat_weights(run.policy), expected, atol=1e-12)


def flat_weights(policy: Policy) -> Any:
    return torch.cat([p.detach().reshape(-1) for p in policy.parameters()]).double().numpy()


def test_each_minibatch_has_the_mean_over_its_own_tokens() -> None:
    run = Played(minibatches=2)
    played = [(A, 1.0), (B, 1.0), (C, 1.0), (D, 1.0), (E, 0.0)]
    episodes = batch(run.task, run.policy, played)
    found = gradients_of_update(run.agent, episodes)
    order = np.random.default_rng(0).permutation(4)
    twin, good = twin_of(run.policy), [(0, A), (1, B), (0, C), (1, D)]
    for gradient, rows in zip(found, np.array_split(order, 2), strict=True):
        loss = mean_negative_log_likelihood(run.task, twin, [good[i] for i in rows])
        assert relative_error(gradient, flat_gradient(loss, twin)) < TOLERANCE


@pytest.mark.parametrize(("count", "steps"), [(6, 3 * 4), (3, 3 * 3), (1, 3)])
def test_every_episode_is_gone_through_once_an_epoch(count: int, steps: int) -> None:
    """In fewer parts where fewer are remembered than there should be parts."""
    run = Played(epochs=3, minibatches=4)
    good = [(y, 1.0) for y in (A, B, C, D, E, A)[:count]]
    episodes = batch(run.task, run.policy, [*good, (C, 0.0)])
    selected: list[int] = []
    original = Episodes.select

    def select(self: Episodes, rows: Any) -> Episodes:
        selected.extend(rows.tolist())
        return original(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Episodes, "select", select)
        found = gradients_of_update(run.agent, episodes)
    assert len(found) == steps
    # First the choice of the best, then the epochs.
    epochs = np.reshape(selected[count:], (3, count))
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs.tolist())


def test_the_penalty_is_not_seen() -> None:
    found = []
    for beta in (0.0, 5.0):
        task = tiny_task(beta=beta)
        agent = make_agent(residual(task, away=0.5), epochs=1)
        agent.update(batch(task, agent.policy, [(A, 1.0), (B, 0.0)]), np.random.default_rng(0))
        found.append(flat_weights(agent.policy))
    np.testing.assert_array_equal(found[0], found[1])


def test_a_bonus_of_entropy_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"entropy_coefficient must be 0.*; got 0.1"):
        ExpertIterationConfig(entropy_coefficient=0.1)


@pytest.mark.parametrize("name", ["kept", "epochs", "minibatches", "simulations"])
def test_a_setting_below_1_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{name} must be at least 1; got 0"):
        ExpertIterationConfig(**{name: 0})  # type: ignore[arg-type]


# --- episodes joined ---


def test_joined_episodes_are_those_of_both_padded_to_the_longer() -> None:
    task = tiny_task()
    policy = residual(task, away=0.5)
    short = episodes_of(task, policy, [(0, B), (0, C)])
    long = episodes_of(task, policy, [(1, A), (0, D), (1, C)])
    for first, second in ((short, long), (long, short)):
        joined = first.joined(second)
        assert played_in(joined) == [*played_in(first), *played_in(second)]
        assert joined.input_ids.shape == joined.attention_mask.shape == (5, 6)
        assert joined.response_mask.shape == joined.rewards.shape == (5, 3)
        for part, rows in (
            (first, np.arange(len(first))),
            (second, np.arange(len(first), 5)),
        ):
            again = joined.select(rows)
            for name, array in part.arrays().items():
                np.testing.assert_array_equal(again.arrays()[name], array)
                assert joined.arrays()[name].dtype == array.dtype
        np.testing.assert_allclose(joined.returns, [*first.returns, *second.returns])


def test_the_arrays_are_all_fields_but_a_missing_reference() -> None:
    task = tiny_task()
    played = episodes_of(task, residual(task), [(0, B), (1, A)])
    assert "gold" not in played.arrays()
    episodes = dataclasses.replace(played, gold=np.zeros(2))
    names = [field.name for field in dataclasses.fields(Episodes)]
    assert list(episodes.arrays()) == names
    bare = dataclasses.replace(episodes, ref_log_probs=None)
    assert list(bare.arrays()) == [name for name in names if name != "ref_log_probs"]
    assert bare.arrays()["input_ids"] is bare.input_ids
    joined = bare.joined(bare)
    assert joined.ref_log_probs is None
    assert len(joined) == 4


# --- taught by a search ---

WHOLE_TREE = 60
"""Simulations after which every response to a prompt of `tiny_task` is known."""


def searcher(policy: Policy, **settings: Any) -> ExpertIteration:
    return make_agent(policy, teacher="mcts", **{"simulations": 4, **settings})


@pytest.mark.parametrize("leaf", ["roll_out", "value"])
def test_a_teacher_that_knows_the_whole_tree_plays_the_optimum(leaf: str) -> None:
    """Every episode then returns V* of its prompt, whatever the policy says."""
    task = tiny_task()
    agent = searcher(precise(task, away=0.5), simulations=WHOLE_TREE, leaf=leaf)
    episodes = agent.collect(Collector(with_kl(task, agent.policy)))
    best = np.array(optimum(task).values)
    np.testing.assert_allclose(episodes.returns, best[episodes.prompt_index], atol=1e-9)


@pytest.mark.parametrize("leaf", ["roll_out", "value"])
@pytest.mark.parametrize("settings", [{"coefficient": 2.0}, {"reference": random_ngram(seed=7)}])
def test_it_plays_the_optimum_of_what_the_wrapper_charges(
    leaf: str, settings: dict[str, Any]
) -> None:
    """And not that of the environment's own β and reference."""
    task = tiny_task()
    agent = searcher(precise(task, away=0.5), simulations=WHOLE_TREE, leaf=leaf)
    episodes = agent.collect(Collector(with_kl(task, agent.policy, **settings)))
    beta = settings.get("coefficient", task.kl_coefficient)
    charged = tiny_task(beta=beta, reference=settings.get("reference"))
    best, own = (np.array(optimum(one).values) for one in (charged, task))
    np.testing.assert_allclose(episodes.returns, best[episodes.prompt_index], atol=1e-9)
    assert np.abs(best - own).min() > 0.01


def test_it_follows_a_price_that_changes() -> None:
    task = tiny_task()
    agent = searcher(precise(task, away=0.5), simulations=WHOLE_TREE)
    beta = AdaptiveCoefficient(value=0.3, target=1e-3, horizon=32.0, batch_size=32)
    collector = Collector(with_kl(task, agent.policy, coefficient=beta))
    for price in (0.3, 0.3 * 1.2, 0.3 * 1.2**2):
        assert beta.value == pytest.approx(price)
        best = np.array(optimum(task, kl_coefficient=beta.value).values)
        episodes = agent.collect(collector)
        np.testing.assert_allclose(episodes.returns, best[episodes.prompt_index], atol=1e-9)


def test_where_no_kl_is_charged_it_plays_what_it_visits_most() -> None:
    task = tiny_task()
    policy = residual(task, away=0.5)
    agent = searcher(policy, simulations=32)
    free = Collector(with_kl(task, policy, coefficient=0.0)), Collector(vector_env(task, 8))
    scores = [agent.collect(collector).scores.mean() for collector in free]
    plain = make_agent(policy).collect(free[0]).scores.mean()
    assert min(scores) > plain + 0.1


def test_few_simulations_already_teach_better_than_the_policy_plays() -> None:
    task = tiny_task()
    policy = residual(task)
    returns = []
    for agent in (make_agent(policy), searcher(policy, simulations=8)):
        agent.config = dataclasses.replace(agent.config, episodes_per_batch=512)
        episodes = agent.collect(Collector(with_kl(task, policy, 64)))
        returns.append((episodes.returns.mean(), episodes.returns.std() / np.sqrt(512)))
    (plain, error), (taught, other) = returns
    assert taught - plain > 4 * np.hypot(error, other)


def test_what_the_search_tries_is_paid_for() -> None:
    """A roll-out a simulation, of a token at least, beside the tokens that are played."""
    task = tiny_task()
    policy = residual(task)
    plain, search = make_agent(policy), searcher(policy)
    (without,) = plain.learn(with_kl(task, policy), total_tokens=1).rows
    (row,) = search.learn(with_kl(task, policy), total_tokens=1).rows
    assert without["tokens"] == round(32 * without["length"])
    played = round(32 * row["length"])
    # Two prompts: their roots are searched once each, and so is every text met after them.
    assert row["tokens"] >= played + 2 * 4
    assert row["tokens"] < played + 32 * 3 * 5 * 4


def flat_value_gradient(task: Task, twin: Policy, played: Sequence[Any], batch: Episodes) -> Any:
    """Of the mean over tokens of (V − G)² / 2, G being what was still to come."""
    exact = enumerate_exactly(task, twin)
    losses = []
    for row, y in enumerate(played):
        rewards = batch.rewards[row, : len(y[1])]
        to_go = torch.from_numpy(np.cumsum(rewards[::-1])[::-1].copy())
        losses.append((exact.values[exact.played.index(y)] - to_go).square() / 2)
    return flat_gradient(torch.cat(losses).mean(), twin)


@pytest.mark.parametrize("micro_batch_size", [2, 128])
def test_a_value_at_the_leaves_is_learnt_from_all_episodes(micro_batch_size: int) -> None:
    """Those that are not good enough to be imitated too: a search must know what leads nowhere."""
    task = tiny_task()
    policy = precise(task, away=0.5)
    given = [(A, 1.0), (B, 0.5), (C, 1.0), (D, 1.0), (E, 0.0)]
    episodes = batch(task, policy, given)
    settings = {"epochs": 1, "minibatches": 1, "micro_batch_size": micro_batch_size}
    (plain,) = gradients_of_update(searcher(policy, **settings), episodes)
    agent = searcher(policy, leaf="value", value_coefficient=0.7, **settings)
    (found,) = gradients_of_update(agent, episodes)
    played = [(i % 2, y) for i, (y, _) in enumerate(given)]
    expected = 0.7 * flat_value_gradient(task, twin_of(policy), played, episodes)
    assert relative_error(found - plain, expected) < TOLERANCE


def test_a_value_is_learnt_before_the_first_success_too() -> None:
    task = tiny_task()
    agent = searcher(residual(task), leaf="value", epochs=2, minibatches=3)
    episodes = batch(task, agent.policy, [(A, 0.5), (B, 0.5), (C, 0.5)])
    stats = agent.update(episodes, np.random.default_rng(0))
    assert (stats["kept"], stats["loss"]) == (0, 0.0)
    assert stats["value_loss"] > 0
    assert {float(state["step"]) for state in agent.optimizer.state.values()} == {6.0}


# --- saved and loaded ---

BUDGET = 400


def stop_after(iterations: int) -> Any:
    def progress(row: Mapping[str, float]) -> None:
        if row["iteration"] == iterations:
            raise StopTraining

    return progress


def make_envs(kind: str, policy: Policy | None = None) -> Any:
    """Makes everything anew, as another process would."""
    if kind == "table":
        envs: Any = gym.make_vec("textrl/Passcode-v0", num_envs=16, length=2, digits=3)
    else:
        envs = vector_env(tiny_task())
    return envs if policy is None or kind == "without KL" else KLPenalty(envs, policy=policy)


def make_learner(kind: str) -> ExpertIteration:
    if kind.startswith("mcts"):
        return searcher(residual(tiny_task(), away=0.5), kept=10, leaf=kind[5:])
    if kind != "table":
        return make_agent(residual(tiny_task(), away=0.5), kept=10)
    agent: ExpertIteration = textrl_agents.make(
        "expert_iteration", make_envs(kind), policy="table", episodes_per_batch=32, kept=10
    )
    return agent


@pytest.mark.parametrize("kind", ["residual", "without KL", "table", "mcts roll_out", "mcts value"])
@pytest.mark.parametrize("stop", [1, 3])
def test_a_run_saved_and_loaded_goes_on_to_the_same_bytes(
    kind: str, stop: int, tmp_path: Path
) -> None:
    """What is remembered is more than the last batch, so it has to be saved."""
    whole = make_learner(kind)
    budget = 3 * BUDGET if kind.startswith("mcts") else BUDGET  # a search costs more
    whole.learn(make_envs(kind, whole.policy), total_tokens=budget)
    agent = make_learner(kind)
    envs = make_envs(kind, agent.policy)
    agent.learn(envs, total_tokens=budget, progress=stop_after(stop))
    agent.save(tmp_path / "agent")
    loaded = ExpertIteration.load(tmp_path / "agent", device="cpu")
    assert agent.best is not None
    assert loaded.best is not None
    for name, array in agent.best.arrays().items():
        np.testing.assert_array_equal(loaded.best.arrays()[name], array)
    loaded.learn(make_envs(kind, loaded.policy), total_tokens=budget)
    assert len(whole.log.rows) > 3
    np.testing.assert_equal(loaded.log.rows, whole.log.rows)  # NaN where no KL is charged
    for name, tensor in whole.policy.state_dict().items():
        assert torch.equal(tensor, loaded.policy.state_dict()[name])
    assert loaded.memory == whole.memory


def test_an_agent_that_has_found_nothing_yet_is_saved_too(tmp_path: Path) -> None:
    run = Played()
    run.update((A, 0.0), (B, 0.0))
    run.agent.save(tmp_path / "agent")
    loaded = ExpertIteration.load(tmp_path / "agent", device="cpu")
    assert loaded.best is None
    assert loaded.memory == {"worst": 0.0}


# --- learning ---


def passcode(name: str, seed: int) -> Evaluation:
    envs = gym.make_vec("textrl/Passcode-v0", num_envs=64, length=3)
    agent = textrl_agents.make(name, envs, seed=seed, device="cpu")
    charged = KLPenalty(envs, policy=agent.policy)
    agent.learn(charged, total_tokens=20_000)
    return evaluate(agent, charged, episodes=1024, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_expert_iteration_keeps_a_success_that_ppo_loses_again(seed: int) -> None:
    """One code among a thousand. Measured over seeds 0-2: .98 to .99, and PPO .00."""
    assert 0.8 < passcode("expert_iteration", seed).normalised_score.mean <= 1.0
    assert passcode("ppo", seed).normalised_score.mean < 0.1
