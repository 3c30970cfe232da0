"""TablePolicy against its table read by hand, and against every response enumerated."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import textrl_agents
import textrl_envs  # noqa: F401 - registers the environments
from tests.agents.tiny import (
    Response,
    all_episodes,
    episodes_of,
    gradients_of_update,
    ngram_of,
    on_tokens,
    relative_error,
    score_of,
    tiny_task,
    vector_env,
    with_kl,
)
from textrl_agents.collector import Collector
from textrl_agents.policies import Sampling, TablePolicy, load_policy, make_policy
from textrl_agents.ppo import PPO
from textrl_agents.reinforce import REINFORCE, REINFORCEConfig
from textrl_benchmarks.cli import main
from textrl_benchmarks.evaluation import evaluate
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import optimum
from textrl_envs.optimum.dynamic_programming import optimal_log_probs, soft_values
from textrl_envs.task import Task
from textrl_envs.wrappers.vector import KLPenalty

Prefix = tuple[int, Response]
"""Prompt and response so far."""

TEXTS: list[Prefix] = [(0, ()), (1, (3, 1)), (1, ()), (0, (2,)), (1, (1,)), (0, (3, 3))]


def random_table(task: Task, *, temperature: float = 1.0, away: float = 0.5) -> TablePolicy:
    """Returns a table away from the reference, its values too."""
    policy = TablePolicy(task, sampling=Sampling(temperature=temperature))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        policy.table.normal_(0, away, generator=generator)
        policy.values.normal_(0, away, generator=generator)
    return policy


def prefixes(task: Task) -> list[Prefix]:
    """Every text that is not over, shorter ones first: the order in which the tree numbers them."""
    words = range(1, task.vocabulary_size)
    return [
        (prompt, text)
        for n in range(task.max_new_tokens)
        for prompt in range(len(task.prompts))
        for text in itertools.product(words, repeat=n)
    ]


def prompt_ids(task: Task, prompt: int) -> list[int]:
    ids: list[int] = task.prompts.token_ids[prompt, : task.prompts.lengths[prompt]].tolist()
    return ids


def rows_by_hand(policy: TablePolicy, task: Task) -> dict[Prefix, Tensor]:
    """Reads log π of all next tokens off the table, with gradients."""
    reference = ngram_of(task).table
    rows = {}
    for node, (prompt, text) in enumerate(prefixes(task)):
        last = (*prompt_ids(task, prompt), *text)[-1]
        logits = torch.from_numpy(reference[last]) + policy.table[len(text), node]
        rows[prompt, text] = (logits / policy.sampling.temperature).log_softmax(-1)
    return rows


@dataclasses.dataclass(frozen=True)
class Sums:
    """What a policy is worth, summed over every response."""

    rewards: Tensor
    kls: Tensor
    weights: list[float]
    """Probability of each of `all_episodes`."""


def enumerate_by_hand(policy: TablePolicy, task: Task) -> Sums:
    rows, reference = rows_by_hand(policy, task), ngram_of(task).table
    rewards, kls = torch.zeros(2, len(task.prompts), dtype=torch.float64)
    weights = []
    for prompt, y in all_episodes(task):
        text = (*prompt_ids(task, prompt), *y)
        log_prob = torch.stack([rows[prompt, y[:t]][y[t]] for t in range(len(y))]).sum()
        start = len(text) - len(y)
        ref_log_prob = sum(float(reference[text[i - 1], text[i]]) for i in range(start, len(text)))
        at = torch.arange(len(task.prompts)) == prompt
        rewards = rewards + at * log_prob.exp() * score_of(task, prompt, y)
        kls = kls + at * log_prob.exp() * (log_prob - ref_log_prob)
        weights.append(float(log_prob.detach().exp()) / len(task.prompts))
    return Sums(rewards, kls, weights)


def observe(task: Task, texts: list[Prefix]) -> dict[str, Any]:
    ids = np.zeros((len(texts), task.max_tokens), np.int64)
    mask = np.zeros(ids.shape, np.int8)
    for row, (prompt, text) in enumerate(texts):
        tokens = [*prompt_ids(task, prompt), *text]
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    return {"input_ids": ids, "attention_mask": mask}


# --- the table ---


def test_a_new_table_is_the_reference() -> None:
    task = tiny_task()
    policy = TablePolicy(task)
    found = policy.exact()
    np.testing.assert_allclose(found.kls, 0.0, atol=1e-15)
    np.testing.assert_allclose(found.rewards, optimum(task).at_reference.rewards, atol=1e-14)
    for (prompt, text), row in rows_by_hand(policy, task).items():
        last = (*prompt_ids(task, prompt), *text)[-1]
        np.testing.assert_allclose(row.detach(), ngram_of(task).table[last], atol=1e-14)


@pytest.mark.parametrize("name", ["textrl/Parity-v0", "textrl/SumVerify-v0", "textrl/KLTrade-v0"])
def test_a_new_table_has_kl_0_and_normalised_score_0_in_the_environments(name: str) -> None:
    envs = gym.make_vec(name, num_envs=8)
    found = evaluate(TablePolicy.of(envs), envs, episodes=8)
    assert found.is_exact
    assert found.kl.mean == pytest.approx(0.0, abs=1e-12)
    assert found.normalised_score.mean == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_all_ways_of_asking_answer_what_is_in_the_table(temperature: float) -> None:
    task = tiny_task()
    policy = random_table(task, temperature=temperature)
    obs, rows = observe(task, TEXTS), rows_by_hand(policy, task)
    expected = torch.stack([rows[text] for text in TEXTS]).detach().numpy()
    np.testing.assert_allclose(policy.next_log_probs(obs), expected, atol=1e-14)

    actions = np.array([0, 1, 2, 3, 0, 2])
    chosen = expected[np.arange(len(TEXTS)), actions]
    np.testing.assert_allclose(policy.log_probs(obs, actions), chosen, atol=1e-14)

    nodes = [prefixes(task).index(text) for text in TEXTS]
    lengths = [len(text) for _, text in TEXTS]
    values = policy.values.detach().numpy()[lengths, nodes]
    np.testing.assert_array_equal(policy.next_values(obs), values)

    step = policy.step(obs, np.random.default_rng(0))
    taken = expected[np.arange(len(TEXTS)), step.actions]
    np.testing.assert_allclose(step.log_probs, taken, atol=1e-14)
    np.testing.assert_allclose(step.entropies, -(np.exp(expected) * expected).sum(1), atol=1e-14)
    np.testing.assert_array_equal(step.values, values)
    greedy = policy.step(obs, np.random.default_rng(0), greedy=True)
    np.testing.assert_array_equal(greedy.actions, expected.argmax(1))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_whole_episodes_are_read_as_their_texts_are(temperature: float) -> None:
    task = tiny_task()
    policy = random_table(task, temperature=temperature)
    rows = rows_by_hand(policy, task)
    played = all_episodes(task)[::-3]  # long and short ones of both prompts
    episodes = episodes_of(task, policy, played)
    found = policy.evaluate(episodes)
    log_probs, values = on_tokens(episodes, found.log_probs), on_tokens(episodes, found.values)
    entropies = on_tokens(episodes, found.entropies)
    for row, (prompt, y) in enumerate(played):
        for t, token in enumerate(y):
            expected = rows[prompt, y[:t]].detach()
            node = prefixes(task).index((prompt, y[:t]))
            assert log_probs[row, t] == pytest.approx(float(expected[token]), abs=1e-14)
            assert values[row, t] == float(policy.values[t, node].detach())
            entropy = -float((expected.exp() * expected).sum())
            assert entropies[row, t] == pytest.approx(entropy, abs=1e-14)


def test_what_the_collector_noted_is_what_evaluate_says() -> None:
    envs = gym.make_vec("textrl/Parity-v0", num_envs=32)
    policy = random_table(envs.unwrapped.task)  # type: ignore[attr-defined]
    episodes = Collector(envs).collect(policy, 64, seed=[0])
    found = policy.evaluate(episodes)
    for noted, again in (
        (episodes.log_probs, found.log_probs),
        (episodes.values, found.values),
        (episodes.entropies, found.entropies),
    ):
        np.testing.assert_allclose(on_tokens(episodes, again), noted, atol=1e-12)


def test_a_token_that_the_reference_never_writes_is_never_written() -> None:
    """However much the table is in favour of it; and no gradient is lost in its infinity."""
    envs = gym.make_vec("textrl/Parity-v0", num_envs=32)
    policy = TablePolicy.of(envs)
    impossible = torch.isneginf(torch.from_numpy(policy.mdp.log_ref))
    with torch.no_grad():
        policy.table[:, impossible] = 50.0
    episodes = Collector(envs).collect(policy, 64, seed=[0])
    found = policy.evaluate(episodes)
    assert np.isfinite(found.log_probs.detach().numpy()).all()
    (found.log_probs.sum() + found.entropies.sum()).backward()  # type: ignore[no-untyped-call]
    assert policy.table.grad is not None
    assert bool(torch.isfinite(policy.table.grad).all())
    assert policy.table.grad[:, impossible].abs().sum() == 0
    assert np.isfinite(policy.exact().kls).all()


# --- what it is worth ---


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_exact_value_is_the_sum_over_all_responses(temperature: float) -> None:
    task = tiny_task()
    policy = random_table(task, temperature=temperature)
    found, expected = policy.exact(), enumerate_by_hand(policy, task)
    np.testing.assert_allclose(found.rewards, expected.rewards.detach(), atol=1e-13)
    np.testing.assert_allclose(found.kls, expected.kls.detach(), atol=1e-13)
    assert found.kls.min() > 0.05


@pytest.mark.parametrize("name", ["textrl/Parity-v0", "textrl/SumVerify-v0", "textrl/Safe-v0"])
def test_the_exact_value_is_what_sampled_episodes_return_on_average(name: str) -> None:
    envs = gym.make_vec(name, num_envs=512)
    policy = random_table(envs.unwrapped.task)  # type: ignore[attr-defined]
    charged = KLPenalty(envs, policy=policy)
    episodes = Collector(charged).collect(policy, 6000, seed=[3], is_balanced=True)
    found = policy.exact()
    for sampled, exact in (
        (episodes.scores, found.rewards),
        (episodes.kl, found.kls),
        (episodes.returns, found.values(charged.charge.coefficient)),
    ):
        error = sampled.std() / np.sqrt(len(episodes))
        assert abs(sampled.mean() - exact.mean()) < 4 * error


def test_the_advantages_of_the_optimum_over_beta_give_exactly_the_optimum() -> None:
    """Asked text by text, as an agent would meet them."""
    task = tiny_task()
    best, policy = optimum(task), TablePolicy(task)
    places = prefixes(task)
    advantages = best.policy.advantages(observe(task, places)) / task.kl_coefficient
    with torch.no_grad():
        for node, (_, text) in enumerate(places):
            policy.table[len(text), node] = torch.from_numpy(advantages[node])
    found = policy.exact()
    np.testing.assert_allclose(found.values(task.kl_coefficient), best.values, atol=1e-12)
    np.testing.assert_allclose(found.kls, best.at_optimum.kls, atol=1e-12)


@pytest.mark.parametrize("name", ["textrl/Parity-v0", "textrl/KLTrade-v0", "textrl/Safe-v0"])
def test_in_the_environments_they_do_too(name: str) -> None:
    envs = gym.make_vec(name, num_envs=8)
    best, policy = optimum(envs), TablePolicy.of(envs)
    at = optimal_log_probs(policy.mdp, soft_values(policy.mdp, best.kl_coefficient), 1.0)
    with torch.no_grad():
        for time in range(policy.mdp.limit):
            # With β = 1 this is log π_ref + A*: what is left is A*, where the token is possible.
            advantages = np.where(np.isfinite(policy.mdp.log_ref), at(time) - policy.mdp.log_ref, 0)
            policy.table[time] = torch.from_numpy(advantages / best.kl_coefficient)
    found = evaluate(policy, envs, episodes=8)
    assert found.regularised_return.mean == pytest.approx(best.value, abs=1e-11)
    assert found.normalised_score.mean == pytest.approx(1.0, abs=1e-11)
    assert found.kl.mean == pytest.approx(best.kl, abs=1e-10)


# --- learning ---


@pytest.mark.parametrize("baseline", ["none", "value"])
def test_the_gradient_of_reinforce_is_that_of_the_exact_objective(baseline: Any) -> None:
    """Summed over every response, against finite differences of `exact`, number by number."""
    task = tiny_task(size=3)
    policy = random_table(task)
    config = REINFORCEConfig(baseline=baseline, value_coefficient=0.0)
    agent = REINFORCE(policy, config=config)
    total = np.zeros(policy.table.numel() + policy.values.numel())
    weights = enumerate_by_hand(policy, task).weights
    for weight, y in zip(weights, all_episodes(task), strict=True):
        episodes = episodes_of(task, policy, [y])
        (gradient,) = gradients_of_update(agent, episodes)
        # An update divides by its tokens and descends.
        total -= weight * gradient * episodes.num_tokens

    def objective() -> float:
        return float(policy.exact().values(task.kl_coefficient).mean())

    width, expected = 1e-5, np.zeros_like(total)  # the values earn nothing: they stay 0
    numbers = policy.table.data.view(-1)
    for place in range(len(numbers)):
        at = float(numbers[place])
        heights = []
        for shift in (width, -width):
            numbers[place] = at + shift
            heights.append(objective())
        numbers[place] = at
        expected[place] = (heights[0] - heights[1]) / (2 * width)
    assert np.linalg.norm(expected) > 0.05
    assert relative_error(total, expected) < 1e-7


def test_ppo_brings_a_table_near_the_optimum_without_sampling_error() -> None:
    """Measured over seeds 0-3: .981 to .994."""
    task = tiny_task()
    policy = TablePolicy(task)
    agent = textrl_agents.make(
        "ppo", vector_env(task), policy=policy, episodes_per_batch=64, minibatches=2
    )
    agent.learn(with_kl(task, policy, 64), total_tokens=8_000)
    best = optimum(task)
    score = best.normalise(float(policy.exact().values(task.kl_coefficient).mean()))
    assert 0.9 < score <= 1.0


# --- made, saved, read ---


def parity(**parameters: Any) -> Any:
    return gym.make_vec("textrl/Parity-v0", num_envs=16, max_new_tokens=8, least=3, **parameters)


def run(envs: Any, agent: Any, total_tokens: int) -> None:
    agent.learn(KLPenalty(envs, policy=agent.policy), total_tokens=total_tokens)


@pytest.mark.parametrize("name", ["ppo", "reinforce", "expert_iteration"])
def test_an_agent_with_a_table_is_saved_and_goes_on_to_the_same_bytes(
    name: str, tmp_path: Path
) -> None:
    agents = []
    for stop in (None, 300):
        envs = parity()
        agent = textrl_agents.make(
            name, envs, policy="table", learning_rate_schedule="constant", episodes_per_batch=32
        )
        assert isinstance(agent.policy, TablePolicy)
        if stop is not None:
            run(envs, agent, stop)
            agent.save(tmp_path / "agent")
            agent = type(agent).load(tmp_path / "agent")
            assert 0 < agent.tokens < 1000
        run(envs, agent, 1000)
        agents.append(agent)
    whole, resumed = agents
    assert whole.log.rows == resumed.log.rows
    for key, tensor in whole.policy.state_dict().items():
        assert torch.equal(tensor, resumed.policy.state_dict()[key])
    assert bool((whole.policy.table != 0).any())


def test_a_table_that_was_read_again_belongs_to_the_same_task(tmp_path: Path) -> None:
    """Also where a parameter is a sequence, which JSON has no tuples for."""
    envs = gym.make_vec("textrl/Imitate-v0", num_envs=8, keywords=("letter", "garden"))
    policy = make_policy(envs, model="table", sampling=Sampling(temperature=2.0))
    assert isinstance(policy, TablePolicy)
    with torch.no_grad():
        policy.table.normal_(generator=torch.Generator().manual_seed(0))
    policy.save(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    assert isinstance(loaded, TablePolicy)
    assert loaded.sampling.temperature == 2.0
    assert loaded.mdp.task is envs.unwrapped.task  # type: ignore[attr-defined]
    np.testing.assert_array_equal(loaded.exact().kls, policy.exact().kls)
    assert evaluate(loaded, envs, episodes=8).is_exact


def test_train_and_evaluate_know_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "--env=textrl/Passcode-v0", "--policy=table", "--out=run"]
    numbers = ["--total-tokens=600", "--num-envs=16", "--eval-episodes=32"]
    settings = ["--env-args", "length=2", "digits=3", "--agent-args", "episodes_per_batch=32"]
    assert main([*words, *numbers, *settings]) == 0
    printed = capsys.readouterr().out
    assert "TablePolicy of" in printed
    assert "(exact)" in printed
    trained = json.loads((tmp_path / "run" / "result.json").read_text())["trained"]
    assert trained["is_exact"]
    assert trained["regularised_return"]["standard_error"] == 0
    assert 0 < trained["normalised_score"]["mean"] < 1

    assert main(["evaluate", "run", "--episodes=64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name in ("reward", "kl", "regularised_return", "normalised_score", "is_exact"):
        assert found["trained"][name] == trained[name]
    assert not found["reference"]["is_exact"]


def test_an_environment_without_a_name_cannot_be_saved(tmp_path: Path) -> None:
    task = tiny_task()
    policy = make_policy(vector_env(task), model="table")
    with pytest.raises(InvalidInputError, match=r"has a name alone, such as gym\.make gives"):
        policy.save(tmp_path / "policy")
    with pytest.raises(InvalidInputError, match="has a name alone"):
        PPO(policy).save(tmp_path / "agent")
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny_task()
    numbers = TablePolicy(task).table.numel()
    monkeypatch.setattr("textrl_agents.policies.table.MAX_NUMBERS", numbers)
    TablePolicy(task)
    monkeypatch.setattr("textrl_agents.policies.table.MAX_NUMBERS", numbers - 1)
    with pytest.raises(
        InvalidInputError,
        match=r"3 times, 26 nodes, 4 tokens is too large\. Lower max_new_tokens, or train a netw",
    ):
        TablePolicy(task)


def test_a_task_without_exact_optimum_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="a reference and without stop texts"):
        TablePolicy(dataclasses.replace(tiny_task(), load_reference=None))
    with pytest.raises(InvalidInputError, match="without stop texts"):
        TablePolicy(dataclasses.replace(tiny_task(), stop=("b",)))
    envs = gym.make_vec("textrl/Dialogue-v0", num_envs=2)
    with pytest.raises(InvalidInputError, match=r"prefixes are possible, too many.*max_new_tokens"):
        textrl_agents.make("ppo", envs, policy="table")


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(InvalidInputError, match="temperature must be a positive number"):
        TablePolicy(tiny_task(), sampling=Sampling(temperature=temperature))
