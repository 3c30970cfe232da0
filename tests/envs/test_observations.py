"""The two forms of an observation, and reading a batch of either, padded on either side."""

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from textrl_envs.errors import InvalidInputError
from textrl_envs.observations import observation_padding, observation_space, read_observation


def test_the_dict_space_has_token_ids_and_a_mask() -> None:
    space = observation_space(4, 10, "dict")
    assert isinstance(space, gym.spaces.Dict)
    assert space["input_ids"] == gym.spaces.Box(0, 9, (4,), np.int64)
    assert space["attention_mask"] == gym.spaces.Box(0, 1, (4,), np.int8)


def test_the_flat_space_allows_padding_of_minus_one() -> None:
    space = observation_space(4, 10, "flat")
    assert space == gym.spaces.Box(-1, 9, (4,), np.int64)


def test_an_unknown_form_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InvalidInputError, match=r"Unknown obs 'dcit'\. Did you mean 'dict'\?"):
        observation_space(4, 10, "dcit")  # type: ignore[arg-type]


def test_the_padding_is_minus_one_or_a_token_that_the_mask_hides() -> None:
    with_pad: Any = SimpleNamespace(pad_token_id=0, eos_token_id=1)
    without_pad: Any = SimpleNamespace(pad_token_id=None, eos_token_id=1)
    assert observation_padding(with_pad, "flat") == -1
    assert observation_padding(with_pad, "dict") == 0
    assert observation_padding(without_pad, "dict") == 1


def random_texts(rng: np.random.Generator, rows: int, width: int) -> list[list[int]]:
    """Returns texts of 1..width tokens; 0 is a token like any other."""
    lengths = rng.integers(1, width + 1, size=rows)
    return [rng.integers(9, size=length).tolist() for length in lengths]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("form", ["dict", "flat"])
def test_text_is_read_from_either_form_padded_on_either_side(side: str, form: str) -> None:
    rng = np.random.default_rng(0)
    texts = random_texts(rng, rows=50, width=7)
    ids, mask = np.full((50, 7), 3, np.int64), np.zeros((50, 7), np.int8)
    for row, text in enumerate(texts):
        place = slice(len(text)) if side == "right" else slice(7 - len(text), 7)
        ids[row, place], mask[row, place] = text, 1
    obs = {"input_ids": ids, "attention_mask": mask} if form == "dict" else np.where(mask, ids, -1)
    found, lengths = read_observation(obs)
    assert [row[:n].tolist() for row, n in zip(found, lengths, strict=True)] == texts


def test_text_between_paddings_is_read_too() -> None:
    ids, lengths = read_observation(np.array([[-1, 4, 5, -1]]))
    assert ids[0, : lengths[0]].tolist() == [4, 5]


def test_reading_leaves_the_observation_as_it_was() -> None:
    obs = np.array([[7, 8, -1], [-1, -1, 9]])
    before = obs.copy()
    read_observation(obs)
    np.testing.assert_array_equal(obs, before)


def test_a_row_without_text_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least one token; got a row without text"):
        read_observation(np.array([[1, 2], [-1, -1]]))


def test_a_mask_with_a_hole_is_refused() -> None:
    obs = {"input_ids": np.array([[1, 2, 3]]), "attention_mask": np.array([[1, 0, 1]])}
    with pytest.raises(InvalidInputError, match="contiguous in each row; got a mask with a hole"):
        read_observation(obs)


@pytest.mark.parametrize("form", ["dict", "flat"])
def test_an_id_below_0_is_refused(form: str) -> None:
    """An array of embeddings would take it from its end."""
    ids = np.array([[5, -2, 6]])
    obs = ids if form == "flat" else {"input_ids": ids, "attention_mask": np.ones((1, 3))}
    with pytest.raises(InvalidInputError, match="0 or more; got -2"):
        read_observation(obs)
