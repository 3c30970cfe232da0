"""A reward model fitted on rankings, small enough that its optimum is exact.

    r(y) = Σ_t w[y_{t−1}, y_t]      one weight a pair of neighbouring tokens

Rankings of K responses are simulated from a known gold score: utilities gold / noise with Gumbel
noise, sorted, which is the Plackett-Luce model. Each ranking gives its C(K, 2) comparisons, and the
weights maximise their Bradley-Terry likelihood Σ log σ(r_better − r_worse), averaged over pairs
(Ouyang et al. 2022, arXiv:2203.02155, equation 1), with a little ridge.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["accuracy", "fit_pair_weights", "rank"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def rank(gold: Floats, *, noise: float, rng: np.random.Generator) -> Ints:
    """Returns the places of K responses, the best first, as a labeler with noise orders them.

    Args:
        gold: scores, (K,).
        noise: of the labeler, in units of the score.
        rng: decides.
    """
    return np.argsort(-(gold / noise + rng.gumbel(size=len(gold))))


def fit_pair_weights(
    rankings: Sequence[Sequence[Ints]],
    *,
    vocabulary_size: int,
    ridge: float = 1.0,
    steps: int = 8,
) -> Floats:
    """Fits w by Newton's method.

    Args:
        rankings: each K responses as token ids, the best first.
        vocabulary_size: V.
        ridge: weight of ½|w|², against Σ over all pairs.
        steps: of Newton's method; it has converged after six or so.

    Returns:
        Weights (V + 1, V); the last row is for the first token, which no response token precedes.
    """
    features = [[_pairs(ids, vocabulary_size) for ids in ranking] for ranking in rankings]
    differences = np.array(
        [
            better - worse
            for ranking in features
            for better, worse in itertools.combinations(ranking, 2)
        ]
    )
    is_seen: NDArray[np.bool_] = np.asarray(differences.any(axis=0))
    x = differences[:, is_seen]
    weights = np.zeros(x.shape[1])
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-(x @ weights)))
        gradient = x.T @ (1 - chance) - ridge * weights
        curvature = (x * (chance * (1 - chance))[:, None]).T @ x + ridge * np.eye(len(weights))
        weights = weights + np.linalg.solve(curvature, gradient)
    fitted = np.zeros(len(is_seen))
    fitted[is_seen] = weights
    return fitted.reshape(vocabulary_size + 1, vocabulary_size)


def accuracy(weights: Floats, rankings: Sequence[Sequence[Ints]]) -> float:
    """Returns the share of comparisons that the weights order as the rankings do; a tie is half."""
    size = weights.shape[1]
    scores = [[float(_pairs(ids, size) @ weights.ravel()) for ids in r] for r in rankings]
    gaps = np.array([a - b for r in scores for a, b in itertools.combinations(r, 2)])
    return float(np.mean((gaps > 0) + 0.5 * (gaps == 0)))


def _pairs(ids: Ints, size: int) -> Floats:
    """Returns how often each pair of neighbours occurs, ((V + 1) V,)."""
    before = np.concatenate([[size], ids[:-1]])
    counts: Floats = np.bincount(before * size + ids, minlength=(size + 1) * size).astype(float)
    return counts
