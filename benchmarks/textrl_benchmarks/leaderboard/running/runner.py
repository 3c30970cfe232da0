"""Runs the cells of a suite that are not done, and says what there is.

run(suite, root, executor)   cells that are done stay; those that a killed run had begun begin anew
status(suite, root)          what is done, has failed, is running, and is still to do

One runner works in a suite's folder at a time. A cell that raised is kept, and not run again unless
that is asked for.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.console import Console

from textrl_benchmarks.leaderboard.cell import Cell
from textrl_benchmarks.leaderboard.plan import plan
from textrl_benchmarks.leaderboard.running.attempt import RUN_CELL, Job
from textrl_benchmarks.leaderboard.running.cell_folder import CellFolder, State
from textrl_benchmarks.leaderboard.running.display import RunDisplay
from textrl_benchmarks.leaderboard.running.executors import WORKERS_LOCK, Executor
from textrl_benchmarks.leaderboard.suite import Suite, merge, read_stored_suite, store_suite
from textrl_envs.errors import InvalidInputError

__all__ = ["Status", "is_at_work", "run", "status"]

RUNNER_LOCK = "runner.lock"
"""Held by the one runner of a suite's folder."""
SECONDS_TO_END = 30.0
"""That the workers of a runner that was killed may take to notice it."""


@dataclass(frozen=True, slots=True)
class Status:
    """The cells of a suite in the plan's order, and the state that each is in."""

    cells: tuple[tuple[Cell, State], ...]

    def count(self, state: State, *, agent: str | None = None) -> int:
        """Returns how many cells, of an agent or of all, are in a state."""
        return sum(found == state and agent in (None, cell.agent) for cell, found in self.cells)

    def failed(self) -> list[Cell]:
        """Returns the cells that have failed."""
        return [cell for cell, state in self.cells if state == "failed"]


def run(
    suite: Suite,
    root: Path,
    executor: Executor,
    *,
    threads: int = 1,
    retry_failed: bool = False,
    argv: Sequence[str] = (),
    console: Console | None = None,
    run_one: str = RUN_CELL,
) -> Status:
    """Runs what is not done, and returns the state of all cells of the suite.

    Args:
        suite: what is to be run. The folder's suite.json becomes it, with what was there before.
        root: the folder of all suites.
        executor: what runs the cells.
        threads: of torch in each worker.
        retry_failed: run cells again that have failed.
        argv: the words of the command, for the manifests.
        console: where progress is shown.
        run_one: what runs a cell, as `Job.run_one`.

    Raises:
        InvalidInputError: a suite that cannot be run, or that disagrees with what the folder has;
            or another run is at work there.
        KeyboardInterrupt: Ctrl-C; all cells that were done by then are kept.
    """
    folder, cells = root / suite.name, plan(suite)
    folder.mkdir(parents=True, exist_ok=True)
    with _only_runner(folder):
        is_new = not (folder / "suite.json").exists()
        store_suite(suite if is_new else merge(read_stored_suite(root, suite.name), suite), folder)
        _sweep(folder)
        todo = [cell for cell in cells if _is_to_run(CellFolder(root, cell), retry_failed)]
        display = RunDisplay(cells, todo, console or Console())
        jobs = [
            Job(cell=cell, root=root, threads=threads, argv=tuple(argv), run_one=run_one)
            for cell in todo
        ]
        try:
            with display.live(), contextlib.closing(executor.run(jobs)) as outcomes:
                for outcome in outcomes:
                    display.show(outcome, CellFolder(root, outcome.cell))
        finally:
            _sweep(folder)
    return _read_states(cells, root)


def status(suite: Suite, root: Path) -> Status:
    """Returns the state of all cells of a suite.

    What a killed run had begun is pending: it is running only while a runner is at work.

    Raises:
        InvalidInputError: the suite cannot be planned.
    """
    found = _read_states(plan(suite), root)
    if is_at_work(root / suite.name):
        return found
    return Status(
        tuple((cell, "pending" if state == "running" else state) for cell, state in found.cells)
    )


def is_at_work(folder: Path) -> bool:
    """Tells whether a runner holds a suite's folder."""
    path = folder / RUNNER_LOCK
    if not path.exists():
        return False
    with path.open(encoding="utf-8") as file:
        return not _try_lock(file, fcntl.LOCK_SH)


def _read_states(cells: Sequence[Cell], root: Path) -> Status:
    return Status(tuple((cell, CellFolder(root, cell).state) for cell in cells))


def _is_to_run(folder: CellFolder, retry_failed: bool) -> bool:
    return folder.state != "done" and (retry_failed or folder.state != "failed")


def _sweep(folder: Path) -> None:
    """Removes what runs that were killed have left half written."""
    for partial in folder.glob("*.partial"):
        shutil.rmtree(partial)


@contextlib.contextmanager
def _only_runner(folder: Path) -> Iterator[None]:
    """Holds a suite's folder inside the block.

    Raises:
        InvalidInputError: another runner holds it, or workers of one that was killed do not end.
    """
    with (folder / RUNNER_LOCK).open("a+", encoding="utf-8") as file:
        if not _try_lock(file, fcntl.LOCK_EX):
            file.seek(0)
            raise InvalidInputError(
                f"Another run is at work in {folder} (process {file.read().strip()}). Wait for it, "
                "or give another --out."
            )
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        _wait_for_workers(folder / WORKERS_LOCK)
        yield


def _wait_for_workers(path: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_END
    with path.open("a", encoding="utf-8") as file:
        while not _try_lock(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise InvalidInputError(
                    f"Workers of an earlier run still hold {path}. End them, then go on."
                )
            time.sleep(0.05)


def _try_lock(file: TextIO, kind: int) -> bool:
    """Takes a lock that lasts until the file is closed, if nobody else's is in its way."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
