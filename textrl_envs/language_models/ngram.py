"""NGramModel: a table of log-probabilities. Small, exact, and free of torch."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError
from textrl_envs.observations import read_observation

__all__ = ["NGramModel"]


class NGramModel:
    """The next token depends on the last `order - 1` tokens alone.

    Args:
        table: log-probabilities in nats, float64, shape (V,) * order; the last axis is the next
            token and sums to 1 in probability. A bigram model has shape (V, V).

    Raises:
        InvalidInputError: axes of unequal length, or rows that are no distributions.

    >>> model = NGramModel.fit([[0, 1, 2], [0, 1, 1, 2]], vocabulary_size=3, order=2)
    >>> np.exp(model.next_log_probs(np.array([[0, 1, -1]]))).round(3)
    array([[0.   , 0.333, 0.666]])
    """

    def __init__(self, table: NDArray[np.float64]) -> None:
        self.table: NDArray[np.float64] = np.asarray(table, dtype=np.float64)
        if self.table.ndim < 2 or len(set(self.table.shape)) != 1:
            raise InvalidInputError(
                f"Expected a table of shape (V, V, ...), one axis a token; got {self.table.shape}."
            )
        if not np.allclose(np.exp(self.table).sum(axis=-1), 1, rtol=0, atol=1e-9):
            raise InvalidInputError(
                "Every row of the table must be a log-distribution summing to 1."
            )

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return int(self.table.shape[0])

    @property
    def order(self) -> int:
        """2 for a bigram model, 3 for a trigram model."""
        return self.table.ndim

    @classmethod
    def fit(
        cls,
        sequences: Iterable[Sequence[int]],
        *,
        vocabulary_size: int,
        order: int = 2,
        uniform_weight: float = 1e-3,
    ) -> "NGramModel":
        """Counts n-grams and mixes every row with a little of the uniform distribution.

        The mixture keeps every token possible, so that no log-ratio against this model is infinite.

        Args:
            sequences: token ids, each sequence with its start and its end.
            vocabulary_size: V.
            order: n, at least 2.
            uniform_weight: share of the uniform distribution, in (0, 1]. Contexts that never occur
                are uniform.
        """
        counts = np.zeros((vocabulary_size,) * order, np.float64)
        for sequence in sequences:
            for end in range(order, len(sequence) + 1):
                counts[tuple(sequence[end - order : end])] += 1
        totals = counts.sum(axis=-1, keepdims=True)
        weight = np.where(totals > 0, uniform_weight, 1.0)
        frequencies = counts / np.maximum(totals, 1)
        return cls(np.log((1 - weight) * frequencies + weight / vocabulary_size))

    @classmethod
    def load(cls, path: str | Path) -> "NGramModel":
        """Reads the table `log_probs` of a safetensors file."""
        from safetensors.numpy import load_file

        return cls(load_file(path)["log_probs"])

    def with_more_tokens(self, count: int, *, uniform_weight: float = 1e-3) -> "NGramModel":
        """Returns the model of a vocabulary with `count` more tokens, which hardly ever follow.

        Args:
            count: tokens to add behind those there are.
            uniform_weight: share of the uniform distribution that is mixed into every row.
                Contexts with a new token are uniform.
        """
        old, size = self.vocabulary_size, self.vocabulary_size + count
        table = np.full((size,) * self.order, 1 / size)
        known = (slice(old),) * (self.order - 1)
        table[known] = uniform_weight / size
        table[(*known, slice(old))] += (1 - uniform_weight) * np.exp(self.table)
        return NGramModel(np.log(table))

    def save(self, path: str | Path) -> None:
        """Writes the table to a safetensors file."""
        from safetensors.numpy import save_file

        save_file({"log_probs": self.table}, path)

    def next_log_probs(self, obs: Any) -> NDArray[np.float64]:  # noqa: ANN401
        """Returns the log-probabilities of all next tokens, in nats, shape (B, V)."""
        input_ids, lengths = read_observation(obs)
        return self._rows(input_ids, np.arange(len(lengths)), lengths - 1)

    def log_probs(self, obs: Any, actions: NDArray[np.integer[Any]]) -> NDArray[np.float64]:  # noqa: ANN401
        """Returns the log-probability of each action in each observation, in nats, shape (B,)."""
        rows = self.next_log_probs(obs)
        return rows[np.arange(len(rows)), np.asarray(actions)]

    def forget(self) -> None:
        """Does nothing: a table remembers nothing."""

    def log_probs_at(
        self,
        input_ids: NDArray[np.integer[Any]],
        attention_mask: NDArray[np.integer[Any]],
        places: tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]],
    ) -> NDArray[np.float64]:
        """Returns log p(. | tokens up to and with a place) for M places, shape (M, V), in nats."""
        return self._rows(input_ids, *places)

    def score(
        self, input_ids: NDArray[np.integer[Any]], attention_mask: NDArray[np.integer[Any]]
    ) -> NDArray[np.float64]:
        """Returns the log-probability of every token given those before it, shape (B, L), in nats.

        0 in column 0, which nothing precedes, and behind the text.
        """
        scores = np.zeros(np.shape(input_ids), np.float64)
        rows, columns = np.nonzero(np.asarray(attention_mask)[:, 1:])
        following = self._rows(input_ids, rows, columns)
        tokens = np.asarray(input_ids)[rows, columns + 1]
        scores[rows, columns + 1] = following[np.arange(len(rows)), tokens]
        return scores

    def _rows(
        self, ids: NDArray[Any], rows: NDArray[Any], ends: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Returns the table's rows for contexts that end at columns `ends`, shape (M, V).

        A context that reaches back beyond the text repeats its first token there.
        """
        backs = range(self.order - 2, -1, -1)
        context = tuple(ids[rows, np.maximum(ends - back, 0)] for back in backs)
        return self.table[context]  # type: ignore[no-any-return]
