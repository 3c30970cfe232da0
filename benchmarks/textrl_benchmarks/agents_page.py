"""Writes the scores of docs/agents.md from a board: every agent on every environment, and its lows.

    textrl leaderboard run --suite standard
    python -m textrl_benchmarks.agents_page [BOARD]

BOARD is the board.json of a leaderboard; without it, the one in benchmarks/results/standard.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from textrl_benchmarks.marked_page import replaced, table
from textrl_envs.files import read_json

__all__ = ["lows", "main", "scores"]

BOARD = Path("benchmarks/results/standard/board.json")
PAGE = Path("docs/agents.md")
LOW = 0.1
"""A mean normalised score below this counts as a failure: next to nothing was gained."""


def scores(board: Mapping[str, Any]) -> Iterator[str]:
    """Yields a table: the mean normalised score of each agent, the best first, on each environment.

    The best mean of a column is bold. An empty place is an agent without a score there.
    """
    agents = [row["agent"] for row in board["rows"] if row["kind"] == "agent"]
    names = [one["id"] for one in board["suite"]["environments"]]
    means = {agent: _means(board, agent) for agent in agents}
    best = {name: max((m[name] for m in means.values() if name in m), default=0) for name in names}

    def cell(agent: str, name: str) -> str:
        value = means[agent].get(name)
        if value is None:
            return ""
        return f"**{value:.2f}**" if value == best[name] else f"{value:.2f}"

    rows = ([f"`{agent}`", *(cell(agent, name) for name in names)] for agent in agents)
    yield from table(["agent", *(_short(name) for name in names)], rows)


def lows(board: Mapping[str, Any]) -> Iterator[str]:
    """Yields a table: where each agent gained next to nothing, or lost."""
    rows = []
    for row in board["rows"]:
        if row["kind"] == "agent":
            means = _means(board, row["agent"])
            low = sorted((value, _short(name)) for name, value in means.items() if value < LOW)
            said = ", ".join(f"{name} ({value:.2f})" for value, name in low) or "nowhere here"
            rows.append([f"`{row['agent']}`", said if means else "no score: its KL is unknown"])
    yield from table(["agent", "fails on"], rows)


def _means(board: Mapping[str, Any], agent: str) -> dict[str, float]:
    """Returns an agent's mean over seeds on each environment where it has a score."""
    found = board["heat"].get(agent, {})
    return {name: one["value"] for name, one in found.items() if one["value"] is not None}


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def main(words: list[str]) -> None:
    """Writes the page."""
    board = read_json(Path(words[0]) if words else BOARD)
    suite = board["suite"]
    about = (
        f"*Mean normalised score over {len(suite['seeds'])} seeds, "
        f"{suite['environments'][0]['budget_tokens']:,} generated tokens an agent: "
        f"`textrl leaderboard run --suite {suite['name']}`, "
        "then `python -m textrl_benchmarks.agents_page`.*"
    )
    text = PAGE.read_text(encoding="utf-8")
    text = replaced(text, "scores", [*scores(board), "", about])
    text = replaced(text, "lows", list(lows(board)))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
