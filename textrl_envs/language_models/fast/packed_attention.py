"""Attention of packed texts by a compiled loop, with gradients: no padding, and nothing is copied.

The loop (packed_attention.c) serves float32 on the CPU where there is a C compiler. It has a
derivative backwards alone, and that once: a second one is refused, as by all fast operations here.
Where a derivative forwards is asked for, as for the natural gradient, torch's attention serves.
"""

import ctypes
import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from textrl_envs.language_models.fast.compiled import compile_library
from textrl_envs.language_models.fast.threads import in_threads

__all__ = ["attend_packed"]

LANES = 16
"""Heads are a multiple of this wide."""
BLOCK = 32
"""As in packed_attention.c."""
WORK_PER_THREAD = 1 << 21
"""Multiplications that are worth a thread."""


def attend_packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: NDArray[np.int64],
    scaling: float | None = None,
) -> Tensor | None:
    """Returns causal attention within each text, [N, heads, d]; None where the loop cannot serve.

    Args:
        query: [heads, N, d], of any strides but the last.
        key: [kv heads, N, d], each for the same number of queries' heads.
        value: [kv heads, N, d].
        bounds: where each text begins in the long row, and N, int64 (texts + 1,).
        scaling: of the scores, or None for 1 / √d.
    """
    if not _can_serve(query, key, value):
        return None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    found: Tensor = _PackedAttention.apply(query, key, value, bounds, scale)  # type: ignore[no-untyped-call]
    return found


def _can_serve(*arrays: Tensor) -> bool:
    width = arrays[0].shape[-1]
    return (
        all(
            x.dtype == torch.float32
            and x.device.type == "cpu"
            and x.stride(-1) == 1
            and x.shape[-1] == width
            and forward_ad.unpack_dual(x).tangent is None  # type: ignore[no-untyped-call]
            for x in arrays
        )
        and width % LANES == 0
        and _library() is not None
    )


class _PackedAttention(torch.autograd.Function):
    """Keeps its arguments alone, and computes the scores again for the gradients."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bounds: NDArray[np.int64],
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.bounds, ctx.scale = bounds, scale
        heads, count, width = query.shape
        result = query.new_empty(count, heads, width)
        _run("forward", (query, key, value, result.transpose(0, 1)), bounds, scale)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        arguments = ctx.saved_tensors
        above = gradients[0].contiguous().transpose(0, 1)
        found = [x.new_empty(x.shape[1], x.shape[0], x.shape[2]).transpose(0, 1) for x in arguments]
        _run("backward", (*arguments, above, *found), ctx.bounds, ctx.scale)
        return (*found, None, None)


def _run(name: str, arrays: tuple[Tensor, ...], bounds: NDArray[np.int64], scale: float) -> None:
    """Computes all items, a text and a key's head each, shared among threads by their work."""
    (heads, _, width), kv_heads = arrays[0].shape, arrays[1].shape[0]
    lengths = np.diff(bounds)
    work = np.repeat(lengths * lengths, kv_heads).cumsum() * (heads // kv_heads * width)
    threads = min(torch.get_num_threads(), 1 + int(work[-1]) // WORK_PER_THREAD, len(work))
    shares = np.searchsorted(work, work[-1] * np.arange(1, threads) / threads, side="right")
    firsts = [0, *shares.tolist(), len(work)]
    # Keys and values turned, shares and slopes of a block of queries.
    longest = -(-int(lengths.max()) // LANES) * LANES
    scratch = arrays[0].new_empty(threads, 2 * (width + BLOCK) * longest)
    addresses = np.array([[x.data_ptr(), x.stride(0), x.stride(1)] for x in arrays])
    function = getattr(_library(), name)

    def run(part: int) -> None:
        function(
            addresses.ctypes.data, bounds.ctypes.data, scratch[part].data_ptr(),
            firsts[part], firsts[part + 1], kv_heads, heads // kv_heads, width, scale,
        )  # fmt: skip

    in_threads(run, threads)


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = compile_library("packed_attention")
    if library is not None:
        pointer, long = ctypes.c_void_p, ctypes.c_long
        for function in (library.forward, library.backward):
            function.argtypes = [*[pointer] * 3, *[long] * 5, ctypes.c_float]
            function.restype = None
    return library
