"""docs/agents.md: its tables are those of the board, and every agent is on it."""

from typing import Any

import pytest

from textrl_agents.registry import agent_names
from textrl_benchmarks.agents_page import PAGE, lows, scores


@pytest.fixture
def board() -> dict[str, Any]:
    """Two agents and a null agent on two environments; one of them has no score on the second."""
    return {
        "suite": {"environments": [{"id": "textrl/Keyword-v0"}, {"id": "textrl/Parity-v0"}]},
        "rows": [
            {"agent": "ppo", "kind": "agent"},
            {"agent": "dqn", "kind": "agent"},
            {"agent": "null_echo", "kind": "null"},
        ],
        "heat": {
            "ppo": {"textrl/Keyword-v0": {"value": 0.914}, "textrl/Parity-v0": {"value": 0.04}},
            "dqn": {"textrl/Keyword-v0": {"value": -1.5}, "textrl/Parity-v0": {"value": None}},
            "null_echo": {"textrl/Keyword-v0": {"value": -9.0}},
        },
    }


def test_scores_are_means_and_the_best_is_bold(board: dict[str, Any]) -> None:
    assert list(scores(board)) == [
        "| agent | Keyword-v0 | Parity-v0 |",
        "|---|---|---|",
        "| `ppo` | **0.91** | **0.04** |",
        "| `dqn` | -1.50 |  |",
    ]


def test_lows_name_where_nothing_was_gained(board: dict[str, Any]) -> None:
    assert list(lows(board))[2:] == [
        "| `ppo` | Parity-v0 (0.04) |",
        "| `dqn` | Keyword-v0 (-1.50) |",
    ]
    board["heat"]["ppo"]["textrl/Parity-v0"]["value"] = 0.5
    board["heat"]["dqn"] = {}
    assert list(lows(board))[2:] == [
        "| `ppo` | nowhere here |",
        "| `dqn` | no score: its KL is unknown |",
    ]


@pytest.mark.parametrize("name", agent_names())
def test_every_agent_is_on_the_page(name: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"`{name}`" in text or (name.startswith("null_") and "`null_...`" in text)
