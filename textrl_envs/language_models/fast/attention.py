"""Attention of few new tokens to the cache, and what writes them to it: compiled, or torch's own.

The loop (attention.c) serves float32 on the CPU where there is a C compiler, and reads the cache
about as fast as memory gives it. Everywhere else `scaled_dot_product_attention` does the same.
"""

import ctypes
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from numpy.typing import NDArray
from torch import Tensor

from textrl_envs.language_models.fast.compiled import compile_library
from textrl_envs.language_models.fast.threads import in_threads

__all__ = [
    "CompiledAppend",
    "CompiledAttention",
    "TorchAppend",
    "TorchAttention",
    "compile_kernel",
]

LONGEST_PROMPT = 256
"""With more new tokens a row, torch's attention, made for many queries, is faster."""
WORK_PER_THREAD = 1 << 21
"""Bytes of keys and values that are worth a thread."""


def compile_kernel(head_width: int) -> Any | None:  # noqa: ANN401 - a foreign library
    """Compiles the loops for heads of a width; returns None where that cannot be done."""
    library = compile_library("attention", HEAD_WIDTH=head_width)
    if library is None:
        return None
    pointer, long = ctypes.c_void_p, ctypes.c_long
    library.attend.argtypes = [pointer, long, *[pointer] * 6, *[long] * 5, ctypes.c_float]
    library.append.argtypes = [pointer, long, pointer, long, *[pointer] * 4, long, long]
    library.attend.restype = library.append.restype = None
    return library


class CompiledAppend:
    """Writes the keys and values of new tokens to the cache.

    Args:
        kernel: of `compile_kernel`.
        places: in (slots · columns), int64 (N,).
        sources: which of the new tokens goes to each, int64 (N,), or None: one after the other.
    """

    def __init__(
        self,
        kernel: Any,  # noqa: ANN401
        places: NDArray[np.int64],
        sources: NDArray[np.int64] | None = None,
    ) -> None:
        self._append, self._arrays = kernel.append, (sources, places)
        self._addresses = [None if x is None else x.ctypes.data for x in self._arrays]

    def __call__(self, key: Tensor, value: Tensor, keys: Tensor, values: Tensor) -> None:
        """[T, kv heads, d] twice, to caches [slots · columns, kv heads, d]."""
        _check_types(key, value, keys, values)
        width = keys.shape[1] * keys.shape[2]
        self._append(
            key.data_ptr(), key.stride(0), value.data_ptr(), value.stride(0), *self._addresses,
            keys.data_ptr(), values.data_ptr(), len(self._arrays[1]), width,
        )  # fmt: skip


class TorchAppend:
    """The same by torch, for any dtype on any device."""

    def __init__(self, places: Tensor, sources: Tensor | None = None) -> None:
        self._places, self._sources = places, sources

    def __call__(self, key: Tensor, value: Tensor, keys: Tensor, values: Tensor) -> None:
        """[T, kv heads, d] twice, to caches [slots · columns, kv heads, d]."""
        for new, cache in ((key, keys), (value, values)):
            chosen = new if self._sources is None else new[self._sources]
            cache.index_copy_(0, self._places, chosen)


class CompiledAttention:
    """Each new token by itself, over the columns of its row up to its own.

    Args:
        kernel: of `compile_kernel`.
        rows: the slot of each token, int64 (T,).
        positions: its place in its text, int64 (T,).
        num_columns: of the cache.
    """

    def __init__(
        self,
        kernel: Any,  # noqa: ANN401
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
        num_columns: int,
    ) -> None:
        self._attend, self._columns = kernel.attend, num_columns
        self._rows, self._lengths = np.ascontiguousarray(rows), positions + 1
        self._addresses = (self._rows.ctypes.data, self._lengths.ctypes.data)
        self._num_seen = int(self._lengths.sum())

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """[T, heads, d] and caches [slots · columns, kv heads, d] -> [T, heads · d]."""
        _check_types(query, keys, values)
        count, heads, d = query.shape
        kv_heads = keys.shape[1]
        work = 8 * self._num_seen * kv_heads * d  # bytes
        threads = min(torch.get_num_threads(), 1 + work // WORK_PER_THREAD, count)
        out, scores = (
            query.new_empty(count, heads * d),
            query.new_empty(threads, heads * self._columns),
        )

        def attend(part: int) -> None:
            self._attend(
                query.data_ptr(), query.stride(0), keys.data_ptr(), values.data_ptr(),
                *self._addresses, out.data_ptr(), scores[part].data_ptr(),
                count * part // threads, count * (part + 1) // threads,
                self._columns, kv_heads, heads // kv_heads, scaling,
            )  # fmt: skip

        in_threads(attend, threads)
        return out


def _check_types(*arrays: Tensor) -> None:
    """Stands between a wrong type and memory that is not ours.

    Raises:
        TypeError: other numbers than float32.
    """
    for array in arrays:
        if array.dtype != torch.float32:
            raise TypeError(f"The compiled loops take float32; got {array.dtype}.")


class TorchAttention:
    """The same by `scaled_dot_product_attention`: rows with one token, then rows with several.

    Args:
        rows: the slot of each token, int64 (T,), rising.
        positions: its place in its text, int64 (T,).
        num_columns: of the cache.
        cache: keys and values of all layers, [layers, 2, slots, columns, kv heads, d].
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
        num_columns: int,
        cache: Tensor,
    ) -> None:
        like, num_slots = cache, cache.shape[2]
        self._columns = num_columns
        slots, first, counts = np.unique(rows, return_index=True, return_counts=True)
        is_one = counts == 1
        self._parts = []
        if is_one.any():
            tokens, at = first[is_one], slots[is_one]
            # Where most rows have one, all are looked at, so that keys need not be gathered.
            everyone = np.arange(num_slots) if 2 * len(at) > num_slots else at
            places = np.zeros((len(everyone), 1), np.int64)
            places[np.searchsorted(everyone, at), 0] = positions[tokens]
            source = np.zeros(len(everyone), np.int64)
            source[np.searchsorted(everyone, at)] = tokens
            taken = np.searchsorted(everyone, at)
            self._parts.append(
                _Part(everyone, source[:, None], places, tokens, taken, num_slots, like)
            )
        if not is_one.all():
            width = int(counts.max())
            many = ~is_one
            # Aligned on the right; what stands before a row's first token repeats it.
            offsets = np.maximum(np.arange(width) - (width - counts[many, None]), 0)
            source = first[many, None] + offsets
            is_real = np.arange(width) >= width - counts[many, None]
            self._parts.append(
                _Part(
                    slots[many],
                    source,
                    positions[source],
                    source[is_real],
                    np.flatnonzero(is_real),
                    num_slots,
                    like,
                )
            )

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """[T, heads, d] and caches [slots · columns, kv heads, d] -> [T, heads · d]."""
        out = query.new_empty(len(query), query.shape[1] * query.shape[2])
        keys, values = (torch.unflatten(c, 0, (-1, self._columns)) for c in (keys, values))
        for part in self._parts:
            part.attend(query, keys, values, scaling, out)
        return out


class _Part:
    """Rows that have the same number of new tokens, real or repeated."""

    def __init__(
        self,
        slots: NDArray[np.int64],
        source: NDArray[np.int64],
        positions: NDArray[np.int64],
        tokens: NDArray[np.int64],
        taken: NDArray[np.int64],
        num_slots: int,
        like: Tensor,
    ) -> None:
        def tensor(array: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(like.device)

        self._slots = slice(None) if len(slots) == num_slots else tensor(slots)
        self._source = tensor(source)
        self._tokens, self._taken = tensor(tokens), tensor(taken)
        self._end = int(positions.max()) + 1
        column = torch.arange(self._end, device=like.device)
        hidden = column > tensor(positions)[..., None]  # [B, w, end]
        zero = torch.zeros((), dtype=like.dtype, device=like.device)
        self._bias = torch.where(hidden, -torch.inf, zero)[:, None]

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, scaling: float, out: Tensor
    ) -> None:
        q = query[self._source].transpose(1, 2)  # [B, heads, w, d]
        k, v = (cache[self._slots, : self._end].transpose(1, 2) for cache in (keys, values))
        groups = q.shape[1] // k.shape[1]
        found = F.scaled_dot_product_attention(
            q, k, v, self._bias, scale=scaling, enable_gqa=groups > 1
        )
        flat = found.transpose(1, 2).reshape(-1, out.shape[1])
        out.index_copy_(0, self._tokens, flat.index_select(0, self._taken))
