"""Record and Failure: the cell folders of a suite, read and put in their places."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textrl_benchmarks.leaderboard.cell import Cell
from textrl_benchmarks.leaderboard.plan import plan
from textrl_benchmarks.leaderboard.result import Result, Sample
from textrl_benchmarks.leaderboard.running.contestants import BASELINES
from textrl_benchmarks.leaderboard.samples import read_samples
from textrl_benchmarks.leaderboard.suite import Suite
from textrl_envs.errors import InvalidInputError
from textrl_envs.files import read_json

__all__ = ["Failure", "Place", "Record", "Records", "is_of", "read_records"]

Place = tuple[str, str, int]
"""Agent, environment and seed."""

FLOOR = -1.0
"""Worse counts as this in all aggregates: else one run that strays decides a mean."""


@dataclass(frozen=True, slots=True)
class Record:
    """A cell that is done."""

    cell: Cell
    folder: Path
    result: Result
    manifest: dict[str, Any]

    @property
    def counted_score(self) -> float | None:
        """The normalised score that aggregates take, no less than -1; None for an unknown KL."""
        if self.result.is_off_reference:
            return FLOOR
        score = self.result.normalised_score
        return None if score is None else max(score, FLOOR)

    def sha256sums(self) -> str:
        """The text of SHA256SUMS."""
        return (self.folder / "SHA256SUMS").read_text(encoding="utf-8")

    def samples(self) -> list[Sample]:
        """The evaluation episodes."""
        return read_samples(self.folder / "eval.jsonl.gz")

    def curve(self) -> list[dict[str, float | None]]:
        """Rows of curves.csv; None for what is empty or no finite number; [] without a file."""
        path = self.folder / "curves.csv"
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return [
                {key: _number(text) for key, text in row.items()} for row in csv.DictReader(file)
            ]


@dataclass(frozen=True, slots=True)
class Failure:
    """A cell that raised."""

    cell: Cell
    manifest: dict[str, Any]
    error: dict[str, str]
    """Type, message and traceback."""


@dataclass(frozen=True, slots=True)
class Records:
    """What there is of a suite."""

    done: dict[Place, Record]
    failed: dict[Place, Failure]
    """Without those that were done later."""
    strangers: list[str]
    """Folders of cells that are not this suite's, or of an older agent or environment."""

    def of(self, agent: str, env_id: str) -> list[Record]:
        """The cells of an agent on an environment, by seed."""
        found = [one for (a, e, _), one in self.done.items() if (a, e) == (agent, env_id)]
        return sorted(found, key=lambda record: record.cell.seed)


def read_records(suite: Suite, root: Path) -> Records:
    """Reads the folders of `<root>/<suite>`; a suite that was never run has none.

    Where cells of several versions of an agent or an environment are there, those of today's
    count: versions are never mixed.

    Raises:
        InvalidInputError: a file that is broken; several versions, and an agent of the suite that
            cannot be found, so that today's is unknown.
    """
    paths = sorted((root / suite.name).glob("*/spec.json"))
    folders = {path.parent: _read_cell(path.parent) for path in paths if _is_ended(path.parent)}
    kept = {folder: cell for folder, cell in folders.items() if is_of(cell, suite)}
    if _is_mixed(kept.values()):
        today = {cell.cell_id for cell in plan(suite)}
        kept = {folder: cell for folder, cell in kept.items() if cell.cell_id in today}
    done = {
        _place(cell): _record(cell, folder) for folder, cell in kept.items() if not folder.suffix
    }
    failed = {
        _place(cell): Failure(cell, *_read(folder, "manifest.json", "error.json"))
        for folder, cell in kept.items()
        if folder.suffix and _place(cell) not in done
    }
    return Records(done, failed, [folder.name for folder in folders if folder not in kept])


def _is_ended(folder: Path) -> bool:
    return folder.suffix in ("", ".failed")


def _place(cell: Cell) -> Place:
    return cell.agent, cell.env_id, cell.seed


def _is_mixed(cells: Iterable[Cell]) -> bool:
    """Tells whether an agent or an environment is there in several versions."""
    versions: dict[tuple[str, str], set[str]] = defaultdict(set)
    for cell in cells:
        versions["agent", cell.agent].add(cell.entry_version)
        versions["environment", cell.env_id].add(cell.env_sha256)
    return any(len(found) > 1 for found in versions.values())


def is_of(cell: Cell, suite: Suite) -> bool:
    """Tells whether the suite would run this cell, whatever versions of agent and environment."""
    environment = next((one for one in suite.environments if one.id == cell.env_id), None)
    agent = next((one for one in suite.agents if one.name == cell.agent), None)
    is_baseline = cell.agent in BASELINES
    if environment is None or not (agent or is_baseline) or cell.seed not in suite.seeds:
        return False
    asked = (suite.name, suite.version, suite.num_envs, suite.eval_episodes)
    if (cell.suite, cell.suite_version, cell.num_envs, cell.eval_episodes) != asked:
        return False
    if cell.env_parameters != environment.parameters:
        return False
    if agent is None:
        return cell.budget_tokens == 0
    return (cell.entry, cell.policy, cell.settings, cell.budget_tokens) == (
        agent.entry,
        agent.policy,
        agent.settings,
        environment.budget_tokens,
    )


def _read(folder: Path, *names: str) -> list[dict[str, Any]]:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InvalidInputError(f"{folder} lacks {', '.join(missing)}. Remove it, and run again.")
    return [read_json(folder / name) for name in names]


def _read_cell(folder: Path) -> Cell:
    (spec,) = _read(folder, "spec.json")
    try:
        return Cell.from_dict(spec)
    except TypeError as error:
        raise InvalidInputError(f"{folder / 'spec.json'} is no cell: {error}.") from error


def _record(cell: Cell, folder: Path) -> Record:
    manifest, result = _read(folder, "manifest.json", "result.json")
    try:
        return Record(cell, folder, Result.from_dict(result), manifest)
    except (KeyError, TypeError) as error:
        raise InvalidInputError(f"{folder / 'result.json'} is no result: {error}.") from error


def _number(text: str | None) -> float | None:
    number = float(text) if text else math.nan
    return number if math.isfinite(number) else None
