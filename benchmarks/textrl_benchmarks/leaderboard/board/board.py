"""make_board(suite, root): everything that the page, the tables and `compare` show, as plain JSON.

The cell folders are the truth, and the board follows from them alone: no clock, no machine.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_benchmarks.commands.environment_options import make_environment
from textrl_benchmarks.leaderboard.board.records import Record, Records, read_records
from textrl_benchmarks.leaderboard.board.significance import ranks
from textrl_benchmarks.leaderboard.board.standings import Standing, as_json, make_standing
from textrl_benchmarks.leaderboard.board.statistics import Bootstrap, improvement, iqm, profile
from textrl_benchmarks.leaderboard.board.validity import null_marks, problems
from textrl_benchmarks.leaderboard.running.contestants import BASELINES
from textrl_benchmarks.leaderboard.suite import Suite, SuiteAgent, SuiteEnvironment
from textrl_envs.optimum import optimum

__all__ = ["make_board"]

PROMPTS = 6
"""Prompts whose responses are shown side by side."""
POINTS = 200
"""Points of a learning curve, at most."""
TAUS = tuple(round(-1 + i / 50, 2) for i in range(106))
"""Thresholds of the performance profiles, -1 to 1.1: sampled scores may exceed 1 a little."""
FRONTIER = np.geomspace(1 / 8, 64, 60)
"""Multiples of β at which the reward-KL frontier is drawn."""


def make_board(suite: Suite, root: Path) -> dict[str, Any]:
    """Reads the cell folders of `<root>/<suite>` and computes the board.

    Raises:
        InvalidInputError: a broken file, or an environment without exact optimum.
    """
    records = read_records(suite, root)
    rows = [*suite.agents, *(SuiteAgent(name=name, entry=name) for name in BASELINES)]
    found = [make_standing(agent, suite, records) for agent in rows]
    standings = sorted(found, key=lambda one: (-one.iqm, one.agent.name))
    why_not = problems(standings)
    return {
        "suite": _suite(suite),
        "is_valid": not why_not,
        "problems": why_not,
        "rows": _rows(standings),
        "heat": {one.agent.name: one.heat() for one in standings},
        "curves": [
            curve for one in standings for record in one.records for curve in _curve(record)
        ],
        "profiles": {"taus": list(TAUS), "agents": _profiles(standings)},
        "improvement": _improvement(standings),
        "tags": _tags(suite, standings),
        "failures": _failures(records),
        "cells": {r.cell.folder_name: _cell(r) for one in standings for r in one.records},
        "samples": {one.id: _samples(one.id, standings) for one in suite.environments},
        "strangers": records.strangers,
    }


def _suite(suite: Suite) -> dict[str, Any]:
    return {
        "name": suite.name,
        "version": suite.version,
        "description": suite.description,
        "seeds": list(suite.seeds),
        "num_envs": suite.num_envs,
        "eval_episodes": suite.eval_episodes,
        "environments": [_environment(one) for one in suite.environments],
    }


def _environment(environment: SuiteEnvironment) -> dict[str, Any]:
    best = optimum(make_environment(environment.id, environment.parameters, 1))
    points = best.frontier((best.kl_coefficient * FRONTIER).tolist())
    return {
        "id": environment.id,
        "tags": list(environment.tags),
        "budget_tokens": environment.budget_tokens,
        "kl_coefficient": best.kl_coefficient,
        "reference_value": best.reference_value,
        "optimum_value": best.value,
        "frontier": [{"kl": point.kl, "score": point.reward} for point in points],
    }


# --- rows ---


def _rows(standings: Sequence[Standing]) -> list[dict[str, Any]]:
    places = _places(standings)
    nulls = [one for one in standings if one.kind == "null"]
    rows = []
    for one in standings:
        low, high = places.get(one.agent.name, (None, None))
        of_nulls = null_marks(one, nulls) if one.kind == "agent" else []
        marks = [*one.marks(), *of_nulls]
        rows.append({**one.row(), "rank_low": low, "rank_high": high, "marks": marks})
    return rows


def _places(standings: Sequence[Standing]) -> dict[str, tuple[int, int]]:
    """Ranks the agents whose every cell is done; what is no agent is no rival, and has no rank."""
    ranked = {
        one.agent.name: one.scored
        for one in standings
        if one.kind == "agent" and one.is_complete and one.scored is not None
    }
    drawn = ranked.values()
    places = ranks(
        [float(one.point(iqm)) for one in drawn],
        [one.error(iqm) for one in drawn],
        [one.freedom() for one in drawn],
    )
    return dict(zip(ranked, places, strict=True))


def _scored(standings: Sequence[Standing]) -> dict[str, Bootstrap]:
    return {one.agent.name: one.scored for one in standings if one.scored is not None}


def _profiles(standings: Sequence[Standing]) -> dict[str, Any]:
    above = profile(TAUS)
    found = {}
    for name, one in _scored(standings).items():
        low, high = one.bounds(above)
        bands = {"value": one.point(above), "low": low, "high": high}
        found[name] = {key: _numbers(values) for key, values in bands.items()}
    return found


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def _improvement(standings: Sequence[Standing]) -> dict[str, Any]:
    scored = _scored(standings)
    found: dict[str, dict[str, Any]] = {name: {} for name in scored}
    for a, b in combinations(scored, 2):
        chance = as_json(improvement(scored[a], scored[b]))
        found[a][b] = chance
        found[b][a] = {
            key: None if (other := chance[of]) is None else 1 - other
            for key, of in (("value", "value"), ("low", "high"), ("high", "low"))
        }
    return found


def _tags(suite: Suite, standings: Sequence[Standing]) -> dict[str, Any]:
    tags = dict.fromkeys(tag for one in suite.environments for tag in one.tags)
    members = {tag: [one.id for one in suite.environments if tag in one.tags] for tag in tags}
    scored = [one for one in standings if one.scored is not None]
    return {
        tag: {one.agent.name: one.counted_mean(ids) for one in scored}
        for tag, ids in members.items()
    }


# --- cells ---


def _cell(record: Record) -> dict[str, Any]:
    return {
        "spec": record.cell.as_dict(),
        "manifest": record.manifest,
        "result": record.result.as_dict(),
        "sha256sums": record.sha256sums(),
    }


def _failures(records: Records) -> list[dict[str, Any]]:
    return [
        {
            "cell": failure.cell.folder_name,
            "agent": agent,
            "env": env_id,
            "seed": seed,
            **{key: failure.error[key] for key in ("type", "message", "traceback")},
            "spec": failure.cell.as_dict(),
            "manifest": failure.manifest,
        }
        for (agent, env_id, seed), failure in sorted(records.failed.items())
    ]


def _curve(record: Record) -> list[dict[str, Any]]:
    rows = record.curve()
    if not rows:
        return []
    kept = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), POINTS)).round().astype(int))
    columns = {"tokens": "tokens", "normalised_score": "normalised_score", "score": "reward"}
    return [
        {
            "agent": record.cell.agent,
            "env": record.cell.env_id,
            "seed": record.cell.seed,
            "cell": record.cell.folder_name,
            **{
                name: [rows[i].get(column) for i in kept]
                for name, column in (*columns.items(), ("kl", "kl"))
            },
        }
    ]


def _samples(env_id: str, standings: Sequence[Standing]) -> list[dict[str, Any]]:
    """Returns the first prompts, each with what every agent's first seed said first to it."""
    prompts: dict[int, dict[str, Any]] = {}
    for record in (one.cells[env_id][0] for one in standings if one.cells[env_id]):
        whose = {"agent": record.cell.agent, "seed": record.cell.seed}
        answered: set[int] = set()
        for sample in record.samples():
            index = sample.prompt_index
            if index >= PROMPTS or index in answered:
                continue
            answered.add(index)
            shown = prompts.setdefault(
                index, {"prompt_index": index, "prompt": sample.prompt, "responses": []}
            )
            cell = record.cell.folder_name
            shown["responses"].append({**whose, "cell": cell, **sample.as_dict()})
    return [prompts[index] for index in sorted(prompts)]
