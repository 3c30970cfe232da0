"""What counts as an action; the environments' tests ask the same through `step`."""

from typing import Any

import numpy as np
import pytest

from textrl_envs.actions import read_action, read_actions
from textrl_envs.errors import InvalidInputError


@pytest.mark.parametrize("action", [0, 9, np.int32(9), np.array(9, np.uint8), [9], [[9]]])
def test_one_token_id_is_read_whatever_its_shape(action: Any) -> None:
    token = read_action(action, 10)
    assert token.dtype == np.int64
    assert token.tolist() == [int(np.max(action))]


@pytest.mark.parametrize("action", [10, -1, np.uint64(2**64 - 1), 2**80])
def test_a_token_id_outside_the_vocabulary_is_refused(action: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"token id, 0\.\.9; got|one token id, an integer"):
        read_action(action, 10)


def test_reading_leaves_the_callers_array_alone() -> None:
    actions = np.array([3, 4], np.int64)
    tokens = read_actions(actions, 2, 10)
    assert tokens.tolist() == actions.tolist() == [3, 4]
    one = np.array([5])
    read_action(one, 10)[0] = 0
    assert one.tolist() == [5]


@pytest.mark.parametrize("actions", [[0, 10], [-1, 0], np.array([0, 2**64 - 1], np.uint64)])
def test_one_of_many_outside_the_vocabulary_is_refused(actions: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"Actions must be token ids in 0\.\.9; got"):
        read_actions(actions, 2, 10)


@pytest.mark.parametrize("actions", [[1], [1, 2, 3], [[1, 2]], [1.0, 2.0], [True, False], []])
def test_other_than_one_integer_a_row_is_refused(actions: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"Expected 2 token ids, integers of shape \(2,\)"):
        read_actions(actions, 2, 10)
