"""What counts as an action, checked alike by the environments and by the KL wrappers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError

__all__ = ["read_action", "read_actions"]


def read_action(action: Any, vocabulary_size: int) -> NDArray[np.int64]:  # noqa: ANN401
    """Returns one token id as int64 (1,).

    Raises:
        InvalidInputError: no integer, or none of 0..V-1.
    """
    token = np.asarray(action)
    if token.dtype.kind not in "iu" or token.size != 1:
        raise InvalidInputError(f"The action must be one token id, an integer; got {action!r}.")
    if not 0 <= int(token.item()) < vocabulary_size:
        raise InvalidInputError(
            f"The action must be a token id, 0..{vocabulary_size - 1}; got {action}."
        )
    return token.reshape(1).astype(np.int64)


def read_actions(actions: Any, count: int, vocabulary_size: int) -> NDArray[np.int64]:  # noqa: ANN401
    """Returns N token ids as int64 (N,).

    Raises:
        InvalidInputError: not N integers, or one outside 0..V-1.
    """
    tokens = np.asarray(actions)
    if tokens.shape != (count,) or tokens.dtype.kind not in "iu":
        raise InvalidInputError(
            f"Expected {count} token ids, integers of shape ({count},); got "
            f"{tokens.dtype} of shape {tokens.shape}."
        )
    tokens = tokens.astype(np.int64, copy=False)
    # Seen as unsigned, a negative id is a huge one: one comparison finds both kinds.
    if tokens.view(np.uint64).max() >= vocabulary_size:
        raise InvalidInputError(
            f"Actions must be token ids in 0..{vocabulary_size - 1}; got "
            f"{tokens.min()}..{tokens.max()}."
        )
    return tokens
