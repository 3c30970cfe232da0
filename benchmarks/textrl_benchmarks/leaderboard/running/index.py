"""write_index(root): index.sqlite, a table of all cells below a folder, to be asked with SQL.

The folders are the truth. The index is made from them alone, and may be deleted at any time.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from textrl_envs.files import read_json

__all__ = ["write_index"]

COLUMNS = {
    "folder": "TEXT PRIMARY KEY",
    "state": "TEXT",
    "suite": "TEXT",
    "suite_version": "INTEGER",
    "env_id": "TEXT",
    "agent": "TEXT",
    "entry": "TEXT",
    "entry_version": "TEXT",
    "policy": "TEXT",
    "seed": "INTEGER",
    "budget_tokens": "INTEGER",
    "eval_episodes": "INTEGER",
    "tokens": "INTEGER",
    "normalised_score": "REAL",
    "regularised_return": "REAL",
    "score": "REAL",
    "kl": "REAL",
    "gold": "REAL",
    "length": "REAL",
    "distinct": "REAL",
    "commonest": "REAL",
    "threads": "INTEGER",
    "start": "TEXT",
    "wall_seconds": "REAL",
    "cpu_seconds": "REAL",
    "type": "TEXT",
    "message": "TEXT",
}
"""Fields of spec, result, manifest and error; `distinct` is SQL's own word, to be quoted."""


def write_index(root: Path) -> int:
    """Writes `<root>/index.sqlite` anew from all cells that are done or have failed.

    Returns:
        How many cells there are.

    Raises:
        InvalidInputError: a file of a cell is no JSON.
    """
    rows = [{**dict.fromkeys(COLUMNS), **row} for row in _rows(root)]
    partial = root / "index.sqlite.partial"
    partial.unlink(missing_ok=True)
    columns = ", ".join(f'"{name}" {kind}' for name, kind in COLUMNS.items())
    places = ", ".join(f":{name}" for name in COLUMNS)
    with contextlib.closing(sqlite3.connect(partial)) as database, database:
        database.execute(f"CREATE TABLE cells ({columns})")
        database.executemany(f"INSERT INTO cells VALUES ({places})", rows)
    partial.replace(root / "index.sqlite")
    return len(rows)


def _rows(root: Path) -> Iterator[Mapping[str, Any]]:
    for spec in sorted(root.glob("*/*/spec.json")):
        folder = spec.parent
        if folder.suffix != ".partial":
            yield _row(folder, str(folder.relative_to(root)))


def _row(folder: Path, name: str) -> Mapping[str, Any]:
    files = ["spec.json", "manifest.json"]
    is_failed = folder.suffix == ".failed"
    files.append("error.json" if is_failed else "result.json")
    found: dict[str, Any] = {"folder": name, "state": "failed" if is_failed else "done"}
    for file in files:
        found |= read_json(folder / file)
    return {key: value for key, value in found.items() if key in COLUMNS}
