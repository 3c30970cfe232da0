"""compare(board, a, b): where one agent is better than another, and how surely."""

from typing import Any

import numpy as np

from textrl_benchmarks.leaderboard.board.records import FLOOR
from textrl_benchmarks.leaderboard.board.significance import welch, welch_power
from textrl_benchmarks.leaderboard.board.standings import as_json
from textrl_envs.errors import InvalidInputError, nearest

__all__ = ["compare"]


def compare(board: dict[str, Any], a: str, b: str) -> dict[str, Any]:
    """Compares two agents of a board on the environments that both were scored on.

    Returns:
        Plain JSON: {"agents": [a, b], "iqm": [a's, b's], "rank_groups": [[low, high], ...],
        "improvement": chance that a run of a beats one of b, with its interval, "environments":
        [{"id", "difference": {"value", "low", "high"} of the mean normalised scores, Welch's
        interval of 95 %, "p_value": two-sided, of Welch's test, "seeds": [n, m],
        "power_for_one_sd": of the one-sided test}]}. None for what is unknown.

    Raises:
        InvalidInputError: an agent that the board has not, or the same one twice.
    """
    rows = {row["agent"]: row for row in board["rows"]}
    for name in (a, b):
        if name not in rows:
            raise InvalidInputError(f"The board has no agent {name!r}. {nearest(name, rows)}")
    if a == b:
        raise InvalidInputError(f"Two agents are compared; got {a} twice.")
    ids = [one["id"] for one in board["suite"]["environments"]]
    unknown = {"value": None, "low": None, "high": None}
    return {
        "agents": [a, b],
        "iqm": [rows[a]["iqm"], rows[b]["iqm"]],
        "rank_groups": [[rows[x]["rank_low"], rows[x]["rank_high"]] for x in (a, b)],
        "improvement": board["improvement"].get(a, {}).get(b, unknown),
        "environments": [
            {"id": env_id, **_difference(ours, theirs)}
            for env_id in ids
            if (ours := _counted(board, a, env_id)) and (theirs := _counted(board, b, env_id))
        ],
    }


def _counted(board: dict[str, Any], agent: str, env_id: str) -> list[float]:
    """The normalised scores of the seeds as aggregates take them; none where a KL is unknown."""
    seeds = board["heat"][agent].get(env_id, {"seeds": []})["seeds"]
    scores = [FLOOR if one["is_off_reference"] else one["normalised_score"] for one in seeds]
    return [] if None in scores else [max(score, FLOOR) for score in scores]


def _difference(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    counts = len(ours), len(theirs)
    if max(counts) < 2:
        value = float(np.mean(ours) - np.mean(theirs))
        nothing = {"value": value, "low": None, "high": None}
        return {"difference": nothing, "p_value": None, "seeds": counts, "power_for_one_sd": None}
    found = welch(ours, theirs)
    return {
        "difference": as_json(found.interval()),
        "p_value": 2 * min(found.p_value, 1 - found.p_value),
        "seeds": counts,
        "power_for_one_sd": welch_power(*counts, 1.0),
    }
