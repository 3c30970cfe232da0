"""GELU by tanh, with gradients, in one pass over memory: torch's own takes four times as long."""

import ctypes
import functools
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from textrl_envs.language_models.fast.compiled import compile_library
from textrl_envs.language_models.fast.threads import in_threads

__all__ = ["gelu_tanh"]

WORK_PER_THREAD = 1 << 17
"""Numbers that are worth a thread."""


def gelu_tanh(x: Tensor) -> Tensor:
    """Returns `torch.nn.functional.gelu(x, approximate="tanh")` to 1e-6, of any shape."""
    is_plain = x.dtype == torch.float32 and x.device.type == "cpu" and x.is_contiguous()
    if not is_plain or _library() is None:
        return F.gelu(x, approximate="tanh")
    has_tangent = forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]
    if not (has_tangent or (torch.is_grad_enabled() and x.requires_grad)):
        result = torch.empty_like(x)
        _run("gelu", x, result)
        return result
    found: Tensor = _GELU.apply(x)  # type: ignore[no-untyped-call]
    return found


class _GELU(torch.autograd.Function):
    """Keeps the slope instead of the argument, so that the way back is one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        result, slope = torch.empty_like(x), torch.empty_like(x)
        _run("gelu_with_slope", x, result, slope)
        ctx.save_for_backward(slope)
        ctx.save_for_forward(slope)
        return result

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:  # noqa: ANN401
        (slope,) = ctx.saved_tensors
        change: Tensor = tangents[0] * slope
        return change

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        (slope,) = ctx.saved_tensors
        gradient: Tensor = gradients[0] * slope
        return gradient


def _run(name: str, x: Tensor, *results: Tensor) -> None:
    function, count = getattr(_library(), name), x.numel()
    threads = min(torch.get_num_threads(), 1 + count // WORK_PER_THREAD)
    addresses = [array.data_ptr() for array in (x, *results)]

    def run(part: int) -> None:
        function(*addresses, count * part // threads, count * (part + 1) // threads)

    in_threads(run, threads)


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = compile_library("gelu")
    if library is not None:
        pointer, long = ctypes.c_void_p, ctypes.c_long
        library.gelu.argtypes = [*[pointer] * 2, long, long]
        library.gelu_with_slope.argtypes = [*[pointer] * 3, long, long]
        library.gelu.restype = library.gelu_with_slope.restype = None
    return library
