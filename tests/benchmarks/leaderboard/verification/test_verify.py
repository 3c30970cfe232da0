import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks.leaderboard.small_board import (
    Here,
    cell_folder,
    edit_curve,
    edit_json,
    hash_again,
    make,
    suite_of,
)
from textrl_benchmarks.cli import main
from textrl_benchmarks.leaderboard.board.significance import welch_power
from textrl_benchmarks.leaderboard.verification.audit import audit
from textrl_benchmarks.leaderboard.verification.verify import (
    AGGREGATE,
    first_difference,
    fresh_test,
    verify_fresh,
)
from textrl_envs.errors import InvalidInputError
from textrl_envs.files import read_json

PARITY, PASSCODE = "textrl/Parity-v0", "textrl/Passcode-v0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    suite = suite_of(PARITY, PASSCODE, seeds=[0, 1, 4])
    return make(suite, tmp_path_factory.mktemp("made"))


@pytest.fixture
def board(made: Path, tmp_path: Path) -> Path:
    """A copy of a board that was really run."""
    return Path(shutil.copytree(made, tmp_path / made.name))


# --- fresh: the statistics, by the function that the command calls ---


def rate_of_refutation(
    inflation: float, *, environments: int, count: int, draws: int, seed: int
) -> float:
    """Simulates claims of 5 seeds with normal scores, too high by so many standard deviations."""
    rng = np.random.default_rng(seed)
    refuted = 0
    for _ in range(draws):
        claimed, fresh = (
            {
                f"env {i}": dict(enumerate((shift + rng.normal(size=size)).tolist()))
                for i in range(environments)
            }
            for shift, size in ((inflation, 5), (0.0, count))
        )
        refuted += bool(fresh_test(claimed, fresh).refuted)
    return refuted / draws


@pytest.mark.parametrize(
    ("inflation", "count", "expected"),
    [(2.0, 5, 0.89), (2.0, 3, 0.71), (1.0, 5, 0.42), (0, 5, 0.05)],
)
def test_inflated_claims_are_refuted_as_often_as_it_is_said(
    inflation: float, count: int, expected: float
) -> None:
    found = rate_of_refutation(inflation, environments=1, count=count, draws=2500, seed=0)
    assert found == pytest.approx(expected, abs=0.03)
    if inflation:
        assert found == pytest.approx(welch_power(5, count, inflation), abs=0.03)


def test_of_many_environments_an_honest_claim_is_refuted_once_in_twenty_at_most() -> None:
    assert 0.01 < rate_of_refutation(0.0, environments=8, count=5, draws=1000, seed=1) < 0.065
    assert rate_of_refutation(2.0, environments=8, count=5, draws=200, seed=2) > 0.99


def test_the_mean_over_environments_is_a_claim_of_its_own() -> None:
    """A little too high everywhere is more than chance, where no environment alone tells."""
    rng = np.random.default_rng(3)
    claimed = {f"{i}": dict(enumerate((0.75 + rng.normal(size=5)).tolist())) for i in range(30)}
    fresh = {f"{i}": dict(enumerate(rng.normal(size=5).tolist(), 5)) for i in range(30)}
    found = fresh_test(claimed, fresh)
    assert AGGREGATE in found.refuted
    assert found.claimed[AGGREGATE][0] == np.mean([by_seed[0] for by_seed in claimed.values()])
    assert found.power(AGGREGATE, 2.0) == pytest.approx(0.89, abs=0.01)
    assert found.power(AGGREGATE, 2.0, is_alone=False) < found.power(AGGREGATE, 2.0)


# --- fresh: end to end ---


def inflate(folder: Path, by: float) -> None:
    for path in folder.glob("*/result.json"):
        if read_json(path.parent / "spec.json")["agent"] == "ppo":
            edit_json(
                "result.json",
                lambda record: record.update(normalised_score=record["normalised_score"] + by),
            )(path.parent)


def test_an_honest_claim_stands_and_a_falsified_one_is_refuted(
    board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = tmp_path / "fresh"
    words = ("leaderboard", "verify", str(board), "--agent", "ppo", "--fresh", "5")
    assert main((*words, "--keep", str(keep))) == 0
    said = capsys.readouterr().out
    assert "done: ppo on textrl/Parity-v0, seed 5" in said  # the highest claimed is 4
    assert said.count("done: ") == 10
    one, two = (welch_power(3, 5, effect) for effect in (1.0, 2.0))
    assert f"refuted with a chance of {one:.0%}, by two of {two:.0%}" in said
    assert "warning" not in said

    spread = [read_json(path)["normalised_score"] for path in keep.glob("*/*/result.json")]
    inflate(board, by=max(10 * float(np.std(spread)), 1.0))
    assert main((*words, "--keep", str(keep))) == 1  # with the same fresh runs
    said = capsys.readouterr().out
    assert "done: " not in said
    verdicts = [line.split()[-1] for line in said.splitlines() if line.startswith("textrl/")]
    assert verdicts == ["refuted", "refuted"]


def test_few_fresh_seeds_are_warned_of(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("leaderboard", "verify", str(board), "--agent", "null_uniform", "--fresh", "1")
    assert main((*words, "--environments", "Parity-v0", "--seed-base", "123456")) == 0
    said = capsys.readouterr().out
    assert "seed 123456" in said
    assert "warning: 1 fresh seeds refute little; give --fresh 5" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agent": "pppo"}, "small has no agent 'pppo'. Did you mean 'ppo'"),
        ({"count": 0}, "--fresh must be at least 1; got 0"),
        ({"seed_base": 3}, r"seeds \[4\] were claimed with, .* another --seed-base"),
        ({"environments": ["Pasword-v0"]}, "has no environment 'Pasword-v0'"),
    ],
)
def test_what_cannot_be_tested_is_refused(
    made: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        verify_fresh(made, executor=Here(), **{"agent": "ppo", **options})


def test_claims_of_another_version_are_not_tested(board: Path) -> None:
    for path in board.glob("*/spec.json"):
        edit_json("spec.json", lambda spec: spec.update(entry_version="textrl-envs==0.0.1"))(
            path.parent
        )
    with pytest.raises(InvalidInputError, match=r"is of entry_version textrl-envs==0\.0\.1; here"):
        verify_fresh(board, "ppo", executor=Here())


# --- exact ---


def test_running_again_gives_the_same_bytes_and_finds_a_forgery_that_no_audit_sees(
    board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def forge(rows: list[dict[str, str]]) -> None:
        rows[1]["entropy"] = "1.5"

    folder = cell_folder(board, "ppo", PARITY)
    edit_curve(forge)(folder)
    hash_again(folder)
    assert audit(folder).is_clean
    assert main(("leaderboard", "verify", str(board), "--exact", "--agent", "ppo")) == 1
    said = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("done: ppo on ") for line in said) == 6
    (wrong,) = [line for line in said if line.startswith("wrong: ")]
    assert wrong.startswith(f"wrong: {folder.name}/curves.csv: line 3, entropy: expected ")
    assert wrong.endswith("; found '1.5'")
    assert "1 wrong" in said


@pytest.mark.parametrize(
    ("name", "again", "stored", "expected"),
    [
        ("result.json", b'{"a": 1}', b'{"a": 1}', None),
        ("result.json", b'{"a": 1}', b'{"a": 2}', ("a", "1", "2")),
        ("result.json", b'{"a": 1}', b'{"a":1}', ("bytes", "8, of the same numbers", "7")),
        ("curves.csv", b"a,b\n1,2\n3,4\n", b"a,b\n1,2\n3,5\n", ("line 3, b", "'4'", "'5'")),
        ("curves.csv", b"a\n1\n2\n", b"a\n1\n", ("lines", "3", "2")),
    ],
)
def test_the_first_difference_is_named(
    name: str, again: bytes, stored: bytes, expected: tuple[str, str, str] | None
) -> None:
    assert first_difference(name, again, stored) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Give one of --exact (same seeds, same bytes) and --fresh 5"),
        (("--exact", "--fresh", "5"), "Give one of --exact"),
        (("--exact", "--workers", "0"), "--workers must be at least 1; got 0"),
        (("--fresh", "5"), "is no suite's folder and no submission"),
        (("--exact", "--agent", "nobody"), "has no cell of nobody that is done"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    made: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cell_folder(made, "reference", PARITY)
    assert main(("leaderboard", "verify", str(folder), *words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
