"""The suites by name, in the order in which they are best run."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from textrl_agents.memory import keep_freed_memory
from textrl_benchmarks.speed import environment, kl, loop, page, sb3, update
from textrl_benchmarks.speed.bench import Case, Row, measure, save
from textrl_benchmarks.speed.processes import measure_iterations, measure_memory
from textrl_envs.errors import InvalidInputError

__all__ = ["run_suites"]

IN_PROCESS: dict[str, Callable[[], Iterator[Case]]] = {
    "environment": environment.cases,
    "loop": loop.cases,
    "refill": functools.partial(loop.refill_cases, "small"),
    "refill-gpt2": functools.partial(loop.refill_cases, "gpt2"),
    "kl": kl.cases,
    "update": update.cases,
    "sb3": sb3.cases,
    "scaling": loop.scaling_cases,
}
OF_THEIR_OWN: dict[str, Callable[[], list[Row]]] = {
    "memory": measure_memory,
    "iteration": functools.partial(measure_iterations, "4x256"),
    "iteration-gpt2": functools.partial(measure_iterations, "gpt2"),
}


def run_suites(names: Sequence[str], *, rounds: int, threads: int, out: Path | None) -> None:
    """Runs suites, prints what they find, and writes it where asked.

    Raises:
        InvalidInputError: no rounds or no threads.
    """
    for name, value in (("rounds", rounds), ("threads", threads)):
        if value < 1:
            raise InvalidInputError(f"{name} must be at least 1; got {value}.")
    torch.set_num_threads(threads)
    keep_freed_memory()
    chosen = {name: IN_PROCESS[name] for name in names if name in IN_PROCESS}
    if chosen:
        measure(chosen, rounds=rounds, threads=threads, out=out)
    for name in names:
        if name in OF_THEIR_OWN:
            save(OF_THEIR_OWN[name](), name, threads=threads, out=out)
    if "page" in names:
        page.write(out or page.RESULTS)
