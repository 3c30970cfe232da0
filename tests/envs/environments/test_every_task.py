"""What holds for every task with a known optimum."""

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.envs.optimum.exact import EXACT, task_of
from textrl_envs.environments import TASKS, build_task
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum.mdp import check_prompts
from textrl_envs.registration import IDS

FIXED_LENGTH = ("textrl/Passcode-v0", "textrl/SumVerify-v0")
"""Their limit is that of an answer."""


def function_of(name: str) -> Callable[..., Any]:
    module, _, function = TASKS[IDS[name][0]].partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


@pytest.mark.parametrize("name", EXACT)
def test_prompts_are_words_of_the_vocabulary_and_tell_where_they_end(name: str) -> None:
    task = task_of(name, **({"price": 0.4} if "Safe" in name else {}))
    for text, ids, length in zip(
        task.prompts.texts, task.prompts.token_ids, task.prompts.lengths, strict=True
    ):
        assert task.tokenizer.decode(ids[:length]) == text
        assert task.tokenizer.pad_token_id not in ids[:length]
        assert task.tokenizer.eos_token_id not in ids[:length]
    check_prompts(task)


@pytest.mark.parametrize("name", EXACT)
def test_the_docstring_has_the_right_number_of_tokens_and_an_example_prompt(name: str) -> None:
    task = task_of(name)
    text = re.sub(r"\s+", " ", inspect.getdoc(function_of(name)) or "")
    counted = re.search(r"One of (\d+) tokens", text)
    if counted:  # of Passcode it depends on the parameters
        assert int(counted[1]) == task.vocabulary_size
    example = re.search(r'(?:A prompt such as|The prompt) "([^"]*)"', text)
    assert example
    assert example[1] in task.prompts.texts


@pytest.mark.parametrize("name", EXACT)
def test_an_unknown_parameter_is_refused_and_the_nearest_is_named(name: str) -> None:
    message = r"has no parameter 'kl_coeficient'\. Did you mean 'kl_coefficient'\?"
    with pytest.raises(InvalidInputError, match=message):
        gym.make(name, kl_coeficient=0.1)


@pytest.mark.parametrize("name", [name for name in EXACT if name not in FIXED_LENGTH])
@pytest.mark.parametrize("value", [0, -3, 2.5, "8", True])
def test_a_limit_that_is_no_positive_integer_is_refused(name: str, value: Any) -> None:
    task = IDS[name][0]
    with pytest.raises(InvalidInputError, match=f"max_new_tokens must be.*got {value!r}"):
        build_task(task, {"max_new_tokens": value})


@pytest.mark.parametrize("name", EXACT)
def test_a_coefficient_and_no_other_parameter_of_the_task_changes_with_it(name: str) -> None:
    changes: dict[str, Any] = {"price": 0.4} if "Safe" in name else {}
    one, other = task_of(name, **changes), task_of(name, kl_coefficient=0.3, **changes)
    assert other.kl_coefficient == 0.3
    assert one.prompts.texts == other.prompts.texts
    assert one.max_new_tokens == other.max_new_tokens
    for bad in (-0.1, float("inf"), "0.1"):
        with pytest.raises(InvalidInputError, match="kl_coefficient must be a number of 0 or more"):
            task_of(name, kl_coefficient=bad, **changes)


@pytest.mark.parametrize("name", EXACT)
def test_the_reference_gives_every_token_of_every_text_a_distribution(name: str) -> None:
    task = task_of(name, **({"price": 0.4} if "Safe" in name else {}))
    assert task.load_reference is not None
    reference = task.load_reference()
    assert reference.vocabulary_size == task.vocabulary_size
    ids = task.prompts.token_ids[:3, : task.prompts.lengths[:3].min()]
    log_probs = reference.next_log_probs(ids.astype(np.int64))
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, atol=1e-9)
