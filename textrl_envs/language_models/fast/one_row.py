"""Products with one row by a compiled loop, as fast as memory gives the weights.

torch's own reach half of that. The loop (one_row.c) serves float32 on the CPU where there is a C
compiler.
"""

import ctypes
import functools

import torch
from torch import Tensor

from textrl_envs.language_models.fast.compiled import compile_library
from textrl_envs.language_models.fast.threads import in_threads

__all__ = ["has_row_loop", "multiply_row"]

WORK_PER_THREAD = 1 << 21
"""Bytes of weights that are worth a thread."""


def has_row_loop() -> bool:
    """Tells whether the loop could be compiled."""
    return _library() is not None


def multiply_row(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns x Wᵀ + b, without gradients, [1, K] -> [1, N].

    Args:
        x: float32 [1, K] on the CPU.
        weight: float32 [N, K] on the CPU, contiguous.
        bias: float32 [N] or None.
    """
    library = _library()
    assert library is not None
    (count, size), x = weight.shape, x.contiguous()
    out, bias = x.new_empty(1, count), None if bias is None else bias.contiguous()
    threads = min(torch.get_num_threads(), 1 + 4 * weight.numel() // WORK_PER_THREAD)
    addresses = (
        weight.data_ptr(),
        x.data_ptr(),
        None if bias is None else bias.data_ptr(),
        out.data_ptr(),
    )

    def multiply(part: int) -> None:
        first, last = count * part // threads, count * (part + 1) // threads
        library.multiply(*addresses, first, last, size)

    in_threads(multiply, threads)
    return out


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = compile_library("one_row")
    if library is not None:
        library.multiply.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_long] * 3
        library.multiply.restype = None
    return library
