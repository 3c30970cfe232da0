"""Draws tokens from log-probabilities, without torch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw"]


def draw(log_probs: NDArray[np.floating[Any]], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draws a token a row, (B, V) -> (B,), by inverting the cumulative distribution.

    A token of probability 0 is never drawn.

    >>> draw(np.array([[-np.inf, 0.0], [0.0, -np.inf]]), np.random.default_rng(0))
    array([1, 0])
    """
    cumulative = np.exp(np.asarray(log_probs, np.float64)).cumsum(axis=1)
    # Scaled by the sum, which is 1 up to rounding, the number lies below the last step for certain.
    targets = rng.random(len(cumulative)) * cumulative[:, -1]
    actions: NDArray[np.int64] = (cumulative <= targets[:, None]).sum(axis=1)
    return actions
