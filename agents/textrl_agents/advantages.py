"""Returns, advantages and baselines, as pure functions of arrays (B, T): B episodes, T tokens.

Arrays are right-padded with 0. The discount is 1 for text: a score counts the same whatever the
length of the text before it.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "generalised_advantages",
    "group_advantages",
    "leave_one_out",
    "returns_to_go",
    "standardise",
]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def returns_to_go(rewards: Floats, *, bootstrap_values: Floats) -> Floats:
    """Sums the rewards to come: G_t = r_t + r_{t+1} + ... + V(s_T).

    Args:
        rewards: (B, T), 0 on padding.
        bootstrap_values: V of the text at the end, (B,); 0 where the end was scored.

    Returns:
        (B, T); on padding the bootstrap value.

    >>> returns_to_go(np.array([[-1.0, 0.0, 2.0]]), bootstrap_values=np.zeros(1))
    array([[1., 2., 2.]])
    """
    future = np.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]
    return future + bootstrap_values[:, None]


def generalised_advantages(
    rewards: Floats,
    values: Floats,
    mask: Mask,
    *,
    bootstrap_values: Floats,
    smoothing: float,
    discount: float = 1.0,
) -> Floats:
    """Generalised advantage estimation: A_t = δ_t + γλ A_{t+1}, δ_t = r_t + γ V(s_{t+1}) − V(s_t).

    Schulman et al. 2016 (arXiv:1506.02438), equations 11 and 16. The value after the last token is
    0 where the end was scored: the score is already in r.

    Args:
        rewards: (B, T).
        values: V(s_t), the value of the text before token t, (B, T).
        mask: True where there is response, (B, T).
        bootstrap_values: V of the text at the end, (B,); 0 where the end was scored.
        smoothing: λ in [0, 1]; 1 gives G_t − V(s_t), 0 the one-step residual.
        discount: γ in [0, 1]; 1 for text, less where episodes have no end of their own.

    Returns:
        (B, T), 0 on padding. The value targets are this plus `values`.
    """
    is_last = mask & ~np.pad(mask[:, 1:], ((0, 0), (0, 1)))
    next_values = np.where(
        is_last, bootstrap_values[:, None], np.pad(values[:, 1:], ((0, 0), (0, 1)))
    )
    residuals = np.where(mask, rewards + discount * next_values - values, 0.0)
    advantages = np.zeros_like(residuals)
    running = np.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        running = residuals[:, t] + discount * smoothing * running
        advantages[:, t] = running
    return np.where(mask, advantages, 0.0)


def leave_one_out(returns: Floats, groups: NDArray[np.integer]) -> Floats:
    """Baseline of an episode: the mean return of the other episodes of its group.

    Unbiased, since no episode's own actions enter its baseline (Kool et al. 2019; RLOO, Ahmadian
    et al. 2024, arXiv:2402.14740).

    Args:
        returns: (B,).
        groups: which episodes belong together, (B,): those of one prompt.

    Returns:
        (B,). An episode alone in its group gets the mean return of all other episodes, and 0 where
        there is no other.

    >>> leave_one_out(np.array([1.0, 2.0, 6.0, 5.0]), np.array([0, 0, 0, 1]))
    array([4. , 3.5, 1.5, 3. ])
    """
    _, group = np.unique(groups, return_inverse=True)
    sums = np.bincount(group, weights=returns)[group]
    counts = np.bincount(group)[group]
    others = (sums - returns) / np.maximum(counts - 1, 1)
    rest = (returns.sum() - returns) / max(len(returns) - 1, 1)
    return np.where(counts > 1, others, rest)


def group_advantages(
    returns: Floats, groups: NDArray[np.integer], *, scale_by_deviation: bool
) -> Floats:
    """GRPO: (R − mean) / (deviation + 1e-4), both of the episode's group, itself included.

    Shao et al. 2024 (arXiv:2402.03300), section 4.1.2. The mean holds the episode itself, so that
    in a group of K the gradient is (K − 1) / K of the unbiased one; the deviation weighs groups
    whose returns differ little above the others.

    Args:
        returns: (B,).
        groups: which episodes belong together, (B,): those of one prompt.
        scale_by_deviation: divide; False leaves R − mean.

    Returns:
        (B,), 0 where all returns of a group are the same.

    >>> groups = np.array([0, 0, 1])
    >>> group_advantages(np.array([1.0, 3.0, 5.0]), groups, scale_by_deviation=False)
    array([-1.,  1.,  0.])
    """
    _, group = np.unique(groups, return_inverse=True)
    counts = np.bincount(group)
    centred = returns - (np.bincount(group, weights=returns) / counts)[group]
    if not scale_by_deviation:
        return centred
    deviations = np.sqrt(np.bincount(group, weights=centred**2) / counts)[group]
    return centred / (deviations + 1e-4)


def standardise(advantages: Floats, mask: Mask) -> Floats:
    """Shifts to mean 0 and scales to standard deviation 1 over the response tokens of all episodes.

    Padding counts for nothing, and stays 0.
    """
    values = advantages[mask]
    return np.where(mask, (advantages - values.mean()) / (values.std() + 1e-8), 0.0)
