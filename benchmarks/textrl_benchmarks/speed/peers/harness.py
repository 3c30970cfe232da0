"""What the peers share: their arguments, a clock of CPU time, and the line they print at the end.

The peers are scripts, `python trl_ppo.py FOLDER`, in virtual environments without this project. So
this module imports nothing of it, and they import this one as the file that lies beside them.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["Arguments", "Clock", "fail", "prompts_of", "read_arguments", "report"]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is to be run: a job, and how its batches are cut into optimiser steps."""

    folder: Path
    algorithm: str
    updates: int
    threads: int
    epochs: int
    minibatches: int
    job: dict[str, Any]

    @property
    def steps(self) -> int:
        """Optimiser steps of one update."""
        return self.epochs * self.minibatches


def read_arguments(algorithms: Sequence[str]) -> Arguments:
    """Reads the command line and the job, and sets the number of torch's threads."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="a job, as write_job writes it")
    parser.add_argument("--algorithm", choices=algorithms, default=algorithms[0])
    for name, default in (("updates", 3), ("threads", 1), ("epochs", 4), ("minibatches", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = vars(parser.parse_args())
    path = given["folder"] / "job.json"
    if not path.is_file():
        fail(f"{given['folder']} holds no job: there is no job.json in it.")
    job = json.loads(path.read_text(encoding="utf-8"))
    if job["batch"] % given["minibatches"]:
        fail(f"A batch of {job['batch']} cannot be cut into {given['minibatches']} minibatches.")
    _prepare(given["threads"])
    return Arguments(job=job, **given)


def prompts_of(arguments: Arguments) -> list[list[int]]:
    """Returns the token ids of each prompt."""
    text = (arguments.folder / "prompts.json").read_text(encoding="utf-8")
    found: list[list[int]] = json.loads(text)
    return found


def fail(message: str) -> NoReturn:
    """Ends the script with one line."""
    raise SystemExit(message)


@dataclass
class Clock:
    """Cuts the time into updates, and each update into phases that leave nothing out.

    It also counts the steps of all optimisers: settings of a library may mean fewer than it seems.
    """

    arguments: Arguments
    updates: list[dict[str, Any]] = field(default_factory=list)
    _phases: dict[str, float] = field(default_factory=dict)
    _lengths: list[int] = field(default_factory=list)
    _steps: int = 0

    def __post_init__(self) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        register_optimizer_step_post_hook(self._count)

    @property
    def is_running(self) -> bool:
        """Whether an update has begun."""
        return bool(self._phases)

    def start(self) -> None:
        """Begins an update."""
        self._phases, self._lengths, self._steps = {}, [], 0
        self._wall = time.perf_counter()
        self._cpu = self._began = time.process_time()

    def end(self, phase: str) -> None:
        """Gives the CPU time since the last end to a phase."""
        now = time.process_time()
        self._phases[phase] = self._phases.get(phase, 0.0) + now - self._cpu
        self._cpu = now

    def note_lengths(self, lengths: Sequence[int]) -> None:
        """Takes the tokens of each response, EOS included."""
        self._lengths += lengths

    def end_update(self) -> None:
        """Writes down the update, and begins the next."""
        if self._steps != self.arguments.steps:
            fail(f"{self._steps} optimiser steps were made; expected {self.arguments.steps}.")
        tokens = sum(self._lengths)
        self.updates.append(
            {
                "warm_up": not self.updates,
                "cpu_seconds": self._cpu - self._began,
                "wall_seconds": time.perf_counter() - self._wall,
                "phases": self._phases,
                "response_tokens": tokens,
                "mean_length": tokens / len(self._lengths),
            }
        )
        self.start()

    def _count(self, *_: object) -> None:
        self._steps += 1


def report(clock: Clock, *, peer: str, packages: Sequence[str], **more: object) -> None:
    """Prints what was measured as one line of JSON."""
    arguments = clock.arguments
    if len(clock.updates) != arguments.updates:
        fail(f"{len(clock.updates)} updates were made; expected {arguments.updates}.")
    line = {
        "peer": peer,
        "algorithm": arguments.algorithm,
        "versions": {name: metadata.version(name) for name in packages},
        "threads": arguments.threads,
        "epochs": arguments.epochs,
        "minibatches": arguments.minibatches,
        "optimizer_steps_per_update": arguments.steps,
        **more,
        # Linux counts it in KiB.
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "updates": clock.updates,
    }
    sys.stdout.write(json.dumps(line) + "\n")


def _prepare(threads: int) -> None:
    # Before Transformers is imported: nothing may be looked up on a hub, and no thread be added.
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")
    import torch

    torch.set_num_threads(threads)
