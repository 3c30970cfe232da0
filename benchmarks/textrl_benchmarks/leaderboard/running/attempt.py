"""attempt(job) -> Outcome: what a worker does with a cell, whichever engine it belongs to."""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from textrl_benchmarks.leaderboard.cell import Cell
from textrl_benchmarks.leaderboard.running.cell_folder import CellFolder
from textrl_benchmarks.leaderboard.running.manifest import Stopwatch, manifest
from textrl_benchmarks.leaderboard.versions import entry_version
from textrl_envs.errors import InvalidInputError
from textrl_envs.rewards.loading import load_object

__all__ = ["RUN_CELL", "Job", "Outcome", "attempt", "prepare_worker", "record_death"]

RUN_CELL = "textrl_benchmarks.leaderboard.running.run_cell:run_cell"
"""What learns and plays: `(cell, folder) -> None`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A cell, and how it is to be run.

    Args:
        cell: what is to be run.
        root: the folder of all suites.
        threads: of torch.
        argv: the words of the command, for the manifest.
        run_one: where the function is that writes curves, samples and result, as `RUN_CELL`.
    """

    cell: Cell
    root: Path
    threads: int = 1
    argv: tuple[str, ...] = ()
    run_one: str = RUN_CELL


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a cell ended.

    Args:
        cell: which one.
        state: "done" or "failed".
        seconds: by the wall.
        message: of the error.
    """

    cell: Cell
    state: Literal["done", "failed"]
    seconds: float
    message: str = ""


def prepare_worker(threads: int) -> None:
    """Sets what is of a process, and not of a cell."""
    import torch

    from textrl_agents.memory import keep_freed_memory

    torch.set_num_threads(threads)
    keep_freed_memory()


def attempt(job: Job) -> Outcome:
    """Runs a cell that is not done yet. Whatever it raises is kept in its folder.

    Raises:
        OSError: the folder cannot be written; no other cell's could be.
    """
    run_one = load_object(job.run_one, "function")  # before the clock: it may load libraries
    folder, watch = CellFolder(job.root, job.cell), Stopwatch()
    if folder.state == "done":  # by a worker that died before it could say so
        return Outcome(job.cell, "done", 0.0)
    partial = folder.begin()
    try:
        _check_unchanged(job.cell)
        run_one(job.cell, partial)
    except Exception as error:  # noqa: BLE001 - an agent may raise anything; it is kept and shown
        return _record(job, folder, watch, _describe(error))
    made = manifest(watch, threads=job.threads, argv=job.argv)
    folder.finish(made)
    return Outcome(job.cell, "done", made["wall_seconds"])


def record_death(job: Job, cause: str, watch: Stopwatch) -> Outcome:
    """Records a cell whose workers died, `cause` saying of what."""
    error = {"type": "WorkerDied", "message": cause, "traceback": ""}
    return _record(job, CellFolder(job.root, job.cell), watch, error)


def _record(job: Job, folder: CellFolder, watch: Stopwatch, error: Mapping[str, str]) -> Outcome:
    made = manifest(watch, threads=job.threads, argv=job.argv)
    folder.fail(error, made)
    message = f"{error['type']}: {error['message']}"
    return Outcome(job.cell, "failed", made["wall_seconds"], message)


def _describe(error: Exception) -> dict[str, str]:
    return {
        "type": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
    }


def _check_unchanged(cell: Cell) -> None:
    """Refuses an agent that was edited between the plan and now: the cell is of the old one."""
    found = entry_version(cell.entry, cell.policy)
    if found != cell.entry_version:
        raise InvalidInputError(
            f"The agent {cell.entry} changed since the run began: it was {cell.entry_version}, "
            f"and is {found}. Begin again by: textrl leaderboard resume."
        )
