"""Aggregates of scores over environments and seeds, and their bootstrap intervals.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(arXiv:2108.13264), section 4, define the aggregates; docs/leaderboard-statistics.md has every
formula and the measured coverage. Shapes: E environments, N scores in all, R replicates.

A statistic is a function of scores and of their weights, (..., N), which sum to 1. Of the scores as
they are, each environment weighs 1/E, however many seeds it has; a bootstrap replicate is nothing
but other weights, so that no statistic is written twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtrit

from textrl_benchmarks.leaderboard.board.significance import (
    RESOLUTION,
    ClaimTest,
    Interval,
    claim_test,
    satterthwaite,
)
from textrl_envs.errors import InvalidInputError

__all__ = [
    "Bootstrap",
    "ClaimTest",
    "Interval",
    "Scores",
    "Statistic",
    "claim_test",
    "improvement",
    "iqm",
    "mean",
    "median",
    "optimality_gap",
    "profile",
]

Floats = NDArray[np.float64]

REPLICATES = 20_000
CHUNK = 2_000
"""Replicates computed at once, which bounds the memory."""


@dataclass(frozen=True, slots=True)
class Scores:
    """An agent's scores, environment after environment; the numbers of seeds may differ."""

    values: Floats
    """(N,)."""
    sizes: NDArray[np.int64]
    """Seeds of each environment, (E,)."""

    @classmethod
    def of(cls, environments: Sequence[ArrayLike]) -> Self:
        """Joins one array of finite scores an environment.

        Raises:
            InvalidInputError: no environment, one without a seed, or a score that is not finite.
        """
        arrays = [np.atleast_1d(np.asarray(scores, np.float64)) for scores in environments]
        if not arrays or any(array.size == 0 or array.ndim > 1 for array in arrays):
            raise InvalidInputError(
                "Expected at least one environment, each a list of at least one seed's score; "
                f"got shapes {[array.shape for array in arrays]}."
            )
        values = np.concatenate(arrays)
        if not np.isfinite(values).all():
            raise InvalidInputError(f"Scores must be finite; got {values}. Set a floor first.")
        return cls(values, np.array([array.size for array in arrays]))

    @property
    def weights(self) -> Floats:
        """1/(E n) for each score of an environment with n seeds, (N,)."""
        return self.weigh(np.ones(len(self.values)))

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each environment's scores begin, (E,)."""
        return np.cumsum(self.sizes) - self.sizes

    def weigh(self, counts: NDArray[np.floating | np.integer]) -> Floats:
        """Turns how often each score is taken, (..., N), into weights."""
        weights: Floats = counts / np.repeat(self.sizes * len(self.sizes), self.sizes)
        return weights

    def variances(self) -> Floats:
        """Unbiased variance of each environment's seeds, (E,); at least RESOLUTION², NaN for one.

        The variance of one seed is unknown, not 0.
        """
        parts = np.split(self.values, self.starts[1:])
        found = [part.var(ddof=1) if part.size > 1 else np.nan for part in parts]
        return np.maximum(found, RESOLUTION**2)


# --- aggregates: functions of scores and weights, (..., N) -> (...) ---

Statistic = Callable[[Scores, Floats], Floats]


def iqm(scores: Scores, weights: Floats) -> Floats:
    """Interquartile mean: the mean of the middle half of all runs pooled (Agarwal et al., 4.3).

    Their code drops whole runs, ⌊N/4⌋ at each side, as `scipy.stats.trim_mean` does. Here a run at
    the edge counts with the part of it that lies within the middle half,

        IQM = 2 ∫ Q(u) du over 1/4 < u < 3/4,   Q the quantile function of the weighted scores,

    which is the same where N is a multiple of four, and exact for all others and for ragged seeds.
    """
    order = np.argsort(scores.values, kind="stable")
    edges = np.clip(np.cumsum(weights[..., order], axis=-1), 0.25, 0.75)
    kept: Floats = 2 * np.diff(edges, axis=-1, prepend=0.25)
    return kept @ scores.values[order]


def mean(scores: Scores, weights: Floats) -> Floats:
    """Mean of the environments' means (Agarwal et al., 4.3)."""
    return weights @ scores.values


def median(scores: Scores, weights: Floats) -> Floats:
    """Median of the environments' means (Agarwal et al., 4.3)."""
    means = np.add.reduceat(weights * scores.values, scores.starts, axis=-1) * len(scores.sizes)
    middle: Floats = np.median(means, axis=-1)
    return middle


def optimality_gap(scores: Scores, weights: Floats) -> Floats:
    """How far runs fall short of the optimum, 1: the mean of max(1 − score, 0); less is better.

    Agarwal et al., 4.3, with γ = 1. Nothing is gained by exceeding 1.
    """
    return weights @ np.maximum(1 - scores.values, 0.0)


def profile(taus: ArrayLike) -> Statistic:
    """Makes the performance profile: the share of runs above each τ, (..., len(taus)).

    Agarwal et al., 4.2: the run-score distribution, mean over environments of the share of
    their runs with score > τ.
    """
    thresholds = np.asarray(taus, np.float64)

    def above(scores: Scores, weights: Floats) -> Floats:
        return weights @ (scores.values[:, None] > thresholds).astype(np.float64)

    return above


# --- the stratified bootstrap ---


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Scores, and how often each run is drawn in each replicate.

    Runs are drawn with replacement within each environment (Agarwal et al., 4.1; Efron 1979).

    Args:
        scores: N scores.
        counts: (R, N). The same counts serve other numbers of the same runs, such as their KL.
    """

    scores: Scores
    counts: NDArray[np.uint16]

    @classmethod
    def draw(cls, scores: Scores, rng: np.random.Generator, replicates: int = REPLICATES) -> Self:
        """Draws the runs of all replicates."""
        counts = np.empty((replicates, len(scores.values)), np.uint16)
        for start, size in zip(scores.starts, scores.sizes, strict=True):
            drawn = rng.integers(size, size=(replicates, size))
            flat = (drawn + size * np.arange(replicates)[:, None]).ravel()
            found = np.bincount(flat, minlength=replicates * size).reshape(replicates, size)
            counts[:, start : start + size] = found
        return cls(scores, counts)

    @property
    def is_informative(self) -> bool:
        """Tells whether there is spread to see: two seeds in every environment."""
        return bool(self.scores.sizes.min() > 1)

    @property
    def correction(self) -> float:
        """√(n/(n − 1)), n the fewest seeds: a replicate's variance is of the plug-in form, /n."""
        fewest = self.scores.sizes.min()
        return float(np.sqrt(fewest / (fewest - 1)))

    def point(self, statistic: Statistic) -> Floats:
        """The statistic of the scores as they are."""
        return statistic(self.scores, self.scores.weights)

    def replicates(self, statistic: Statistic) -> Floats:
        """The statistic of each replicate, (R, ...)."""
        parts = np.array_split(self.counts, -(-len(self.counts) // CHUNK))
        return np.concatenate([statistic(self.scores, self.scores.weigh(part)) for part in parts])

    def error(self, statistic: Statistic) -> float:
        """Standard error: the replicates' deviation, corrected; NaN with a single seed."""
        if not self.is_informative:
            return float("nan")
        return self.correction * float(self.replicates(statistic).std())

    def freedom(self) -> float:
        """Degrees of freedom of the environments' mean (`satterthwaite`)."""
        return satterthwaite(self.scores.variances() / self.scores.sizes, self.scores.sizes - 1)

    def tail(self, level: float = 0.95) -> float:
        """The share of replicates beyond each end of an interval.

        Plain percentile intervals are too short for few seeds. Hesterberg (2014, "What Teachers
        Should Know about the Bootstrap", arXiv:1411.5279) expands them, so that of a normal mean
        they are Student's interval: Φ(−√(n/(n − 1)) t) in place of (1 − level)/2.
        """
        quantile = stdtrit(self.freedom(), (1 + level) / 2)
        return float(ndtr(-self.correction * quantile))

    def bounds(self, statistic: Statistic, level: float = 0.95) -> tuple[Floats, Floats]:
        """Low and high ends of the expanded percentile interval, (...); NaN with a single seed."""
        if not self.is_informative:
            nothing = np.full_like(self.point(statistic), np.nan)
            return nothing, nothing
        tail = self.tail(level)
        low, high = np.quantile(self.replicates(statistic), [tail, 1 - tail], axis=0)
        return low, high

    def interval(self, statistic: Statistic, level: float = 0.95) -> Interval:
        """Value and interval of a statistic that is one number."""
        low, high = self.bounds(statistic, level)
        return Interval(float(self.point(statistic)), float(low), float(high))


def improvement(ours: Bootstrap, theirs: Bootstrap, level: float = 0.95) -> Interval:
    """Chance that a run of ours beats one of theirs on an environment drawn at random, ties half.

    Agarwal et al., 4.3: P(X > Y) = 1/E Σ_e 1/(n m) Σ_i Σ_j S(x_ei, y_ej), S = 1, ½, 0, the
    Mann-Whitney statistic. Both agents' runs are resampled; the level is that of the fewer seeds.

    Raises:
        InvalidInputError: different numbers of environments or replicates.
    """
    if len(ours.scores.sizes) != len(theirs.scores.sizes) or len(ours.counts) != len(theirs.counts):
        raise InvalidInputError(
            f"Expected as many environments and replicates of both; got {len(ours.scores.sizes)} "
            f"and {len(theirs.scores.sizes)}, {len(ours.counts)} and {len(theirs.counts)}."
        )
    value, replicates = 0.0, np.zeros(len(ours.counts))
    for e in range(len(ours.scores.sizes)):
        a, b = (slice(x.starts[e], x.starts[e] + x.sizes[e]) for x in (ours.scores, theirs.scores))
        margin = ours.scores.values[a, None] - theirs.scores.values[None, b]
        wins = (np.sign(margin) + 1) / 2
        value += float(wins.mean()) / len(ours.scores.sizes)
        pairs = (ours.counts[:, a] @ wins * theirs.counts[:, b]).sum(1)
        replicates += pairs / wins.size / len(ours.scores.sizes)
    if not (ours.is_informative and theirs.is_informative):
        return Interval(value, float("nan"), float("nan"))
    tail = min(ours.tail(level), theirs.tail(level))
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
