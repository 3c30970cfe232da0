"""Matrix products by oneDNN, with gradients, for float32 on the CPU.

torch multiplies float32 matrices by MKL, which reaches 80-95 GFLOP/s on a core of an AMD EPYC where
oneDNN reaches 180-215 (docs/performance.md). torch has oneDNN in it, behind private operators: they
are tried once, and torch's public ones are used where they are missing or wrong.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor
from torch.autograd.function import once_differentiable

from textrl_envs.language_models.fast.one_row import has_row_loop, multiply_row

__all__ = ["LinearWeights", "has_fast_linear", "linear", "round_rows"]

FEWEST_ROWS = 4
"""With fewer rows a product is bound by reading the weights, and oneDNN's is no faster."""
FEWEST_STEPS = 32
"""Between two powers of two lie as many round numbers of rows."""


def round_rows(count: int) -> int:
    """Returns the next round number of rows: few differ, and none is more than 1/32 above.

    oneDNN makes machine code for each new number of rows, half a millisecond a product, and keeps
    1,024 of them.

    >>> [round_rows(count) for count in (1, 33, 65, 600, 1000)]
    [1, 33, 66, 608, 1008]
    """
    step = 1 << max((count // FEWEST_STEPS).bit_length() - 1, 0)
    return -(-count // step) * step


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns x Wᵀ + b, as `torch.nn.functional.linear`, with gradients.

    Args:
        x: [..., K].
        weight: [N, K], of any strides.
        bias: [N] or None.
    """
    if not _is_suitable(x, weight):
        return F.linear(x, weight, bias)
    flat = x.reshape(-1, x.shape[-1])
    result: Tensor = _Linear.apply(flat, weight, bias)  # type: ignore[no-untyped-call]
    return result.view(*x.shape[:-1], weight.shape[0])


def _is_suitable(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.numel() >= FEWEST_ROWS * x.shape[-1]
        and has_fast_linear()
    )


@functools.cache
def has_fast_linear() -> bool:
    """Tells whether torch's private oneDNN product is here, and right."""
    try:
        generator = torch.Generator().manual_seed(0)
        x, weight = (torch.randn(5, 7, generator=generator) for _ in range(2))
        found = (_product(x, weight, None), _product(x, _pack(weight, 5), None))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return all(torch.allclose(y, x @ weight.T, rtol=0, atol=1e-5) for y in found)


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none", algorithm: str = ""
) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise.default(
        x, weight, bias, activation, [], algorithm
    )
    return result


def _sum(x: Tensor, other: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, weight, bias, "add")
    return result


def _pack(weight: Tensor, rows: int) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight.default(weight, rows)
    return packed


class _Linear(torch.autograd.Function):
    """The product and its derivatives, backwards and forwards, which are products too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:  # noqa: ANN401
        for_x, for_weight, for_bias = tangents
        x, weight = ctx.saved_tensors
        change = _product(for_x, weight, None) + _product(x, for_weight, None)
        return change if for_bias is None else change + for_bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        found = None
        if for_weight and weight.is_contiguous():
            found = _product(gradient.T, x.T, None)
        elif for_weight:  # GPT-2's: in the order in which its weight lies, or it would be copied
            found = _product(x.T, gradient.T, None).T
        return (
            _product(gradient, weight.T, None) if for_x else None,
            found,
            gradient.sum(0) if for_bias else None,
        )


class LinearWeights:
    """One or several linear layers of a model as one product, without gradients.

    Where it helps, the weights are copied into the form that reads fastest: packed by oneDNN for
    several rows; for a single one, which is bound by memory, row behind row where there is our own
    loop, and column behind column where torch multiplies. They are copied when first used, and
    again when they have changed.

    Args:
        parts: weight [N_i, K] and bias [N_i] or None of each layer; results stand side by side.
        rows: rows of most products.
    """

    def __init__(self, parts: Sequence[tuple[Tensor, Tensor | None]], rows: int) -> None:
        self._parts, self._rows = parts, rows
        self._version = -1

    def __call__(self, x: Tensor, activation: str = "none") -> Tensor:
        """Returns act(x Wᵀ + b), [T, K] -> [T, N]. Activations: none, silu, gelu_tanh."""
        self._notice()
        if self._packed is not None and len(x) > 1:
            return _product(x, self._packed, self._bias, *FUSED[activation])
        return ACTIVATIONS[activation](self._plain(x))

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """Returns x Wᵀ + b + residual, [T, K] and [T, N] -> [T, N]."""
        self._notice()
        if self._packed is not None and len(x) > 1:
            return _sum(x, residual, self._packed, self._bias)
        return self._plain(x) + residual

    def _plain(self, x: Tensor) -> Tensor:
        if self._is_row and len(x) == 1 and x.dtype == torch.float32:
            return multiply_row(x, self._weight, self._bias)
        return F.linear(x, self._weight, self._bias)

    def _notice(self) -> None:
        """Takes the weights as they are now, if they have changed."""
        version = 0
        for weight, bias in self._parts:
            version += weight._version + (0 if bias is None else bias._version)
        if version != self._version:
            self._refresh()
            self._version = version

    def _refresh(self) -> None:
        weights, biases = zip(*self._parts, strict=True)
        alone = len(weights) == 1
        self._weight: Tensor = weights[0].detach() if alone else torch.cat(weights).detach()
        self._bias = None
        if any(bias is not None for bias in biases):
            filled = [w.new_zeros(len(w)) if b is None else b for w, b in self._parts]
            self._bias = filled[0].detach() if alone else torch.cat(filled).detach()
        self._packed: Tensor | None = None
        self._is_row = False
        if self._weight.dtype != torch.float32 or self._weight.device.type != "cpu":
            return
        if self._rows == 1:
            self._is_row = has_row_loop()
            if self._is_row:
                self._weight = self._weight.contiguous()
            else:
                self._weight = self._weight.T.contiguous().T
        if has_fast_linear():
            several = self._rows > 1
            self._packed = _pack(self._weight, self._rows) if several else self._weight


FUSED = {"none": ("none", ""), "silu": ("swish", ""), "gelu_tanh": ("gelu", "tanh")}
"""Activations by oneDNN's names."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "silu": F.silu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
}
