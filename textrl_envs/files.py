"""Files and folders: what a cache needs to know of them, and what is said when they are wrong."""

import json
from pathlib import Path
from typing import Any

from textrl_envs.errors import InvalidInputError

__all__ = ["check_not_missing", "read_json", "stamp"]


def stamp(path: str | Path) -> tuple[tuple[str, int, int], ...]:
    """Returns what changes when a folder's files change: their names, times in ns and sizes.

    Empty for what is no folder, such as a hub id.
    """
    folder = Path(path)
    if not folder.is_dir():
        return ()
    files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    return tuple((f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in files)


def check_not_missing(name: str) -> None:
    """Refuses a name that is plainly a path and leads nowhere, before a hub is asked for it.

    Raises:
        InvalidInputError: no such folder, though its parent is one, or it is written as a path.
    """
    path = Path(name)
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    has_parent = "/" in name and path.parent.is_dir()
    if (is_path or has_parent) and not path.exists():
        raise InvalidInputError(f"There is no folder {name}. Give an existing one, or a hub id.")


def read_json(path: Path) -> Any:  # noqa: ANN401 - whatever stands in the file
    """Reads a JSON file.

    Raises:
        InvalidInputError: it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInputError(f"{path} is broken: {error}. Restore it.") from error
