"""`textrl leaderboard`, as it is typed."""

from pathlib import Path

import pytest

from textrl_benchmarks.cli import main

SUITE = """
name = "tiny"
version = 1
seeds = [0]
num_envs = 32
eval_episodes = 32

[[environments]]
id = "textrl/Passcode-v0"
budget_tokens = 2_000
tags = ["exploration"]

[[agents]]
name = "ppo"
entry = "ppo"
settings = { episodes_per_batch = 64 }
"""
RIVAL = """
from textrl_agents.reinforce import REINFORCE

class Mine(REINFORCE):
    name = "mine"

    def update(self, episodes, rng):
        if {breaks}:
            raise RuntimeError("out of luck")
        return super().update(episodes, rng)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a suite and an agent, in which the commands are typed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")
    Path("tiny.toml").write_text(SUITE)
    Path("mine.py").write_text(RIVAL.format(breaks=True))
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(("leaderboard", *words)) == code
    return capsys.readouterr().out


def test_a_suite_and_a_rival_from_the_first_word_to_the_page(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--suite", "tiny.toml", "--workers", "1")
    assert "8 cells, 2,000 tokens to learn from" in printed(capsys, "plan", "--suite", "tiny.toml")

    said = printed(capsys, "run", *words, "--agent", "mine.py:Mine", code=1)
    assert "failed: Mine on textrl/Passcode-v0, seed 0: RuntimeError: out of luck" in said
    assert "--retry-failed runs them again" in said
    board = folder / "runs" / "leaderboard" / "tiny"
    assert f"board in {board.relative_to(folder) / 'index.html'}" in said
    assert all((board / name).exists() for name in ("index.html", "board.json", "board.md"))

    said = printed(capsys, "status", "--suite", "tiny")
    (row,) = [line for line in said.splitlines() if line.startswith("all")]
    assert row.split() == ["all", "8", "1", "0", "0"]

    (folder / "mine.py").write_text(RIVAL.format(breaks=False))
    assert "go on with: textrl leaderboard resume --suite tiny" in printed(
        capsys, "status", *words[:2]
    )
    said = printed(capsys, "resume", *words)
    assert "9/9  Mine on textrl/Passcode-v0, seed 0: normalised score" in said
    assert "failed" not in said
    # The older version's failure is still there, and no longer of the plan.
    assert "10 cells" in printed(capsys, "index")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("run", "--suite", "qick"), "Unknown suite 'qick'. Did you mean 'quick'?"),
        (("run", "--agents", "ppp"), "quick has no agent 'ppp'. Did you mean 'ppo'?"),
        (("run", "--environments", "Keywrd-v0"), "Did you mean 'textrl/Keyword-v0'?"),
        (("run", "--agent", "ppo"), "The agent 'ppo' is there twice"),
        (("run", "--agent", "nowhere.py:Mine"), "There is no file nowhere.py"),
        (("run", "--workers", "0"), "--workers must be at least 1; got 0"),
        (("run", "--threads", "0"), "--threads must be at least 1; got 0"),
        (("run", "--executor", "rya"), "rya"),
        (("resume",), "There are no runs of a suite in runs/leaderboard/quick"),
        (("status", "--suite", "tiny.toml"), "There are no runs of a suite in runs/leaderboard/t"),
        (("index",), "There is no folder runs/leaderboard"),
        (("runn",), "Available subcommands: plan, run"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], expected: str
) -> None:
    assert main(("leaderboard", *words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("textrl: error: ")
    assert expected in line
    assert not (folder / "runs").exists()
