"""Intervals and tests for means of few runs: Student, Welch, Holm; and ranks as tie groups.

docs/leaderboard-statistics.md has every formula, and how often each is right.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import nctdtr, stdtr, stdtrit

from textrl_envs.errors import InvalidInputError

__all__ = [
    "RESOLUTION",
    "ClaimTest",
    "Interval",
    "Welch",
    "claim_test",
    "holm",
    "prediction_interval",
    "ranks",
    "satterthwaite",
    "welch",
    "welch_power",
]

Floats = NDArray[np.float64]

RESOLUTION = 1e-6
"""Stored samples have six digits: no standard deviation of scores is known to be smaller."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and the interval about it; NaN where there is none."""

    value: float
    low: float
    high: float


# --- Student's t, and Welch's test ---


def satterthwaite(variances: ArrayLike, freedoms: ArrayLike) -> float:
    """Degrees of freedom of a sum of independent variances: (Σ v)² / Σ(v²/f).

    Satterthwaite 1946, and Welch 1947 for two means. Infinite where all are 0.
    """
    v, f = np.asarray(variances, np.float64), np.asarray(freedoms, np.float64)
    total = float(v.sum())
    return total**2 / float((v**2 / f).sum()) if total else float("inf")


def prediction_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean and the interval for one fresh run: mean ± t_{n−1} s √(1 + 1/n), for normal scores.

    Not the interval of the mean: that one holds a fresh run in under half of all cases.
    """
    x = _finite(values)
    if x.size < 2:
        return Interval(float(x.mean()), float("nan"), float("nan"))
    half = stdtrit(x.size - 1, (1 + level) / 2) * x.std(ddof=1) * np.sqrt(1 + 1 / x.size)
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half))


@dataclass(frozen=True, slots=True)
class Welch:
    """A difference of two means, its standard error, and the degrees of freedom of that."""

    difference: float
    standard_error: float
    degrees_of_freedom: float

    @property
    def p_value(self) -> float:
        """One-sided: the chance of such a difference or more, were the means equal."""
        return float(stdtr(self.degrees_of_freedom, -self.difference / self.standard_error))

    def interval(self, level: float = 0.95) -> Interval:
        """The two-sided interval of the difference."""
        half = self.standard_error * float(stdtrit(self.degrees_of_freedom, (1 + level) / 2))
        return Interval(self.difference, self.difference - half, self.difference + half)


def welch(ours: ArrayLike, theirs: ArrayLike) -> Welch:
    """Welch's comparison of two means with unequal variances (Welch 1947).

    Where one side has a single value, the other's variance stands for both (Student's test).

    Raises:
        InvalidInputError: a value that is not finite, or no side with two values.
    """
    a, b = _finite(ours), _finite(theirs)
    sizes = np.array([a.size, b.size])
    if sizes.max() < 2:
        raise InvalidInputError("A test needs two seeds on one side at least; got one on each.")
    difference = float(a.mean() - b.mean())
    variances = np.array([max(x.var(ddof=1), RESOLUTION**2) for x in (a, b) if x.size > 1])
    if sizes.min() == 1:
        error = np.sqrt(variances[0] * (1 / sizes).sum())
        return Welch(difference, float(error), float(sizes.max() - 1))
    parts = variances / sizes
    return Welch(difference, float(np.sqrt(parts.sum())), satterthwaite(parts, sizes - 1))


def _finite(values: ArrayLike) -> Floats:
    x = np.atleast_1d(np.asarray(values, np.float64))
    if x.size == 0 or x.ndim > 1 or not np.isfinite(x).all():
        raise InvalidInputError(f"Expected a list of finite scores, one a seed; got {values!r}.")
    return x


def welch_power(ours: int, theirs: int, effect: float, alpha: float = 0.05) -> float:
    """Chance that the one-sided test finds a difference of so many standard deviations.

    By the noncentral t with δ = effect / √(1/n + 1/m) and the degrees of freedom of equal
    variances: for normal scores, and near for others (measured by `coverage`).

    Args:
        ours: n, seeds of the side that is said to be higher.
        theirs: m.
        effect: in standard deviations of a single run.
        alpha: the level of the test.
    """
    sizes = np.array([ours, theirs])
    if sizes.max() < 2 or sizes.min() < 1:
        raise InvalidInputError(f"A test needs two seeds on one side at least; got {sizes}.")
    freedom = float(sizes.max() - 1) if sizes.min() == 1 else satterthwaite(1 / sizes, sizes - 1)
    shift = effect / np.sqrt((1 / sizes).sum())
    return float(1 - nctdtr(freedom, shift, stdtrit(freedom, 1 - alpha)))


@dataclass(frozen=True, slots=True)
class ClaimTest:
    """Whether fresh runs refute a claim, and how well they could have."""

    difference: float
    """Mean claimed − mean fresh."""
    p_value: float
    """Chance of such a difference or more, were the claim honest."""
    is_refuted: bool
    power_for_one_sd: float
    """Chance that a claim too high by one standard deviation of a run would be refuted."""
    power_for_two_sd: float


def claim_test(claimed: ArrayLike, fresh: ArrayLike, alpha: float = 0.05) -> ClaimTest:
    """Tests by fresh runs whether claimed scores are too high: one-sided Welch.

    Raises:
        InvalidInputError: a score that is not finite, or a single seed on both sides.
    """
    found = welch(claimed, fresh)
    counts = int(np.size(claimed)), int(np.size(fresh))
    return ClaimTest(
        difference=found.difference,
        p_value=found.p_value,
        is_refuted=found.p_value < alpha,
        power_for_one_sd=welch_power(*counts, 1.0, alpha),
        power_for_two_sd=welch_power(*counts, 2.0, alpha),
    )


# --- ranks ---


def holm(p_values: ArrayLike) -> Floats:
    """Adjusted p-values of m tests, in their order (Holm 1979).

    The i-th smallest is multiplied by m − i + 1 and is at least the one before: rejecting what is
    at most α, the chance of any false rejection is at most α, whatever the dependence.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    result = np.empty_like(p)
    result[order] = np.minimum(adjusted, 1.0)
    return result


def ranks(
    values: ArrayLike, errors: ArrayLike, freedoms: ArrayLike, alpha: float = 0.05
) -> list[tuple[int, int]]:
    """Ranks as tie groups: the best and the worst place that each agent may have.

    Two agents are apart where |Δ| / √(e₁² + e₂²) exceeds Student's t, in the two-sided test with
    `satterthwaite` degrees of freedom, Holm-corrected over all pairs. An interval of percentiles
    would need more replicates for each further agent; bootstrap errors do not.

    Args:
        values: what to rank by, more is better, (A,).
        errors: their standard errors, (A,); NaN where unknown: such a one is apart from nobody.
        freedoms: their degrees of freedom, (A,).
        alpha: chance of calling any two equal agents apart, at most.

    Returns:
        (1 + number surely above, A − number surely below) of each.
    """
    x, e, nu = (np.asarray(array, np.float64) for array in (values, errors, freedoms))
    above, below = np.triu_indices(len(x), 1)
    variances = np.maximum(e, RESOLUTION) ** 2
    p_values = []
    for i, j in zip(above, below, strict=True):
        freedom = satterthwaite(variances[[i, j]], nu[[i, j]])
        t = abs(x[i] - x[j]) / np.sqrt(variances[i] + variances[j])
        p_values.append(1.0 if np.isnan(t) else 2 * float(stdtr(freedom, -t)))
    apart = np.zeros((len(x), len(x)), np.bool_)
    apart[above, below] = holm(p_values) <= alpha
    apart |= apart.T
    is_above = apart & (x[:, None] > x)  # (i, j): i is surely above j
    return [(1 + int(is_above[:, i].sum()), len(x) - int(is_above[i].sum())) for i in range(len(x))]
