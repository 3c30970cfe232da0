"""The two forms of an observation: a dict with a mask, and one flat array."""

from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError, nearest
from textrl_envs.tokenizers import Tokenizer

__all__ = [
    "ObsMode",
    "Observation",
    "observation_padding",
    "observation_space",
    "read_observation",
]

ObsMode = Literal["dict", "flat"]
Observation = dict[str, NDArray[Any]] | NDArray[np.int64]

FLAT_PADDING = -1
"""Stands behind the text in the flat form: no token has this id."""


def observation_space(length: int, vocabulary_size: int, mode: ObsMode) -> gym.Space[Any]:
    """Returns the space of one row of `length` tokens.

    Raises:
        InvalidInputError: an unknown mode.
    """
    shape, top = (length,), vocabulary_size - 1
    if mode == "flat":
        return gym.spaces.Box(FLAT_PADDING, top, shape, np.int64)
    if mode == "dict":
        return gym.spaces.Dict(
            {
                "input_ids": gym.spaces.Box(0, top, shape, np.int64),
                "attention_mask": gym.spaces.Box(0, 1, shape, np.int8),
            }
        )
    raise InvalidInputError(f"Unknown obs {mode!r}. {nearest(str(mode), ['dict', 'flat'])}")


def observation_padding(tokenizer: Tokenizer, mode: ObsMode) -> int:
    """Returns what stands behind the text: -1, or in the dict form an id that the mask hides."""
    if mode == "flat":
        return FLAT_PADDING
    pad = tokenizer.pad_token_id
    return tokenizer.eos_token_id if pad is None else pad


def _check_ids(input_ids: NDArray[np.int64], is_text: NDArray[np.bool_]) -> None:
    is_below = input_ids < 0
    if is_below.any() and (is_text & is_below).any():  # an embedding would take them from its end
        raise InvalidInputError(f"A token id must be 0 or more; got {input_ids[is_text].min()}.")


def read_observation(obs: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # noqa: ANN401
    """Reads a batch of observations of either form, padded on either side.

    Returns:
        input_ids: int64 (B, L), the text of every row moved to column 0.
        lengths: int64 (B,), tokens of text in each row.

    Raises:
        InvalidInputError: a row without text or with a hole in its mask, or an id below 0.

    >>> ids, lengths = read_observation(np.array([[7, 8, -1], [-1, -1, 9]]))
    >>> ids[:, 0], lengths
    (array([7, 9]), array([2, 1]))
    """
    if isinstance(obs, dict):
        input_ids = np.asarray(obs["input_ids"])
        is_text = np.asarray(obs["attention_mask"]) != 0
    else:
        input_ids = np.asarray(obs)
        is_text = input_ids != FLAT_PADDING
    _check_ids(input_ids, is_text)
    lengths = is_text.sum(axis=1)
    if not lengths.all():
        raise InvalidInputError(
            "Every observation needs at least one token; got a row without text."
        )
    columns = np.arange(input_ids.shape[1])
    if (is_text == (columns < lengths[:, None])).all():
        return input_ids, lengths
    first = is_text.argmax(axis=1)
    if (is_text != ((columns >= first[:, None]) & (columns < (first + lengths)[:, None]))).any():
        raise InvalidInputError("Text must be contiguous in each row; got a mask with a hole.")
    shifted = np.minimum(columns + first[:, None], input_ids.shape[1] - 1)
    return np.take_along_axis(input_ids, shifted, axis=1), lengths
