"""ProcessExecutor: runs cells in worker processes. Another engine is in ray_executor.py.

A worker is spawned, so that its libraries read their number of threads when they load, and takes
one cell after another. One that dies, killed or out of memory, costs its cell an attempt and no
more.
"""

import contextlib
import fcntl
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol

from textrl_benchmarks.leaderboard.running.attempt import (
    Job,
    Outcome,
    attempt,
    prepare_worker,
    record_death,
)
from textrl_benchmarks.leaderboard.running.manifest import Stopwatch

__all__ = ["RETRIES", "WORKERS_LOCK", "Executor", "ProcessExecutor", "thread_variables"]

RETRIES = 2
"""Further attempts of a cell whose worker died. A cell that raised is not tried again."""

WORKERS_LOCK = "workers.lock"
"""In a suite's folder: every worker shares it while it lives. A runner that was killed with SIGKILL
leaves workers, which end a moment later; the next runner waits for that."""

SPAWN = multiprocessing.get_context("spawn")


class Executor(Protocol):
    """An engine that runs cells."""

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        """Yields how each cell ended, in the order in which they do. Closing it stops the rest."""


def thread_variables(threads: int) -> dict[str, str]:
    """Returns the environment variables that numerical libraries read when they load."""
    names = ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM", "NUMEXPR")
    return {f"{name}_NUM_THREADS": str(threads) for name in names}


@dataclass(frozen=True, slots=True)
class ProcessExecutor:
    """Worker processes on this machine.

    Args:
        workers: how many.
        threads: of each.
    """

    workers: int
    threads: int = 1

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        """Yields how each cell ended.

        Raises:
            OSError: a worker could not write.
        """
        waiting, deaths = deque(jobs), Counter[str]()
        team: list[_Worker] = []
        try:
            for _ in range(min(self.workers, len(jobs))):
                team.append(self._start(waiting.popleft()))
            while team:
                for worker in _ready(team):
                    outcome = worker.receive(deaths)
                    if outcome is None:
                        waiting.appendleft(worker.job)
                    else:
                        yield outcome
                    self._go_on(team, worker, waiting)
        finally:
            for worker in team:
                worker.kill()

    def _go_on(self, team: list["_Worker"], worker: "_Worker", waiting: deque[Job]) -> None:
        """Gives a worker its next cell, or puts a new one in a dead one's place."""
        if waiting and worker.is_alive:
            worker.give(waiting.popleft())
            return
        worker.kill()
        if waiting:
            team[team.index(worker)] = self._start(waiting.popleft())
        else:
            team.remove(worker)

    def _start(self, job: Job) -> "_Worker":
        here, there = SPAWN.Pipe()
        lock = job.root / job.cell.suite / WORKERS_LOCK
        process = SPAWN.Process(target=_work, args=(there, self.threads, lock))
        with _environment(thread_variables(self.threads)):
            process.start()
        there.close()  # so that the end of the process is the end of the pipe
        worker = _Worker(process, here, job)
        worker.give(job)
        return worker


@dataclass(slots=True)
class _Worker:
    """A process, the pipe to it, and what it is at work on."""

    process: multiprocessing.process.BaseProcess
    pipe: "Connection[Job, Outcome | OSError]"
    job: Job
    watch: Stopwatch = field(default_factory=Stopwatch)
    is_alive: bool = True

    def give(self, job: Job) -> None:
        """Sends a cell."""
        self.job, self.watch = job, Stopwatch()
        with contextlib.suppress(ConnectionError):  # it died: `receive` will see that
            self.pipe.send(job)

    def receive(self, deaths: Counter[str]) -> Outcome | None:
        """Returns how the cell ended, or None if its worker died and it is to be tried again."""
        try:
            answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            return self._bury(deaths)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def _bury(self, deaths: Counter[str]) -> Outcome | None:
        self.is_alive = False
        self.process.join()
        deaths[self.job.cell.cell_id] += 1
        count = deaths[self.job.cell.cell_id]
        if count <= RETRIES:
            return None
        end = _name(self.process.exitcode)
        cause = f"Its worker was ended by {end} in the last of {count} attempts."
        return record_death(self.job, cause, self.watch)

    def kill(self) -> None:
        """Ends the process at once. A cell that it is at work on is left as a .partial folder."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _ready(team: Sequence[_Worker]) -> Iterator[_Worker]:
    pipes = wait([worker.pipe for worker in team])
    return (worker for worker in list(team) if worker.pipe in pipes)


def _name(exitcode: int | None) -> str:
    """Names the end of a process.

    >>> _name(-9), _name(3)
    ('SIGKILL', 'exit status 3')
    """
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit status {exitcode}"


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets environment variables for the processes that are started inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# --- in the worker ---


def _work(pipe: "Connection[Outcome | OSError, Job]", threads: int, lock: Path) -> None:
    """Runs the cells that come through the pipe, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with lock.open("a") as file, contextlib.suppress(EOFError, ConnectionError):
        fcntl.flock(file, fcntl.LOCK_SH)
        if _wait_for_end_of_parent(timeout=0):  # nobody waited for the lock: the next runner is on
            return
        prepare_worker(threads)
        while True:
            pipe.send(_attempt(pipe.recv()))


def _attempt(job: Job) -> Outcome | OSError:
    try:
        return attempt(job)
    except OSError as error:  # raised again by the parent, which stops
        return error


def _end_with_parent() -> None:
    """Ends this process when its parent is gone, in the middle of a cell too."""
    _wait_for_end_of_parent(timeout=None)
    os._exit(1)


def _wait_for_end_of_parent(*, timeout: float | None) -> bool:
    parent = multiprocessing.parent_process()
    assert parent is not None
    return bool(wait([parent.sentinel], timeout))
