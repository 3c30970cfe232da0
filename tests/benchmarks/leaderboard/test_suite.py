"""Suites: what is read, what is refused, and what is chosen from them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.leaderboard.cheap_cells import suite_of
from textrl_benchmarks.leaderboard.plan import plan
from textrl_benchmarks.leaderboard.running.contestants import BASELINES
from textrl_benchmarks.leaderboard.suite import (
    Suite,
    merge,
    read_stored_suite,
    read_suite,
    select,
    store_suite,
    suite_names,
)
from textrl_envs.errors import InvalidInputError
from textrl_envs.registration import IDS

TEXT = """
name = "mine"
version = 2
seeds = [3, 1]
num_envs = 4
eval_episodes = 8

[[environments]]
id = "textrl/Keyword-v0"
budget_tokens = 60_000
tags = ["sparse credit"]
parameters = { max_new_tokens = 12 }

[[agents]]
name = "fast"
entry = "ppo"
settings = { learning_rate = 1e-2 }
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_a_file_becomes_what_it_says(tmp_path: Path) -> None:
    suite = read_suite(write(tmp_path, TEXT))

    assert (suite.name, suite.version, suite.seeds, suite.num_envs) == ("mine", 2, (3, 1), 4)
    (environment,), (agent,) = suite.environments, suite.agents
    assert environment.tags == ("sparse credit",)
    assert environment.parameters == {"max_new_tokens": 12}
    assert (agent.entry, agent.policy, agent.settings) == ("ppo", "auto", {"learning_rate": 1e-2})
    assert Suite.from_dict(suite.as_dict()) == suite


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "version = 2",
            "verzion = 2",
            "mine.toml has an unknown field 'verzion'. Did you mean 've",
        ),
        ("version = 2", "", "mine.toml lacks the field 'version'"),
        ("version = 2", "version = 2.5", "mine.toml: version must be int; got 2.5"),
        ("version = 2", "version = true", "mine.toml: version must be int; got True"),
        ("seeds = [3, 1]", "seeds = 3", "mine.toml: seeds must be a list of int; got 3"),
        ("seeds = [3, 1]", "seeds = [3, 3]", "mine.toml: The seed 3 is there twice"),
        ("seeds = [3, 1]", "seeds = [-1]", "mine.toml: seeds must be in 0..2^63-1"),
        ("eval_episodes = 8", "eval_episodes = 3", "eval_episodes must be at least 4; got 3"),
        ("mine", "a/b", "name must be letters"),
        ("textrl/Keyword-v0", "textrl/Keywrd-v0", "Did you mean 'textrl/Keyword-v0'?"),
        ("budget_tokens = 60_000", "", "mine.toml, environments 1 lacks the field 'budget_tokens'"),
        ("60_000", "0", "budget_tokens must be at least 1; got 0"),
        ("entry =", "entri =", "mine.toml, agents 1 has an unknown field 'entri'. Did you mean"),
        ('"fast"', '"optimum"', "'optimum' is there twice. Every board has a row of that name."),
        (
            "{ learning_rate = 1e-2 }",
            "3",
            "mine.toml, agents 1: settings must be a table without dates",
        ),
        (
            "1e-2",
            "nan",
            "settings must be a table without dates and nan; got {'learning_rate': nan",
        ),
        ("1e-2", "2026-01-01", "settings must be a table without dates and nan"),
        ("[[agents]]", "[agents]", "agents must be tables, each begun by [[agents]]"),
        ("version = 2", "version = ", "is no TOML"),
    ],
)
def test_a_mistake_is_named_with_its_place(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read_suite(write(tmp_path, TEXT.replace(old, new)))
    assert expected in str(caught.value)


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidInputError, match="Did you mean 'quick'"):
        read_suite("qick")


def test_the_built_in_suites_can_be_read() -> None:
    found = {name: read_suite(name) for name in suite_names()}

    assert set(found) == {"quick", "standard", "full"}
    assert all(suite.name == name for name, suite in found.items())
    assert len(found["standard"].seeds) == 5
    exact = {name for name in IDS if name not in ("textrl/Dialogue-v0", "textrl/TextBandit-v0")}
    assert {one.id for one in found["full"].environments} == exact


@pytest.mark.parametrize("name", ["quick", "standard"])
def test_every_agent_of_a_built_in_suite_can_be_made(name: str) -> None:
    """`plan` makes each of them once."""
    suite = read_suite(name)
    rows = len(suite.agents) + len(BASELINES)
    assert len(plan(suite)) == rows * len(suite.environments) * len(suite.seeds)


def test_a_choice_keeps_what_is_named_and_adds_rivals() -> None:
    found = select(
        suite_of(),
        seeds=[5],
        agents=["table"],
        environments=["Brackets-v0"],
        rivals=["reinforce", "my/agent.py:Mine"],
    )

    assert found.seeds == (5,)
    assert [one.id for one in found.environments] == ["textrl/Brackets-v0"]
    assert [(one.name, one.entry) for one in found.agents] == [
        ("table", "ppo"),
        ("reinforce", "reinforce"),
        ("Mine", "my/agent.py:Mine"),
    ]
    assert select(suite_of()) == suite_of()


@pytest.mark.parametrize(
    ("choose", "expected"),
    [
        (
            lambda suite: select(suite, agents=["tabel"]),
            "has no agent 'tabel'. Did you mean 'table'",
        ),
        (lambda suite: select(suite, environments=["Bracket-v0"]), "small has no environment"),
        (lambda suite: select(suite, rivals=["ppo"]), "The agent 'ppo' is there twice"),
    ],
)
def test_a_wrong_choice_is_refused(choose: Callable[[Suite], Any], expected: str) -> None:
    with pytest.raises(InvalidInputError, match=expected):
        choose(suite_of())


def test_a_folder_remembers_all_that_was_run_in_it(tmp_path: Path) -> None:
    small = select(suite_of(), agents=["ppo"], environments=["Passcode-v0"])
    rival = select(suite_of(seeds=[1]), rivals=["reinforce"])
    (tmp_path / "small").mkdir()

    store_suite(merge(small, rival), tmp_path / "small")

    both = read_stored_suite(tmp_path, "small")
    assert both.seeds == (0, 1)
    assert [agent.name for agent in both.agents] == ["ppo", "table", "reinforce"]
    assert len(both.environments) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"eval_episodes": 64},
        {"environments": [{"id": "textrl/Passcode-v0", "budget_tokens": 1}]},
        {"agents": [{"name": "ppo", "entry": "reinforce"}]},
    ],
)
def test_another_suite_of_the_same_name_does_not_share_a_folder(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="Give another --out"):
        merge(suite_of(), suite_of(**changes))


def test_a_folder_without_runs_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="Begin by: textrl leaderboard run"):
        read_stored_suite(tmp_path, "quick")
