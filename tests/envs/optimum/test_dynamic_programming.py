"""Values of any policy, and what sets them apart from the optimum's."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.envs.optimum.enumeration import all_texts, random_task
from tests.envs.optimum.exact import task_of
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum.dynamic_programming import (
    TabularPolicy,
    expectations,
    optimal_log_probs,
    reward_law,
    soft_values,
)
from textrl_envs.optimum.mdp import TextMDP
from textrl_envs.optimum.solve import build_mdp
from textrl_envs.rewards.automaton import Automaton, AutomatonReward
from textrl_envs.task import Task

Floats = NDArray[np.float64]

TASKS: dict[str, Any] = {
    "Keyword": lambda: task_of("textrl/Keyword-v0"),
    "LengthHack": lambda: task_of("textrl/LengthHack-v0"),
    "ProxyReward": lambda: task_of("textrl/ProxyReward-v0"),
    "Safe": lambda: task_of("textrl/Safe-v0", price=0.4),
    "SumVerify": lambda: task_of("textrl/SumVerify-v0"),
    "a random bigram": lambda: random_task(1, limit=6),
    "a random trigram": lambda: random_task(2, order=3, limit=6),
    "a trigram that keeps two": lambda: random_task(3, order=3, limit=6, keep=2),
}


def random_policy(mdp: TextMDP, seed: int) -> TabularPolicy:
    """Returns a random policy of time and node, as if an agent had changed the reference."""
    logits = np.random.default_rng(seed).normal(size=(mdp.limit, *mdp.log_ref.shape))
    logits += mdp.log_ref
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return lambda time: logits[time]


Sum = tuple[Callable[[int], Floats], Floats]
"""What each token adds at each time, and what an end with it adds, (N, V) both."""


def forward_sums(mdp: TextMDP, policy: TabularPolicy, sums: list[Sum]) -> Floats:
    """Returns E of sums along a response for each prompt, (sums, P), going forward in time."""
    eos = mdp.task.tokenizer.eos_token_id
    found = np.zeros((len(sums), len(mdp.starts)))
    for prompt, start in enumerate(mdp.starts.tolist()):
        here = np.zeros(len(mdp.log_ref))
        here[start] = 1.0
        for time in range(mdp.limit):
            flow = here[:, None] * np.exp(policy(time))  # [N, V]
            is_end = np.full(flow.shape, time + 1 == mdp.limit)
            is_end[:, eos] = True
            for place, (during, end) in enumerate(sums):
                found[place, prompt] += (flow * during(time)).sum()
                found[place, prompt] += (flow * end)[is_end].sum()
            here = np.zeros(len(mdp.log_ref))
            np.add.at(here, mdp.next_nodes[~is_end], flow[~is_end])
    return found


def log_ratios(mdp: TextMDP, policy: TabularPolicy, other: TabularPolicy) -> Sum:
    """Returns what each token adds to KL(policy ‖ other): an end adds nothing."""

    def during(time: int) -> Floats:
        with np.errstate(invalid="ignore"):
            ratio = policy(time) - other(time)
        return np.where(np.isfinite(ratio), ratio, 0.0)

    return during, np.zeros(mdp.log_ref.shape)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_any_policy_earns_what_going_forward_in_time_gives(name: str, seed: int) -> None:
    mdp = build_mdp(TASKS[name]())
    policy = random_policy(mdp, seed)
    nothing = np.zeros(mdp.log_ref.shape)
    found = expectations(mdp, policy)
    sums: list[Sum] = [
        (lambda _: mdp.token_scores, mdp.end_scores),
        log_ratios(mdp, policy, lambda _: mdp.log_ref),
        *((lambda _: nothing, values) for values in mdp.end_measures.values()),
    ]
    rewards, kls, *measures = forward_sums(mdp, policy, sums)
    np.testing.assert_allclose(found.rewards, rewards, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.kls, kls, rtol=0, atol=1e-9)
    assert list(found.measures) == list(mdp.end_measures)
    for name_of_measure, values in zip(mdp.end_measures, measures, strict=True):
        np.testing.assert_allclose(found.measures[name_of_measure], values, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_a_policy_lacks_is_its_kl_from_the_optimal_one(name: str, seed: int) -> None:
    # J* − J(π) = β KL(π ‖ π*): every policy, not only good ones, tells whether J* and π* are right.
    task = TASKS[name]()
    mdp, beta = build_mdp(task), task.kl_coefficient
    values = soft_values(mdp, beta)
    best = optimal_log_probs(mdp, values, beta)
    policy = random_policy(mdp, seed)
    (kls,) = forward_sums(mdp, policy, [log_ratios(mdp, policy, best)])
    lacks = values[0, mdp.starts] - expectations(mdp, policy).values(beta)
    assert lacks.min() > 1e-3  # or this tests nothing
    np.testing.assert_allclose(lacks, beta * kls, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", TASKS)
def test_the_optimal_policy_is_a_distribution_and_earns_the_value(name: str) -> None:
    task = TASKS[name]()
    mdp, beta = build_mdp(task), task.kl_coefficient
    values = soft_values(mdp, beta)
    best = optimal_log_probs(mdp, values, beta)
    for at in range(mdp.limit):
        np.testing.assert_allclose(np.exp(best(at)).sum(axis=1), 1, rtol=0, atol=1e-9)
    found = expectations(mdp, best)
    np.testing.assert_allclose(found.values(beta), values[0, mdp.starts], rtol=0, atol=1e-9)
    assert not values[mdp.limit].any()


def test_the_mean_of_the_law_and_of_its_measure_are_those_of_the_reference() -> None:
    mdp = build_mdp(random_task(4))
    exact = expectations(mdp, lambda _: mdp.log_ref)
    for name in ("one", "two"):
        laws = reward_law(mdp, name)
        means = [law.probs @ law.scores for law in laws]
        np.testing.assert_allclose(means, exact.rewards, rtol=0, atol=1e-12)
        means = [law.probs @ law.measures for law in laws]
        np.testing.assert_allclose(means, exact.measures[name], rtol=0, atol=1e-12)


def with_token_scores(task: Task, factor: float) -> Task:
    """Returns the task with token scores, scaled."""
    assert isinstance(task.reward, AutomatonReward)
    automata = [
        Automaton(a.transitions, a.scores, token_scores=factor * a.token_scores)
        for a in task.reward.automata
        if a.token_scores is not None
    ]
    return replace(task, reward=AutomatonReward(automata))


def test_a_law_of_scores_on_no_lattice_is_refused() -> None:
    mdp = build_mdp(with_token_scores(random_task(4), np.pi))
    with pytest.raises(InvalidInputError, match=r"whole multiples of some 1/n.*Round the scores"):
        reward_law(mdp)


@pytest.mark.parametrize("factor", [1.0, -3.0, 8 / 7])
def test_a_law_of_token_scores_of_any_sign_and_step_is_right(factor: float) -> None:
    task = with_token_scores(random_task(5), factor)
    for prompt, law in enumerate(reward_law(build_mdp(task))):
        texts = all_texts(task, prompt)
        levels, places = np.unique(np.round(texts.scores, 9), return_inverse=True)
        np.testing.assert_allclose(law.scores, levels, rtol=0, atol=1e-9)
        np.testing.assert_allclose(law.probs, np.bincount(places, texts.probs), rtol=0, atol=1e-12)


def test_end_scores_alone_may_be_any_numbers() -> None:
    task = random_task(6, has_token_scores=False)
    assert isinstance(task.reward, AutomatonReward)
    automata = [Automaton(a.transitions, np.pi * a.scores) for a in task.reward.automata]
    laws = reward_law(build_mdp(replace(task, reward=AutomatonReward(automata))))
    for prompt, law in enumerate(laws):
        texts = all_texts(task, prompt)
        np.testing.assert_allclose(law.scores, np.pi * np.unique(texts.scores), rtol=1e-12)
