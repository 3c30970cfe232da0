"""Bounds from samples, against optima that are known."""

import math
from dataclasses import replace
from fractions import Fraction

import gymnasium as gym
import numpy as np
import pytest

from tests.envs.optimum.enumeration import random_task, some_prompts
from tests.envs.optimum.exact import task_of
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import Bound, Optimum, bounds, optimum
from textrl_envs.optimum.bounds import binomial_upper_limit


@pytest.fixture(scope="module")
def keyword() -> Optimum:
    return optimum(task_of("textrl/Keyword-v0"))


def test_the_reference_brackets_the_optimum(keyword: Optimum) -> None:
    found = bounds(gym.make("textrl/Keyword-v0"), max_score=1.0)
    assert found.upper is not None
    assert found.lower == found.reference
    assert found.reference.low < keyword.reference_value < found.reference.high
    assert found.lower.high < keyword.value < found.upper < 1
    assert found.estimate.low <= found.estimate.value <= found.estimate.high
    # With about ten successes a prompt, chance is a matter of a tenth or so.
    assert found.estimate.value == pytest.approx(keyword.value, abs=0.05)
    assert found.kl_coefficient == 0.1


def test_a_better_policy_brackets_it_more_tightly(keyword: Optimum) -> None:
    task = keyword.mdp.task
    cautious = optimum(task, kl_coefficient=0.2)  # better than the reference, but not the best
    by_reference = bounds(task, max_score=1.0)
    found = bounds(task, policy=cautious.policy, max_score=1.0)
    assert found.upper is not None
    exact = cautious.at_optimum.values(0.1).mean()
    assert found.lower.low < exact < found.lower.high
    assert by_reference.lower.high < found.lower.high < keyword.value < found.upper
    assert found.estimate.low < keyword.value < found.estimate.high

    def width(bound: Bound) -> float:
        return bound.high - bound.low

    assert width(found.estimate) < width(by_reference.estimate) / 2
    assert found.upper == by_reference.upper  # always of the reference's samples
    assert found.reference == by_reference.reference


@pytest.mark.parametrize("name", ["textrl/Keyword-v0", "textrl/LengthHack-v0", "textrl/Noisy-v0"])
def test_at_the_optimal_policy_the_estimate_has_no_variance(name: str) -> None:
    # Nor has the noise of a judge any part in it: bounds are of the problem, not of its labels.
    solved = optimum(task_of(name))
    found = bounds(solved.mdp.task, policy=solved.policy, episodes=64)
    for bound in (found.estimate, found.lower):
        for number in (bound.low, bound.value, bound.high):
            assert number == pytest.approx(solved.value, abs=1e-9 + 0.05 * (bound is found.lower))
    assert found.upper is None
    assert found.estimate.high - found.estimate.low < 1e-9


def test_the_estimate_is_consistent_whatever_was_sampled() -> None:
    task = random_task(3, has_token_scores=False)
    solved = optimum(task)
    other = optimum(task, kl_coefficient=3 * task.kl_coefficient).policy
    for policy in (None, other):
        found = bounds(task, policy=policy, episodes=12_000)
        assert found.estimate.low < solved.value < found.estimate.high
        assert found.estimate.high - found.estimate.low < 0.1


def test_the_upper_bound_holds_all_but_one_time_in_twenty() -> None:
    # One prompt, and β so large that many samples are accepted: else no bound would be tight enough
    # ever to fail.
    task = some_prompts(task_of("textrl/KeywordDense-v0"), 3)
    exact = optimum(task, kl_coefficient=0.5).value
    uppers = [
        bounds(task, episodes=512, seed=seed, max_score=1.0, kl_coefficient=0.5).upper
        for seed in range(40)
    ]
    above = np.array(uppers, float) - exact
    assert (above < 0).sum() <= 5  # more would be seen once in seventy seeds of this test
    assert 0 < above.mean() < 0.1


def test_a_known_maximum_that_is_too_low_is_refused() -> None:
    task = task_of("textrl/LengthHack-v0")
    with pytest.raises(InvalidInputError, match=r"max_score is 0\.5, but a response scored 1\. R"):
        bounds(task, episodes=64, max_score=0.5)


def test_another_coefficient_may_be_given() -> None:
    task = random_task(3)
    found = bounds(task, kl_coefficient=2.5, episodes=4000)
    assert found.kl_coefficient == 2.5
    assert found.estimate.value == pytest.approx(optimum(task, kl_coefficient=2.5).value, abs=0.03)


def test_bounds_that_cannot_be_are_refused() -> None:
    task = random_task(0)
    with pytest.raises(InvalidInputError, match="Bounds need a reference"):
        bounds(replace(task, load_reference=None))
    for beta in (0.0, -1.0, math.inf):
        with pytest.raises(InvalidInputError, match="kl_coefficient must be positive; got"):
            bounds(task, kl_coefficient=beta)
    with pytest.raises(InvalidInputError, match="at least two a prompt, 6; got 5"):
        bounds(task, episodes=5)
    bounds(task, episodes=6)


def test_a_seed_decides_the_bounds() -> None:
    task = random_task(0)
    one, same, other = (bounds(task, episodes=60, seed=s, max_score=4.0) for s in (1, 1, 2))
    assert one == same != other


def test_a_bound_reads_as_a_number_and_its_interval() -> None:
    assert str(Bound(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"


@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 1), (0, 7), (1, 7), (6, 7), (3, 40), (90, 200)]
)
@pytest.mark.parametrize("error", [0.05, 0.00625])
def test_the_binomial_limit_leaves_exactly_the_error(
    successes: int, trials: int, error: float
) -> None:
    def at_most(chance: Fraction) -> float:
        terms = (
            math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k)
            for k in range(successes + 1)
        )
        return float(sum(terms))

    limit = Fraction(binomial_upper_limit(successes, trials, error=error))
    assert at_most(limit) == pytest.approx(error, rel=1e-9)


def test_the_binomial_limit_of_all_successes_is_one() -> None:
    assert binomial_upper_limit(5, 5, error=0.05) == 1
    assert binomial_upper_limit(0, 4096, error=0.05) == pytest.approx(1 - 0.05 ** (1 / 4096))
