import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks.leaderboard.small_board import (
    cell_folder,
    edit_curve,
    edit_json,
    edit_samples,
    hash_again,
    make,
    suite_of,
    summarise_again,
)
from textrl_benchmarks.cli import main
from textrl_benchmarks.leaderboard.cell import Cell
from textrl_benchmarks.leaderboard.result import Sample
from textrl_benchmarks.leaderboard.verification.audit import audit
from textrl_benchmarks.leaderboard.verification.honesty import (
    LIMIT,
    frequency_log_ratios,
    log_wealth,
)
from textrl_benchmarks.leaderboard.verification.validate import validate
from textrl_envs.errors import InvalidInputError
from textrl_envs.files import read_json

PROXY, NOISY = "textrl/ProxyReward-v0", "textrl/Noisy-v0"
SUITE = suite_of(PROXY, NOISY)
Tamper = Callable[[Path], None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(SUITE, tmp_path_factory.mktemp("made"))


@pytest.fixture
def board(made: Path, tmp_path: Path) -> Path:
    """A copy of a board that was really run."""
    return Path(shutil.copytree(made, tmp_path / made.name))


def test_an_honest_board_is_clean(made: Path) -> None:
    found = audit(made)
    assert found.wrong == []
    assert found.checked["cells"] == 16
    assert found.checked["responses scored again"] == 16 * 48
    assert found.checked["tests of log-probabilities"] == 3 * 16
    assert found.checked["results computed again"] == 16
    assert found.checked["boards computed again"] == 1
    assert validate(made).wrong == []


def test_a_single_cell_and_the_folder_of_all_suites_can_be_audited(made: Path) -> None:
    found = audit(cell_folder(made, "ppo", NOISY))
    assert found.is_clean
    assert found.checked["cells"] == 1
    assert audit(made.parent).checked["cells"] == 16


# --- tampering ---


def set_in(place: int, name: str, value: Any) -> Tamper:
    return edit_samples(lambda lines: lines[place].update({name: value}))


def shift(name: str, token: int, by: float) -> Tamper:
    def change(lines: list[Any]) -> None:
        lines[3][name][token] += by

    return edit_samples(change)


def all_right(lines: list[Any]) -> None:
    for line in lines:
        line["score"] = 1.0


def other_noise(lines: list[Any]) -> None:
    line = lines[7]  # pays 4/3 or -1/3, whatever the label
    line["score"] = 4 / 3 if line["score"] < 0 else -1 / 3
    line["advantages"] = None
    line["values"] = None


def swap(lines: list[Any]) -> None:
    lines[0], lines[1] = lines[1], lines[0]


def drop(lines: list[Any]) -> None:
    del lines[5]


def empty(folder: Path) -> None:
    (folder / EVAL).write_bytes(b"")


def repeat_the_best(lines: list[Any]) -> None:
    best = max(lines, key=lambda line: float(line["score"]))
    lines[:] = [best] * len(lines)


def grow(name: str, by: float) -> Tamper:
    return edit_json(name, lambda record: record.update(normalised_score=by))


def set_json(name: str, **fields: Any) -> Tamper:
    return edit_json(name, lambda record: record.update(fields))


def set_anchor(record: Any) -> None:
    record["anchors"]["optimum"] *= 0.5


def set_curve(row: int, **fields: str) -> Tamper:
    return edit_curve(lambda rows: rows[row].update(fields))


def forge(lines: list[Any]) -> None:
    """Claims that the policy is the reference, so that its KL is 0."""
    for line in lines:
        line["log_probs"] = line["ref_log_probs"]


EVAL, RESULT, CURVE = "eval.jsonl.gz", "result.json", "curves.csv"
MANIFEST, SPEC = "manifest.json", "spec.json"
TAMPERS: dict[str, tuple[str, Tamper, str]] = {
    "response": (EVAL, set_in(3, "response", "the sailor sang"), "line 4, response"),
    "tokens": (EVAL, set_in(3, "tokens", ["x"]), ""),
    "prompt": (EVAL, set_in(3, "prompt", "another"), "line 4, prompt"),
    "score": (EVAL, set_in(3, "score", 2.0), "line 4, score"),
    "gold": (EVAL, set_in(3, "gold", 0.99), "line 4, gold"),
    "no gold": (EVAL, set_in(3, "gold", None), "line 4, gold"),
    "finish": (EVAL, set_in(3, "finish_reason", "length"), ""),
    "prompt index": (EVAL, set_in(3, "prompt_index", 10**6), "line 4, prompt_index"),
    "unknown token": (EVAL, set_in(3, "response_ids", [10**6]), ""),
    "log-prob": (EVAL, shift("log_probs", 0, -1.0), "line 4, token 1, advantages"),
    "reference": (EVAL, shift("ref_log_probs", 0, 0.5), "line 4, token 1, ref_log_probs"),
    "value": (EVAL, shift("values", 0, 0.5), "line 4, token 1, advantages"),
    "all scores": (EVAL, edit_samples(all_right), "line 1, score"),
    "order": (EVAL, edit_samples(swap), "line 1, prompt_index"),
    "one less": (EVAL, edit_samples(drop), "episodes"),
    "one for all": (EVAL, edit_samples(repeat_the_best), ""),
    "no samples": (EVAL, empty, ""),
    "normalised score": (RESULT, grow(RESULT, 0.9), "normalised_score"),
    "anchors": (RESULT, edit_json(RESULT, set_anchor), "anchors.optimum"),
    "tokens of the result": (RESULT, set_json(RESULT, tokens=5000), "tokens"),
    "no number": (RESULT, set_json(RESULT, score="high"), "score"),
    "further field": (RESULT, set_json(RESULT, rank=1), "rank"),
    "a curve's score": (CURVE, set_curve(0, normalised_score="0.9"), "line 2, normalised_score"),
    "a curve's reward": (CURVE, set_curve(0, reward="0.9"), "line 2, return"),
    "a curve's tokens": (CURVE, set_curve(-1, tokens="900"), ""),
    "no curve": (CURVE, lambda folder: (folder / CURVE).unlink(), "file"),
    "wall time": (MANIFEST, set_json(MANIFEST, wall_seconds=1e6), "wall_seconds"),
    "cpu time": (MANIFEST, set_json(MANIFEST, cpu_seconds=-1), "cpu_seconds"),
    "threads": (MANIFEST, set_json(MANIFEST, threads="many"), "threads"),
    "no manifest": (MANIFEST, lambda folder: (folder / MANIFEST).unlink(), "file"),
    "seed": (SPEC, set_json(SPEC, seed=9), "hash, the folder's name"),
    "budget": (SPEC, set_json(SPEC, budget_tokens=10), "hash, the folder's name"),
}


@pytest.mark.parametrize("is_hashed", [False, True], ids=["", "hashed"])
@pytest.mark.parametrize("name", TAMPERS)
def test_what_was_tampered_with_is_named(board: Path, name: str, is_hashed: bool) -> None:
    file, tamper, field = TAMPERS[name]
    folder = cell_folder(board, "ppo", PROXY)
    tamper(folder)
    if is_hashed:
        hash_again(folder)
    found = audit(folder)
    of_file = [one for one in found.wrong if one.file == file]
    assert of_file
    assert field in ("", *(one.field for one in of_file))
    assert is_hashed or {"sha256", "file"} & {one.field for one in of_file}


def test_noise_that_the_seed_did_not_give_is_named(board: Path) -> None:
    folder = cell_folder(board, "ppo", NOISY)
    edit_samples(other_noise)(folder)
    summarise_again(folder)
    hash_again(folder)
    found = audit(folder)
    assert [(one.file, one.field) for one in found.wrong] == [(EVAL, "line 8, score")]


def test_a_careful_forger_of_log_probs_is_refuted(board: Path) -> None:
    """Everything agrees with everything, hashes included: only the claim itself cannot be true."""
    folder = cell_folder(board, "optimum", PROXY)
    edit_samples(forge)(folder)

    def without_values(lines: list[Any]) -> None:
        for line in lines:
            line["advantages"] = line["values"] = None

    edit_samples(without_values)(folder)
    summarise_again(folder)
    hash_again(folder)
    assert read_json(folder / RESULT)["normalised_score"] > 1.2
    found = audit(folder)
    assert {(one.file, one.field) for one in found.wrong} == {(EVAL, "log_probs")}
    assert "not above the optimum's" in str(found.wrong[0])


def test_the_board_is_computed_again(board: Path) -> None:
    folder = cell_folder(board, "ppo", PROXY)
    set_json(MANIFEST, cpu="Z80")(folder)
    hash_again(folder)
    assert audit(folder).is_clean  # nobody knows the machine; but the board does
    found = audit(board)
    assert found.files() == {"board.json"}
    assert f"cells.{folder.name}.manifest.cpu" in [one.field for one in found.wrong]


@pytest.mark.parametrize("names", [("board.json",), ("board.md", "board.csv", "index.html")])
def test_tampered_tables_are_named(board: Path, names: tuple[str, ...]) -> None:
    for name in names:
        text = (board / name).read_text()
        changed = text.replace("0.0", "0.9")
        assert changed != text
        (board / name).write_text(changed)
    assert audit(board).files() == set(names)


def test_a_cell_of_another_environment_is_named(board: Path) -> None:
    folder = cell_folder(board, "reference", PROXY)
    spec = read_json(folder / SPEC)
    spec["env_sha256"] = "0" * 64
    moved = _as_its_own_cell(folder, spec)
    found = audit(moved)
    assert [(one.file, one.field) for one in found.wrong] == [(SPEC, "env_sha256")]


def test_a_suite_that_its_cells_are_not_of_is_named(board: Path) -> None:
    set_json("suite.json", num_envs=8)(board)
    assert all(one.file.endswith(SPEC) for one in audit(board).wrong[:16])


def test_a_cell_moved_to_another_seed_is_named(board: Path) -> None:
    folder = cell_folder(board, "ppo", PROXY)
    moved = _as_its_own_cell(folder, {**read_json(folder / SPEC), "seed": 5})
    assert EVAL in audit(moved).files()  # the seed decides the prompts
    assert f"{moved.name}/{SPEC}" in audit(board).files()  # and it is none of the suite's


def _as_its_own_cell(folder: Path, spec: dict[str, Any]) -> Path:
    (folder / SPEC).write_text(json.dumps(spec))
    hash_again(folder)
    return folder.rename(folder.with_name(Cell.from_dict(spec).folder_name))


def test_validate_scores_nothing_and_sees_hashes_and_formats(board: Path) -> None:
    folder = cell_folder(board, "ppo", PROXY)
    set_in(3, "score", 2.0)(folder)
    assert [one.field for one in validate(folder).wrong] == ["sha256"]
    hash_again(folder)
    assert validate(folder).is_clean
    set_json(RESULT, score=None)(folder)
    hash_again(folder)
    (one,) = validate(folder).wrong
    assert str(one) == "result.json: score: expected a finite number; found None"


def test_the_command_names_what_is_wrong(board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = cell_folder(board, "ppo", PROXY)
    assert main(("leaderboard", "audit", str(folder))) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    set_in(3, "score", 2.0)(folder)
    hash_again(folder)
    assert main(("leaderboard", "audit", str(folder))) == 1
    said = capsys.readouterr().out
    assert "wrong: eval.jsonl.gz: line 4, score: expected 0." in said
    assert "; found 2.0" in said
    assert main(("leaderboard", "validate", str(board.parent / "nowhere"))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is no folder of a cell, a suite or a submission" in line


# --- log-probabilities ---


def test_wealth_refutes_the_honest_no_more_often_than_it_says() -> None:
    """Markov: P(W >= 20) <= 5 %, for tokens drawn from the claimed distribution."""
    rng = np.random.default_rng(0)
    q, pi = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    draws = rng.choice(3, size=(4000, 50), p=pi)
    wealth = [log_wealth(np.log(q / pi)[drawn]) for drawn in draws]
    refuted = np.mean(np.array(wealth) >= np.log(20))
    assert 0 < refuted <= 0.05
    assert np.mean(np.exp(wealth)) < 1.5  # E[W] = 1, whose sample mean is heavy-tailed


def tokens_of(drawn: np.ndarray[Any, Any], claimed: np.ndarray[Any, Any]) -> list[Sample]:
    return [
        Sample(
            prompt_index=0,
            prompt="",
            response="",
            prompt_ids=(),
            response_ids=tuple(row.tolist()),
            tokens=("",) * len(row),
            finish_reason="stop",
            score=0.0,
            log_probs=tuple(np.log(claimed[row]).tolist()),
        )
        for row in drawn
    ]


@pytest.mark.parametrize("is_honest", [True, False])
def test_frequencies_refute_a_liar_alone(is_honest: bool) -> None:
    """He draws from pi and claims another distribution, of a smaller KL."""
    rng = np.random.default_rng(1)
    pi, other = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.3, 0.3])
    found = [
        log_wealth(
            frequency_log_ratios(
                tokens_of(rng.choice(3, size=(100, 8), p=pi), pi if is_honest else other), 3
            )
        )
        for _ in range(100)
    ]
    refuted = np.mean(np.array(found) > LIMIT)
    assert refuted == 0.0 if is_honest else refuted > 0.95


def test_a_board_without_its_cells_cannot_be_audited() -> None:
    folder = Path(__file__).parents[4] / "benchmarks" / "results" / "standard"
    with pytest.raises(InvalidInputError, match="holds no cells"):
        audit(folder)
