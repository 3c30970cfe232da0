"""claims_of(suite, root, agent): what an agent's cells say that it reached, as plain JSON."""

from pathlib import Path
from typing import Any

from textrl_benchmarks.leaderboard.board.records import Record, read_records
from textrl_benchmarks.leaderboard.board.standings import make_standing
from textrl_benchmarks.leaderboard.running.contestants import BASELINES
from textrl_benchmarks.leaderboard.suite import Suite, SuiteAgent
from textrl_envs.errors import InvalidInputError, nearest

__all__ = ["agent_of", "claims_of", "records_of"]


def agent_of(suite: Suite, name: str) -> SuiteAgent:
    """Returns a row of a suite.

    Raises:
        InvalidInputError: it has no such row.
    """
    rows = {one.name: one for one in suite.agents}
    rows |= {baseline: SuiteAgent(name=baseline, entry=baseline) for baseline in BASELINES}
    if name not in rows:
        raise InvalidInputError(f"{suite.name} has no agent {name!r}. {nearest(name, rows)}")
    return rows[name]


def records_of(suite: Suite, root: Path, agent: str) -> list[Record]:
    """Returns an agent's cells that are done, by environment and seed.

    Raises:
        InvalidInputError: it has none, or they are of several versions of the agent.
    """
    agent_of(suite, agent)
    records = read_records(suite, root)
    found = [one for environment in suite.environments for one in records.of(agent, environment.id)]
    if not found:
        raise InvalidInputError(f"{agent} has no cell that is done in {root / suite.name}.")
    return found


def claims_of(suite: Suite, root: Path, agent: str) -> dict[str, Any]:
    """Returns the fields of submission.json that follow from the cells.

    Raises:
        InvalidInputError: no such agent, or no cell of it.
    """
    row, records = agent_of(suite, agent), read_records(suite, root)
    done = records_of(suite, root, agent)
    standing = make_standing(row, suite, records)
    failed = [one.cell.folder_name for (name, _, _), one in records.failed.items() if name == agent]
    return {
        "agent": row.name,
        "entry": row.entry,
        "entry_version": done[0].cell.entry_version,
        "policy": row.policy,
        "settings": row.settings,
        "suite": suite.name,
        "suite_version": suite.version,
        "claims": standing.heat(),
        "iqm": standing.row()["iqm"],
        "cells": sorted(
            [*(one.folder.name for one in done), *(f"{name}.failed" for name in failed)]
        ),
    }
