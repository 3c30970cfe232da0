"""RayExecutor: runs cells on a Ray cluster, so that a board need not fit on one machine.

A worker writes its cell into a folder of its own and sends the files back: the machines need share
no file system, but each needs this package and whatever agents and weights the suite names.
"""

import contextlib
import os
import socket
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from textrl_benchmarks.leaderboard.running.attempt import (
    Job,
    Outcome,
    attempt,
    prepare_worker,
    record_death,
)
from textrl_benchmarks.leaderboard.running.cell_folder import CellFolder
from textrl_benchmarks.leaderboard.running.executors import RETRIES, thread_variables
from textrl_benchmarks.leaderboard.running.manifest import Stopwatch
from textrl_envs.errors import InvalidInputError

__all__ = ["RayExecutor"]


@dataclass(frozen=True, slots=True)
class RayExecutor:
    """A cluster that RAY_ADDRESS names or `ray start` began; else one on this machine.

    Args:
        workers: cells at once where the cluster is begun here; another takes what it has room for.
        threads: of each worker, each counted as a CPU.

    Raises:
        InvalidInputError: Ray is not installed.
    """

    workers: int
    threads: int = 1

    def __post_init__(self) -> None:
        _import_ray()

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        """Yields how each cell ended."""
        ray = _import_ray()
        _check_address(os.environ.get("RAY_ADDRESS", ""))
        try:
            _connect(ray, self.workers * self.threads)
        except ConnectionError as error:
            raise InvalidInputError(
                "The Ray cluster of RAY_ADDRESS or of `ray start` does not answer: "
                f"{str(error).partition(chr(10))[0]}. If it asks for a token, set "
                "RAY_AUTH_MODE=token; RAY_ADDRESS=local begins one here."
            ) from error
        environment = {"env_vars": thread_variables(self.threads)}
        options = {"num_cpus": self.threads, "max_retries": RETRIES, "runtime_env": environment}
        remote = ray.remote(**options)(_attempt_in_temporary_folder)
        watch, folder = Stopwatch(), Path.cwd()
        try:
            tasks = {remote.remote(job, folder): job for job in jobs}
            while tasks:
                (task,), _ = ray.wait(list(tasks))
                yield _collect(ray, task, tasks.pop(task), watch)
        finally:
            ray.shutdown()  # ends its tasks, and the cluster if it was begun here


def _check_address(address: str) -> None:
    """Refuses an address where nobody answers at once: Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # "local", or none at all
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise InvalidInputError(
            f"No Ray cluster answers at RAY_ADDRESS={address}: {error}. Correct it, or unset it to "
            "begin a cluster here."
        ) from error


def _connect(ray: Any, cpus: int) -> None:  # noqa: ANN401 - the module
    """Connects to the cluster that there is, or begins one with that many CPUs."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        # Not address="auto": that takes the cluster of any program that happens to have one.
        ray.init(num_cpus=cpus, include_dashboard=False, **quiet)
    except ValueError:  # there is one already, and it knows how many CPUs it has
        ray.init(**quiet)


def _import_ray() -> Any:  # noqa: ANN401 - the module
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise InvalidInputError(
            "--executor ray needs Ray, which is not installed: pip install 'textrl-envs[ray]'."
        ) from None
    return ray


def _attempt_in_temporary_folder(job: Job, folder: Path) -> tuple[Outcome, dict[str, bytes]]:
    """Runs in a Ray worker; returns the outcome and the files of the cell."""
    with contextlib.suppress(FileNotFoundError):  # another machine may not have it
        os.chdir(folder)  # which relative paths of agents begin at
    prepare_worker(job.threads)
    with tempfile.TemporaryDirectory() as root:
        outcome = attempt(replace(job, root=Path(root)))
        made = CellFolder(Path(root), job.cell)
        place = made.path if outcome.state == "done" else made.failed
        return outcome, {file.name: file.read_bytes() for file in place.iterdir()}


def _collect(ray: Any, task: Any, job: Job, watch: Stopwatch) -> Outcome:  # noqa: ANN401
    """Writes what a task brought."""
    outcome: Outcome
    try:
        outcome, files = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error  # `attempt` raises where nothing can be written
    except ray.exceptions.RayError as error:
        first = str(error).strip().partition("\n")[0]
        return record_death(job, f"{type(error).__name__} after {RETRIES} retries: {first}", watch)
    CellFolder(job.root, job.cell).adopt(files, outcome.state)
    return outcome
