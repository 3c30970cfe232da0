"""`textrl speed`: environment, loop, update and whole iterations, beside their peers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

__all__ = ["Speed"]

Suite = Literal[
    "environment",
    "loop",
    "refill",
    "refill-gpt2",
    "kl",
    "update",
    "sb3",
    "scaling",
    "memory",
    "iteration",
    "iteration-gpt2",
    "page",
]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Measure units per CPU-second beside Gymnasium, generate, TRL and a plain update.

    `iteration` and `iteration-gpt2` need what `make peers` installs; `page` writes
    docs/performance.md from the JSON there is.
    """

    suites: Annotated[tuple[Suite, ...], tyro.conf.Positional] = (
        "environment",
        "loop",
        "refill",
        "kl",
        "update",
    )
    """What to measure."""
    rounds: int = 3
    """Turns of each contender; the median is reported."""
    threads: int = 1
    """Threads of torch."""
    out: Path | None = None
    """A folder for the results as JSON, one file a suite."""

    def run(self) -> int:
        """Measures, and prints one table a case."""
        # Not above: they load torch, and `textrl --help` shall not wait for that.
        from textrl_benchmarks.speed.suites import run_suites

        run_suites(self.suites, rounds=self.rounds, threads=self.threads, out=self.out)
        return 0
