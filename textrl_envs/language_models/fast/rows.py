"""Rows taken out of a tensor and laid into one, each once: gradients are moved, not summed."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["lay", "pick"]


def pick(x: Tensor, places: Tensor) -> Tensor:
    """Returns some rows of x, each once, [N, ...] -> [M, ...], with gradients."""
    picked: Tensor = _Pick.apply(x, places)  # type: ignore[no-untyped-call]
    return picked


def lay(x: Tensor, places: Tensor, count: int) -> Tensor:
    """Lays the rows of x among zeros, [M, ...] -> [count, ...], with gradients."""
    laid: Tensor = _Lay.apply(x, places, count)  # type: ignore[no-untyped-call]
    return laid


class _Pick(torch.autograd.Function):
    """Each row is taken once, so that the gradient is laid back and nothing is summed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(places)
        ctx.count = len(x)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (places,) = ctx.saved_tensors
        return lay(gradients[0], places, ctx.count), None


class _Lay(torch.autograd.Function):
    """The way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, count: int) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(places)
        return x.new_zeros(count, *x.shape[1:]).index_copy_(0, places, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (places,) = ctx.saved_tensors
        return pick(gradients[0], places), None, None
