"""First rows of speed: the environment beside SyncVectorEnv, the loop beside `model.generate`.

Contenders run in turns in one process, so that a slow minute of the machine meets all of them;
CPU time counts, not the clock; the median of the rounds is reported with its range.
"""

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from textrl_benchmarks.speed.contenders import environment_contenders, loop_contenders

__all__ = ["measure"]

Row = dict[str, Any]


def measure(*, rounds: int, threads: int, out: Path | None) -> list[Row]:
    """Measures everything, prints it, and writes it where asked.

    Returns:
        One row a contender: its case, name, unit, median, minimum and maximum rate per
        CPU-second, and the ratio of its median to that of the case's first contender.
    """
    torch.set_num_threads(threads)
    console = Console()
    rows: list[Row] = []
    for unit, cases in (
        ("steps", environment_contenders(rows=(64, 1024))),
        ("tokens", loop_contenders()),
    ):
        for case, contenders in cases:
            found = _in_turns(case, unit, contenders, rounds)
            _print(console, found)
            rows += found
    if out is not None:
        about = {
            "machine": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "gymnasium": gym.__version__,
            "threads": threads,
            "rounds": rounds,
        }
        out.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")
    return rows


def _in_turns(
    case: str, unit: str, contenders: Mapping[str, Callable[[], int]], rounds: int
) -> list[Row]:
    """Runs every contender once to warm up, then all of them in turns."""
    for run in contenders.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.process_time()
            done = run()
            rates[name].append(done / (time.process_time() - start))
    base = float(np.median(rates[next(iter(rates))]))
    return [
        {
            "case": case,
            "contender": name,
            "unit": f"{unit} per CPU-second",
            "median": float(np.median(found)),
            "minimum": min(found),
            "maximum": max(found),
            "ratio": float(np.median(found)) / base,
        }
        for name, found in rates.items()
    ]


def _print(console: Console, rows: Sequence[Row]) -> None:
    table = Table(box=None, pad_edge=False, title=rows[0]["case"], title_justify="left")
    table.add_column("contender")
    for heading in (rows[0]["unit"], "range", "ratio"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row["contender"],
            f"{row['median']:,.0f}",
            f"{row['minimum']:,.0f}-{row['maximum']:,.0f}",
            f"{row['ratio']:.1f}",
        )
    console.print(table)
    console.print()
