"""How another library is asked for, and lent what it draws from."""

import contextlib
import importlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from textrl_envs.errors import InvalidInputError

__all__ = ["UNREADABLE", "check_seed", "global_generators_seeded", "require"]

UNREADABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NameError,  # a name without a value: one of GEM's scorers, where there is no answer
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What scorers of other libraries raise on a response that is no answer of the form they expect.

Such a response scores 0, and the info says `unreadable`. What else a scorer raises stops the run.
"""


def require(module: str, *, extra: str) -> Any:  # noqa: ANN401 - a module
    """Imports a module of an optional library.

    Raises:
        InvalidInputError: it, or what it needs in its turn, is not installed; names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InvalidInputError(
            f"{module} is needed here, and there is no module {error.name!r}. "
            f'Install it: pip install "textrl-envs[{extra}]".'
        ) from error


def check_seed(seed: object) -> None:
    """Raises InvalidInputError unless a seed is an integer.

    >>> check_seed(-1)
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise InvalidInputError(f"seed must be an integer, such as 0; got {seed!r}.")


@contextlib.contextmanager
def global_generators_seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators of Python and NumPy, and gives them back as they were.

    For libraries that draw from them: what they make is then a function of the seed.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - to be given back
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - what those libraries draw from
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
