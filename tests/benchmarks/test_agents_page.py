"""docs/agents.md: its tables are those of the board, and every agent is on it."""

import json
from pathlib import Path
from typing import Any

import pytest

from textrl_agents.registry import agent_names
from textrl_benchmarks import agents_page
from textrl_benchmarks.agents_page import BOARD, PAGE, claims, lows, scores
from textrl_envs.errors import InvalidInputError


def heat(*values: float | None) -> dict[str, Any]:
    """What a board holds of an agent's seeds in an environment; None is a run without a score."""
    known = [value for value in values if value is not None]
    return {
        "value": sum(known) / len(known) if len(known) == len(values) else None,
        "seeds": [{"seed": i, "normalised_score": value} for i, value in enumerate(values)],
    }


@pytest.fixture
def board() -> dict[str, Any]:
    """Three agents and a null agent on two environments; one has no score on the second."""
    return {
        "suite": {
            "name": "small",
            "seeds": [0, 1, 2],
            "environments": [
                {"id": "textrl/Keyword-v0", "budget_tokens": 1000},
                {"id": "textrl/Passcode-v0", "budget_tokens": 1000},
            ],
        },
        "rows": [
            {"agent": "ppo", "kind": "agent"},
            {"agent": "mcts", "kind": "agent"},
            {"agent": "dqn", "kind": "agent"},
            {"agent": "null_echo", "kind": "null"},
        ],
        "heat": {
            "ppo": {
                "textrl/Keyword-v0": heat(0.91, 0.92, 0.912),
                "textrl/Passcode-v0": heat(0.0, 0.002, -0.002),
            },
            "mcts": {
                "textrl/Keyword-v0": heat(0.2, 0.0, -0.05),
                "textrl/Passcode-v0": heat(0.04, 0.05, 0.04),
            },
            "dqn": {
                "textrl/Keyword-v0": heat(-1.5, -1.5, -1.5),
                "textrl/Passcode-v0": heat(None, -1.0, -1.0),
            },
            "null_echo": {"textrl/Keyword-v0": heat(-9.0, -9.0, -9.0)},
        },
    }


def test_scores_are_means_and_the_best_is_bold(board: dict[str, Any]) -> None:
    assert list(scores(board)) == [
        "| agent | Keyword-v0 | Passcode-v0 |",
        "|---|---|---|",
        "| `ppo` | **0.914** | 0.000 |",
        "| `mcts` | 0.050 | **0.043** |",
        "| `dqn` | -1.500 |  |",
    ]


def test_lows_name_where_nothing_was_gained(board: dict[str, Any]) -> None:
    assert list(lows(board))[2:] == [
        "| `ppo` | Passcode-v0 (0.000) |",
        "| `mcts` | Passcode-v0 (0.043), Keyword-v0 (0.050) |",
        "| `dqn` | Keyword-v0 (-1.500) |",
    ]
    board["heat"]["ppo"]["textrl/Passcode-v0"]["value"] = 0.5
    board["heat"]["dqn"] = {}
    found = list(lows(board))
    assert found[2] == "| `ppo` | nowhere here |"
    assert found[4] == "| `dqn` | no score: its KL is unknown |"


def test_better_than_the_reference_is_more_than_chance(board: dict[str, Any]) -> None:
    """Two standard errors over seeds: those of mcts on Keyword-v0 are .08 each."""
    first = next(iter(claims(board)))
    assert first == (
        "- **Keyword-v0**: 1 of 3 agents better than the reference, by more than twice the "
        "standard error over seeds. Not `mcts` (0.050 ± 0.076), not `dqn` (-1.500 ± 0.000)."
    )
    board["heat"]["mcts"]["textrl/Keyword-v0"] = heat(0.5, 0.5, 0.5)
    del board["heat"]["dqn"]["textrl/Keyword-v0"]
    first = next(iter(claims(board)))
    assert first.endswith("2 of 2 agents better than the reference, by more than twice the "
                          "standard error over seeds.")  # fmt: skip


def test_who_is_better_than_plain_ppo_where_success_is_rare(board: dict[str, Any]) -> None:
    assert list(claims(board))[-1] == (
        "- **Passcode-v0**: `ppo` reaches 0.000 ± 0.001; better than that by more than twice the "
        "standard error of the difference: `mcts` (0.043 ± 0.003)."
    )
    board["heat"]["mcts"]["textrl/Passcode-v0"] = heat(0.0, 0.0, 0.01)
    assert list(claims(board))[-1].endswith("of the difference: none.")


@pytest.mark.parametrize("name", agent_names())
def test_every_agent_is_on_the_page(name: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"`{name}`" in text or (name.startswith("null_") and "`null_...`" in text)


def test_one_command_fills_the_page(
    board: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page, path = tmp_path / "agents.md", tmp_path / "board.json"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    path.write_text(json.dumps(board))
    monkeypatch.setattr(agents_page, "PAGE", page)
    agents_page.main([str(path)])
    text = page.read_text(encoding="utf-8")
    for line in (*scores(board), *lows(board), *claims(board)):
        assert line in text
    assert "3 seeds, 1,000 generated tokens an agent" in text


def test_the_page_there_is_is_that_of_the_board(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root, page = Path(__file__).parents[2], tmp_path / "agents.md"
    text = (root / PAGE).read_text(encoding="utf-8")
    page.write_text(text, encoding="utf-8")
    monkeypatch.setattr(agents_page, "PAGE", page)
    agents_page.main([str(root / BOARD)])
    assert page.read_text(encoding="utf-8") == text


def test_a_board_that_is_not_there_is_named_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"none\.json.*leaderboard run --suite standard"):
        agents_page.main([str(tmp_path / "none.json")])
