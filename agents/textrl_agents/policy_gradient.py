"""One step along the policy gradient of a whole batch: what REINFORCE and A2C share.

They differ in the advantages and value targets that they hand over.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textrl_agents.episodes import Episodes
from textrl_agents.losses import entropy_loss, policy_gradient_loss, value_loss
from textrl_agents.on_policy import OnPolicyAgent

__all__ = ["policy_gradient_step"]

Floats = NDArray[np.float64]


def policy_gradient_step(
    agent: OnPolicyAgent,
    episodes: Episodes,
    *,
    advantages: Floats,
    targets: Floats | None = None,
    value_coefficient: float = 0.0,
    weights: Floats | None = None,
) -> dict[str, float]:
    """Takes one optimiser's step against the gradient of the sum of three losses.

    −Σ_y w(y) Σ_t (A_t log π(a_t|s_t) + c_H H(s_t) − c_V (V(s_t) − target_t)² / 2) / M, where c_H is
    `entropy_coefficient` of the agent's config.

    Args:
        agent: whose policy and optimiser.
        episodes: B of them, M response tokens in all.
        advantages: A, (B, T).
        targets: what the value is to be, (B, T), in units of the score; None does not train it.
        value_coefficient: c_V.
        weights: w, (B,); None weighs every episode 1.

    Returns:
        Both losses, and the gradient's norm before clipping.
    """
    entropy_coefficient, count = agent.config.entropy_coefficient, episodes.num_tokens
    losses = {"policy_loss": 0.0, "value_loss": 0.0}
    for rows in agent.micro_batches(np.arange(len(episodes))):
        part, mask = episodes.select(rows), episodes.response_mask[rows]
        new = agent.policy.evaluate(part, with_entropies=entropy_coefficient > 0)
        given = 1.0 if weights is None else _tokens(weights[rows, None], mask, new.log_probs)
        policy = policy_gradient_loss(
            new.log_probs, given * _tokens(advantages[rows], mask, new.log_probs), num_tokens=count
        )
        value = torch.zeros(())
        if targets is not None:
            wanted = _tokens(targets[rows], mask, new.values)
            value = value_loss(new.values, wanted, num_tokens=count, weights=given)
        entropy = entropy_loss(given * new.entropies, num_tokens=count)
        loss = policy + value_coefficient * value + entropy_coefficient * entropy
        loss.backward()  # type: ignore[no-untyped-call]
        losses["policy_loss"] += float(policy.detach())
        losses["value_loss"] += float(value.detach())
    return {**losses, "gradient_norm": agent.step_optimizer()}


def _tokens(values: Floats, mask: NDArray[np.bool_], like: Tensor) -> Tensor:
    """Returns those of the response tokens, row by row, [M]."""
    return torch.from_numpy(np.broadcast_to(values, mask.shape)[mask]).to(like)
