"""What stands in for `run_cell` where the runner is tested: small files, at once."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textrl_benchmarks.leaderboard.cell import Cell

# Workers import this file, and shall not wait for what the suite imports.
if TYPE_CHECKING:
    from textrl_benchmarks.leaderboard.suite import Suite

SETTINGS = {"episodes_per_batch": 32, "epochs": 1}
AGENTS = [
    {"name": "ppo", "entry": "ppo", "settings": SETTINGS},
    {"name": "table", "entry": "ppo", "policy": "table", "settings": SETTINGS},
]


def suite_of(**changes: Any) -> "Suite":
    """Two environments that are quick to make, two agents, and the rows of every board."""
    from textrl_benchmarks.leaderboard.suite import Suite

    table: dict[str, Any] = {
        "name": "small",
        "version": 1,
        "seeds": [0],
        "num_envs": 32,
        "eval_episodes": 32,
        "environments": [
            {"id": "textrl/Passcode-v0", "budget_tokens": 1500},
            {"id": "textrl/Brackets-v0", "budget_tokens": 1500, "parameters": {}},
        ],
        "agents": AGENTS,
    }
    return Suite.from_dict({**table, **changes})


def where(function: Callable[[Cell, Path], None]) -> str:
    """Returns the name by which a worker finds a function of this file."""
    return f"{Path(__file__).resolve()}:{function.__name__}"


def write(cell: Cell, folder: Path) -> None:
    """Writes what follows from the cell alone, and one line for every time that it is called."""
    with (folder.parent.parent / "calls.log").open("a") as file:
        file.write(f"{cell.folder_name}\n")
    if cell.budget_tokens:
        (folder / "curves.csv").write_text(f"tokens\n{cell.budget_tokens}\n")
    (folder / "eval.jsonl.gz").write_bytes(cell.cell_id.encode())
    threads = os.environ["OMP_NUM_THREADS"]
    result = {"normalised_score": cell.seed / 4, "threads": threads}
    (folder / "result.json").write_text(json.dumps(result))


def write_slowly(cell: Cell, folder: Path) -> None:
    """Takes a while, half of it with half of the files."""
    write(cell, folder)
    time.sleep(0.3)


def raise_for_ppo(cell: Cell, folder: Path) -> None:
    """Fails for one agent, after it has written something."""
    write(cell, folder)
    if cell.agent == "ppo":
        raise ValueError(f"ppo cannot play {cell.env_id}")


def die_once(cell: Cell, folder: Path) -> None:
    """Is killed the first time that a cell of PPO is run, and says so where the command is."""
    mark = Path(f"{cell.agent}.died")
    if cell.agent == "ppo" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    write(cell, folder)


def die_always(cell: Cell, folder: Path) -> None:
    """Is killed each time that a cell of PPO is run."""
    write(cell, folder)
    if cell.agent == "ppo":
        os.kill(os.getpid(), signal.SIGKILL)


def raise_or_die(cell: Cell, folder: Path) -> None:
    """One agent fails, one is always killed, and PPO once."""
    if cell.agent == "table":
        raise ValueError("table cannot play")
    if cell.agent == "null_echo":
        os.kill(os.getpid(), signal.SIGKILL)
    die_once(cell, folder)


def fill_the_disk(cell: Cell, folder: Path) -> None:
    """Leaves a folder that can no longer be written."""
    write(cell, folder)
    folder.rename(folder.with_name("gone"))


def calls(root: Path) -> list[str]:
    """Returns the folder names of the cells in the order in which they were called."""
    path = root / "calls.log"
    return path.read_text().split() if path.exists() else []


def contents(root: Path) -> dict[str, bytes]:
    """Returns every file that follows from cells and threads alone, by its place."""
    names = ("spec.json", "curves.csv", "eval.jsonl.gz", "result.json")
    return {
        str(path.relative_to(root)): path.read_bytes()
        for name in names
        for path in root.glob(f"*/*/{name}")
    }
