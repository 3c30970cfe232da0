"""PrefixReader: a Transformers trunk that remembers what it has read, row by row.

The cache is a memo of a pure function of the observation, never state: a row that continues what
it remembers costs one token, a row asked again costs nothing, and any other row is read afresh.
"""

import contextlib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.fast.decode import LeanTrunk
from textrl_envs.language_models.slot_cache import SlotCache
from textrl_envs.observations import read_observation

__all__ = ["PrefixReader", "weights_version"]


ROOM = 32
"""The cache has a multiple of so many columns."""

WINDOW_NAMES = ("sliding_window", "window_size", "attention_window_size")
"""What configs call the reach of an attention that does not see the whole text."""


def weights_version(parameters: Iterable[nn.Parameter]) -> tuple[int, ...]:
    """Returns numbers that change whenever a weight is written in place.

    torch counts such writes for each tensor; a step of an optimiser is one, so is loading. Writes
    through `.data` are not counted, and parameters that take the place of others are not seen:
    call `forget()` after them.
    """
    return tuple(parameter._version for parameter in parameters)


def _count_fused_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Counts what an optimiser has written by a fused step: torch does not."""
    for group in optimizer.param_groups:
        if group.get("fused"):
            torch.autograd.graph.increment_version(group["params"])


register_optimizer_step_post_hook(_count_fused_step)


class PrefixReader:
    """Gives the last hidden state of every row's text.

    Args:
        trunk: a Transformers decoder without its head, such as `GPT2Model`.
        use_cache: remember keys and values; False reads every text afresh.
        use_fast_path: read on by `LeanTrunk` where it knows the model; False takes Transformers'
            own forward. The numbers agree to rounding.
    """

    def __init__(
        self, trunk: nn.Module, *, use_cache: bool = True, use_fast_path: bool = True
    ) -> None:
        self._trunk = trunk
        self.use_cache = use_cache
        self.use_fast_path = use_fast_path
        self._weights_seen: tuple[int, ...] = ()
        self.version = 0
        """Changes whenever any row's answer may have changed."""
        self.stamps: NDArray[np.int64] = np.zeros(0, np.int64)
        """The version at which each row's answer changed last, a slot each."""
        # A text longer than a sliding window is read afresh: the slots keep no window.
        windows = [getattr(trunk.config, name, None) for name in WINDOW_NAMES]
        self.window = min((w for w in windows if isinstance(w, int) and w > 0), default=math.inf)
        """The reach of the attention, in tokens."""
        self.forget()

    def forget(self) -> None:
        """Drops everything remembered. Called by itself when the weights have changed."""
        self._parameters = tuple(self._trunk.parameters())  # walking the modules is slow
        self._cache: SlotCache | None = None
        self._lean: LeanTrunk | None = None
        self._ids: NDArray[np.int64] = np.zeros((0, 0), np.int64)
        self._lengths: NDArray[np.int64] = np.zeros(0, np.int64)
        self._hidden: Tensor | None = None
        self.version += 1
        self.stamps = np.zeros(0, np.int64)

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy begins with: everything but what is remembered."""
        kept = ("_trunk", "use_cache", "use_fast_path", "window", "version", "_weights_seen")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget()

    @torch.no_grad()
    def read(self, obs: Any) -> Tensor:  # noqa: ANN401 - either form of an observation
        """Returns the hidden state of the last token of each row, shape (B, H).

        Args:
            obs: a batch of observations; row i is remembered in slot i.

        Raises:
            InvalidInputError: a text longer than the model's positions.
        """
        input_ids, lengths = read_observation(obs)
        self.check_length(int(lengths.max()))
        if self._trunk.training:
            self._trunk.eval()  # dropout would make the answer random
        if not self.use_cache or input_ids.shape[1] > self.window:
            self.version += 1
            self.stamps = np.full(len(lengths), self.version)
            return self._read_afresh(input_ids, lengths)
        return self._read_on(input_ids, lengths)

    def _read_on(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> Tensor:
        self._notice_new_weights()
        self._make_room(*input_ids.shape)
        known = self._common_prefix(input_ids, lengths)
        is_unchanged = (known == lengths) & (self._lengths[: len(lengths)] == lengths)
        # The last token is always read: its hidden state is the answer, and none is kept.
        known = np.minimum(known, lengths - 1)
        new = lengths - known
        pending = np.flatnonzero(~is_unchanged)
        # Until all is read, nothing behind it is known: reading may be interrupted.
        self._lengths[pending] = known[pending]
        if self._lean is not None and pending.size:
            rows = np.repeat(pending, new[pending])
            ends = new[pending].cumsum()
            # Of each row the last new tokens, in order.
            positions = lengths[rows] - np.repeat(ends, new[pending]) + np.arange(len(rows))
            with _without_autocast(self._device.type):
                hidden = self._lean.read(input_ids[rows, positions], rows, positions)
            self._keep(pending, hidden)
        elif pending.size:
            self._read_on_plainly(pending, known, input_ids, lengths)
        self._ids[pending, : input_ids.shape[1]] = input_ids[pending]
        self._lengths[pending] = lengths[pending]
        assert self._hidden is not None
        return self._hidden[: len(lengths)]

    def _read_on_plainly(
        self,
        pending: NDArray[np.int64],
        known: NDArray[np.int64],
        input_ids: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        """Reads on by Transformers' own forward: rows with one new token, then those with more."""
        is_one = lengths[pending] - known[pending] == 1
        one, many = pending[is_one], pending[~is_one]
        if 2 * len(one) > len(lengths):
            # Most rows take a token: let all take one, so that the cache need not be gathered. It
            # changes nothing in a row that is asked again, and `many` then overwrites its own.
            one = np.arange(len(lengths))
        for rows in (one, many):
            if rows.size:
                start = lengths - 1 if rows is one else known
                self._keep(rows, self._read_rows(rows, input_ids, start, lengths))

    def _keep(self, rows: NDArray[np.int64], hidden: Tensor) -> None:
        """Remembers the answers of some rows."""
        self.version += 1
        self.stamps[rows] = self.version
        if len(rows) == len(self._lengths):
            self._hidden = hidden
            return
        if self._hidden is None:
            self._hidden = hidden.new_zeros(len(self._lengths), hidden.shape[-1])
        self._hidden = self._hidden.index_copy(0, torch.from_numpy(rows).to(hidden.device), hidden)

    def _read_rows(
        self,
        rows: NDArray[np.int64],
        input_ids: NDArray[np.int64],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> Tensor:
        """Reads the tokens start..length of each row; returns the last hidden states, [B, H]."""
        assert self._cache is not None
        width = int((lengths - starts)[rows].max())
        # Padding is on the left, so that the last column is the last token of every row.
        positions = lengths[rows, None] - width + np.arange(width)  # [B, width]
        is_new = positions >= starts[rows, None]
        tokens = input_ids[rows[:, None], np.maximum(positions, 0)]
        device = self._device
        slots = torch.from_numpy(rows).to(device)
        places = torch.from_numpy(np.where(is_new, positions, -1)).to(device)
        mask = self._cache.aim(
            slots,
            places,
            end=int(lengths[rows].max()),
            is_in_order=int(rows[-1]) == len(rows) - 1,
        )
        if self._trunk.config._attn_implementation == "eager":  # type: ignore[union-attr]
            mask = _additive(mask, self._parameters[0].dtype)
        output = self._trunk(
            input_ids=torch.from_numpy(tokens).to(device),
            position_ids=places.clamp(min=0),
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state[:, -1]
        return hidden

    def _read_afresh(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> Tensor:
        width = int(lengths.max())
        # What stands behind the text may be no token at all: -1 in the flat form.
        is_text = np.arange(width) < lengths[:, None]
        tokens = torch.from_numpy(np.where(is_text, input_ids[:, :width], 0)).to(self._device)
        ends = torch.from_numpy(lengths - 1).to(self._device)
        # Right padding lies behind every token that is read, so the causal mask is mask enough.
        hidden: Tensor = self._trunk(input_ids=tokens, use_cache=False).last_hidden_state
        return hidden[torch.arange(len(ends), device=self._device), ends]

    def _common_prefix(
        self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Returns how many tokens of each row stand in the cache already, shape (B,)."""
        count, width = input_ids.shape
        differs = self._ids[:count, :width] != input_ids
        first = np.where(differs.any(axis=1), differs.argmax(axis=1), width)
        known: NDArray[np.int64] = np.minimum(np.minimum(first, lengths), self._lengths[:count])
        return known

    def _make_room(self, num_rows: int, num_columns: int) -> None:
        """Takes a larger cache, empty, where a batch is larger than any before."""
        slots, columns = self._ids.shape
        if num_rows <= slots and num_columns <= columns:
            return
        slots, columns = max(slots, num_rows), max(columns, _rounded(num_columns))
        if self.use_fast_path and LeanTrunk.supports(self._trunk):
            if self._lean is None:
                self._lean = LeanTrunk(self._trunk, slots)
            self._lean.make_room(slots, columns)
        else:
            num_layers: int = self._trunk.config.num_hidden_layers  # type: ignore[assignment, union-attr]
            self._cache = SlotCache(num_layers, slots, columns)
        self._ids = np.full((slots, columns), -1, np.int64)
        self._lengths = np.zeros(slots, np.int64)
        self.stamps = np.zeros(slots, np.int64)
        self._hidden = None

    def _notice_new_weights(self) -> None:
        weights = weights_version(self._parameters)
        if weights != self._weights_seen:
            self.forget()
            self._weights_seen = weights

    def check_length(self, length: int) -> None:
        """Raises InvalidInputError if the model has fewer positions than that."""
        config = self._trunk.config
        limit = getattr(config, "max_position_embeddings", None)
        if isinstance(limit, int) and length > limit:
            raise InvalidInputError(
                f"The text has {length} tokens; the model has {limit} positions. "
                "Lower max_new_tokens, or shorten the prompts."
            )

    @property
    def _device(self) -> torch.device:
        return next(self._trunk.parameters()).device


def _without_autocast(device: str) -> contextlib.AbstractContextManager[None]:
    """Within it torch computes in the weights' own type: what is remembered has that type."""
    if not torch.is_autocast_enabled(device):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


def _rounded(num_columns: int) -> int:
    """Leaves texts room to grow, so that a batch of slightly longer ones needs no new cache."""
    return -(-num_columns // ROOM) * ROOM


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turns True and False into 0 and the lowest number, which eager attention adds."""
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill(~mask, torch.finfo(dtype).min)
