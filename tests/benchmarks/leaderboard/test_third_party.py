"""Somebody else's agent is on the board by the words of docs/leaderboard.md alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from textrl_envs.files import read_json

PAGE = (Path(__file__).parents[3] / "docs" / "leaderboard.md").read_text()
PYTHON, *_ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ENTRY_POINT, SUITE = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
PROGRAM = "import sys; from textrl_benchmarks.cli import main; sys.exit(main(sys.argv[1:]))"
BUILD = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
PROJECT = '[project]\nname = "my-package"\nversion = "1.2.3"\n'


def run(folder: Path, entry: str, **variables: str) -> dict[str, int]:
    """Runs the suite of the page with a small budget; returns the cells of each row."""
    (folder / "mine.toml").write_text(SUITE.replace("100_000", "10_000"))
    words = ["leaderboard", "run", "--suite", "mine.toml", "--seeds", "0", "--agent", entry]
    environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, *words, "--workers", "1", "--out", "boards"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    board = read_json(folder / "boards" / "mine" / "board.json")
    return {row["agent"]: row["cells_done"] for row in board["rows"]}


def test_it_is_twenty_lines() -> None:
    assert len(PYTHON.strip().splitlines()) <= 20


@pytest.mark.slow
def test_an_agent_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text(PYTHON)
    rows = run(tmp_path, "my_agent.py:BestHalf")
    assert rows["BestHalf"] == rows["ppo, small steps"] == rows["null_echo"] == 1


@pytest.mark.slow
def test_an_agent_in_a_distribution_of_its_own(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "my_package").mkdir(parents=True)
    (source / "my_package" / "__init__.py").touch()
    (source / "my_package" / "my_agent.py").write_text(PYTHON)
    (source / "pyproject.toml").write_text(BUILD + PROJECT + ENTRY_POINT)
    installed = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(installed), str(source)], check=True)

    assert run(tmp_path, "best_half", PYTHONPATH=str(installed))["best_half"] == 1
    specs = [read_json(path) for path in (tmp_path / "boards" / "mine").glob("*/spec.json")]
    (spec,) = [one for one in specs if one["agent"] == "best_half"]
    assert "my-package==1.2.3" in spec["entry_version"]
