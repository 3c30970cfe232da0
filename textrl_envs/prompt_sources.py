"""Prompts by name: a JSONL file, the built-in requests, or what another library makes.

find_prompts   what a user may give as `prompts` -> prompts
"""

import errno
import importlib
import inspect
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from textrl_envs.data.instructions import instructions
from textrl_envs.errors import InvalidInputError
from textrl_envs.interop.datasets import dataset_prompts, is_dataset
from textrl_envs.prompts import Prompt, read_prompts

__all__ = ["SOURCES", "find_prompts"]

SOURCES = {
    "datasets": ("textrl_envs.interop.datasets", "dataset_prompts"),
    "gem": ("textrl_envs.interop.gem", "gem_prompts"),
    "reasoning_gym": ("textrl_envs.interop.reasoning_gym", "reasoning_gym_prompts"),
}
"""What stands before the colon of a name -> the function that makes the prompts."""


def find_prompts(
    prompts: Any,  # noqa: ANN401 - a name, a path, a dataset, or prompts
    *,
    prompt_field: str = "prompt",
) -> Iterable[Prompt | str]:
    """Returns the prompts that are meant.

    A file of the name comes first; then "instructions", and "SOURCE:NAME?SETTING=VALUE&...", in
    which values are read as JSON where they are such. Prompts are returned as they are.

    Args:
        prompts: as above, a live dataset of the library datasets, or prompts.
        prompt_field: the key or column that holds the prompt, of a JSONL file or a dataset.

    Raises:
        InvalidInputError: nothing that can be read, or a setting without a value.
    """
    if is_dataset(prompts):
        return dataset_prompts(prompts, text=prompt_field)
    if not isinstance(prompts, str | Path):
        return prompts  # type: ignore[no-any-return]
    # Whatever lies at the path comes first: a run records the path of what it finds there.
    if isinstance(prompts, str) and not _may_exist(prompts):
        if prompts == "instructions":
            return instructions()
        source, colon, name = prompts.partition(":")
        if colon and source in SOURCES:
            return _of_source(source, name, prompt_field)
        raise InvalidInputError(
            f"Cannot read prompts file {prompts:.300}: No such file. Give a readable JSONL file; a "
            "text that is itself the prompt is given in a list, as [text]."
        )
    return read_prompts(prompts, prompt_field=prompt_field)


def _may_exist(name: str) -> bool:
    """Tells whether something lies at a path, or might where one may not look."""
    try:
        return Path(name).exists()
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG  # what else is wrong is said on reading


def _of_source(source: str, name: str, prompt_field: str) -> list[Prompt]:
    what, _, query = name.partition("?")
    settings = _read_query(query)
    if source == "datasets":
        settings.setdefault("text", prompt_field)
    module, function = SOURCES[source]
    make: Callable[..., list[Prompt]] = getattr(importlib.import_module(module), function)
    try:
        inspect.signature(make).bind(what, **settings)
    except TypeError as error:
        raise InvalidInputError(f"{source}:{what} does not take {settings}: {error}.") from error
    return make(what, **settings)


def _read_query(query: str) -> dict[str, Any]:
    """Reads NAME=VALUE&NAME=VALUE.

    >>> _read_query('size=3&text=question&operators=["+", "-"]')
    {'size': 3, 'text': 'question', 'operators': ['+', '-']}
    """
    settings: dict[str, Any] = {}
    for pair in query.split("&") if query else ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInputError(
                f"Expected NAME=VALUE&NAME=VALUE behind the question mark; got {pair!r}."
            )
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings
