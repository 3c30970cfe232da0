"""Folders of cells: what they are called in each state, and what their hashes say."""

import json
import subprocess
from pathlib import Path

import pytest

from textrl_benchmarks.leaderboard.cell import Cell
from textrl_benchmarks.leaderboard.running.cell_folder import CellFolder, write_sums

CELL = Cell(
    suite="small",
    suite_version=1,
    env_id="textrl/Passcode-v0",
    agent="reference",
    entry="reference",
    seed=0,
    budget_tokens=0,
    num_envs=2,
    eval_episodes=2,
)


def check_sums(folder: Path) -> bool:
    """Asks the tool that everybody has."""
    command = ["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"]
    return subprocess.run(command, cwd=folder, capture_output=True).returncode == 0


def test_a_cell_goes_from_pending_to_done_by_one_rename(tmp_path: Path) -> None:
    folder = CellFolder(tmp_path, CELL)
    assert folder.path == tmp_path / "small" / CELL.cell_id[:12]
    assert folder.state == "pending"

    partial = folder.begin()
    (partial / "result.json").write_text("{}")
    assert CellFolder(tmp_path, CELL).state == "running"
    assert not folder.path.exists()

    folder.finish({"threads": 1})
    assert CellFolder(tmp_path, CELL).state == "done"
    assert not partial.exists()
    names = {path.name for path in folder.path.iterdir()}
    assert names == {"spec.json", "manifest.json", "result.json", "SHA256SUMS"}
    assert Cell.from_dict(folder.read("spec.json")) == CELL
    assert folder.read("manifest.json") == {"threads": 1}


def test_the_hashes_are_those_of_sha256sum_and_see_one_bit(tmp_path: Path) -> None:
    folder = CellFolder(tmp_path, CELL)
    (folder.begin() / "eval.jsonl.gz").write_bytes(bytes(range(256)))
    folder.finish({})

    listed = (folder.path / "SHA256SUMS").read_text().splitlines()
    assert [line.split("  ")[1] for line in listed] == [
        "eval.jsonl.gz",
        "manifest.json",
        "spec.json",
    ]
    assert check_sums(folder.path)
    (folder.path / "eval.jsonl.gz").write_bytes(bytes([1, *range(1, 256)]))
    assert not check_sums(folder.path)
    write_sums(folder.path)
    assert check_sums(folder.path)


def test_what_was_half_written_is_gone_when_a_cell_begins_anew(tmp_path: Path) -> None:
    folder = CellFolder(tmp_path, CELL)
    (folder.begin() / "eval.jsonl.gz").write_bytes(b"half")

    assert [path.name for path in folder.begin().iterdir()] == ["spec.json"]


def test_a_failed_cell_keeps_its_error_and_nothing_half_written(tmp_path: Path) -> None:
    folder = CellFolder(tmp_path, CELL)
    (folder.begin() / "result.json").write_text("{}")

    folder.fail({"type": "ValueError", "message": "no", "traceback": "..."}, {"threads": 1})

    assert folder.state == "failed"
    names = {path.name for path in folder.failed.iterdir()}
    assert names == {"spec.json", "manifest.json", "error.json", "SHA256SUMS"}
    assert folder.read("error.json")["message"] == "no"
    assert check_sums(folder.failed)
    folder.begin()
    assert not folder.failed.exists()


def test_a_setting_that_is_no_json_is_refused_rather_than_written(tmp_path: Path) -> None:
    folder = CellFolder(tmp_path, CELL)
    folder.begin()
    with pytest.raises(ValueError, match="Out of range float"):
        folder.finish({"seconds": float("nan")})
    assert folder.state == "running"


def test_files_that_come_from_elsewhere_are_the_same_folder(tmp_path: Path) -> None:
    there = CellFolder(tmp_path / "there", CELL)
    there.begin()
    there.finish({"threads": 1})
    files = {path.name: path.read_bytes() for path in there.path.iterdir()}

    here = CellFolder(tmp_path / "here", CELL)
    here.adopt(files, "done")

    assert here.state == "done"
    assert {path.name: path.read_bytes() for path in here.path.iterdir()} == files
    assert json.loads(files["spec.json"])["agent"] == "reference"
