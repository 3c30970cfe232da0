"""Whether log-probabilities can be those that the tokens were drawn with.

Who understates log π understates the KL, and so overstates the normalised score. For any other
distribution q, E[q(y)/π(y)] ≤ 1 where y ~ π. So a gambler who stakes a share λ of his wealth on
each draw, at odds q/π, has the wealth W = Π (1 − λ + λ q/π) with E[W] ≤ 1, and by Markov
P(W ≥ 1/α) ≤ α for an honest π: exactly, for any number of samples. A mean of several W has that
property too; λ from 1/n, where log W is near mean(q/π) − 1, to 1, the likelihood ratio. (Shafer
2021, "Testing by betting"; Ville 1939.)

    q = the reference     a response: the KL cannot be negative beyond its error
    q = the optimum       a response: q/π = exp((return − V*)/β), the score cannot be above 1
    q = what was said     a token: what is said often cannot have been unlikely
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textrl_benchmarks.leaderboard.result import Sample
from textrl_benchmarks.leaderboard.samples import DIGITS

__all__ = ["ALPHA", "LIMIT", "frequency_log_ratios", "log_wealth", "rounding_room"]

ALPHA = 1e-6
"""The level of each test: the chance that it accuses an honest cell, at most."""
LIMIT = math.log(1 / ALPHA)
"""Of log W, 13.8."""
FLOAT32 = 1e-5
"""Nats that a model's float32 may be off, a token."""


def log_wealth(log_ratios: ArrayLike) -> float:
    """Returns log W of log(q/π), one a draw, mean over the stakes λ = 1/n, 0.1, 0.5, 1.

    >>> round(log_wealth([0.0] * 100), 12)  # q = π: nothing is won
    0.0
    >>> log_wealth([-1.0] * 100) < 0 < LIMIT < log_wealth([1.0] * 100)
    True
    """
    x = np.asarray(log_ratios, np.float64)
    if not x.size:
        return 0.0
    with np.errstate(divide="ignore"):  # a stake of all: log 0
        bets = [
            np.logaddexp(np.log1p(-stake), math.log(stake) + x).sum()
            for stake in (1 / max(x.size, 2), 0.1, 0.5, 1.0)
        ]
    return float(np.logaddexp.reduce(bets)) - math.log(len(bets))


def rounding_room(numbers: Iterable[float]) -> float:
    """Returns how far log W may be off, in nats: six digits are stored, and models err a little."""
    digits = 0.5 * 10 ** (1 - DIGITS)
    return math.fsum(FLOAT32 + digits * abs(number) for number in numbers)


def frequency_log_ratios(samples: Sequence[Sample], vocabulary_size: int) -> NDArray[np.float64]:
    """Returns log(q/π) of every token; q is learnt from the samples before it, (number of tokens,).

    q(token | token before) = (times seen + 1/V) / (times seen before + 1): it knows nothing of the
    samples to come, as a fair bet must not.

    Args:
        samples: with log_probs.
        vocabulary_size: V.
    """
    pairs: Counter[tuple[int, int]] = Counter()
    contexts: Counter[int] = Counter()
    ratios = []
    for sample in samples:
        before = -1  # what a response begins after
        for token, log_prob in zip(sample.response_ids, sample.log_probs or (), strict=True):
            chance = (pairs[before, token] + 1 / vocabulary_size) / (contexts[before] + 1)
            ratios.append(math.log(chance) - log_prob)
            pairs[before, token] += 1
            contexts[before] += 1
            before = token
    return np.array(ratios)
