"""Whole texts without padding: Transformers' own forward over all tokens in one long row.

Everything in a transformer but attention treats each token by itself, and need not know that the
row is several texts. Attention is given by us, through Transformers' own interface: it looks at
each text alone, texts of like length side by side.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface

from textrl_envs.language_models.agreement import agrees
from textrl_envs.language_models.fast.linear import round_rows
from textrl_envs.language_models.fast.operations import changed_forward, changed_forwards
from textrl_envs.language_models.fast.packed_attention import attend_packed
from textrl_envs.language_models.fast.rows import lay, pick
from textrl_envs.language_models.fast.shared_prefix import SharedPrefix

__all__ = ["Packing", "packing_agrees", "read_packed"]

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

    Of tokens that several texts share, one stands for all, where that saves enough. On the CPU
    tokens stand behind them that nobody looks at, so that N is a round number.
    """

    rows: NDArray[np.int64]
    """The text of each token, (N,)."""
    columns: NDArray[np.int64]
    """Its place in that text, (N,)."""
    starts: NDArray[np.int64]
    """Where each text would begin in the long row if nothing were shared, (B,)."""
    bounds: NDArray[np.int64]
    """Where any text begins or ends then, rising from 0 to T."""
    buckets: tuple[_Bucket, ...]
    source: Tensor | None = None
    """Where each of the T tokens stands in the long row, int64 [T]; None where each has its own."""
    readers: Tensor | None = None
    """Which of the T tokens those in the long row are, int64 [N]."""

    @classmethod
    def of(
        cls,
        lengths: NDArray[np.int64],
        device: torch.device,
        texts: NDArray[np.int64] | None = None,
        multiplications: int = 0,
    ) -> "Packing":
        """Packs texts of these lengths, int64 (B,), 1 or more each.

        Args:
            lengths: of the texts.
            device: of the model.
            texts: token ids, right-padded, int64 (B, L), where tokens may be shared.
            multiplications: of the model, a token; 0 shares nothing.
        """
        order = np.argsort(lengths, kind="stable")
        rising = lengths[order]
        ends = rising.cumsum()
        starts = np.empty_like(lengths)
        starts[order] = ends - rising
        rows = np.repeat(order, rising)
        columns = np.arange(ends[-1]) - np.repeat(ends - rising, rising)
        packing = cls(rows, columns, starts, np.append(0, ends), _buckets(rising, device))
        shared = None
        if texts is not None:
            shared = SharedPrefix.of(texts[rows, columns], rows, columns, multiplications)
        return packing._rounded(device) if shared is None else packing._sharing(shared, device)

    def _sharing(self, shared: SharedPrefix, device: torch.device) -> "Packing":
        """Returns the same without the tokens that others stand for."""
        missing = _num_missing(len(shared.readers), device)
        readers = np.append(shared.readers, np.zeros(missing, np.int64))
        return dataclasses.replace(
            self,
            rows=self.rows[readers],
            columns=self.columns[readers],
            source=torch.from_numpy(shared.source).to(device),
            readers=torch.from_numpy(readers).to(device),
        )

    def _rounded(self, device: torch.device) -> "Packing":
        """Returns the same with one more text, which makes N a round number."""
        missing = _num_missing(len(self.rows), device)
        if not missing:
            return self
        none = np.zeros(missing, np.int64)
        return dataclasses.replace(
            self,
            rows=np.append(self.rows, none),
            columns=np.append(self.columns, none),
            bounds=np.append(self.bounds, self.bounds[-1] + missing),
            buckets=(*self.buckets, _bucket(np.array([missing]), device)),
        )

    def places(
        self,
        rows: NDArray[np.integer[Any]],
        columns: NDArray[np.integer[Any]],
        device: torch.device,
    ) -> Tensor:
        """Returns where tokens of the texts stand in the long row, (M,) and (M,) -> int64 [M]."""
        at = torch.from_numpy(self.starts[rows] + columns).to(device)
        return at if self.source is None else self.source[at]


def _buckets(rising: NDArray[np.int64], device: torch.device) -> tuple[_Bucket, ...]:
    """Divides texts of rising lengths into those that lie side by side."""
    buckets, first = [], 0
    while first < len(rising):
        last = int(np.searchsorted(rising, rising[first] * LENGTH_RATIO, side="right"))
        buckets.append(_bucket(rising[first:last], device))
        first = last
    return tuple(buckets)


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
        places: of the tokens in the long row, each once but for shared ones, int64 [M].
        is_checkpointed: see `fast_operations`.
    """
    device = next(trunk.parameters()).device
    tokens = torch.from_numpy(input_ids[packing.rows, packing.columns]).to(device)
    positions = torch.from_numpy(packing.columns).to(device)
    is_shared = packing.source is not None
    computed = _round_up(torch.unique(places) if is_shared else places, len(tokens))
    with _packed(trunk, computed, is_checkpointed=is_checkpointed):
        output = trunk(
            input_ids=tokens[None], position_ids=positions[None], use_cache=False, packing=packing
        )
    hidden: Tensor = output.last_hidden_state.squeeze(0)
    return hidden.index_select(0, places) if is_shared else pick(hidden, places)


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
            stack.enter_context(changed_forwards(trunk, again))
            if last is not None:
                at_places = functools.partial(_at_places, last.forward, places)
                stack.enter_context(changed_forward(last, at_places))
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
    if packing.source is not None:
        query, key, value = (_take(x, packing.source) for x in (query, key, value))
    found = attend_packed(query, key, value, packing.bounds, scaling)
    if found is None:
        found = _attend_in_buckets(query, key, value, packing.buckets, scaling)
    if packing.readers is not None:
        found = found.index_select(0, packing.readers)
    return found[None], None


def _take(x: Tensor, source: Tensor) -> Tensor:
    """Gives every token of every text its own, [heads, N, d] -> [heads, T, d]."""
    flat = x.transpose(0, 1).flatten(1).index_select(0, source)
    return flat.view(-1, x.shape[0], x.shape[2]).transpose(0, 1)


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
