"""The dynamics, once: N rows of text that grow a token a step. The environments are views of it.

start(rows, prompt_index)   writes prompts
append(tokens, rows)        writes a token a row and finds out which rows end
score(rows)                 calls the reward on the rows that ended
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError
from textrl_envs.rewards.base import score_responses
from textrl_envs.task import Task
from textrl_envs.tokenizers import DecodedTexts

__all__ = ["FinishReason", "TextCore"]


class FinishReason(IntEnum):
    """Why a response ended."""

    RUNNING = 0
    STOP = 1
    """An EOS token or a stop text."""
    LENGTH = 2
    """max_new_tokens were written. This is part of the task: the text is scored as it stands."""


class TextCore:
    """N rows over preallocated arrays.

    Args:
        task: prompts, limits and reward.
        num_rows: N.
        padding: what stands in `input_ids` behind the text.
    """

    def __init__(self, task: Task, num_rows: int, *, padding: int) -> None:
        self.task = task
        self.num_rows = num_rows
        self._padding = padding
        length = task.max_tokens
        self.input_ids: NDArray[np.int64] = np.full((num_rows, length), padding, np.int64)
        """Prompt, then response so far, then padding; shape (N, L)."""
        self.attention_mask: NDArray[np.int8] = np.zeros((num_rows, length), np.int8)
        """1 where there is text, shape (N, L)."""
        self.lengths: NDArray[np.int64] = np.zeros(num_rows, np.int64)
        self.prompt_lengths: NDArray[np.int64] = np.zeros(num_rows, np.int64)
        self.prompt_index: NDArray[np.int64] = np.zeros(num_rows, np.int64)
        self.finish_reason: NDArray[np.int64] = np.zeros(num_rows, np.int64)
        self._limits: NDArray[np.int64] = np.zeros(num_rows, np.int64)
        # One-dimensional views and the start of each row: a flat index writes faster than a pair.
        self._flat_ids = self.input_ids.reshape(-1)
        self._flat_mask = self.attention_mask.reshape(-1)
        self._offsets = np.arange(num_rows, dtype=np.int64) * length
        self._eos = task.tokenizer.eos_token_id
        self._stop_window = max((len(text.encode()) for text in task.stop), default=0) + 4

    def start(self, rows: NDArray[np.int64], prompt_index: NDArray[np.int64]) -> None:
        """Begins a new episode in each of `rows` with the prompt of the given index."""
        prompts = self.task.prompts
        width = prompts.token_ids.shape[1]
        lengths = prompts.lengths[prompt_index]
        is_prompt = np.arange(width) < lengths[:, None]
        self.input_ids[rows] = self._padding
        self.input_ids[rows, :width] = np.where(
            is_prompt, prompts.token_ids[prompt_index], self._padding
        )
        self.attention_mask[rows] = 0
        self.attention_mask[rows, :width] = is_prompt
        self.lengths[rows] = self.prompt_lengths[rows] = lengths
        self._limits[rows] = lengths + self.task.max_new_tokens
        self.prompt_index[rows] = prompt_index
        self.finish_reason[rows] = FinishReason.RUNNING

    def append(self, tokens: NDArray[np.int64], rows: NDArray[np.int64] | None = None) -> Any:  # noqa: ANN401
        """Appends a token to each of `rows` (None: to all).

        Args:
            tokens: shape (len(rows),), ids in 0..V-1; checked by the caller.
            rows: rows that are running, in rising order.

        Returns:
            The rows that ended with this token, int64, in rising order.
        """
        at: Any = slice(None) if rows is None else rows
        flat_index = self._offsets[at] + self.lengths[at]
        self._flat_ids[flat_index] = tokens
        self._flat_mask[flat_index] = 1
        self.lengths[at] += 1
        is_stop = tokens == self._eos
        if self.task.stop:
            is_stop |= self._meets_stop_text(np.arange(self.num_rows)[at])
        is_end = is_stop | (self.lengths[at] == self._limits[at])
        if not is_end.any():
            return _NO_ROWS
        ended = np.flatnonzero(is_end) if rows is None else rows[is_end]
        # A text that stops with its very last token has stopped: the limit did not cut it.
        self.finish_reason[ended] = np.where(
            is_stop[is_end], FinishReason.STOP, FinishReason.LENGTH
        )
        return ended

    def score(
        self, rows: NDArray[np.int64], generators: Sequence[np.random.Generator] = ()
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        """Returns what is paid for rows that ended, and what else the reward reports of them.

        Args:
            rows: that ended, B of them.
            generators: one for each of the N rows. Those of rows that ended give one number each
                where the task has noise, and are not touched where it has none.

        Raises:
            RewardError: the reward raised, or gave other than finite numbers.
        """
        table = self.task.prompts
        index = self.prompt_index[rows].tolist()
        responses = [self.response_ids(row) for row in rows]
        scores, extras = score_responses(
            self.task.reward,
            [table.texts[i] for i in index],
            DecodedTexts(self.task.tokenizer, responses),
            prompt_ids=[self.prompt_ids(row) for row in rows],
            response_ids=responses,
            metadata=[table.metadata[i] for i in index],
        )
        if self.task.noise is None:
            return scores, extras
        uniforms = np.array([generators[row].random() for row in rows.tolist()])
        return self.task.noise(scores, uniforms), {"noiseless_score": scores, **extras}

    def prompt_ids(self, row: int) -> NDArray[np.int64]:
        """Returns a copy of the row's prompt, without padding."""
        return self.input_ids[row, : self.prompt_lengths[row]].copy()

    def response_ids(self, row: int) -> NDArray[np.int64]:
        """Returns a copy of the row's response so far, EOS included, without padding."""
        return self.input_ids[row, self.prompt_lengths[row] : self.lengths[row]].copy()

    def render(self, row: int) -> str:
        """Returns the row's prompt and response so far as text."""
        prompt = self.task.prompts.texts[self.prompt_index[row]]
        response = self.task.tokenizer.decode(self.response_ids(row), skip_special_tokens=True)
        reason = FinishReason(int(self.finish_reason[row]))
        return f"[prompt] {prompt}\n[response] {response}\n[{reason.name.lower()}]"

    def check_prompt_index(self, prompt_index: Any, count: int) -> NDArray[np.int64]:  # noqa: ANN401
        """Returns `options["prompt_index"]` as an array of `count` indices.

        Raises:
            InvalidInputError: not one integer or `count` integers in 0..P-1.
        """
        index = np.asarray(prompt_index)
        number = len(self.task.prompts)
        fits = index.dtype.kind in "iu" and index.shape in [(), (count,)]
        if not fits or not ((index >= 0) & (index < number)).all():
            raise InvalidInputError(
                f"options['prompt_index'] must be an integer, or {count} of them, "
                f"in 0..{number - 1}; got {prompt_index!r}."
            )
        return np.broadcast_to(index.astype(np.int64), count)

    def _meets_stop_text(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tells whether the newest tokens complete a stop text.

        Only a window is decoded: a token holds at least one byte of text, special tokens aside.
        """
        starts = np.maximum(self.prompt_lengths[rows], self.lengths[rows] - self._stop_window)
        tails = (
            self.task.tokenizer.decode(self.input_ids[row, start : self.lengths[row]])
            for row, start in zip(rows, starts, strict=True)
        )
        return np.array([any(text in tail for text in self.task.stop) for tail in tails], np.bool_)


_NO_ROWS: NDArray[np.int64] = np.empty(0, np.int64)
