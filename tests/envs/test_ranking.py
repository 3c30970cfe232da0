"""The reward model of rankings: fitted, judged, and the readers behind it."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from textrl_envs.data.ranking import accuracy, fit_pair_weights, rank

SIZE = 4

Ints = NDArray[np.int64]


def random_rankings(number: int, *, responses: int = 3, seed: int = 0) -> list[list[Ints]]:
    """Returns rankings of texts of tokens 1..3; token 0 never occurs."""
    rng = np.random.default_rng(seed)
    return [
        [rng.integers(1, SIZE, size=rng.integers(1, 6)) for _ in range(responses)]
        for _ in range(number)
    ]


def score(weights: NDArray[np.float64], ids: Ints) -> float:
    """Adds up the weights as the docstring says."""
    before, total = SIZE, 0.0
    for token in ids.tolist():
        total += float(weights[before, token])
        before = token
    return total


def penalised_log_likelihood(
    weights: NDArray[np.float64], rankings: list[list[Ints]], ridge: float
) -> float:
    total = -ridge / 2 * float((weights**2).sum())
    for ranking in rankings:
        for better, worse in itertools.combinations(ranking, 2):
            gap = score(weights, better) - score(weights, worse)
            total -= float(np.log1p(np.exp(-gap)))
    return total


@pytest.mark.parametrize("ridge", [1.0, 0.3])
def test_at_the_fit_the_likelihood_has_no_slope(ridge: float) -> None:
    rankings = random_rankings(60)
    fitted = fit_pair_weights(rankings, vocabulary_size=SIZE, ridge=ridge)
    assert fitted.shape == (SIZE + 1, SIZE)
    assert np.abs(fitted).max() > 0.1
    for place in np.ndindex(fitted.shape):
        step = np.zeros_like(fitted)
        step[place] = 1e-5
        up, down = (
            penalised_log_likelihood(fitted + sign * step, rankings, ridge) for sign in (1, -1)
        )
        assert abs(up - down) / 2e-5 < 1e-5
        # And it is a top, not a saddle.
        assert max(up, down) <= penalised_log_likelihood(fitted, rankings, ridge) + 1e-9


def test_pairs_that_never_occur_weigh_nothing() -> None:
    fitted = fit_pair_weights(random_rankings(60), vocabulary_size=SIZE)
    assert not fitted[0].any()
    assert not fitted[:, 0].any()
    assert fitted[1:, 1:].all()


def test_the_fit_finds_the_weights_that_made_the_rankings() -> None:
    rng = np.random.default_rng(3)
    true = np.zeros((SIZE + 1, SIZE))
    true[1:, 1:] = rng.normal(size=(SIZE, SIZE - 1))
    rankings = []
    for texts in random_rankings(1500, responses=4, seed=1):
        gold = np.array([score(true, ids) for ids in texts])
        rankings.append([texts[place] for place in rank(gold, noise=1.0, rng=rng)])
    fitted = fit_pair_weights(rankings, vocabulary_size=SIZE)
    found = [score(fitted, ids) for texts in rankings[:200] for ids in texts]
    expected = [score(true, ids) for texts in rankings[:200] for ids in texts]
    assert np.corrcoef(found, expected)[0, 1] > 0.98
    # In units of the noise: rankings are of utilities gold / noise with Gumbel noise.
    slope = np.cov(found, expected)[0, 1] / np.var(expected)
    assert slope == pytest.approx(1, abs=0.1)


def test_accuracy_is_the_share_of_pairs_in_order_and_a_tie_is_half() -> None:
    weights = np.zeros((SIZE + 1, SIZE))
    weights[SIZE] = [0, 1, 2, 2]  # a text of one token scores that much
    one, two, three = (np.array([token]) for token in (1, 2, 3))
    assert accuracy(weights, [[two, one]]) == 1
    assert accuracy(weights, [[one, two]]) == 0
    assert accuracy(weights, [[two, three]]) == 0.5
    assert accuracy(weights, [[two, one, three], [one, two, three]]) == pytest.approx(
        (1 + 0.5 + 0 + 0 + 0 + 0.5) / 6
    )


def test_accuracy_reads_pairs_of_neighbours() -> None:
    weights = np.zeros((SIZE + 1, SIZE))
    weights[1, 2] = 1.0
    assert accuracy(weights, [[np.array([3, 1, 2]), np.array([1, 3, 2])]]) == 1
    assert accuracy(weights, [[np.array([2, 1]), np.array([1, 2])]]) == 0


@pytest.mark.parametrize(("gap", "noise"), [(0.0, 1.0), (0.3, 0.15), (0.5, 1.0), (-1.0, 0.8)])
def test_of_two_the_better_is_first_with_the_logistic_chance(gap: float, noise: float) -> None:
    rng = np.random.default_rng(0)
    gold = np.array([1.0 + gap, 1.0])
    first = np.mean([rank(gold, noise=noise, rng=rng)[0] == 0 for _ in range(4000)])
    chance = 1 / (1 + np.exp(-gap / noise))
    assert abs(first - chance) < 4 * np.sqrt(chance * (1 - chance) / 4000)


def test_of_three_the_first_follows_plackett_and_luce() -> None:
    rng = np.random.default_rng(0)
    gold = np.array([0.0, 0.2, 0.5])
    orders = [tuple(rank(gold, noise=0.3, rng=rng).tolist()) for _ in range(6000)]
    weights = np.exp(gold / 0.3)
    for order in itertools.permutations(range(3)):
        chance, rest = 1.0, weights.sum()
        for place in order:
            chance *= weights[place] / rest
            rest -= weights[place]
        found = orders.count(order) / len(orders)
        assert abs(found - chance) < 4 * np.sqrt(chance * (1 - chance) / len(orders))
