"""The law of the score, by hand."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import RewardLaw, optimum

RARE = RewardLaw(np.array([0.0, 1.0]), np.array([0.99, 0.01]), np.array([2.0, 5.0]))


def test_two_scores_have_the_closed_form() -> None:
    for beta in (0.05, 0.1, 1.0):
        assert RARE.value(beta) == pytest.approx(
            beta * math.log(1 + 0.01 * (math.exp(1 / beta) - 1)), abs=1e-12
        )
        chance = 0.01 * math.exp(1 / beta) / (0.99 + 0.01 * math.exp(1 / beta))
        best = RARE.optimal(beta)
        kl = chance * math.log(chance / 0.01) + (1 - chance) * math.log((1 - chance) / 0.99)
        assert best.reward == pytest.approx(chance, abs=1e-12)
        assert best.kl == pytest.approx(kl, abs=1e-12)
        assert best.measure == pytest.approx(2 + 3 * chance, abs=1e-12)
        assert best.reward - beta * best.kl == pytest.approx(RARE.value(beta), abs=1e-12)


def test_a_tiny_coefficient_neither_overflows_nor_loses_the_best() -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert RARE.value(1e-6) == pytest.approx(1, abs=1e-4)
        best = RARE.optimal(1e-6)
    assert best.reward == 1
    assert best.kl == pytest.approx(math.log(100))


def test_the_best_of_n_has_the_closed_form() -> None:
    for number in (1, 2, 10, 1000):
        found = RARE.best_of(number)
        chance = 1 - 0.99**number
        kl = chance * math.log(chance / 0.01)
        kl += (1 - chance) * math.log((1 - chance) / 0.99)
        assert found.reward == pytest.approx(chance, abs=1e-12)
        assert found.kl == pytest.approx(kl, abs=1e-12)
        assert found.measure == pytest.approx(2 + 3 * chance, abs=1e-12)
        assert found.kl <= math.log(number) - (number - 1) / number + 1e-12


def test_the_best_of_one_is_the_reference() -> None:
    law = RewardLaw(np.array([-1.0, 0.5, 2.0]), np.array([0.2, 0.5, 0.3]), np.full(3, np.nan))
    one = law.best_of(1)
    assert one.reward == pytest.approx(-0.2 + 0.25 + 0.6)
    assert one.kl == pytest.approx(0, abs=1e-12)
    assert math.isnan(one.measure)


def test_the_best_of_very_many_is_the_best_there_is() -> None:
    found = RARE.best_of(10**6)
    assert found.reward == pytest.approx(1)
    assert found.kl == pytest.approx(math.log(100))


def test_a_very_rare_score_among_many_is_found_as_often_as_it_should() -> None:
    # Summed up from below, the hundred others would leave the rare one to rounding.
    rare = 1e-15
    probs = np.append(np.full(100, (1 - rare) / 100), rare)
    law = RewardLaw(np.arange(101.0), probs, np.append(np.zeros(100), 1.0))
    assert law.best_of(10**6).measure == pytest.approx(1e-9, rel=1e-4)


def test_scores_that_never_occur_are_dropped_and_the_rest_sums_to_one() -> None:
    law = RewardLaw.of(
        np.array([0.0, 1.0, 2.0]), np.array([0.4, 0.0, 0.4]), np.array([0.8, 0.0, 0.2])
    )
    np.testing.assert_array_equal(law.scores, [0.0, 2.0])
    np.testing.assert_allclose(law.probs, [0.5, 0.5])
    np.testing.assert_allclose(law.measures, [2.0, 0.5])


def test_a_law_without_measure_says_so() -> None:
    law = RewardLaw.of(np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    assert np.isnan(law.measures).all()


def test_a_law_of_too_many_scores_is_refused_before_it_fills_the_memory() -> None:
    rng = np.random.default_rng(0)

    def any_number(prompts: Any, responses: Any, **more: Any) -> list[float]:
        return [float(rng.random()) for _ in responses]

    best = optimum(gym.make("textrl/TinyGPT-v0", reward=any_number))
    with pytest.raises(InvalidInputError, match=r"different scores at 13,362 nodes is too large"):
        best.laws()
