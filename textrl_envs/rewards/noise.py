"""Noise that changes what a score pays, and not what it pays on average."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError

__all__ = ["LabelNoise", "ScoreNoise"]

Floats = NDArray[np.float64]


class ScoreNoise(Protocol):
    """Unbiased noise: for every score, the mean over the uniform number is that score."""

    def __call__(self, scores: Floats, uniforms: Floats) -> Floats:
        """Returns what is paid, (B,), from scores (B,) and uniform numbers in [0, 1) (B,)."""


@dataclass(frozen=True, slots=True)
class LabelNoise:
    """A judge who gives the wrong one of two labels now and then, corrected for it.

    Labels are 0 and 1. A label is flipped with chance η, and (label − η) / (1 − 2η) is paid, so
    that the mean is the true label: Natarajan et al. 2013, "Learning with Noisy Labels", lemma 1.

    Args:
        flip_rate: η, in [0, 0.5).

    Raises:
        InvalidInputError: a rate outside that.

    >>> LabelNoise(0.25)(np.array([1.0, 1.0]), np.array([0.1, 0.9]))
    array([-0.5,  1.5])
    """

    flip_rate: float

    def __post_init__(self) -> None:
        rate = self.flip_rate
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 0.5:
            raise InvalidInputError(f"flip_rate must be a number in [0, 0.5); got {rate!r}.")

    def __call__(self, scores: Floats, uniforms: Floats) -> Floats:
        """Returns what is paid for labels, (B,)."""
        labels = np.where(uniforms < self.flip_rate, 1 - scores, scores)
        paid: Floats = (labels - self.flip_rate) / (1 - 2 * self.flip_rate)
        return paid
