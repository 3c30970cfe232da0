"""No optional library is imported before it is asked for."""

import subprocess
import sys

import pytest

from textrl_envs.errors import InvalidInputError
from textrl_envs.interop.extras import global_generators_seeded, require

PROGRAM = """
import sys

import gymnasium as gym
import textrl_envs
import textrl_envs.interop.datasets, textrl_envs.interop.gem
import textrl_envs.interop.reasoning_gym, textrl_envs.interop.trl
import textrl_envs.prompt_sources
import textrl_agents.sb3

gym.make("textrl/Keyword-v0").reset(seed=0)
libraries = ("datasets", "gem", "peft", "reasoning_gym", "sb3_contrib", "trl")
print([name for name in libraries if name in sys.modules])
"""


def test_no_library_is_imported_before_it_is_asked_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_what_is_missing_is_named_with_its_extra() -> None:
    with pytest.raises(InvalidInputError) as error:
        require("no_such_library.part", extra="some-extra")
    assert str(error.value) == (
        "no_such_library.part is needed here, and there is no module 'no_such_library'. "
        'Install it: pip install "textrl-envs[some-extra]".'
    )


def test_a_library_that_is_there_is_given() -> None:
    assert require("json", extra="none").loads("1") == 1


@pytest.mark.parametrize("seed", [0, 2**32 + 5])
def test_the_global_generators_are_given_back_even_after_an_error(seed: int) -> None:
    import random

    import numpy as np

    def drawn() -> tuple[float, float]:
        return random.random(), float(np.random.random())  # noqa: NPY002

    with global_generators_seeded(seed):
        first = drawn()

    def fail() -> None:
        with global_generators_seeded(seed):
            assert drawn() == first
            raise KeyError

    before = random.getstate()
    with pytest.raises(KeyError):
        fail()
    assert random.getstate() == before
