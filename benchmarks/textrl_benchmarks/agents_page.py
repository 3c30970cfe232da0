"""Writes the scores of docs/agents.md from a board: every agent on every environment, and its lows.

    textrl leaderboard run --suite standard
    python -m textrl_benchmarks.agents_page [BOARD]

BOARD is the board.json of a leaderboard; without it, the one in benchmarks/results/standard. What
searching costs is written by `textrl_benchmarks.search_scores`.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textrl_benchmarks.marked_page import replaced, table
from textrl_envs.errors import InvalidInputError
from textrl_envs.files import read_json

__all__ = ["claims", "lows", "main", "scores"]

BOARD = Path("benchmarks/results/standard/board.json")
PAGE = Path("docs/agents.md")
LOW = 0.1
"""A mean normalised score below this counts as a failure: next to nothing was gained."""
EASY = ("textrl/Keyword-v0", "textrl/ExactLength-v0")
"""Where whatever learns or searches should be better than the reference."""
RARE = "textrl/Passcode-v0"
"""Where success is so rare that plain PPO finds nothing."""


def scores(board: Mapping[str, Any]) -> Iterator[str]:
    """Yields a table: the mean normalised score of each agent, the best first, on each environment.

    The best mean of a column is bold. An empty place is an agent without a score there.
    """
    agents = _agents(board)
    names = [one["id"] for one in board["suite"]["environments"]]
    means = {agent: _means(board, agent) for agent in agents}
    best = {name: max((m[name] for m in means.values() if name in m), default=0) for name in names}

    def cell(agent: str, name: str) -> str:
        value = means[agent].get(name)
        if value is None:
            return ""
        return f"**{_shown(value)}**" if value == best[name] else _shown(value)

    rows = ([f"`{agent}`", *(cell(agent, name) for name in names)] for agent in agents)
    yield from table(["agent", *(_short(name) for name in names)], rows)


def lows(board: Mapping[str, Any]) -> Iterator[str]:
    """Yields a table: where each agent gained next to nothing, or lost."""
    rows = []
    for agent in _agents(board):
        means = _means(board, agent)
        low = sorted((value, _short(name)) for name, value in means.items() if value < LOW)
        said = ", ".join(f"{name} ({_shown(value)})" for value, name in low) or "nowhere here"
        rows.append([f"`{agent}`", said if means else "no score: its KL is unknown"])
    yield from table(["agent", "fails on"], rows)


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds, and its standard error; 0 of a single seed."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{_shown(self.value)} ± {self.error:.3f}"

    def exceeds(self, other: "Mean") -> bool:
        """Tells whether it is larger by more than twice the standard error of the difference."""
        return self.value - other.value > 2 * math.hypot(self.error, other.error)


def claims(board: Mapping[str, Any]) -> Iterator[str]:
    """Yields what the scores say of the reference, and of plain PPO where success is rare."""
    names = [one["id"] for one in board["suite"]["environments"]]
    for name in (name for name in EASY if name in names):
        known = _known(board, name)
        worse = {agent: mean for agent, mean in known.items() if not mean.exceeds(Mean(0.0, 0.0))}
        said = ", ".join(f"not `{agent}` ({mean})" for agent, mean in worse.items())
        said = f" {said[0].upper()}{said[1:]}." if said else ""
        yield (
            f"- **{_short(name)}**: {len(known) - len(worse)} of {len(known)} agents better than "
            f"the reference, by more than twice the standard error over seeds.{said}"
        )
    if RARE in names and "ppo" in (known := _known(board, RARE)):
        plain = known["ppo"]
        better = (f"`{agent}` ({mean})" for agent, mean in known.items() if mean.exceeds(plain))
        yield (
            f"- **{_short(RARE)}**: `ppo` reaches {plain}; better than that by more than twice the "
            f"standard error of the difference: {', '.join(better) or 'none'}."
        )


def _agents(board: Mapping[str, Any]) -> list[str]:
    """Returns the agents but null ones, the best first."""
    return [row["agent"] for row in board["rows"] if row["kind"] == "agent"]


def _means(board: Mapping[str, Any], agent: str) -> dict[str, float]:
    """Returns an agent's mean over seeds on each environment where it has a score."""
    found = board["heat"].get(agent, {})
    return {name: one["value"] for name, one in found.items() if one["value"] is not None}


def _known(board: Mapping[str, Any], name: str) -> dict[str, Mean]:
    """Returns the mean of each agent that has a score in an environment."""
    known = {}
    for agent in _agents(board):
        found = board["heat"].get(agent, {}).get(name)
        if found is not None and found["value"] is not None:
            values = [one["normalised_score"] for one in found["seeds"]]
            error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
            known[agent] = Mean(found["value"], float(error))
    return known


def _shown(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # never "-0.000"


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def main(words: list[str]) -> None:
    """Writes the page.

    Raises:
        InvalidInputError: no board.
    """
    path = Path(words[0]) if words else BOARD
    if not path.exists():
        raise InvalidInputError(
            f"{path} is not there. Make it first: textrl leaderboard run --suite standard."
        )
    board = read_json(path)
    suite = board["suite"]
    about = (
        f"*Mean normalised score over {len(suite['seeds'])} seeds, "
        f"{suite['environments'][0]['budget_tokens']:,} generated tokens an agent: "
        f"`textrl leaderboard run --suite {suite['name']}`, "
        "then `python -m textrl_benchmarks.agents_page`.*"
    )
    text = PAGE.read_text(encoding="utf-8")
    text = replaced(text, "scores", [*scores(board), "", about])
    text = replaced(text, "claims", list(claims(board)))
    text = replaced(text, "lows", list(lows(board)))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
