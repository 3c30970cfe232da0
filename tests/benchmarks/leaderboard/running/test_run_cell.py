import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.benchmarks.leaderboard.one_cell import BIASED, agent_file, cell, contents, run
from textrl_benchmarks.leaderboard.cell import Cell
from textrl_benchmarks.leaderboard.fingerprint import fingerprint
from textrl_benchmarks.leaderboard.result import summarise
from textrl_benchmarks.leaderboard.running.run_cell import anchors_of, make_envs
from textrl_envs.errors import InvalidInputError
from textrl_envs.registration import IDS

WITHOUT_OPTIMUM = ("textrl/Dialogue-v0", "textrl/TextBandit-v0")
EXACT = [
    pytest.param(name, marks=pytest.mark.slow) if "Long" in name else name
    for name in IDS
    if name not in WITHOUT_OPTIMUM
]
every_exact_id = pytest.mark.parametrize("env_id", EXACT)

PPO = {"entry": "ppo", "settings": {"episodes_per_batch": 64, "minibatches": 2, "epochs": 2}}


@every_exact_id
def test_the_optimum_scores_1_and_the_reference_0(tmp_path: Path, env_id: str) -> None:
    for entry, expected in (("optimum", 1.0), ("reference", 0.0)):
        found, samples = run(cell(env_id=env_id, entry=entry), tmp_path / entry)
        assert found.normalised_score is not None
        assert found.normalised_score_error is not None
        # Six digits a token, and a success so rare that no sample has it, leave a thousandth.
        room = 4 * found.normalised_score_error + 1e-3
        assert abs(found.normalised_score - expected) < room
        assert found.tokens == 0
        assert len(samples) == 128
    assert found.kl == pytest.approx(0, abs=1e-5)


@every_exact_id
def test_no_null_agent_stands_above_the_reference(tmp_path: Path, env_id: str) -> None:
    for entry in ("null_empty", "null_constant", "null_repeat", "null_echo", "null_uniform"):
        found, _ = run(cell(env_id=env_id, entry=entry), tmp_path / entry)
        if found.is_off_reference:
            assert found.normalised_score is None
            continue
        assert found.normalised_score is not None
        assert found.normalised_score_error is not None
        assert found.normalised_score - 2 * found.normalised_score_error < 0


def test_a_result_follows_from_the_stored_samples(tmp_path: Path) -> None:
    spec = cell(env_id="textrl/ProxyReward-v0", entry="null_uniform", eval_episodes=50)
    found, samples = run(spec, tmp_path)
    assert found == summarise(samples, anchors_of(make_envs(spec), spec.env_id), tokens=0)
    assert sorted(contents(tmp_path)) == ["eval.jsonl.gz", "result.json"]


def test_an_agent_learns_within_its_budget_and_leaves_its_curves(tmp_path: Path) -> None:
    found, samples = run(cell(**PPO, budget_tokens=4000), tmp_path)
    rows = list(csv.DictReader((tmp_path / "curves.csv").read_text().splitlines()))
    assert found.tokens == int(rows[-1]["tokens"])
    assert 4000 <= found.tokens <= 5000
    assert {"iteration", "reward", "kl", "normalised_score"} <= rows[0].keys()
    assert found.normalised_score is not None
    assert found.normalised_score > 0.05
    assert all(one.values is not None for one in samples)


def third_party(folder: Path, text: str = BIASED) -> Cell:
    return cell(entry=agent_file(folder, text), agent="mine", budget_tokens=3200)


def test_an_agent_of_somebody_elses_learns_too(tmp_path: Path) -> None:
    found, samples = run(third_party(tmp_path), tmp_path / "cell")
    assert found.tokens < 3200  # the dead steps of NEXT_STEP are no tokens
    assert found.kl is not None
    assert found.kl > 0.01
    assert found.normalised_score is not None
    assert all(one.values is None for one in samples)
    assert len((tmp_path / "cell" / "curves.csv").read_text().splitlines()) == 101


@pytest.mark.parametrize("kind", ["ppo", "table", "third party", "top three"])
def test_a_cell_gives_the_same_bytes_whatever_ran_before(tmp_path: Path, kind: str) -> None:
    spec = {
        "ppo": cell(**PPO, budget_tokens=1500, seed=3),
        "table": cell(**PPO, budget_tokens=1500, policy="table"),
        "third party": third_party(tmp_path),
        "top three": cell(**PPO, env_id="textrl/TinyGPT-v0", budget_tokens=1500, num_envs=16),
    }[kind]
    run(spec, tmp_path / "first")
    other: dict[str, Any] = {"seed": 9, "num_envs": 24, "eval_episodes": 60}
    run(cell(**other, env_id=spec.env_id, entry="null_uniform"), tmp_path / "between")
    torch.rand(3)
    np.random.random(3)  # noqa: NPY002 - what other people's agents draw from
    run(spec, tmp_path / "second")
    first = contents(tmp_path / "first")
    assert sorted(first) == ["curves.csv", "eval.jsonl.gz", "result.json"]
    assert first == contents(tmp_path / "second")


@pytest.mark.parametrize("entry", ["null_uniform", "reference", "optimum"])
def test_the_seed_decides_the_bytes(tmp_path: Path, entry: str) -> None:
    for seed in (0, 1):
        run(cell(entry=entry, seed=seed), tmp_path / str(seed))
    first, other = (contents(tmp_path / str(seed))["eval.jsonl.gz"] for seed in (0, 1))
    assert first != other


def test_the_global_generators_are_as_they_were(tmp_path: Path) -> None:
    np.random.seed(5)  # noqa: NPY002 - what the agent draws from
    random.seed(5)
    before = torch.get_rng_state()
    run(third_party(tmp_path), tmp_path / "cell")
    assert torch.equal(before, torch.get_rng_state())
    assert random.random() == random.Random(5).random()
    assert np.random.random() == np.random.RandomState(5).random()  # noqa: NPY002


def test_what_an_agent_leaves_in_its_environment_is_not_played_in(tmp_path: Path) -> None:
    meddling = BIASED.replace(
        "        return log\n",
        "        import dataclasses\n"
        "        core = envs.unwrapped._core\n"
        "        core.task = dataclasses.replace(core.task, max_new_tokens=3)\n"
        "        return log\n",
    )
    assert meddling != BIASED
    played = []
    for name, text in (("plain", BIASED), ("meddled", meddling)):
        (tmp_path / name).mkdir()
        run(third_party(tmp_path / name, text), tmp_path / name / "cell")
        played.append(contents(tmp_path / name / "cell")["eval.jsonl.gz"])
    assert played[0] == played[1]


# --- what is refused ---


def refused(spec: Cell, folder: Path, message: str) -> None:
    folder.mkdir(exist_ok=True)
    with pytest.raises(InvalidInputError, match=message):
        run(spec, folder)
    assert contents(folder) == {}


def test_an_agent_that_spends_more_than_its_budget_fails(tmp_path: Path) -> None:
    spec = cell(entry="ppo", agent="greedy_one", budget_tokens=1000)  # a batch alone has 2,300
    message = r"greedy_one generated 2,\d\d\d tokens; its budget is 1,000, .* raise the budget"
    refused(spec, tmp_path, message)


def test_another_environment_than_the_one_planned_is_refused(tmp_path: Path) -> None:
    sha = fingerprint(make_envs(cell()))
    found, _ = run(cell(env_sha256=sha), tmp_path / "right")
    assert found.episodes == 128
    changed = cell(env_sha256=sha, env_parameters={"modulus": 4})
    refused(changed, tmp_path / "wrong", r"Parity-v0 is not the environment .* reference_value 0\.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env_id": "textrl/Dialogue-v0"}, "Dialogue-v0 has no exact optimum"),
        ({"env_id": "textrl/Parody-v0"}, r"Unknown environment .* Did you mean 'textrl/Parity-v0'"),
        ({"env_parameters": {"modulo": 3}}, r"no parameter 'modulo'\. Did you mean 'modulus'"),
        ({"entry": "pppo"}, r"Unknown agent 'pppo'"),
        ({"entry": "ppo", "settings": {"epoch": 1}}, "ppo has no setting 'epoch'"),
        ({"budget_tokens": 500}, "reference only plays"),
        ({"eval_episodes": 31}, "eval_episodes must be at least num_envs, 32, and 2; got 31"),
    ],
)
def test_a_cell_that_cannot_be_run_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    refused(cell(**changes), tmp_path, message)
