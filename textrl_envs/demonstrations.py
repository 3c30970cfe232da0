"""Demonstrations: responses that an agent may learn from, beside what it tries itself."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Demonstrations"]


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """D responses.

    Args:
        prompt_index: the prompt of each, int64 (D,).
        response_ids: D arrays of token ids, EOS included.
    """

    prompt_index: NDArray[np.int64]
    response_ids: tuple[NDArray[np.int64], ...]

    def __len__(self) -> int:
        return len(self.response_ids)
