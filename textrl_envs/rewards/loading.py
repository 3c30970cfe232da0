"""Finds a reward by its name: `my_module:reward`, or `path/to/file.py:reward`."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from textrl_envs.errors import InvalidInputError, nearest
from textrl_envs.rewards.base import Reward

__all__ = ["load_object", "load_reward"]


def load_reward(reward: Reward | str) -> Reward:
    """Returns the reward of that name; a callable is returned as it is.

    Raises:
        InvalidInputError: no such module, file or name, or something that cannot be called.
    """
    found = load_object(reward, "reward") if isinstance(reward, str) else reward
    if not callable(found) or isinstance(found, type):
        raise InvalidInputError(
            f"A reward must be a function or an instance that can be called; got {found!r}."
        )
    return found


def load_object(name: str, what: str) -> Any:  # noqa: ANN401 - whatever stands under the name
    """Returns `attribute` of `module:attribute` or `file.py:attribute`.

    Raises:
        InvalidInputError: the name has no colon, or does not lead to anything; or the module
            raises while it is imported.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute:
        raise InvalidInputError(
            f"Expected a {what} as 'module:name' or 'path/to/file.py:name'; got {name!r}."
        )
    module = _import(place, what)
    if not hasattr(module, attribute):
        public = [key for key in vars(module) if not key.startswith("_")]
        raise InvalidInputError(f"{place} has no {attribute!r}. {nearest(attribute, public)}")
    return getattr(module, attribute)


def _import(place: str, what: str) -> ModuleType:
    try:
        return (
            _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        )
    except InvalidInputError:
        raise
    # A user's module may raise anything while it is imported; it is raised again with its place.
    except Exception as error:
        raise InvalidInputError(
            f"Cannot import the {what} module {place!r}: {type(error).__name__}: {error}"
        ) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InvalidInputError(f"There is no file {path}.")
    # Named by its full path, so that two files of one name do not meet; kept, so that it runs once.
    name = f"textrl_user_file:{path.resolve()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
