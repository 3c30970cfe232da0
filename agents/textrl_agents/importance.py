"""Re-use of earlier episodes: what they weigh and are paid under the policy as it is now."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from textrl_agents.episodes import Episodes
from textrl_agents.policies.base import Policy

__all__ = ["log_probs_now", "recharged", "truncated_ratios"]

Floats = NDArray[np.float64]


@torch.no_grad()
def log_probs_now(policy: Policy, episodes: Episodes, parts: Iterable[NDArray[np.int64]]) -> Floats:
    """Returns log π of every response token under a policy, (B, T), 0 where there is none.

    Args:
        policy: as it is now.
        episodes: B of them.
        parts: rows that fit into one forward, in rising order, all rows in all.
    """
    found = np.zeros(episodes.response_mask.shape)
    evaluated = [
        policy.evaluate(episodes.select(rows), with_entropies=False).log_probs for rows in parts
    ]
    found[episodes.response_mask] = torch.cat(evaluated).double().cpu().numpy()
    return found


def truncated_ratios(log_probs: Floats, old_log_probs: Floats, *, max_ratio: float) -> Floats:
    """Returns min(π(y) / π_old(y), max_ratio) of whole responses, (B,).

    Ionides 2008, "Truncated importance sampling".

    Args:
        log_probs: of the tokens under the policy now, (B, T), 0 on padding.
        old_log_probs: when they were sampled, (B, T), 0 on padding.
        max_ratio: the largest weight.
    """
    log_ratios = (log_probs - old_log_probs).sum(axis=1)
    ratios: Floats = np.exp(np.minimum(log_ratios, np.log(max_ratio)))
    return ratios


def recharged(episodes: Episodes, log_probs: Floats, *, kl_coefficient: float) -> Episodes:
    """Returns the episodes with the KL penalty of the policy now; the task reward stays.

    Args:
        episodes: B of them; without a reference they are paid as they were.
        log_probs: of the tokens under the policy now, (B, T), 0 on padding.
        kl_coefficient: β as it is now.
    """
    if episodes.ref_log_probs is None:
        return episodes
    penalty = kl_coefficient * (log_probs - episodes.ref_log_probs)
    return replace(episodes, rewards=episodes.task_rewards - penalty)
