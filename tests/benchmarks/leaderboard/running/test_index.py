"""The index: whatever the folders say, and nothing else."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.benchmarks.leaderboard.running.test_cell_folder import CELL
from textrl_benchmarks.leaderboard.running.cell_folder import CellFolder
from textrl_benchmarks.leaderboard.running.index import write_index


def ask(root: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(root / "index.sqlite")) as database:
        return database.execute(query).fetchall()


def make_cells(root: Path) -> None:
    for seed in (0, 1, 2):
        folder = CellFolder(root, type(CELL).from_dict({**CELL.as_dict(), "seed": seed}))
        partial = folder.begin()
        if seed == 2:
            continue  # it is being run
        if seed == 1:
            error = {"type": "ValueError", "message": "no", "traceback": "..."}
            folder.fail(error, {"threads": 1, "wall_seconds": 1.5})
            continue
        (partial / "result.json").write_text('{"normalised_score": 0.5, "kl": null, "anchors": {}}')
        folder.finish({"threads": 1, "wall_seconds": 2.5})


def test_the_index_is_made_again_from_the_folders_alone(tmp_path: Path) -> None:
    make_cells(tmp_path)

    assert write_index(tmp_path) == 2
    query = "select seed, state, normalised_score, kl, wall_seconds, message from cells order by 1"
    rows = ask(tmp_path, query)
    assert rows == [(0, "done", 0.5, None, 2.5, None), (1, "failed", None, None, 1.5, "no")]

    (tmp_path / "index.sqlite").unlink()
    assert write_index(tmp_path) == 2
    assert ask(tmp_path, query) == rows
    assert write_index(tmp_path) == 2  # over an older one
    folders = [name for (name,) in ask(tmp_path, "select folder from cells")]
    assert all((tmp_path / name / "spec.json").exists() for name in folders)
