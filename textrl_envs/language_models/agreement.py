"""Whether two ways to compute the same hidden states or logits agree."""

import torch
from torch import Tensor

__all__ = ["agrees"]


def agrees(found: Tensor, expected: Tensor) -> bool:
    """Tells whether they differ by rounding alone.

    Half precision rounds every number to 8 or 11 bits, and large ones coarsely.
    """
    if found.shape != expected.shape:
        return False
    is_half = torch.finfo(expected.dtype).bits < 32
    tolerance = 5e-2 * max(1.0, float(expected.abs().max())) if is_half else 1e-3
    return torch.allclose(found, expected, rtol=0, atol=tolerance)
