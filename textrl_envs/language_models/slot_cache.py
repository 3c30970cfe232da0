"""A key-value cache with a slot a row, each row at its own position.

Transformers' own caches write one column for the whole batch, so that rows which begin anew must
wait for each other. Here every row has a slot of its own, and begins anew whenever it likes.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

__all__ = ["SlotCache"]


class _SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one attention layer, shape (slots, heads, columns, head width)."""

    is_sliding = False

    def __init__(self, cache: "SlotCache") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        slots, columns = self._cache.num_slots, self._cache.num_columns
        self.keys = key_states.new_zeros(slots, key_states.shape[1], columns, key_states.shape[3])
        self.values = value_states.new_zeros(
            slots, value_states.shape[1], columns, value_states.shape[3]
        )
        self.is_initialized = True

    def update(
        self,
        key_states: Tensor,  # [B, heads, q, head width]
        value_states: Tensor,
        *args: Any,  # noqa: ANN401 - Transformers' own signature
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:
        """Writes q new columns a row, and returns all columns that any row may look at."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        rows, columns, end = self._cache.rows, self._cache.columns, self._cache.end
        self.keys[rows[:, None], :, columns] = key_states.transpose(1, 2)
        self.values[rows[:, None], :, columns] = value_states.transpose(1, 2)
        # The first slots in order are the common case, and a view; others must be gathered.
        at = slice(len(rows)) if self._cache.is_in_order else rows
        return self.keys[at, :, :end], self.values[at, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.end, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self._cache.num_columns


class SlotCache(Cache):
    """Cache of `num_slots` rows by `num_columns` tokens, and one spare column for padding.

    Args:
        num_layers: attention layers of the model.
        num_slots: rows.
        num_columns: the longest text a row may hold.
    """

    def __init__(self, num_layers: int, num_slots: int, num_columns: int) -> None:
        self.num_slots = num_slots
        self.num_columns = num_columns + 1
        self.rows = torch.zeros(0, dtype=torch.long)
        self.columns = torch.zeros(0, 0, dtype=torch.long)
        self.end = 0
        self.is_in_order = False
        super().__init__(layers=[_SlotLayer(self) for _ in range(num_layers)])

    def aim(self, rows: Tensor, positions: Tensor, *, end: int, is_in_order: bool) -> Tensor:
        """Says where the next forward writes, and returns its attention mask.

        Args:
            rows: the slots of the batch, int64 (B,), rising.
            positions: the position of each new token in its row, int64 (B, q); -1 is padding.
            end: columns 0..end-1 may be looked at.
            is_in_order: `rows` are 0, 1, 2, ...

        Returns:
            Bool (B, 1, q, end): a token looks at its row's columns up to its own position.
        """
        self.rows = rows
        self.columns = torch.where(positions < 0, self.num_columns - 1, positions)
        self.end = end
        self.is_in_order = is_in_order
        # Padding looks at column 0, since a softmax over nothing is NaN; nobody reads it.
        seen = positions.clamp(min=0)
        return torch.arange(end, device=rows.device) <= seen[:, None, :, None]
