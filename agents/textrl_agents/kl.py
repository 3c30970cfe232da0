"""Estimators of KL(π ‖ q) from samples of π, given ℓ = log π(a) − log q(a), in nats.

Schulman, "Approximating KL divergence" (2020). k1 and k3 are unbiased, k2 is not; k3 is never
negative and has the least variance near q. In a reward only k1 has the right gradient, so the KL
wrapper charges k1 and these serve for logging (docs/design.md).
"""

import torch
from torch import Tensor

__all__ = ["k1", "k2", "k3"]


def k1(log_ratio: Tensor) -> Tensor:
    """ℓ: unbiased, may be negative."""
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """ℓ²/2: biased, by a little where π and q are close."""
    return log_ratio.square() / 2


def k3(log_ratio: Tensor) -> Tensor:
    """e^{−ℓ} − 1 + ℓ: unbiased, never negative.

    >>> float(k3(torch.tensor(0.0)))
    0.0
    """
    return torch.expm1(-log_ratio) + log_ratio
