"""Baselines made of earlier batches. None holds the action that it multiplies."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["earlier_mean", "earlier_prompt_means"]

Floats = NDArray[np.float64]


def earlier_mean(
    memory: dict[str, float], name: str, newest: float, *, decay: float, otherwise: float = 0.0
) -> float:
    """Returns the running mean of earlier batches, then takes the newest in.

    The newest batch's own mean would hold its own actions, and bias the gradient.

    Args:
        memory: where the mean is kept; it is changed.
        name: of the mean.
        newest: of this batch.
        decay: weight of the past.
        otherwise: what is returned where nothing came before.

    >>> memory: dict[str, float] = {}
    >>> [earlier_mean(memory, "mean", x, decay=0.5) for x in (4.0, 8.0, 1.0)]
    [0.0, 4.0, 6.0]
    """
    past = memory.get(name)
    memory[name] = newest if past is None else decay * past + (1 - decay) * newest
    return otherwise if past is None else past


def earlier_prompt_means(
    memory: dict[str, float], returns: Floats, prompts: NDArray[np.int64], *, decay: float
) -> Floats:
    """Returns the running mean of each episode's prompt over earlier batches, then takes these in.

    A prompt that is met for the first time gets the running mean of all prompts.

    Args:
        memory: where the means are kept; it is changed.
        returns: of this batch, (B,).
        prompts: which prompt, (B,).
        decay: weight of the past.

    Returns:
        (B,).
    """
    overall = earlier_mean(memory, "running_mean", float(returns.mean()), decay=decay)
    found = np.empty(len(returns))
    for prompt in np.unique(prompts).tolist():
        rows = prompts == prompt
        newest = float(returns[rows].mean())
        name = f"running_mean of prompt {prompt}"
        found[rows] = earlier_mean(memory, name, newest, decay=decay, otherwise=overall)
    return found
