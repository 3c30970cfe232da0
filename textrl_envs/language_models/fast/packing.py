"""Whole texts without padding: Transformers' own forward over all tokens in one long row.

Everything in a transformer but attention treats each token by itself, and need not know that the
row is several texts. Attention is given by us, through Transformers' own interface: it looks at
each text alone, texts of like length side by side.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.activations import NewGELUActivation
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from textrl_envs.language_models.agreement import agrees
from textrl_envs.language_models.fast.gelu import gelu_tanh
from textrl_envs.language_models.fast.linear import linear, round_rows
from textrl_envs.language_models.fast.packed_attention import attend_packed
from textrl_envs.language_models.fast.rows import lay, pick

__all__ = ["Packing", "fast_operations", "packing_agrees", "read_packed"]

NAME = "textrl_packed"
LENGTH_RATIO = 1.5
"""Texts side by side differ in length by this factor at most."""
UNKNOWN = ("softcap", "position_bias", "s_aux", "cache")
"""What some models' attention takes and this one does not know."""


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Texts of like length, one behind the other in the long row."""

    num_texts: int
    width: int
    places: Tensor | None
    """Where each token stands in (texts · width); None where no text is padded."""
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Packing:
    """How B right-padded texts stand in one long row: shortest first.

    On the CPU one more text of any tokens stands behind them, so that N is a round number.
    """

    rows: NDArray[np.int64]
    """The text of each token, (N,)."""
    columns: NDArray[np.int64]
    """Its place in that text, (N,)."""
    starts: NDArray[np.int64]
    """Where each text begins in the long row, (B,)."""
    bounds: NDArray[np.int64]
    """Where any text begins or ends there, rising from 0 to N."""
    buckets: tuple[_Bucket, ...]

    @classmethod
    def of(cls, lengths: NDArray[np.int64], device: torch.device) -> "Packing":
        """Packs texts of these lengths, int64 (B,), 1 or more each."""
        order = np.argsort(lengths, kind="stable")
        rising = lengths[order]
        ends = rising.cumsum()
        starts = np.empty_like(lengths)
        starts[order] = ends - rising
        rows = np.repeat(order, rising)
        columns = np.arange(ends[-1]) - np.repeat(ends - rising, rising)
        buckets, first = [], 0
        while first < len(rising):
            last = int(np.searchsorted(rising, rising[first] * LENGTH_RATIO, side="right"))
            buckets.append(_bucket(rising[first:last], device))
            first = last
        bounds = np.append(0, ends)
        missing = _num_missing(len(rows), device)
        if missing:
            bounds = np.append(bounds, len(rows) + missing)
            buckets.append(_bucket(np.array([missing]), device))
            rows, columns = (np.append(x, np.zeros(missing, x.dtype)) for x in (rows, columns))
        return cls(rows, columns, starts, bounds, tuple(buckets))


def _num_missing(count: int, device: torch.device) -> int:
    """Returns how many rows a round number lacks; on a GPU any number will do."""
    return round_rows(count) - count if device.type == "cpu" else 0


def _bucket(lengths: NDArray[np.int64], device: torch.device) -> _Bucket:
    """Lays texts of rising lengths side by side."""
    count, width, total = len(lengths), int(lengths[-1]), int(lengths.sum())
    places = None
    if lengths[0] < width:
        padded = np.arange(width) < lengths[:, None]
        places = torch.from_numpy(np.flatnonzero(padded)).to(device)
    return _Bucket(count, width, places, total)


def read_packed(
    trunk: nn.Module,
    input_ids: NDArray[np.int64],
    packing: Packing,
    places: Tensor,
    *,
    is_checkpointed: bool = False,
) -> Tensor:
    """Returns the hidden states of M tokens, [M, H].

    Args:
        trunk: a Transformers decoder without its head.
        input_ids: right-padded, int64 (B, L).
        packing: of their lengths.
        places: of the tokens in the long row, each once, int64 [M].
        is_checkpointed: see `fast_operations`.
    """
    device = next(trunk.parameters()).device
    tokens = torch.from_numpy(input_ids[packing.rows, packing.columns]).to(device)
    positions = torch.from_numpy(packing.columns).to(device)
    computed = _round_up(places, len(tokens))
    with _packed(trunk, computed, is_checkpointed=is_checkpointed):
        output = trunk(
            input_ids=tokens[None], position_ids=positions[None], use_cache=False, packing=packing
        )
    return pick(output.last_hidden_state.squeeze(0), places)


def _round_up(places: Tensor, count: int) -> Tensor:
    """Adds other places of a row of `count` tokens until there is a round number of them."""
    missing = _num_missing(len(places), places.device)
    if not missing:
        return places
    is_other = torch.ones(count, dtype=torch.bool)
    is_other[places] = False
    return torch.cat([places, is_other.nonzero()[:missing, 0]])


def packing_agrees(trunk: nn.Module, vocabulary_size: int) -> bool:
    """Tells whether a model read without padding says what it says text by text."""
    if getattr(trunk.config, "_attn_implementation", None) != "sdpa":
        return False
    ids = np.random.default_rng(0).integers(vocabulary_size, size=(3, 6))
    lengths = np.array([6, 2, 5])
    device = next(trunk.parameters()).device
    packing = Packing.of(lengths, device)
    places = np.arange(1, len(packing.rows), 2)
    with torch.no_grad():
        padded = trunk(input_ids=torch.from_numpy(ids).to(device), use_cache=False)
        try:
            packed = read_packed(trunk, ids, packing, torch.from_numpy(places).to(device))
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
            return False  # a forward that knows neither our attention nor its arguments
    rows, columns = packing.rows[places], packing.columns[places]
    expected = padded.last_hidden_state[rows, columns]
    return agrees(packed, expected)


@contextlib.contextmanager
def _packed(trunk: nn.Module, places: Tensor, *, is_checkpointed: bool = False) -> Iterator[None]:
    config: Any = trunk.config
    before = config._attn_implementation
    config._attn_implementation = NAME
    again = functools.partial(_packed, trunk, places) if is_checkpointed else None
    last = _last_feed_forward(trunk)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_changed_forwards(trunk, again))
            if last is not None:
                at_places = functools.partial(_at_places, last.forward, places)
                stack.enter_context(_changed_forward(last, at_places))
            yield
    finally:
        config._attn_implementation = before


def _last_feed_forward(trunk: Any) -> Any | None:  # noqa: ANN401
    """Returns the feed-forward part of the last block, whose results nobody looks at but the head.

    It treats each token by itself, and need not be computed where no token is asked for.
    """
    blocks = getattr(trunk, "h", None) or getattr(trunk, "layers", None)
    return getattr(blocks[-1], "mlp", None) if blocks else None


def _at_places(forward: Callable[[Tensor], Tensor], places: Tensor, x: Tensor) -> Tensor:
    """Computes some rows of [1, N, H]; the others are 0."""
    found = forward(pick(x.squeeze(0), places)[None]).squeeze(0)
    return lay(found, places, x.shape[1])[None]


def fast_operations(
    trunk: nn.Module, *, is_checkpointed: bool = False
) -> contextlib.AbstractContextManager[None]:
    """Within it, linear layers and GELU are computed by faster functions; nothing else changes.

    Args:
        trunk: whose layers.
        is_checkpointed: its blocks keep their inputs alone, and compute the rest again for the
            gradients, by the same functions.
    """
    again = functools.partial(fast_operations, trunk) if is_checkpointed else None
    return _changed_forwards(trunk, again)


@contextlib.contextmanager
def _changed_forwards(trunk: nn.Module, again: Callable[[], Any] | None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for module in trunk.modules():
            fast: Any = FASTER.get(type(module))
            # What somebody has put on a module himself stays.
            if fast is not None and "forward" not in vars(module):
                stack.enter_context(_changed_forward(module, functools.partial(fast, module)))
            elif again is not None and isinstance(module, GradientCheckpointingLayer):
                forward = functools.partial(_checkpointed, module.forward, again)
                stack.enter_context(_changed_forward(module, forward))
        yield


@contextlib.contextmanager
def _changed_forward(module: Any, forward: Callable[..., Any]) -> Iterator[None]:  # noqa: ANN401
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _checkpointed(
    forward: Callable[..., Any],
    again: Callable[[], Any],
    *args: Any,  # noqa: ANN401
    **kwargs: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    return checkpoint(
        forward,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (contextlib.nullcontext(), again()),
        **kwargs,
    )


def _linear(module: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    return linear(x, module.weight, module.bias)


def _conv1d(module: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    return linear(x, module.weight.T, module.bias)


def _gelu_tanh(_: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    return gelu_tanh(x)


FASTER = {
    nn.Linear: _linear,
    Conv1D: _conv1d,  # GPT-2's linear layer, its weight [in, out]
    NewGELUActivation: _gelu_tanh,  # eight operations in Transformers
}


def _packed_attention(
    module: Any,  # noqa: ANN401 - an attention layer of Transformers
    query: Tensor,  # [1, heads, N, d]
    key: Tensor,  # [1, kv heads, N, d]
    value: Tensor,
    attention_mask: Any,  # noqa: ANN401
    *,
    packing: Packing,
    scaling: float | None = None,
    **kwargs: Any,  # noqa: ANN401
) -> tuple[Tensor, None]:
    """Causal attention within each text, as Transformers' attention interface wants it."""
    for name in UNKNOWN:
        if kwargs.get(name) is not None:
            raise ValueError(f"Packed attention does not know {name}.")
    # Not query[0]: its gradient would be copied among zeros.
    query, key, value = (x.squeeze(0) for x in (query, key, value))
    found = attend_packed(query, key, value, packing.bounds, scaling)
    if found is None:
        found = _attend_in_buckets(query, key, value, packing.buckets, scaling)
    return found[None], None


def _attend_in_buckets(
    query: Tensor, key: Tensor, value: Tensor, buckets: tuple[_Bucket, ...], scaling: float | None
) -> Tensor:
    """[heads, N, d] and twice [kv heads, N, d] -> [N, heads, d]."""
    groups = len(query) // len(key)
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=0) for x in (key, value))
    sizes = [bucket.num_tokens for bucket in buckets]
    parts = [torch.split(x.transpose(0, 1), sizes) for x in (query, key, value)]
    found = [
        _attend(bucket, q, k, v, scaling) for bucket, q, k, v in zip(buckets, *parts, strict=True)
    ]
    return torch.cat(found) if len(found) > 1 else found[0]


def _attend(
    bucket: _Bucket, query: Tensor, key: Tensor, value: Tensor, scaling: float | None
) -> Tensor:
    """[n, heads, d] thrice -> [n, heads, d]."""
    q, k, v = (_pad(x, bucket).transpose(1, 2) for x in (query, key, value))
    found = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
    flat = found.transpose(1, 2).reshape(-1, *query.shape[1:])
    return flat if bucket.places is None else pick(flat, bucket.places)


def _pad(x: Tensor, bucket: _Bucket) -> Tensor:
    """[n, heads, d] -> [texts, width, heads, d]."""
    count = bucket.num_texts * bucket.width
    laid = x if bucket.places is None else lay(x, bucket.places, count)
    return laid.reshape(bucket.num_texts, bucket.width, *x.shape[1:])


AttentionInterface.register(NAME, _packed_attention)
