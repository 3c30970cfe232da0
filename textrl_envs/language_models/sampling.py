"""Draws tokens from log-probabilities, without torch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw", "draw_at"]


def draw(log_probs: NDArray[np.floating[Any]], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draws a token a row, (B, V) -> (B,), by inverting the cumulative distribution.

    A token of probability 0 is never drawn.

    >>> draw(np.array([[-np.inf, 0.0], [0.0, -np.inf]]), np.random.default_rng(0))
    array([1, 0])
    """
    return draw_at(log_probs, rng.random(len(log_probs)))


def draw_at(
    log_probs: NDArray[np.floating[Any]], uniforms: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Returns the tokens that uniform numbers in [0, 1) stand for, one a row, (B, V), (B,) -> (B,).

    >>> draw_at(np.log([[0.25, 0.75], [0.25, 0.75]]), np.array([0.2, 0.3]))
    array([0, 1])
    """
    cumulative = np.exp(np.asarray(log_probs, np.float64)).cumsum(axis=1)
    # Scaled by the sum, which is 1 up to rounding, the number lies below the last step for certain.
    targets = uniforms * cumulative[:, -1]
    actions: NDArray[np.int64] = (cumulative <= targets[:, None]).sum(axis=1)
    return actions
