"""The one place where rewards are called: what it accepts, and what it refuses."""

import re
from typing import Any

import numpy as np
import pytest

from textrl_envs.errors import RewardError
from textrl_envs.rewards.base import score_responses

PROMPTS, RESPONSES = ["p0", "p1", "p2"], ["r0", "r1", "r2"]


def score(output: Any, count: int = 3) -> Any:
    """Passes a reward's output through the check."""

    def given(prompts: Any, responses: Any, **more: Any) -> Any:
        if isinstance(output, Exception):
            raise output
        return output

    ids = [np.array([i]) for i in range(count)]
    return score_responses(
        given,
        PROMPTS[:count],
        RESPONSES[:count],
        prompt_ids=ids,
        response_ids=ids,
        metadata=[{}] * count,
    )


@pytest.mark.parametrize(
    "output",
    [
        [1, 2.5, True],
        (1, 2.5, True),
        np.array([1, 2.5, 1], np.float32),
        [np.float64(1), np.float32(2.5), np.int8(1)],
    ],
)
def test_any_sequence_of_numbers_is_a_score(output: Any) -> None:
    scores, extras = score(output)
    assert scores.dtype == np.float64
    assert scores.tolist() == [1.0, 2.5, 1.0]
    assert extras == {}


@pytest.mark.parametrize("count", [1, 2])
def test_a_tuple_of_numbers_is_a_score_whatever_its_length(count: int) -> None:
    scores, extras = score((1.5,) * count, count)
    assert scores.tolist() == [1.5] * count
    assert extras == {}


def test_a_torch_tensor_is_a_score() -> None:
    import torch

    assert score(torch.tensor([1.0, 2.0, 3.0]))[0].tolist() == [1.0, 2.0, 3.0]


def test_further_numbers_are_checked_and_handed_on() -> None:
    scores, extras = score(([1, 2, 3], {"length": [4, 5, 6]}))
    assert scores.tolist() == [1.0, 2.0, 3.0]
    assert {key: (x.dtype, x.tolist()) for key, x in extras.items()} == {
        "length": (np.float64, [4.0, 5.0, 6.0])
    }


def test_an_exception_names_reward_prompt_response_and_cause() -> None:
    with pytest.raises(RewardError, match=r"'given' raised ZeroDivisionError: oh") as caught:
        score(ZeroDivisionError("oh"))
    assert "prompt 'p0', response 'r0' and 2 others" in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_names_its_own_response(bad: float) -> None:
    message = f"'given' must return finite numbers; got 'score' {bad}; prompt 'p1', response 'r1'."
    with pytest.raises(RewardError, match=re.escape(message)):
        score([0.0, bad, bad])


def test_a_further_number_that_is_not_finite_is_refused() -> None:
    with pytest.raises(RewardError, match="got 'length' nan; prompt 'p2', response 'r2'"):
        score(([0, 0, 0], {"length": [0, 0, float("nan")]}))


@pytest.mark.parametrize(
    ("output", "shape"),
    [
        ([1.0, 2.0], r"\(2,\)"),
        ([[1.0], [2.0], [3.0]], r"\(3, 1\)"),
        (0.5, r"\(\)"),
        ([], r"\(0,\)"),
    ],
)
def test_other_than_one_number_a_response_is_refused(output: Any, shape: str) -> None:
    message = rf"one 'score' a response, shape \(3,\); got {shape}; prompt 'p0'"
    with pytest.raises(RewardError, match=message):
        score(output)


@pytest.mark.parametrize("output", [None, ["a", "b", "c"], [[1], [1, 2], [3]], {"a": 1}])
def test_what_is_no_number_is_refused(output: Any) -> None:
    with pytest.raises(RewardError, match="must return one number a response as 'score'; got"):
        score(output)


def test_a_tensor_that_carries_gradients_is_refused_or_read_but_no_foreign_error() -> None:
    import torch

    try:
        scores, _ = score(torch.tensor([1.0, 2.0, 3.0], requires_grad=True))
    except RewardError as error:
        assert "'given'" in str(error)  # noqa: PT017 - either outcome will do
    else:
        assert scores.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "key", ["score", "finish_reason", "prompt_index", "log_ratio", "final_obs", "episode"]
)
def test_further_numbers_may_not_take_a_name_that_means_something(key: str) -> None:
    # Above all "score": it would replace the score itself, in silence.
    with pytest.raises(RewardError, match=key):
        score(([1, 2, 3], {key: [7, 8, 9]}))


def test_long_texts_are_cut_in_messages() -> None:
    def broken(prompts: Any, responses: Any, **more: Any) -> Any:
        raise ValueError("no")

    ids = [np.array([1])]
    with pytest.raises(RewardError) as caught:
        score_responses(
            broken, ["p" * 9999], ["r" * 9999], prompt_ids=ids, response_ids=ids, metadata=[{}]
        )
    assert len(str(caught.value)) < 1000


def test_an_instance_is_named_by_its_class() -> None:
    class MyModel:
        def __call__(self, prompts: Any, responses: Any, **more: Any) -> Any:
            raise ValueError("no")

    ids = [np.array([1])]
    with pytest.raises(RewardError, match="Reward 'MyModel' raised ValueError: no"):
        score_responses(MyModel(), ["p"], ["r"], prompt_ids=ids, response_ids=ids, metadata=[{}])
