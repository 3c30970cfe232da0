"""Standing: what the board says of one agent, from its cells alone and from no rival's.

So adding a rival changes nothing here. What depends on the others, rank and marks, is `board`'s.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from textrl_benchmarks.leaderboard.board.records import Record, Records
from textrl_benchmarks.leaderboard.board.significance import prediction_interval
from textrl_benchmarks.leaderboard.board.statistics import (
    Bootstrap,
    Interval,
    Scores,
    iqm,
    mean,
    median,
    optimality_gap,
)
from textrl_benchmarks.leaderboard.cell import sha256
from textrl_benchmarks.leaderboard.running.contestants import Kind, kind_of
from textrl_benchmarks.leaderboard.suite import Suite, SuiteAgent

__all__ = ["Standing", "as_json", "make_standing"]

BOOTSTRAP_SEED = 0
ENOUGH_SEEDS = 5
"""From as many on, an environment's interval is the bootstrap's, of the mean."""
UNKNOWN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Standing:
    """An agent's cells and their numbers."""

    agent: SuiteAgent
    kind: Kind
    cells: dict[str, list[Record]]
    """Of each environment of the suite, by seed; empty lists where none is done."""
    planned: int
    failed: int
    raw: Bootstrap | None
    """Mean score of each cell; None where an environment has no cell yet."""
    scored: Bootstrap | None
    """Normalised scores, no less than -1; None where a cell is missing or its KL unknown."""

    @property
    def records(self) -> list[Record]:
        """All cells."""
        return [record for found in self.cells.values() for record in found]

    @property
    def is_complete(self) -> bool:
        """Tells whether every planned cell is done.

        No rank without: who fails where others lose would gain by it.
        """
        return len(self.records) == self.planned

    @property
    def iqm(self) -> float:
        """What the board is sorted by; minus infinity where unknown."""
        return -math.inf if self.scored is None else float(self.scored.point(iqm))

    def row(self) -> dict[str, Any]:
        """The row of the board, without rank and marks."""
        statistics = {"iqm": iqm, "mean": mean, "median": median, "optimality_gap": optimality_gap}
        return {
            "agent": self.agent.name,
            "kind": self.kind,
            "entry": self.agent.entry,
            "policy": self.agent.policy,
            "settings": self.agent.settings,
            **{
                name: as_json(self.scored.interval(one) if self.scored else UNKNOWN)
                for name, one in statistics.items()
            },
            "score": as_json(self.raw.interval(mean) if self.raw else UNKNOWN),
            "kl": as_json(self._kl()),
            "cells_done": len(self.records),
            "cells_planned": self.planned,
            "cells_failed": self.failed,
            "seeds": sorted({record.cell.seed for record in self.records}),
            "tokens": sum(record.result.tokens for record in self.records),
            "cpu_seconds": sum(record.manifest["cpu_seconds"] for record in self.records),
        }

    def heat(self) -> dict[str, Any]:
        """The fields of the heat map: an environment with at least one cell each."""
        return {env_id: self._field(env_id) for env_id, found in self.cells.items() if found}

    def score_on(self, env_id: str) -> Interval:
        """Mean normalised score on an environment, as it is, with its interval.

        Below five seeds that of a fresh run, else that of the mean; NaN off the reference.
        """
        scores = [record.result.normalised_score for record in self.cells[env_id]]
        values = [math.nan if score is None else score for score in scores]
        if not np.isfinite(values).all():
            return UNKNOWN
        if len(values) < ENOUGH_SEEDS:
            return prediction_interval(values)
        return _draw([values], f"{self.agent.name} on {env_id}").interval(mean)

    def counted_mean(self, env_ids: Sequence[str]) -> float:
        """Mean over environments of what aggregates take; only for an agent that is scored."""
        scores = [_counted(self.cells[env_id]) for env_id in env_ids]
        return float(np.mean([np.mean(values) for values in scores]))

    def marks(self) -> list[str]:
        """What a reader has to know of the cells."""
        missing = self.planned - len(self.records) - self.failed
        strayed = [
            env_id
            for env_id, found in self.cells.items()
            if any(record.result.is_off_reference for record in found)
        ]
        is_unknown = any(record.counted_score is None for record in self.records)
        return [
            *([f"{self.failed} of {self.planned} cells failed"] if self.failed else []),
            *([f"{missing} of {self.planned} cells not done"] if missing else []),
            *(["its KL is unknown"] if is_unknown else []),
            *(f"off the reference on {env_id}" for env_id in strayed),
        ]

    def _kl(self) -> Interval:
        kls = {env_id: [r.result.kl for r in found] for env_id, found in self.cells.items()}
        known = [[kl for kl in found if kl is not None] for found in kls.values()]
        if self.raw is None or sum(map(len, known)) < len(self.records):
            return UNKNOWN
        return replace(self.raw, scores=Scores.of(known)).interval(mean)

    def _field(self, env_id: str) -> dict[str, Any]:
        records = self.cells[env_id]
        return {
            **as_json(self.score_on(env_id)),
            "interval": "bootstrap" if len(records) >= ENOUGH_SEEDS else "t prediction",
            "seeds": [
                {
                    "seed": record.cell.seed,
                    "normalised_score": record.result.normalised_score,
                    "is_off_reference": record.result.is_off_reference,
                    "score": record.result.score,
                    "kl": record.result.kl,
                    "gold": record.result.gold,
                    "length": record.result.length,
                    "distinct": record.result.distinct,
                    "commonest": record.result.commonest,
                    "cell": record.cell.folder_name,
                }
                for record in records
            ],
        }


def make_standing(agent: SuiteAgent, suite: Suite, records: Records) -> Standing:
    """Takes an agent's cells out of all."""
    ids = [environment.id for environment in suite.environments]
    cells = {env_id: records.of(agent.name, env_id) for env_id in ids}
    raw = scored = None
    if all(cells.values()):
        scores = [[record.result.score for record in found] for found in cells.values()]
        raw = _draw(scores, agent.name)
        if all(record.counted_score is not None for found in cells.values() for record in found):
            scored = replace(raw, scores=Scores.of([_counted(found) for found in cells.values()]))
    return Standing(
        agent=agent,
        kind=kind_of(agent.entry),
        cells=cells,
        planned=len(ids) * len(suite.seeds),
        failed=sum(place[0] == agent.name for place in records.failed),
        raw=raw,
        scored=scored,
    )


def as_json(interval: Interval) -> dict[str, float | None]:
    """Returns value, low and high, None for NaN.

    >>> as_json(Interval(1.0, float("nan"), float("nan")))
    {'value': 1.0, 'low': None, 'high': None}
    """
    numbers = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: None if math.isnan(number) else number for name, number in numbers.items()}


def _counted(records: Sequence[Record]) -> list[float]:
    return [record.counted_score for record in records if record.counted_score is not None]


def _draw(scores: Sequence[Sequence[float]], name: str) -> Bootstrap:
    """Draws replicates from a stream of the name's own: no rival moves another's interval."""
    rng = np.random.default_rng([BOOTSTRAP_SEED, int(sha256(name.encode())[:16], 16)])
    return Bootstrap.draw(Scores.of(list(scores)), rng)
