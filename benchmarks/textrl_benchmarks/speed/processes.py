"""What is measured in processes of its own: whole iterations beside TRL, and peak memory."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from textrl_benchmarks.speed.bench import Row
from textrl_benchmarks.speed.job import Lengths, job_of_size, write_job
from textrl_benchmarks.speed.update import FORMS
from textrl_envs.errors import InvalidInputError

__all__ = ["measure_iterations", "measure_memory"]

PEERS = Path(__file__).with_name("peers")
ROUNDS = {"4x256": 2, "gpt2": 1}
"""Processes of each contender, in turns."""
UPDATES = {"4x256": {"PPO 4x4": 4, "RLOO 1x1": 9}, "gpt2": {"PPO 4x4": 3, "RLOO 1x1": 6}}
"""Updates of a process; the first is a warm-up and is left out. Each library draws lengths of its
own, and few updates would compare short responses with long ones."""


def measure_memory() -> list[Row]:
    """Returns the peak of one update at V = 50,257, batch 64, 256 new tokens, in each form."""
    rows: list[Row] = []
    for form in FORMS:
        command = [sys.executable, "-m", "textrl_benchmarks.speed.update", form]
        found = float(_output(command))
        rows.append({"case": "memory", "contender": form, "unit": "MiB", "median": found})
        rows[-1]["ratio"] = found / rows[0]["median"]
        Console().print(f"peak memory of an update, {form}: {found:,.0f} MiB")
    return rows


def measure_iterations(size: str) -> list[Row]:
    """Returns CPU-seconds of whole iterations of PPO and RLOO, here and in TRL.

    Args:
        size: of the comparison job, one of `textrl_benchmarks.speed.job.SIZES`.

    Raises:
        InvalidInputError: the peers' virtual environments are missing.
    """
    for name in (".venv-trl-ppo", ".venv-trl"):
        if not _python(name).exists():
            raise InvalidInputError(f"There is no {name} here. Make both by `make peers`.")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for lengths in ("varied", "full"):
            job = Path(folder) / f"{size}-{lengths}"
            write_job(job, job_of_size(size, lengths=_lengths(lengths)))
            for algorithm, contenders in _contenders(job, UPDATES[size]).items():
                name = f"{algorithm}, {size}, lengths {lengths}"
                rows += _in_turns(name, contenders, ROUNDS[size])
    return rows


def _lengths(name: str) -> Lengths:
    return "varied" if name == "varied" else "full"


def _contenders(job: Path, updates: dict[str, int]) -> dict[str, dict[str, list[str]]]:
    def settings(algorithm: str, epochs: str, minibatches: str) -> list[str]:
        shared = ["--updates", str(updates[algorithm]), "--threads", str(torch.get_num_threads())]
        return [*shared, "--epochs", epochs, "--minibatches", minibatches]

    ppo = settings("PPO 4x4", "4", "4")
    rloo = [*settings("RLOO 1x1", "1", "1"), "--algorithm", "rloo"]
    here = [sys.executable, str(PEERS / "textrl.py"), str(job)]
    return {
        "PPO 4x4": {
            "TRL 1.12": [
                str(_python(".venv-trl-ppo")), str(PEERS / "trl_ppo.py"), str(job), *ppo
            ],
            "a value model of its own": [*here, *ppo, "--algorithm", "ppo_separate"],
            "policy and value on one trunk": [*here, *ppo, "--algorithm", "ppo"],
        },
        "RLOO 1x1": {
            "TRL 1.16": [str(_python(".venv-trl")), str(PEERS / "trl_group.py"), str(job), *rloo],
            "REINFORCE, leave one out": [*here, *rloo],
        },
    }  # fmt: skip


def _python(venv: str) -> Path:
    return Path(venv) / "bin" / "python"


def _in_turns(name: str, contenders: dict[str, list[str]], rounds: int) -> list[Row]:
    """Runs each contender's process in turns; the first update of each is left out."""
    found: dict[str, list[dict[str, Any]]] = {who: [] for who in contenders}
    for _ in range(rounds):
        for who, command in contenders.items():
            line = json.loads(_output(command).splitlines()[-1])
            found[who] += [update for update in line["updates"] if not update["warm_up"]]
    base = float(np.median([u["cpu_seconds"] for u in next(iter(found.values()))]))
    rows = list(_rows(name, found, base))
    for row in rows:
        Console().print(
            f"{row['case']}: {row['contender']}: {row['median']:.2f} CPU-seconds an update "
            f"({row['minimum']:.2f}-{row['maximum']:.2f}), {row['ratio']:.2f} of TRL's, "
            f"mean length {row['mean_length']:.1f}"
        )
    return rows


def _rows(name: str, found: dict[str, list[dict[str, Any]]], base: float) -> Iterator[Row]:
    for who, updates in found.items():
        seconds = [update["cpu_seconds"] for update in updates]
        yield {
            "case": name,
            "contender": who,
            "unit": "CPU-seconds an update",
            "median": float(np.median(seconds)),
            "minimum": min(seconds),
            "maximum": max(seconds),
            "ratio": float(np.median(seconds)) / base,
            "mean_length": float(np.mean([update["mean_length"] for update in updates])),
            "updates": len(updates),
        }


def _output(command: list[str]) -> str:
    import os

    threads = str(torch.get_num_threads())
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": threads},
    )  # fmt: skip
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise InvalidInputError(f"{' '.join(command[:3])} failed: {reason[0]}")
    return done.stdout
