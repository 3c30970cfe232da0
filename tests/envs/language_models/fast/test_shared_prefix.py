"""SharedPrefix: every beginning that occurs is read once, and every token knows by which."""

import numpy as np
import pytest
from numpy.typing import NDArray

from textrl_envs.language_models.fast.shared_prefix import LEAST_SAVED, SharedPrefix

Texts = list[list[int]]
Flat = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def lay_out(texts: Texts, starts: list[int] | None = None) -> Flat:
    """Tokens, rows and positions of texts that are read from a place on, at first from 0."""
    starts = starts or [0] * len(texts)
    lengths = [len(text) - start for text, start in zip(texts, starts, strict=True)]
    tokens = [t for text, start in zip(texts, starts, strict=True) for t in text[start:]]
    positions = [np.arange(n) + start for n, start in zip(lengths, starts, strict=True)]
    rows = np.repeat(np.arange(len(texts)), lengths)
    return np.array(tokens, np.int64), rows, np.concatenate(positions)


def find(texts: Texts, starts: list[int] | None = None) -> SharedPrefix | None:
    return SharedPrefix.of(*lay_out(texts, starts), LEAST_SAVED)


@pytest.mark.parametrize("seed", range(100))
def test_every_beginning_is_read_once(seed: int) -> None:
    """A token's numbers depend on all tokens up to it: the beginnings are what must be equal."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(2, size=rng.integers(1, 7)).tolist() for _ in range(rng.integers(2, 9))]
    _, rows, positions = lay_out(texts)
    pairs = zip(rows, positions, strict=True)
    beginnings = [tuple(texts[row][: position + 1]) for row, position in pairs]
    shared = find(texts)
    if shared is None:
        assert len(set(beginnings)) == len(beginnings)
        return
    assert len(shared.readers) == len(set(beginnings))
    assert [beginnings[i] for i in shared.readers[shared.source]] == beginnings


@pytest.mark.parametrize("seed", range(20))
def test_what_is_read_of_a_text_is_its_end_so_that_what_is_before_lies_in_one_row(
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    texts = [rng.integers(2, size=rng.integers(1, 9)).tolist() for _ in range(6)]
    shared = find(texts)
    assert shared is not None
    _, rows, positions = lay_out(texts)
    assert np.all(np.diff(shared.readers) > 0)
    for row in np.unique(rows[shared.readers]):
        read = positions[shared.readers][rows[shared.readers] == row]
        assert read.tolist() == list(range(read[0], len(texts[row])))


def test_a_group_of_responses_reads_its_prompt_once() -> None:
    shared = find([[7, 8, 9, 1], [5, 6, 2], [7, 8, 9, 2, 3], [7, 8, 9, 1], [5, 6, 3]])
    assert shared is not None
    assert len(shared.readers) == 4 + 3 + 2 + 0 + 1


def test_texts_that_are_read_on_share_nothing() -> None:
    """What stands before their new tokens is not known here."""
    texts = [[1, 2, 3], [1, 2, 3], [1, 2, 3]]
    assert find(texts, [1, 1, 1]) is None
    shared = find(texts, [0, 1, 0])
    assert shared is not None
    assert shared.readers.tolist() == [0, 1, 2, 3, 4]


def test_a_small_share_is_not_worth_the_copies() -> None:
    """Such as the BOS with which all texts of many models begin."""
    texts = [[0, *range(20 * i + 1, 20 * i + 21)] for i in range(4)]
    assert find(texts) is None  # three of 84 tokens
    assert find([text[:9] for text in texts]) is not None


def test_ids_below_0_are_as_different_as_others() -> None:
    """They are refused by the embedding, if one is read that is no token."""
    shared = find([[1, 2, 3, 4], [1, 2, -1, 4], [1, 2, -1, 5]])
    assert shared is not None
    assert shared.readers.tolist() == [0, 1, 2, 3, 6, 7, 11]


def test_little_is_not_worth_the_search() -> None:
    flat = lay_out([[1, 2, 3]] * 4)  # nine tokens might be saved
    assert SharedPrefix.of(*flat, LEAST_SAVED // 9) is None
    assert SharedPrefix.of(*flat, LEAST_SAVED // 9 + 1) is not None
    assert find([[1, 2, 3], [2, 2, 3]]) is None
    assert find([[1, 2, 3]]) is None
