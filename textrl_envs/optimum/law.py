"""RewardLaw: the distribution of the score under the reference, and all that follows from it.

With p_i the chance of the score r_i under π_ref, the optimum at β has the closed form
V* = β log Σ p_i e^{r_i/β}; best-of-n has one too. Both leave the texts of one score as likely among
each other as the reference has them, so that their KL is that of two distributions over scores.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FrontierPoint", "RewardLaw"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A policy's mean score and its KL from the reference."""

    reward: float
    kl: float
    """In nats a response."""
    measure: float
    """Mean of the measure that the law was asked for; NaN where there was none."""


@dataclass(frozen=True, slots=True)
class RewardLaw:
    """Scores r_i, rising, with their chances p_i > 0 under the reference. Shapes (A,)."""

    scores: Floats
    probs: Floats
    measures: Floats
    """Mean of a measure among the texts of each score; NaN where none was asked for."""

    @classmethod
    def of(cls, scores: Floats, probs: Floats, weights: Floats | None = None) -> "RewardLaw":
        """Drops scores that never occur.

        Args:
            scores: rising, (A,).
            probs: chance of each, (A,).
            weights: chance times mean measure of each, (A,).
        """
        kept = probs > 0
        measures = np.full(len(probs), np.nan) if weights is None else weights
        with np.errstate(invalid="ignore", divide="ignore"):
            means = measures[kept] / probs[kept]
        return cls(scores[kept], probs[kept] / probs.sum(), means)

    def value(self, kl_coefficient: float) -> float:
        """Returns V* = β log Σ p_i e^{r_i / β}."""
        top = self.scores[-1]
        if np.ptp(self.scores) < kl_coefficient / 2:  # where rounding times β would show
            mean = self.probs @ self.scores
            little = self.probs @ np.expm1((self.scores - mean) / kl_coefficient)
            return float(mean + kl_coefficient * np.log1p(little))
        total = (self.probs * np.exp((self.scores - top) / kl_coefficient)).sum()
        return float(top + kl_coefficient * np.log(total))

    def optimal(self, kl_coefficient: float) -> FrontierPoint:
        """Returns reward and KL of the optimum at β: q_i ∝ p_i e^{r_i / β}."""
        tilted = self.probs * np.exp((self.scores - self.scores[-1]) / kl_coefficient)
        return self._point(tilted / tilted.sum())

    def best_of(self, number: int) -> FrontierPoint:
        """Returns reward and KL of the best of n samples, ties broken at random.

        The best has score r_i with chance F_i^n − F_{i−1}^n, F being the distribution function.
        The usual log n − (n − 1)/n is an upper bound of this KL (Beirami et al. 2024,
        arXiv:2401.01879), far off where scores tie.
        """
        powers = np.exp(number * self._log_below())  # F_{i-1}^n for each i, then 1
        return self._point(np.diff(powers))

    def best_of_log_ratios(self, number: int) -> Floats:
        """Returns log([F_i^n − F_{i−1}^n] / p_i) of each score, in nats, (A,).

        What the best of n samples is likelier than a sample, among the texts of that score.
        """
        log_below = self._log_below()
        before, log_cdf = log_below[:-1], log_below[1:]
        gap = np.full(len(before), np.inf)  # log F_i − log F_{i−1}: nothing is below the lowest
        np.subtract(log_cdf, before, where=np.isfinite(before), out=gap)
        found: Floats = number * log_cdf + np.log(-np.expm1(-number * gap)) - np.log(self.probs)
        return found

    def _log_below(self) -> Floats:
        """Returns log P(score < r_i) for each i, then 0, (A + 1,)."""
        # From the top: 1 − F is what remains above, exact where F is nearly 1.
        above = np.append(np.cumsum(self.probs[::-1])[::-1], 0.0)  # P(score ≥ r_i), then 0
        found: Floats = np.log1p(
            -np.minimum(above, 1.0), where=above < 1, out=np.full(len(above), -np.inf)
        )
        return found

    def _point(self, chosen: Floats) -> FrontierPoint:
        log_ratio = np.log(chosen / self.probs, where=chosen > 0, out=np.zeros(len(chosen)))
        return FrontierPoint(
            reward=float(chosen @ self.scores),
            kl=max(float(chosen @ log_ratio), 0.0),  # never less, but for rounding
            measure=float(chosen @ self.measures),
        )
