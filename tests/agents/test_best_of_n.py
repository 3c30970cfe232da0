import dataclasses
import itertools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import textrl_agents
import textrl_envs  # noqa: F401 - registers the environments
from tests.agents.searching import RESPONSES, every_obs, log_probs_of, play, round_task
from tests.agents.tiny import (
    EOS,
    Floats,
    TableReward,
    ngram_of,
    residual,
    tiny_task,
    vector_env,
)
from textrl_agents.search import BestOfN, BestOfNPolicy
from textrl_benchmarks.evaluation import evaluate
from textrl_benchmarks.leaderboard.cell import Cell
from textrl_benchmarks.leaderboard.running.run_cell import run_cell
from textrl_benchmarks.leaderboard.samples import read_samples
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import optimum
from textrl_envs.task import Task


def law_by_pairs(task: Task, reward: TableReward, base: Any, prompt: int) -> Floats:
    """Returns the chance that each response is the better of two, by going through all pairs."""
    chances = [np.exp(log_probs_of(base, task, prompt, y).sum()) for y in RESPONSES]
    scores = [reward.table[prompt, y] for y in RESPONSES]
    found = np.zeros(len(RESPONSES))
    for i, j in itertools.product(range(len(RESPONSES)), repeat=2):
        found[i if scores[i] >= scores[j] else j] += chances[i] * chances[j]
    return found


# --- log-probabilities ---


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("prompt", [0, 1])
def test_the_law_is_that_of_the_better_of_all_pairs(seed: int, prompt: int) -> None:
    task, reward = round_task(seed)
    policy = BestOfNPolicy(task, samples=2)
    assert policy.is_exact
    found = [log_probs_of(policy, task, prompt, y).sum() for y in RESPONSES]
    expected = law_by_pairs(task, reward, ngram_of(task), prompt)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-10)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-12)


def test_each_tokens_chances_sum_to_1() -> None:
    task, _ = round_task()
    policy = BestOfNPolicy(task, samples=50)
    obs = [row for y in RESPONSES for row in every_obs(task, 1, y)]
    joined = {key: np.concatenate([one[key] for one in obs]) for key in obs[0]}
    columns = [policy.log_probs(joined, np.full(len(obs), token)) for token in range(4)]
    np.testing.assert_allclose(np.exp(columns).sum(axis=0), 1, atol=1e-12)


def test_one_sample_is_the_reference() -> None:
    task, _ = round_task()
    for response in RESPONSES:
        np.testing.assert_allclose(
            log_probs_of(BestOfNPolicy(task, samples=1), task, 0, response),
            log_probs_of(ngram_of(task), task, 0, response),
            atol=1e-12,
        )


def test_what_it_says_is_as_frequent_as_it_says() -> None:
    task, _ = round_task()
    agent = BestOfN(BestOfNPolicy(task, samples=4), seed=0)
    count = 4_000
    said = play(agent, task, np.zeros(count, np.int64))
    for response in RESPONSES:
        chance = np.exp(log_probs_of(agent.policy, task, 0, response).sum())
        error = np.sqrt(chance * (1 - chance) / count)
        assert abs(said.count(response) / count - chance) < 5 * error + 1e-12


@pytest.mark.parametrize("prompt", [0, 1])
def test_of_another_base_policy_it_is_a_bound_and_as_tight_as_log_n(prompt: int) -> None:
    task, reward = round_task()
    base = residual(task, away=0.5)
    policy = BestOfNPolicy(task, base, samples=2)
    assert not policy.is_exact
    chances = law_by_pairs(task, reward, base, prompt)
    for response, chance in zip(RESPONSES, chances, strict=True):
        found = log_probs_of(policy, task, prompt, response)
        whole = log_probs_of(base, task, prompt, response).sum()
        assert found.sum() == pytest.approx(min(0.0, whole + np.log(2)), abs=1e-5)
        assert found.sum() > np.log(chance) - 1e-5
        assert (found <= 0).all()


def test_where_no_law_is_known_there_is_a_bound_alone() -> None:
    task = dataclasses.replace(tiny_task(), stop=("a b",))
    policy = BestOfNPolicy(task, samples=2)
    assert not policy.is_exact
    found, whole = (log_probs_of(one, task, 0, (1, 3, 2)).sum() for one in (policy, ngram_of(task)))
    assert found == pytest.approx(min(0.0, whole + np.log(2)))


# --- acting ---


def test_of_many_samples_the_best_response_comes_out() -> None:
    task, reward = round_task()
    agent = BestOfN(BestOfNPolicy(task, samples=2000), seed=0)
    for prompt, said in enumerate(play(agent, task, np.array([0, 1]))):
        best = max(reward.table[prompt, y] for y in RESPONSES)
        assert reward.table[prompt, said] == best


def test_every_sample_is_counted() -> None:
    task, reward = round_task()
    agent = BestOfN(BestOfNPolicy(task, samples=7), seed=0)
    envs = vector_env(task, 5)
    obs, _ = envs.reset(seed=0)
    agent.act(obs)
    assert len(reward.lengths) == 5 * 7
    assert agent.tokens_spent == sum(reward.lengths)
    agent.act(envs.step(agent.act(obs))[0])  # the first act of these two begins all rows anew
    assert len(reward.lengths) >= 2 * 5 * 7


def test_a_row_that_begins_again_with_its_prompt_is_decided_anew() -> None:
    task, _ = round_task()
    agent = BestOfN(BestOfNPolicy(task, samples=2), seed=0)
    obs, _ = vector_env(task, 1).reset(seed=0)
    assert len({int(agent.act(obs)[0]) for _ in range(50)}) > 1


def test_a_text_that_has_ended_is_answered_and_one_begun_elsewhere_refused() -> None:
    task, _ = round_task()
    agent = BestOfN(BestOfNPolicy(task, samples=2), seed=0)
    ended, running = every_obs(task, 0, (1, EOS, 1))[2], every_obs(task, 0, (1, 2, 1))[2]
    assert agent.act(ended).tolist() == [EOS]
    with pytest.raises(InvalidInputError, match="has not begun in that row"):
        agent.act(running)


def test_the_seed_decides_what_it_says() -> None:
    task, _ = round_task()
    prompts = np.zeros(64, np.int64)
    first, same, other = (
        play(BestOfN(BestOfNPolicy(task, samples=3), seed=seed), task, prompts)
        for seed in (0, 0, 1)
    )
    assert first == same
    assert first != other


def test_it_learns_nothing_and_generates_nothing() -> None:
    envs = vector_env(tiny_task())
    agent: Any = textrl_agents.make("best_of_n", envs, samples=3)
    assert agent.learn(envs, total_tokens=1000).rows == []
    assert envs.tokens_generated == agent.tokens_spent == 0


def test_a_base_policy_is_read_from_a_folder(tmp_path: Path) -> None:
    task = tiny_task()
    residual(task, away=0.5).save(tmp_path / "policy")
    agent: Any = textrl_agents.make("best_of_n", vector_env(task), base=str(tmp_path / "policy"))
    assert not agent.policy.simulator.is_reference
    with pytest.raises(InvalidInputError, match="holds no policy"):
        textrl_agents.make("best_of_n", vector_env(task), base=str(tmp_path))


@pytest.mark.parametrize("samples", [0, 1.5, True])
def test_a_number_of_samples_that_is_none_is_refused(samples: Any) -> None:
    with pytest.raises(InvalidInputError, match="samples must be an integer of at least 1"):
        BestOfNPolicy(tiny_task(), samples=samples)


# --- what it is worth ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "samples"), [("Keyword", 32), ("ExactLength", 16), ("KLTrade", 8)]
)
def test_return_reward_and_kl_are_those_of_the_law(name: str, samples: int) -> None:
    """And the score is above the reference's and not above the optimum's."""
    envs = gym.make_vec(f"textrl/{name}-v0", num_envs=128)
    agent: Any = textrl_agents.make("best_of_n", envs, samples=samples, seed=0)
    found, best = evaluate(agent, envs, episodes=1024), optimum(envs)
    (exact,) = best.best_of([samples])
    for estimate, value in (
        (found.reward, exact.reward),
        (found.kl, exact.kl),
        (found.regularised_return, exact.reward - best.kl_coefficient * exact.kl),
    ):
        assert abs(estimate.mean - value) < 4 * estimate.standard_error
    score = found.normalised_score
    assert 4 * score.standard_error < score.mean < 1


def test_it_is_on_a_board(tmp_path: Path) -> None:
    """What it spends when it acts is no part of the budget for learning."""
    cell = Cell(
        suite="test",
        suite_version=1,
        env_id="textrl/Parity-v0",
        agent="best_of_n",
        entry="best_of_n",
        seed=0,
        budget_tokens=1000,
        num_envs=16,
        eval_episodes=64,
        settings={"samples": 8},
    )
    run_cell(cell, tmp_path)
    samples = read_samples(tmp_path / "eval.jsonl.gz")
    assert len(samples) == 64
    assert all(sample.log_probs is not None for sample in samples)
