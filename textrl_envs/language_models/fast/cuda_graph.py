"""The commonest step of generation, one new token in every slot, as a CUDA graph.

Such a step is a few hundred small kernels, which a GPU finishes sooner than Python starts them.
Captured once, they start as one; every shape and address in them must then stay what it was.
"""

import functools
import warnings
import weakref
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["OneTokenAttention", "StepGraphs"]

BUCKET = 64
"""A graph looks at a multiple of so many columns, so that few graphs serve all lengths."""
WARM_UPS = 3
"""Steps before a capture: libraries choose their kernels and take their memory in them."""

Step = Callable[[Tensor, Tensor, int], Tensor]
"""tokens [B], positions [B], number of columns -> hidden states [B, H]; `LeanTrunk.step`."""

_not_capturable: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class OneTokenAttention:
    """A new token in every slot, over the first columns of its own, without any synchronisation.

    Args:
        positions: of the new tokens, int64 [B], on the device; slot i holds token i.
        num_columns: of the cache.
        num_seen: columns that are looked at; what lies behind a position is hidden.
        dtype: of queries and keys.
    """

    def __init__(
        self, positions: Tensor, num_columns: int, num_seen: int, dtype: torch.dtype
    ) -> None:
        self._columns, self._seen = num_columns, num_seen
        hidden = torch.arange(num_seen, device=positions.device) > positions[:, None]
        bias = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
        self._bias = bias.masked_fill_(hidden, -torch.inf)[:, None, None]  # [B, 1, 1, seen]

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """[B, heads, d] and caches [slots · columns, kv heads, d] -> [B, heads · d]."""
        # The heads that share a key are queries to one head: no key is repeated.
        q = torch.unflatten(query, 1, (keys.shape[1], -1))  # [B, kv heads, group, d]
        k, v = (
            torch.unflatten(cache, 0, (-1, self._columns))[:, : self._seen].transpose(1, 2)
            for cache in (keys, values)
        )
        return F.scaled_dot_product_attention(q, k, v, self._bias, scale=scaling).flatten(1)


class StepGraphs:
    """A step's graphs over one cache, one for each number of columns looked at.

    They are captured when first needed, and again when a weight was written: what was captured
    reads the weights, and copies of them, where they lay. A new cache needs a new object.

    Args:
        trunk: whose step it is.
        num_slots: B, the rows of the cache.
        num_columns: its columns.
    """

    def __init__(self, trunk: nn.Module, num_slots: int, num_columns: int) -> None:
        # No reference to the step, whose owner holds this object: a cycle would keep the cache.
        self._trunk, self._columns = trunk, num_columns
        self._weights = tuple(trunk.parameters())
        self._slots = np.arange(num_slots)
        # Tokens and positions, where the graphs read them.
        self._inputs = torch.zeros(2, num_slots, dtype=torch.int64, device=self._weights[0].device)
        self._forget()

    def _forget(self) -> None:
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._version = -1

    def takes(self, rows: NDArray[np.int64]) -> bool:
        """Tells whether these rows, int64 (T,), are all slots, once each, and graphs work here."""
        is_step = len(rows) == len(self._slots) and bool((rows == self._slots).all())
        return is_step and self._trunk not in _not_capturable

    def read(
        self, step: Step, tokens: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> Tensor | None:
        """Returns step(tokens, positions), [B, H]; None where it cannot be captured.

        Args:
            step: the same function in every call.
            tokens: the new token of each slot, (B,).
            positions: its place in its text, (B,).
        """
        self._notice_new_weights()
        self._inputs.copy_(torch.from_numpy(np.stack([tokens, positions])), non_blocking=True)
        num_seen = min(-(-(int(positions.max()) + 1) // BUCKET) * BUCKET, self._columns)
        if num_seen not in self._graphs:
            try:
                self._graphs[num_seen] = self._capture(step, num_seen)
            except RuntimeError as error:
                self._give_up(error)
                return None
        graph, hidden = self._graphs[num_seen]
        graph.replay()
        return hidden.clone()  # the next replay overwrites it

    def _notice_new_weights(self) -> None:
        version = sum(weight._version for weight in self._weights)  # each can only grow
        if version != self._version:
            self._forget()
            self._version = version

    def _capture(self, step: Step, num_seen: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Records a step over the static inputs; returns its graph and where its result lies."""
        device, (tokens, positions) = self._inputs.device, self._inputs
        run = functools.partial(step, tokens, positions, num_seen)
        # Later graphs of this cache reuse the memory of the first: one alone runs at a time.
        pool = next((earlier.pool() for earlier, _ in self._graphs.values()), None)
        # A capture that fails leaves its stream the current one; the outer context takes it back.
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)):
            stream, graph = _side_stream(device), torch.cuda.CUDAGraph()
            _warm_up(run, stream)
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                hidden = run()
        return graph, hidden

    def _give_up(self, error: RuntimeError) -> None:
        self._forget()
        _not_capturable.add(self._trunk)
        warnings.warn(
            f"A step of {type(self._trunk).__name__} cannot be captured as a CUDA graph ({error}): "
            "its kernels are started one by one from now on, which is right but slower.",
            stacklevel=4,
        )


def _warm_up(run: Callable[[], Tensor], stream: torch.cuda.Stream) -> None:
    """Runs a step on another stream, where it writes into the cache what the replay will."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(stream)


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Returns one stream for all captures: cuBLAS keeps a workspace for every stream it has met."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
