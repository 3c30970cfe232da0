"""misfits(kind, record): where a JSON object is not what a dataclass says it should be."""

import math
import types
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from datetime import datetime
from typing import Any, Union, get_args, get_origin, get_type_hints

__all__ = ["ErrorFields", "ManifestFields", "Submission", "misfits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFields:
    """What stands in manifest.json, as `manifest.manifest` writes it."""

    git: dict[str, Any] | None
    python: str
    packages: dict[str, str]
    pip_freeze_sha256: str
    platform: str
    cpu: str
    cpu_count: int | None
    gpu: str | None
    threads: int
    argv: list[str]
    start: datetime
    end: datetime
    wall_seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorFields:
    """What stands in error.json."""

    type: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What stands in submission.json: who claims what."""

    agent: str
    entry: str
    entry_version: str
    policy: str
    settings: dict[str, Any]
    suite: str
    suite_version: int
    textrl_envs: str
    """The version that it was packed with."""
    claims: dict[str, Any]
    """Of each environment: the heat map's field, with a normalised score for each seed."""
    iqm: dict[str, Any]
    """Over all cells, with its interval."""
    cells: list[str]
    """Folders of cells that are done or have failed."""
    who: str
    link: str
    """To the agent's code, say."""
    note: str


def misfits(kind: type, record: Any, place: str = "") -> Iterator[tuple[str, str, str]]:  # noqa: ANN401
    """Yields place, what was expected, and what was found.

    Args:
        kind: a dataclass; the record must have its fields, all of them and no others.
        record: what JSON gave.
        place: of the record, in front of its fields' names.
    """
    if not isinstance(record, dict):
        yield place or "all", "an object", repr(record)
        return
    hints = get_type_hints(kind)
    for name in dict.fromkeys((*hints, *record)):
        field = f"{place}.{name}" if place else str(name)
        if name not in hints:
            yield field, "nothing", repr(record[name])
        elif name not in record:
            yield field, _name(hints[name]), "nothing"
        elif is_dataclass(hints[name]):
            yield from misfits(hints[name], record[name], field)
        elif not _fits(hints[name], record[name]):
            yield field, _name(hints[name]), repr(record[name])


def _fits(hint: Any, value: Any) -> bool:  # noqa: ANN401 - a type, and anything
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(part, value) for part in get_args(hint))
    kind = get_origin(hint) or hint
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    if kind is datetime:
        return isinstance(value, str) and _is_time(value)
    return isinstance(value, kind)


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _name(hint: Any) -> str:  # noqa: ANN401 - a type
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_name(part) for part in get_args(hint))
    words = {
        "str": "text",
        "int": "an integer",
        "float": "a finite number",
        "bool": "true or false",
    }
    words |= {"dict": "an object", "list": "a list", "NoneType": "null", "datetime": "a time"}
    name = getattr(get_origin(hint) or hint, "__name__", str(hint))
    return words.get(name, name)
