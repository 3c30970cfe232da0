"""Speed in one run: contenders in turns, CPU time, medians with their range, beside the floor.

They run in turns in one process, so that a slow minute of the machine meets all of them; libraries
that cannot share the process run as processes of their own, in turns too.
"""

import json
import platform
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table

from textrl_benchmarks.speed.floor import Machine, Work

__all__ = ["Case", "Row", "measure", "save"]

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One piece of work and those who do it; the first is who the others are compared with."""

    name: str
    unit: str
    contenders: Mapping[str, Callable[[], int]]
    """Each does its work and returns how much it did, in the unit."""
    work: Work | None = None
    """What cannot be avoided for one unit."""
    plot: tuple[str, float] | None = None
    """The axis that the case is a point of, and where on it."""


def measure(
    suites: Mapping[str, Callable[[], Iterator[Case]]],
    *,
    rounds: int,
    threads: int,
    out: Path | None,
) -> list[Row]:
    """Measures suites, prints them, and writes each as JSON where asked.

    Returns:
        One row a contender: its case, name, unit, median, minimum and maximum of the units per
        CPU-second, the ratio to the case's first, and the share of the floor that it reached.
    """
    torch.set_num_threads(threads)
    console, machine, rows = Console(), Machine.measured(), []
    for suite, cases in suites.items():
        found = []
        for case in cases():
            found += _in_turns(case, rounds, machine)
            _print(console, found[-len(case.contenders) :])
        rows += found
        save(found, suite, threads=threads, out=out, rounds=rounds, **machine.as_dict())
    return rows


def save(
    rows: list[Row],
    suite: str,
    *,
    threads: int,
    out: Path | None,
    **more: Any,  # noqa: ANN401
) -> None:
    """Writes rows as JSON, with the machine and the versions, where a folder is given."""
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    about = {**_about(), "threads": threads, **more}
    text = json.dumps({"about": about, "rows": rows}, indent=1)
    (out / f"{suite}-{threads}.json").write_text(text + "\n")


def _about() -> dict[str, Any]:
    cpu = Path("/proc/cpuinfo")
    names = [x for x in cpu.read_text().splitlines() if "model name" in x] if cpu.exists() else []
    return {
        "machine": names[0].partition(":")[2].strip() if names else platform.machine(),
        "cores": len(names) or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "gymnasium": gym.__version__,
    }


def _in_turns(case: Case, rounds: int, machine: Machine) -> list[Row]:
    """Runs every contender once to warm up, then all of them in turns."""
    for run in case.contenders.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in case.contenders}
    for _ in range(rounds):
        for name, run in case.contenders.items():
            start = cpu_seconds()
            done = run()
            rates[name].append(done / (cpu_seconds() - start))
    base = float(np.median(next(iter(rates.values()))))
    floor = None if case.work is None else 1 / machine.seconds(case.work)
    return [
        {
            "case": case.name,
            "contender": name,
            "unit": f"{case.unit} per CPU-second",
            "median": float(np.median(found)),
            "minimum": min(found),
            "maximum": max(found),
            "ratio": float(np.median(found)) / base,
            "floor": floor,
            "share": None if floor is None else float(np.median(found)) / floor,
            "plot": case.plot,
        }
        for name, found in rates.items()
    ]


def cpu_seconds() -> float:
    """Returns the CPU time of this process and of those it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _print(console: Console, rows: list[Row]) -> None:
    table = Table(box=None, pad_edge=False, title=rows[0]["case"], title_justify="left")
    table.add_column("contender")
    for heading in (rows[0]["unit"], "range", "ratio", "of the floor"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row["contender"],
            f"{row['median']:,.4g}" if row["median"] < 100 else f"{row['median']:,.0f}",
            f"{row['minimum']:,.4g}-{row['maximum']:,.4g}",
            f"{row['ratio']:.2f}",
            "" if row["share"] is None else f"{row['share']:.0%}",
        )
    console.print(table)
    console.print()
