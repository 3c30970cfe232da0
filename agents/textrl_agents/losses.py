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
    "preference_loss",
    "surrogate_loss",
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


def surrogate_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, *, num_tokens: int
) -> Tensor:
    """TRPO: −Σ ρ A / num_tokens, ρ = π / π_old.

    Schulman et al. 2015 (arXiv:1502.05477), equation 14. At π_old its gradient is that of
    `policy_gradient_loss`.

    Args:
        log_probs: log π of the tokens, with gradients.
        old_log_probs: log π of the tokens when they were sampled.
        advantages: A of the tokens.
        num_tokens: what the sum is divided by.
    """
    return -((log_probs - old_log_probs).exp() * advantages).sum() / num_tokens


def value_loss(
    values: Tensor, targets: Tensor, *, num_tokens: int, weights: Tensor | float = 1.0
) -> Tensor:
    """Half the squared error: Σ w (V − target)² / 2 / num_tokens.

    Args:
        values: V, with gradients.
        targets: without.
        num_tokens: what the sum is divided by.
        weights: w, of each token or of all.
    """
    return (weights * (values - targets).square()).sum() / 2 / num_tokens


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


def preference_loss(
    log_ratios: Tensor, wins: Tensor, *, kl_coefficient: float, num_groups: int
) -> Tensor:
    """Direct preference optimisation: −Σ_ij w_ij log σ(β (ℓ_i − ℓ_j)) / num_groups.

    Rafailov et al. 2023 (arXiv:2305.18290), equation 7. Over B whole responses, not over tokens.

    Args:
        log_ratios: ℓ = log π(y|x) − log π_ref(y|x) of each response, with gradients, (B,).
        wins: w_ij, the weight of "i is preferred to j", (B, B); 0 between prompts. It may be a
            label, or the probability that would have drawn it: the expectation is then exact.
        kl_coefficient: β.
        num_groups: prompts of the whole batch that an optimiser's step stands for.
    """
    margins = kl_coefficient * (log_ratios[:, None] - log_ratios)
    return -(wins * torch.nn.functional.logsigmoid(margins)).sum() / num_groups
