"""learning_rate_factor: what the learning rate is multiplied by, as the budget is spent."""

import math
from typing import Literal

__all__ = ["Schedule", "learning_rate_factor"]

Schedule = Literal["linear", "cosine", "constant"]


def learning_rate_factor(
    schedule: Schedule, spent: float, *, warmup_fraction: float = 0.0
) -> float:
    """Returns a factor in [0, 1].

    Args:
        schedule: how it falls, after the warm-up, from 1 to 0; or that it does not.
        spent: share of the budget that is spent, in [0, 1].
        warmup_fraction: share of the budget over which it rises linearly from 0 to 1.

    >>> [learning_rate_factor("linear", spent) for spent in (0.0, 0.25, 1.0)]
    [1.0, 0.75, 0.0]
    >>> learning_rate_factor("constant", 0.05, warmup_fraction=0.1)
    0.5
    >>> round(learning_rate_factor("cosine", 0.5), 6)
    0.5
    """
    if spent < warmup_fraction:
        return spent / warmup_fraction
    left = 1 - (spent - warmup_fraction) / (1 - warmup_fraction)
    if schedule == "linear":
        return left
    return (1 - math.cos(math.pi * left)) / 2 if schedule == "cosine" else 1.0
