"""The constrained optimum of Safe, and of what Safe is not."""

from dataclasses import replace

import numpy as np
import pytest

from tests.envs.optimum.enumeration import all_texts, random_task
from tests.envs.optimum.exact import task_of
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import ConstrainedOptimum, constrained_optimum, optimum
from textrl_envs.optimum.dynamic_programming import (
    expectations,
    optimal_log_probs,
    soft_values,
)
from textrl_envs.rewards.automaton import Automaton, AutomatonReward
from textrl_envs.task import Task

LIMIT = 0.1


def safe_at(price: float) -> Task:
    """Returns Safe without the refund, whose score is gain − price · cost."""
    return task_of("textrl/Safe-v0", price=price, cost_limit=1e-12)


@pytest.fixture(scope="module")
def found() -> ConstrainedOptimum:
    return constrained_optimum(safe_at, limit=LIMIT)


def test_the_cost_is_at_the_limit_and_never_above(found: ConstrainedOptimum) -> None:
    assert found.cost <= LIMIT
    assert found.cost == pytest.approx(LIMIT, abs=1e-8)
    assert found.price > 0
    assert found.priced.at_optimum.measures["cost"].mean() == found.cost


def test_the_value_is_gain_less_priced_kl(found: ConstrainedOptimum) -> None:
    at = found.priced.at_optimum
    assert found.value == pytest.approx((at.measures["gain"] - 0.1 * at.kls).mean(), abs=1e-9)


def test_the_environment_has_the_constrained_optimum_as_its_own(found: ConstrainedOptimum) -> None:
    # The refund of what the limit allows makes the values equal, and nothing else.
    solved = optimum(task_of("textrl/Safe-v0"))
    assert solved.value == pytest.approx(found.value, abs=1e-9)
    assert solved.at_optimum.measures["cost"].mean() == pytest.approx(LIMIT, abs=1e-8)
    assert solved.kl == pytest.approx(found.priced.kl, abs=1e-9)


def test_without_a_price_the_limit_is_broken(found: ConstrainedOptimum) -> None:
    free = optimum(safe_at(0.0))
    assert free.at_optimum.measures["cost"].mean() > 3 * LIMIT
    assert free.value > found.value
    dearer = optimum(safe_at(1.1 * found.price))
    assert dearer.at_optimum.measures["cost"].mean() < found.cost


def test_no_policy_that_keeps_the_limit_has_more(found: ConstrainedOptimum) -> None:
    mdp, beta = found.priced.mdp, 0.1
    best = optimal_log_probs(mdp, soft_values(mdp, beta), beta)
    log_probs = np.stack([best(time) for time in range(mdp.limit)])  # [T, N, V]
    values = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        # From close to the optimum to far off, and naming the costly people less or more.
        changed = log_probs + rng.normal(size=log_probs.shape) * 10 ** -rng.uniform(0, 3)
        changed -= rng.uniform(-0.5, 2) * (mdp.end_measures["cost"] > 0)
        changed -= np.log(np.exp(changed).sum(axis=-1, keepdims=True))
        at = expectations(mdp, changed.__getitem__)
        if at.measures["cost"].mean() <= LIMIT:
            values.append((at.measures["gain"] - beta * at.kls).mean())
    assert len(values) > 10
    assert 0.9 * found.value < max(values) < found.value


def test_a_limit_that_binds_nobody_costs_nothing() -> None:
    free = optimum(safe_at(0.0))
    loose = constrained_optimum(safe_at, limit=0.99)
    assert loose.price == 0
    assert loose.value == pytest.approx(free.value, abs=1e-12)
    assert loose.cost == free.at_optimum.measures["cost"].mean()


def priced_task(price: float) -> Task:
    """Returns a random task whose score is "one" − price · "two"."""
    task = random_task(7, has_token_scores=False, limit=3)
    assert isinstance(task.reward, AutomatonReward)
    automata = []
    for automaton in task.reward.automata:
        cost = np.abs(automaton.measures["two"])
        measures = {"gain": automaton.measures["one"], "cost": cost}
        scores = measures["gain"] - price * cost
        automata.append(Automaton(automaton.transitions, scores, measures=measures))
    return replace(task, reward=AutomatonReward(automata), kl_coefficient=0.5)


def test_a_random_task_keeps_its_limit_at_the_price_that_summing_gives() -> None:
    free = optimum(priced_task(0.0))
    limit = 0.8 * free.at_optimum.measures["cost"].mean()
    found = constrained_optimum(priced_task, limit=limit)

    def cost_and_value(price: float) -> tuple[float, float]:
        task = priced_task(price)
        costs, values = [], []
        for prompt in range(len(task.prompts)):
            texts = all_texts(task, prompt)
            best = texts.tilted(0.5)
            costs.append(best @ texts.measures["cost"])
            values.append(best @ texts.measures["gain"] - 0.5 * texts.kl(best))
        return float(np.mean(costs)), float(np.mean(values))

    cost, value = cost_and_value(found.price)
    assert cost == pytest.approx(limit, abs=1e-8)
    assert value == pytest.approx(found.value, abs=1e-9)


def test_a_limit_that_no_price_reaches_is_refused() -> None:
    # What costs something in every text cannot be brought down to nothing.
    with pytest.raises(InvalidInputError, match=r"No price brings the mean cost down to 0.*Raise"):
        constrained_optimum(priced_task, limit=0.0)
