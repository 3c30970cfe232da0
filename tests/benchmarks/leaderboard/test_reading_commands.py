"""`textrl leaderboard report | compare | export`, as they are typed."""

import csv
import json
from pathlib import Path

import pytest

from tests.benchmarks.leaderboard.small_board import make, suite_of
from textrl_benchmarks.cli import main
from textrl_envs.files import read_json


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    suite = suite_of("textrl/Passcode-v0", seeds=[0, 1])
    return make(suite, tmp_path_factory.mktemp("made"))


def printed(capsys: pytest.CaptureFixture[str], made: Path, *words: str, code: int = 0) -> str:
    place = ("--suite", "small", "--out", str(made.parent))
    assert main(("leaderboard", *words, *place)) == code
    return "".join(capsys.readouterr())


def test_a_report_is_the_board_that_the_run_wrote(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = printed(capsys, made, "report", "--to", str(tmp_path / "new"))
    assert f"board in {tmp_path / 'new' / 'index.html'}" in said
    assert "ppo" in said
    names = ("index.html", "board.json", "board.md", "board.csv")
    assert all((tmp_path / "new" / n).read_bytes() == (made / n).read_bytes() for n in names)


def test_two_agents_are_compared(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    said = printed(capsys, made, "compare", "optimum", "null_echo")
    assert "textrl/Passcode-v0" in said
    assert "2 and 2" in said
    assert "a run of optimum beats one of null_echo with a chance of 1.000" in said
    said = printed(capsys, made, "compare", "optimum", "ppp", code=2)
    assert "The board has no agent 'ppp'. Did you mean 'ppo'?" in said


def test_a_board_is_printed_or_written(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(csv.DictReader(printed(capsys, made, "export").splitlines()))
    assert len(rows) == 16
    assert json.loads(printed(capsys, made, "export", "--form", "json")) == read_json(
        made / "board.json"
    )
    printed(capsys, made, "export", "--form", "md", "--to", str(tmp_path / "board.md"))
    assert (tmp_path / "board.md").read_bytes() == (made / "board.md").read_bytes()
    said = printed(capsys, made, "export", "--to", str(tmp_path / "no" / "b.csv"), code=2)
    assert "Give another --to" in said
