"""Texts that begin alike, as the K responses to one prompt do: what they share is read once.

What a causal model makes of a token depends on the tokens up to it alone: in all texts that begin
with the same tokens it is the same. The gradients that reach it from each text are summed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SharedPrefix"]

LEAST_SAVED = 1 << 28
"""Multiplications that are worth the search: two milliseconds on one core."""
LEAST_SHARE = 1 / 16
"""Of the tokens: every layer copies what it makes of those that are read to all."""


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """Which D of the T tokens of some texts are read, and by which of them each is."""

    readers: NDArray[np.int64]
    """The tokens that are read, rising, (D,)."""
    source: NDArray[np.int64]
    """Where among them the one stands that is the same as each token, (T,)."""

    @classmethod
    def of(
        cls,
        tokens: NDArray[np.int64],
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
        multiplications: int,
    ) -> "SharedPrefix | None":
        """Finds what texts share; returns None where too little would be saved.

        Args:
            tokens: token ids, (T,).
            rows: the text of each; tokens of a text stand together, (T,).
            positions: places in the texts, rising by one in each. A text that is read on, from a
                place behind its beginning, shares nothing. (T,).
            multiplications: of the model, a token.
        """
        if len(tokens) * multiplications < LEAST_SAVED:
            return None
        starts = np.flatnonzero(np.append(True, rows[1:] != rows[:-1]))
        lengths = np.diff(np.append(starts, len(rows)))
        is_whole = positions[starts] == 0
        if np.count_nonzero(is_whole) < 2:
            return None
        reader = _find_readers(tokens, starts[is_whole], lengths[is_whole])
        saved = np.count_nonzero(reader != np.arange(len(reader)))
        if saved * multiplications < LEAST_SAVED or saved < LEAST_SHARE * len(tokens):
            return None
        readers, source = np.unique(reader, return_inverse=True)
        return cls(readers, source)


def _find_readers(
    tokens: NDArray[np.int64], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Returns for each token the one that is read in its place, or itself, (T,)."""
    reader, texts = np.arange(len(tokens)), np.arange(len(starts))
    ids = tokens - tokens.min()
    size, column = int(ids.max()) + 1, 0
    # Texts of a group have all tokens before this column in common.
    group = np.zeros(len(texts), np.int64)
    while len(texts) > 1:
        places = starts[texts] + column
        _, first, group = np.unique(
            group * size + ids[places], return_index=True, return_inverse=True
        )
        reader[places] = places[first][group]
        if len(first) == len(texts):
            break  # from here on each is alone
        column += 1
        goes_on = lengths[texts] > column
        texts, group = texts[goes_on], group[goes_on]
    return reader
