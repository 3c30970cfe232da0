"""write_report(suite, root): the board of a suite's cells, as a page, a table and plain JSON."""

from pathlib import Path
from typing import Any

from textrl_benchmarks.leaderboard.board.board import make_board
from textrl_benchmarks.leaderboard.board.export import write_all
from textrl_benchmarks.leaderboard.board.page import write_page
from textrl_benchmarks.leaderboard.suite import Suite

__all__ = ["write_report"]


def write_report(suite: Suite, root: Path, folder: Path | None = None) -> dict[str, Any]:
    """Writes board.json, board.md, board.csv and index.html; returns the board.

    Args:
        suite: what the board is of.
        root: the folder of all suites, which is read.
        folder: where to write; the suite's own where none is given.

    Raises:
        InvalidInputError: a cell's files are broken.
    """
    folder = folder or root / suite.name
    board = make_board(suite, root)
    write_all(board, folder)
    write_page(board, folder / "index.html")
    return board
