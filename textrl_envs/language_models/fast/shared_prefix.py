"""Texts that begin alike, as the K responses to one prompt do: what they share is read once.

What a causal model makes of a token depends on the tokens up to it alone: in all texts that begin
with the same tokens it is the same. So are its derivatives, which are summed over the texts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SharedPrefix"]

LEAST_SAVED = 1 << 28
"""Multiplications that are worth the search and the copies: two milliseconds on one core."""


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
        if np.count_nonzero(reader != np.arange(len(reader))) * multiplications < LEAST_SAVED:
            return None
        readers, source = np.unique(reader, return_inverse=True)
        return cls(readers, source)


def _find_readers(
    tokens: NDArray[np.int64], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Returns for each token the one that is read in its place, or itself, (T,)."""
    columns = np.arange(int(lengths.max()))
    is_text = columns < lengths[:, None]
    places = np.where(is_text, starts[:, None] + columns, 0)  # [texts, columns]
    texts = np.where(is_text, tokens[places], -1)
    # In the order of their bytes, texts with the same beginning are neighbours.
    as_bytes = texts.view(np.dtype((np.void, texts.itemsize * len(columns))))
    order = as_bytes.ravel().argsort(kind="stable")
    differs = texts[order[1:]] != texts[order[:-1]]
    shared = np.where(differs.any(axis=1), differs.argmax(axis=1), len(columns))
    shared = np.append(0, shared)  # with the neighbour before
    # The last text, up to this one, that does not share this column with its own neighbour.
    index = np.arange(len(order))[:, None]
    leader = np.maximum.accumulate(np.where(columns >= shared[:, None], index, 0), axis=0)
    reader = np.arange(len(tokens))
    ordered, is_token = places[order], is_text[order]
    reader[ordered[is_token]] = ordered[leader, columns][is_token]
    return reader
