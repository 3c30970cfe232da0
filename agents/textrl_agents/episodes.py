"""Episodes: what a collector gathered, one row an episode, and what the updates read."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Episodes"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Episodes:
    """B episodes, right-padded. L tokens of text at most, T of response at most.

    Log-probabilities are in nats, rewards and values in units of the score. Whatever has the shape
    (B, T) is 0 where there is no response.
    """

    input_ids: Ints
    """Prompt and response, (B, L)."""
    attention_mask: NDArray[np.int8]
    """1 where there is text, (B, L)."""
    prompt_lengths: Ints
    """Tokens of each prompt, (B,)."""
    response_mask: NDArray[np.bool_]
    """True where there is response, EOS included, (B, T)."""
    log_probs: Floats
    """log π of each token when it was sampled, (B, T)."""
    ref_log_probs: Floats | None
    """log π_ref of each token, (B, T); None where no KL is charged."""
    values: Floats
    """The policy's value of the text before each token, (B, T)."""
    entropies: Floats
    """Entropy of the policy before each token, in nats, (B, T)."""
    task_rewards: Floats
    """What the environment paid for each token, without KL, (B, T)."""
    rewards: Floats
    """What the agent learns from: task reward minus β times the log-ratio, (B, T)."""
    bootstrap_values: Floats
    """Value of the text at the end, (B,): 0 where it was scored, V only where it was cut off."""
    prompt_index: Ints
    """Which prompt, (B,)."""
    finish_reason: Ints
    """`textrl_envs.core.FinishReason`, (B,)."""
    gold: Floats | None = None
    """What is really wanted, (B,), where the reward reports it as `gold`; nobody learns from it."""

    @classmethod
    def of_texts(
        cls,
        input_ids: Ints,
        prompt_lengths: Ints,
        lengths: Ints,
        *,
        response_columns: int | None = None,
        prompt_index: Ints | None = None,
    ) -> Self:
        """Returns texts that nobody has played: whatever a collector would record is 0.

        Args:
            input_ids: prompt and response, right-padded with 0, (B, L).
            prompt_lengths: tokens of each prompt, (B,).
            lengths: tokens of each response, (B,).
            response_columns: T; None takes the longest response.
            prompt_index: which prompt, (B,); None says 0 of all.
        """
        is_text = np.arange(input_ids.shape[1]) < (prompt_lengths + lengths)[:, None]
        columns = int(lengths.max()) if response_columns is None else response_columns
        mask = np.arange(columns) < lengths[:, None]
        blank, none = np.zeros(mask.shape), np.zeros(len(input_ids), np.int64)
        return cls(
            input_ids=input_ids,
            attention_mask=is_text.astype(np.int8),
            prompt_lengths=prompt_lengths,
            response_mask=mask,
            log_probs=blank,
            ref_log_probs=None,
            values=blank,
            entropies=blank,
            task_rewards=blank,
            rewards=blank,
            bootstrap_values=np.zeros(len(input_ids)),
            prompt_index=none if prompt_index is None else prompt_index,
            finish_reason=none,
        )

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def prompt_ids(self) -> Ints:
        """Prompts alone, (B, longest prompt), 0 behind them."""
        columns = np.arange(int(self.prompt_lengths.max()))
        ids = self.input_ids[:, : len(columns)]
        return np.where(columns < self.prompt_lengths[:, None], ids, 0)

    @property
    def response_ids(self) -> Ints:
        """Responses alone, (B, T), 0 behind them."""
        columns = np.minimum(self._response_columns(), self.input_ids.shape[1] - 1)
        return np.where(self.response_mask, np.take_along_axis(self.input_ids, columns, axis=1), 0)

    @property
    def lengths(self) -> Ints:
        """Tokens of each response, (B,)."""
        lengths: Ints = self.response_mask.sum(axis=1)
        return lengths

    @property
    def num_tokens(self) -> int:
        """M, the response tokens of all episodes."""
        return int(self.response_mask.sum())

    @property
    def scores(self) -> Floats:
        """Task reward of each episode, (B,)."""
        totals: Floats = self.task_rewards.sum(axis=1)
        return totals

    @property
    def returns(self) -> Floats:
        """Sum of `rewards` of each episode, (B,): the regularised return."""
        totals: Floats = self.rewards.sum(axis=1)
        return totals

    @property
    def kl(self) -> Floats:
        """Log π − log π_ref summed over each response, in nats, (B,); NaN without reference."""
        if self.ref_log_probs is None:
            return np.full(len(self), np.nan)
        totals: Floats = (self.log_probs - self.ref_log_probs).sum(axis=1)
        return totals

    def response_places(self) -> tuple[Ints, Ints]:
        """Returns row and column in `input_ids` of the M response tokens, row by row."""
        rows, _ = np.nonzero(self.response_mask)
        return rows, self._response_columns()[self.response_mask]

    def select(self, rows: Ints) -> Self:
        """Returns some of the episodes, without the columns that are padding in all of them."""
        text = int(self.attention_mask[rows].sum(axis=1).max())
        response = int(self.response_mask[rows].sum(axis=1).max())
        chosen: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None or value.ndim == 1:
                chosen[field.name] = value if value is None else value[rows]
            else:
                width = text if field.name in ("input_ids", "attention_mask") else response
                chosen[field.name] = value[rows, :width]
        return replace(self, **chosen)

    def joined(self, other: Self) -> Self:
        """Returns the rows of both, these first, padded to the longer."""
        joined: dict[str, Any] = {}
        for name, value in self.arrays().items():
            parts = [value, getattr(other, name)]
            if value.ndim == 2:
                width = max(part.shape[1] for part in parts)
                parts = [np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts]
            joined[name] = np.concatenate(parts)
        return replace(self, **joined)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns all fields by name, but those that are None."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    def _response_columns(self) -> Ints:
        return self.prompt_lengths[:, None] + np.arange(self.response_mask.shape[1])
