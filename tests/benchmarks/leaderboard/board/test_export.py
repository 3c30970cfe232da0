import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.leaderboard.cells import (
    ENVIRONMENTS,
    OFF,
    cell_of,
    fail_cell,
    suite_of,
    write_all_cells,
    write_cell,
)
from textrl_benchmarks.leaderboard.board.board import make_board
from textrl_benchmarks.leaderboard.board.export import as_markdown, write_all

PARITY, KEYWORD = ENVIRONMENTS


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("runs")
    suite = suite_of("good", "shaky")
    write_all_cells(root, suite, {"good": {PARITY: [0.8, 0.7, 0.9], KEYWORD: [0.6, 0.5, 0.55]}})
    for seed, score in ((0, -3.25), (1, OFF)):
        write_cell(root, cell_of(suite, "shaky", PARITY, seed), score)
    fail_cell(root, cell_of(suite, "shaky", KEYWORD, 2), "a | b\n<b>")
    return make_board(suite, root)


@pytest.fixture
def folder(board: Any, tmp_path: Path) -> Path:
    write_all(board, tmp_path / "new" / "folder")
    return tmp_path / "new" / "folder"


def test_the_json_is_the_board(board: Any, folder: Path) -> None:
    text = (folder / "board.json").read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(json.dumps(board))
    assert "NaN" not in text
    assert list(json.loads(text)) == list(board)


def test_the_csv_has_a_row_a_cell(board: Any, folder: Path) -> None:
    with (folder / "board.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(board["cells"]) + 1
    assert {row["cell"] for row in rows if row["status"] == "done"} == set(board["cells"])
    for row in rows:
        if row["status"] == "failed":
            continue
        result = board["cells"][row["cell"]]["result"]
        for name in ("normalised_score", "score", "kl", "gold", "distinct"):
            assert (float(row[name]) if row[name] else None) == result[name]
        assert row["is_off_reference"] == str(result["is_off_reference"])
    (failed,) = (row for row in rows if row["status"] == "failed")
    assert (failed["agent"], failed["environment"], failed["seed"]) == ("shaky", KEYWORD, "2")
    assert failed["normalised_score"] == failed["score"] == ""
    assert failed["kind"] == "agent"


def test_the_markdown_has_every_row_and_every_field(board: Any, folder: Path) -> None:
    lines = (folder / "board.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# tiny, version 1"
    tables = [line for line in lines if line.startswith("| ")]
    heading = "| rank | agent | IQM | mean | median | optimality gap | score | KL | cells |  |"
    at = tables.index(heading)
    agents = [line.split("|")[2].strip(" `") for line in tables[at + 2 : at + 11]]
    assert agents == [row["agent"] for row in board["rows"]]
    good = next(line for line in tables if "`good`" in line)
    assert good.startswith("| 1 | `good` | 0.6")
    assert "| 6/6 |" in good
    fields = next(line for line in tables[at + 11 :] if line.startswith("| `good`"))
    assert fields.startswith("| `good` | 0.800 [")
    assert any(line.startswith("| `shaky` | off the reference |") for line in tables)


def test_an_error_cannot_break_the_table(board: Any) -> None:
    line = as_markdown(board).splitlines()[-1]
    assert line.endswith("| ValueError: a \\| b &lt;b> |")


def test_an_invalid_board_says_so_first(board: Any) -> None:
    assert "invalid" not in as_markdown(board)
    text = as_markdown({**board, "is_valid": False, "problems": ["null_echo is above"]})
    assert text.index("**This board is invalid:**") < text.index("- null_echo is above")
    assert text.index("- null_echo is above") < text.index("| rank |")


def test_tie_groups_are_written_as_ranges(board: Any) -> None:
    rows = [{**row, "rank_low": 1, "rank_high": 3} for row in board["rows"]]
    assert "\n| 1-3 | `good` |" in as_markdown({**board, "rows": rows})


def test_equal_boards_have_equal_bytes(board: Any, folder: Path, tmp_path: Path) -> None:
    write_all(json.loads((folder / "board.json").read_text(encoding="utf-8")), tmp_path / "again")
    for name in ("board.json", "board.md", "board.csv"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        assert b"\r" not in (folder / name).read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["board.csv", "board.json", "board.md"]
