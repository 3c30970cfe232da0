"""Cells: their ids stay while nothing changes, and change with whatever a result depends on."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.leaderboard.cheap_cells import AGENTS, suite_of
from textrl_benchmarks.leaderboard.plan import plan
from textrl_benchmarks.leaderboard.running.contestants import BASELINES
from textrl_benchmarks.leaderboard.versions import entry_version, weights_sha256
from textrl_envs.errors import InvalidInputError

AGENT = """
from textrl_agents.reinforce import REINFORCE

class Mine(REINFORCE):
    name = "mine"
"""


def ids(**changes: Any) -> set[str]:
    return {cell.cell_id for cell in plan(suite_of(**changes))}


def test_a_plan_is_every_combination_seed_by_seed() -> None:
    cells = plan(suite_of(seeds=[4, 2]))

    rows = ["ppo", "table", *BASELINES]
    places = [(cell.seed, cell.env_id, cell.agent) for cell in cells]
    assert places == [
        (seed, env_id, agent)
        for seed in (4, 2)
        for env_id in ("textrl/Passcode-v0", "textrl/Brackets-v0")
        for agent in rows
    ]
    assert all((cell.budget_tokens == 0) == (cell.agent in BASELINES) for cell in cells)
    assert all(len(cell.env_sha256) == 64 and cell.entry_version for cell in cells)


def test_the_same_suite_has_the_same_cells_and_no_two_are_equal() -> None:
    assert ids() == ids()
    assert len(ids()) == len(plan(suite_of()))


PASSCODE, BRACKETS = "textrl/Passcode-v0", "textrl/Brackets-v0"


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"version": 2}, 0),
        ({"num_envs": 16}, 0),
        ({"eval_episodes": 64}, 0),
        ({"seeds": [1]}, 0),
        ({"seeds": [0, 1]}, 18),
        ({"description": "Other words."}, 18),
        ({"agents": [*AGENTS, {"name": "rival", "entry": "reinforce"}]}, 18),
        ({"agents": [AGENTS[0], {**AGENTS[1], "settings": {}}]}, 16),
        ({"agents": [AGENTS[0], {**AGENTS[1], "policy": "auto"}]}, 16),
        ({"agents": [AGENTS[0], {**AGENTS[1], "name": "other"}]}, 16),
        # The rows that do not learn keep their cells when a budget changes.
        (
            {
                "environments": [
                    {"id": PASSCODE, "budget_tokens": 1500},
                    {"id": BRACKETS, "budget_tokens": 4000},
                ]
            },
            16,
        ),
        (
            {
                "environments": [
                    {"id": PASSCODE, "budget_tokens": 1500},
                    {
                        "id": BRACKETS,
                        "budget_tokens": 1500,
                        "parameters": {"kl_coefficient": 0.2},
                    },
                ]
            },
            9,
        ),
        (
            {
                "environments": [
                    {"id": PASSCODE, "budget_tokens": 1500, "tags": ["x"]},
                    {"id": BRACKETS, "budget_tokens": 1500},
                ]
            },
            18,
        ),
    ],
)
def test_what_a_result_depends_on_makes_other_cells(changes: dict[str, Any], kept: int) -> None:
    assert len(ids() & ids(**changes)) == kept


def test_an_agent_is_its_distribution_or_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(AGENT)
    first = entry_version(f"{path}:Mine")
    path.write_text(AGENT + "# other\n")

    assert entry_version("ppo").startswith("textrl-envs==")
    assert entry_version("reference") == entry_version("ppo")
    assert entry_version("stable_baselines3.ppo:PPO").startswith("stable_baselines3==")
    assert first.startswith("sha256:")
    assert entry_version(f"{path}:Mine") != first


def test_weights_are_what_stands_in_them_and_not_where_they_are(tmp_path: Path) -> None:
    for name, weights in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "README.md").write_text(name)

    a, b, c = (weights_sha256(tmp_path / name) for name in "abc")
    assert a == b != c
    assert entry_version("ppo", str(tmp_path / "a")).endswith(f" weights-sha256:{a}")
    (tmp_path / "b" / "config.json").write_text('{"n_layer": 2}')
    assert weights_sha256(tmp_path / "b") != a


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ({"entry": "pqo"}, "Unknown agent 'pqo'. Did you mean 'ppo'"),
        ({"entry": "nowhere.py:Mine"}, "There is no file nowhere.py"),
        ({"entry": "nowhere:Mine"}, "There is no module 'nowhere'"),
        (
            {"entry": "ppo", "settings": {"lerning_rate": 1}},
            "'a': ppo has no setting 'lerning_rate'",
        ),
        ({"entry": "ppo", "policy": "tabel"}, "There are no weights .* in the policy folder tabel"),
    ],
)
def test_an_agent_that_cannot_be_run_is_refused_before_anything_is(
    agent: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InvalidInputError, match=expected):
        plan(suite_of(agents=[{"name": "a", **agent}]))


def test_an_environment_without_exact_optimum_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="textrl/Dialogue-v0"):
        plan(suite_of(environments=[{"id": "textrl/Dialogue-v0", "budget_tokens": 1}]))


def test_an_agent_in_a_file_is_found_from_where_the_command_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(AGENT)
    monkeypatch.chdir(tmp_path)
    cells = plan(suite_of(agents=[{"name": "mine", "entry": "mine.py:Mine"}]))
    assert os.sep not in cells[0].entry
    assert cells[0].entry_version == entry_version("mine.py:Mine")
