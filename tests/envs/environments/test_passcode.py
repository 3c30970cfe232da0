"""Passcode: one string, and a closed form."""

import itertools
import math
from typing import Any

import pytest

from tests.envs.environments.responses import score
from textrl_envs.environments import build_task
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import optimum
from textrl_envs.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("passcode", {})


def test_the_code_opens_the_door_and_nothing_else(task: Task) -> None:
    assert task.prompts.texts == ["code :"]
    assert score(task, "3 1 4 1") == 1
    assert score(task, "3 1 4 <eos>") == 0
    assert score(task, "3 1 4 2") == 0
    assert score(task, "1 3 1 4") == 0
    assert score(task, "<eos>") == 0


@pytest.mark.parametrize(("length", "digits"), [(1, 2), (2, 10), (3, 3), (8, 2)])
def test_the_code_has_its_length_and_no_digit_too_many(length: int, digits: int) -> None:
    task = build_task("passcode", {"length": length, "digits": digits})
    assert task.max_new_tokens == length
    assert task.vocabulary_size == digits + 4
    code = [str(digit % digits) for digit in (3, 1, 4, 1, 5, 9, 2, 6)[:length]]
    alphabet = [str(digit) for digit in range(digits)]
    texts = itertools.product(alphabet, repeat=length)
    assert [text for text in texts if score(task, " ".join(text)) == 1] == [tuple(code)]


@pytest.mark.parametrize(
    ("length", "digits", "beta"), [(4, 10, 0.05), (1, 2, 0.3), (8, 10, 0.05), (3, 7, 1.0)]
)
def test_the_optimum_has_the_closed_form_of_the_docstring(
    length: int, digits: int, beta: float
) -> None:
    task = build_task("passcode", {"length": length, "digits": digits, "kl_coefficient": beta})
    # A digit has its share of all but a thousandth, and of that its share among all tokens.
    chance = (0.999 / digits + 0.001 / (digits + 4)) ** length
    solved = optimum(task)
    assert solved.reference_value == pytest.approx(chance, rel=1e-9)
    assert solved.reference_value == pytest.approx(digits**-length, rel=0.01)
    expected = beta * math.log(1 + chance * (math.exp(1 / beta) - 1))
    assert solved.value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "bad", "wanted"),
    [
        ("length", 0, "from 1 to 8"),
        ("length", 9, "from 1 to 8"),
        ("length", 2.0, "from 1 to 8"),
        ("digits", 1, "from 2 to 10"),
        ("digits", 11, "from 2 to 10"),
        ("digits", "10", "from 2 to 10"),
    ],
)
def test_a_bad_number_is_refused(name: str, bad: Any, wanted: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{name} must be an integer {wanted}; got {bad!r}"):
        build_task("passcode", {name: bad})
