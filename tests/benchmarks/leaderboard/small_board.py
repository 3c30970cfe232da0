"""Boards that were really run, small and in this process, and ways to tamper with them."""

import csv
import gzip
import json
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from textrl_benchmarks.leaderboard.board.report import write_report
from textrl_benchmarks.leaderboard.result import Result, Sample, summarise
from textrl_benchmarks.leaderboard.running.attempt import Job, Outcome, attempt
from textrl_benchmarks.leaderboard.running.cell_folder import write_sums
from textrl_benchmarks.leaderboard.running.runner import run
from textrl_benchmarks.leaderboard.samples import read_samples, write_samples
from textrl_benchmarks.leaderboard.suite import Suite
from textrl_envs.files import read_json

PPO = {
    "name": "ppo",
    "entry": "ppo",
    "policy": "table",
    "settings": {"episodes_per_batch": 16, "minibatches": 2, "epochs": 1},
}


class Here:
    """Runs cells in this process."""

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        for job in jobs:
            yield attempt(job)


def suite_of(*env_ids: str, **changes: Any) -> Suite:
    table: dict[str, Any] = {
        "name": "small",
        "version": 1,
        "seeds": [0],
        "num_envs": 16,
        "eval_episodes": 48,
        "environments": [{"id": name, "budget_tokens": 1000} for name in env_ids],
        "agents": [PPO],
    }
    return Suite.from_dict({**table, **changes})


def make(suite: Suite, root: Path) -> Path:
    """Runs a suite, writes its board, and returns its folder."""
    found = run(suite, root, Here(), console=Console(quiet=True))
    assert not found.failed()
    write_report(suite, root)
    return root / suite.name


def cell_folder(folder: Path, agent: str, env_id: str) -> Path:
    for path in sorted(folder.glob("*/spec.json")):
        spec = read_json(path)
        if (spec["agent"], spec["env_id"]) == (agent, env_id):
            return path.parent
    raise AssertionError(f"no cell of {agent} on {env_id} in {folder}")


# --- to tamper ---


def edit_json(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        record = read_json(folder / name)
        change(record)
        (folder / name).write_text(json.dumps(record, indent=1) + "\n")

    return edit


def edit_samples(change: Callable[[list[Any]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "eval.jsonl.gz"
        lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        change(lines)
        write_samples([Sample.from_dict(line) for line in lines], path)

    return edit


def edit_curve(change: Callable[[list[dict[str, str]]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "curves.csv"
        rows = list(csv.DictReader(path.read_text().splitlines()))
        change(rows)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    return edit


def summarise_again(folder: Path) -> None:
    """Makes the result follow from the samples, as a careful forger would."""
    old = Result.from_dict(read_json(folder / "result.json"))
    samples = read_samples(folder / "eval.jsonl.gz")
    new = summarise(samples, old.anchors, tokens=old.tokens)
    (folder / "result.json").write_text(json.dumps(new.as_dict(), sort_keys=True, indent=2) + "\n")


def hash_again(folder: Path) -> None:
    write_sums(folder)
