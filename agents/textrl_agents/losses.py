"""Losses over M response tokens, as pure functions of tensors (M,). Each is to be minimised.

Every loss is a sum over tokens divided by `num_tokens`, the tokens of the whole batch that an
optimiser's step stands for. A part of the batch may thus be given alone, and the gradients of the
parts add up to that of the whole, whatever their lengths.
"""

import torch
from torch import Tensor

__all__ = [
    "clipped_policy_loss",
    "clipped_value_loss",
    "entropy_loss",
    "policy_gradient_loss",
    "value_loss",
]


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor, *, num_tokens: int) -> Tensor:
    """REINFORCE: −Σ A log π(a|s) / num_tokens (Williams 1992).

    Args:
        log_probs: log π of the tokens, with gradients.
        advantages: A of the tokens, without.
        num_tokens: what the sum is divided by.
    """
    return -(advantages * log_probs).sum() / num_tokens


def clipped_policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, *, clip: float, num_tokens: int
) -> Tensor:
    """PPO: −Σ min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) / num_tokens, ρ = π / π_old.

    Schulman et al. 2017 (arXiv:1707.06347), equation 7.

    Args:
        log_probs: log π of the tokens, with gradients.
        old_log_probs: log π of the tokens when they were sampled.
        advantages: A of the tokens.
        clip: ε.
        num_tokens: what the sum is divided by.
    """
    ratio = (log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantages, clipped * advantages).sum() / num_tokens


def value_loss(values: Tensor, targets: Tensor, *, num_tokens: int) -> Tensor:
    """Half the squared error: Σ (V − target)² / 2 / num_tokens."""
    return (values - targets).square().sum() / 2 / num_tokens


def clipped_value_loss(
    values: Tensor, old_values: Tensor, targets: Tensor, *, clip: float, num_tokens: int
) -> Tensor:
    """Σ max((V − target)², (V_clip − target)²) / 2 / num_tokens.

    V_clip keeps V within ε of the value when the token was sampled, as in the code of Schulman et
    al. 2017.

    Args:
        values: V, with gradients.
        old_values: V when the tokens were sampled.
        targets: advantages plus old values.
        clip: ε, in units of the score.
        num_tokens: what the sum is divided by.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    worse = torch.maximum((values - targets).square(), (near - targets).square())
    return worse.sum() / 2 / num_tokens


def entropy_loss(entropies: Tensor, *, num_tokens: int) -> Tensor:
    """−Σ H(π(.|s)) / num_tokens: minimising it raises the entropy."""
    return -entropies.sum() / num_tokens
