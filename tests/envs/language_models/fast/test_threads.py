"""Loops of C in several threads, small products in one."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from textrl_envs.language_models.causal import CausalLanguageModel
from textrl_envs.language_models.fast import decode
from textrl_envs.language_models.fast.linear import LinearWeights
from textrl_envs.language_models.fast.threads import SMALL_PRODUCT, in_threads, threads_for

BuildLM = Callable[..., Any]


def test_each_part_is_done_once_and_the_first_here() -> None:
    done: dict[int, int] = {}

    def work(part: int) -> None:
        done[part] = threading.get_ident()

    in_threads(work, 3)
    assert sorted(done) == [0, 1, 2]
    assert done[0] == threading.get_ident()


def test_what_fails_in_a_thread_is_heard_of() -> None:
    def work(part: int) -> None:
        if part == 2:
            raise ValueError("part 2")

    with pytest.raises(ValueError, match="part 2"):
        in_threads(work, 3)


def test_nothing_is_left_running_where_the_first_part_fails() -> None:
    """The others write into arrays of the caller."""
    done = []

    def work(part: int) -> None:
        if part == 0:
            raise KeyboardInterrupt
        time.sleep(0.05)
        done.append(part)

    with pytest.raises(KeyboardInterrupt):
        in_threads(work, 3)
    assert sorted(done) == [1, 2]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("multiplications", "expected"), [(1, 1), (SMALL_PRODUCT, 1), (SMALL_PRODUCT + 1, 2)]
)
def test_small_products_have_one_thread(multiplications: int, expected: int) -> None:
    with threads_for(multiplications):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_an_error_gives_the_threads_back() -> None:
    with pytest.raises(ValueError, match="within"), threads_for(1):
        raise ValueError("within")
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_small_step_asks_for_no_more_than_one_thread(
    monkeypatch: pytest.MonkeyPatch, build_lm: BuildLM
) -> None:
    """Each that torch would share out: the norms of the trunk and all products, the last too."""
    seen: dict[str, set[int]] = {}

    def watch(cls: type) -> None:
        original = cls.__call__

        def watched(self: Any, *given: Any) -> Any:
            seen.setdefault(cls.__name__, set()).add(torch.get_num_threads())
            return original(self, *given)

        monkeypatch.setattr(cls, "__call__", watched)

    watch(decode._Norm)
    watch(LinearWeights)
    model = CausalLanguageModel(build_lm("GPT2"), device="cpu")
    seen.clear()  # what it is tried on when it is loaded
    model.next_log_probs({"input_ids": np.array([[5, 6]] * 4), "attention_mask": np.ones((4, 2))})
    assert seen == {"_Norm": {1}, "LinearWeights": {1}}
