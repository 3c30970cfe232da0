import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks.leaderboard.cells import (
    ENVIRONMENTS,
    KL,
    OFF,
    UNKNOWN,
    cell_of,
    fail_cell,
    suite_of,
    write_all_cells,
    write_cell,
)
from textrl_benchmarks.leaderboard.board.board import make_board
from textrl_benchmarks.leaderboard.board.comparison import compare
from textrl_benchmarks.leaderboard.board.records import read_records
from textrl_benchmarks.leaderboard.board.significance import prediction_interval, welch
from textrl_benchmarks.leaderboard.board.standings import make_standing
from textrl_benchmarks.leaderboard.cell import Cell
from textrl_benchmarks.leaderboard.plan import plan
from textrl_benchmarks.leaderboard.running.cell_folder import CellFolder
from textrl_benchmarks.leaderboard.running.contestants import BASELINES
from textrl_benchmarks.leaderboard.suite import SuiteAgent
from textrl_envs.errors import InvalidInputError

PARITY, KEYWORD = ENVIRONMENTS
GOOD = {PARITY: [0.8, 0.7, 0.9], KEYWORD: [0.6, 0.5, 0.55]}
BAD = {PARITY: [0.1, 0.2, 0.15], KEYWORD: [0.3, 0.2, 0.22]}


def board_of(root: Path, scores: dict[str, Any], *, without: tuple[str, ...] = ()) -> Any:
    suite = suite_of(*(name for name in scores if name not in BASELINES))
    write_all_cells(root, suite, scores, without=without)
    return make_board(suite, root)


def row_of(board: Any, agent: str) -> Any:
    return next(row for row in board["rows"] if row["agent"] == agent)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    root = tmp_path_factory.mktemp("runs")
    return root, board_of(root, {"good": GOOD, "bad": BAD})


@pytest.fixture(scope="module")
def board(made: tuple[Path, Any]) -> Any:
    return made[1]


# --- rows ---


def test_a_row_has_the_statistics_of_its_cells(board: Any) -> None:
    row = row_of(board, "good")
    pooled = sorted([0.8, 0.7, 0.9, 0.6, 0.5, 0.55])
    iqm = (0.5 * pooled[1] + pooled[2] + pooled[3] + 0.5 * pooled[4]) / 3
    assert row["iqm"]["value"] == pytest.approx(iqm)
    assert row["mean"]["value"] == pytest.approx((0.8 + 0.55) / 2)
    assert row["median"]["value"] == pytest.approx((0.8 + 0.55) / 2)
    assert row["optimality_gap"]["value"] == pytest.approx(1 - (0.8 + 0.55) / 2)
    assert row["kl"] == pytest.approx({"value": KL, "low": KL, "high": KL})
    assert row["iqm"]["low"] < iqm < row["iqm"]["high"]
    assert (row["cells_done"], row["cells_planned"], row["cells_failed"]) == (6, 6, 0)
    assert (row["tokens"], row["cpu_seconds"], row["seeds"]) == (6000, 9.0, [0, 1, 2])
    assert row["marks"] == []


def test_the_score_is_the_mean_over_environments_of_what_was_earned(board: Any) -> None:
    expected = [
        environment["reference_value"]
        + np.mean(GOOD[environment["id"]])
        * (environment["optimum_value"] - environment["reference_value"])
        + environment["kl_coefficient"] * KL
        for environment in board["suite"]["environments"]
    ]
    assert row_of(board, "good")["score"]["value"] == pytest.approx(np.mean(expected))


def test_rows_are_best_first_and_every_baseline_is_one(board: Any) -> None:
    order = [row["agent"] for row in board["rows"]]
    assert order[:4] == ["optimum", "good", "bad", "reference"]
    assert sorted(order[4:]) == sorted(set(BASELINES) - {"optimum", "reference"})
    kinds = {row["agent"]: row["kind"] for row in board["rows"]}
    assert (kinds["optimum"], kinds["reference"]) == ("optimum", "reference")
    assert (kinds["good"], kinds["null_echo"]) == ("agent", "null")


def test_only_agents_are_ranked(board: Any) -> None:
    ranks = {row["agent"]: (row["rank_low"], row["rank_high"]) for row in board["rows"]}
    assert ranks.pop("good") == (1, 1)
    assert ranks.pop("bad") == (2, 2)
    assert set(ranks.values()) == {(None, None)}


def test_agents_that_cannot_be_told_apart_share_their_ranks(tmp_path: Path) -> None:
    twin = {PARITY: [0.79, 0.72, 0.88], KEYWORD: [0.57, 0.53, 0.56]}
    board = board_of(tmp_path, {"good": GOOD, "twin": twin, "bad": BAD})
    ranks = {row["agent"]: (row["rank_low"], row["rank_high"]) for row in board["rows"]}
    assert (ranks["good"], ranks["twin"], ranks["bad"]) == ((1, 2), (1, 2), (3, 3))
    for a, b in (("good", "twin"), ("twin", "good")):
        chance, back = board["improvement"][a][b], board["improvement"][b][a]
        assert chance["low"] < chance["value"] < chance["high"]
        assert chance["low"] == pytest.approx(1 - back["high"])


def test_a_rival_changes_no_number_but_rank_and_improvement(
    made: tuple[Path, Any], tmp_path: Path
) -> None:
    board = board_of(tmp_path, {"good": GOOD, "bad": BAD, "rival": 0.95})
    for agent in ("good", "bad", *BASELINES):
        old, new = row_of(made[1], agent), row_of(board, agent)
        for name in ("rank_low", "rank_high"):
            old, new = ({k: v for k, v in row.items() if k != name} for row in (old, new))
        assert old == new
        assert made[1]["heat"][agent] == board["heat"][agent]
        assert made[1]["profiles"]["agents"][agent] == board["profiles"]["agents"][agent]
        theirs = board["improvement"][agent]
        assert made[1]["improvement"][agent] == {k: v for k, v in theirs.items() if k != "rival"}


def test_replicates_are_drawn_by_the_agents_name_alone(made: tuple[Path, Any]) -> None:
    suite = suite_of("good", "bad")
    records = read_records(suite, made[0])

    def counts(name: str) -> Any:
        scored = make_standing(SuiteAgent(name=name, entry="ppo"), suite, records).scored
        assert scored is not None
        return scored.counts

    np.testing.assert_array_equal(counts("good"), counts("".join(["go", "od"])))
    # Not the same draws for two agents: their difference would vary less than it does.
    assert np.corrcoef(counts("good")[:, 0], counts("bad")[:, 0])[0, 1] == pytest.approx(
        0, abs=0.03
    )


def test_the_same_cells_give_the_same_board(made: tuple[Path, Any]) -> None:
    again = make_board(suite_of("good", "bad"), made[0])
    assert json.dumps(again, allow_nan=False) == json.dumps(made[1], allow_nan=False)


def test_worse_than_minus_one_counts_as_minus_one_and_is_shown_as_it_is(tmp_path: Path) -> None:
    stray = {PARITY: [0.5, -7.0, 0.5], KEYWORD: [0.5, OFF, 0.5]}
    board = board_of(tmp_path, {"good": GOOD, "stray": stray})
    row = row_of(board, "stray")
    assert row["mean"]["value"] == pytest.approx((0.5 + 0.5 - 1) / 3)
    assert row["optimality_gap"]["value"] == pytest.approx((0.5 + 0.5 + 2) / 3)
    assert row["kl"]["value"] is None
    assert row["marks"] == [f"off the reference on {KEYWORD}"]
    parity, keyword = (board["heat"]["stray"][env_id] for env_id in ENVIRONMENTS)
    assert parity["seeds"][1]["normalised_score"] == pytest.approx(-7.0)
    assert parity["value"] == pytest.approx(-2.0)
    assert [one["is_off_reference"] for one in keyword["seeds"]] == [False, True, False]
    assert keyword["value"] is None


def test_an_unknown_kl_leaves_a_score_and_no_normalised_one(tmp_path: Path) -> None:
    board = board_of(tmp_path, {"good": GOOD, "closed": UNKNOWN})
    row = row_of(board, "closed")
    assert row["score"]["value"] is not None
    assert row["iqm"] == row["kl"] == {"value": None, "low": None, "high": None}
    assert row["rank_low"] is None
    assert row["marks"] == ["its KL is unknown"]
    assert board["rows"][-1]["agent"] == "closed"
    assert "closed" not in board["improvement"]
    assert row_of(board, "good")["rank_high"] == 1


# --- heat, profiles, improvement, tags ---


def test_few_seeds_have_a_prediction_interval(board: Any) -> None:
    field, expected = board["heat"]["good"][PARITY], prediction_interval([0.8, 0.7, 0.9])
    assert field["interval"] == "t prediction"
    assert field["value"] == pytest.approx(expected.value)
    assert (field["low"], field["high"]) == pytest.approx((expected.low, expected.high))


def test_five_seeds_have_a_bootstrap_interval(tmp_path: Path) -> None:
    suite = suite_of("good", seeds=range(5))
    five = {PARITY: [0.5, 0.6, 0.7, 0.8, 0.9], KEYWORD: [0.1, 0.2, 0.3, 0.4, 0.5]}
    write_all_cells(tmp_path, suite, {"good": five})
    field = make_board(suite, tmp_path)["heat"]["good"][PARITY]
    assert field["interval"] == "bootstrap"
    assert 0.5 <= field["low"] < 0.62
    assert 0.78 < field["high"] <= 0.9 + 1e-9


def test_profiles_and_improvement(board: Any) -> None:
    taus = board["profiles"]["taus"]
    good = board["profiles"]["agents"]["good"]
    for name in ("value", "low", "high"):
        assert len(good[name]) == len(taus)
        assert (np.diff(good[name]) <= 1e-12).all()
    at = dict(zip(taus, good["value"], strict=True))
    assert (at[-1], at[0.62], at[1.0]) == pytest.approx((1, 0.5, 0))
    chance = board["improvement"]["good"]["bad"]
    assert chance == pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0})
    assert board["improvement"]["bad"]["good"]["value"] == pytest.approx(0)
    assert "good" not in board["improvement"]["good"]


def test_a_tag_is_the_mean_over_its_environments(board: Any) -> None:
    good = {tag: values["good"] for tag, values in board["tags"].items()}
    assert good == pytest.approx({"both": (0.8 + 0.55) / 2, "parity": 0.8, "keyword": 0.55})
    assert board["tags"]["both"]["null_echo"] == pytest.approx(-1)


def test_the_frontier_is_the_exact_one(board: Any) -> None:
    for environment in board["suite"]["environments"]:
        points = environment["frontier"]
        kls, scores = np.array([[point["kl"], point["score"]] for point in points]).T
        returns = scores - environment["kl_coefficient"] * kls
        assert returns.max() <= environment["optimum_value"] + 1e-9
        assert returns.max() == pytest.approx(environment["optimum_value"], rel=1e-2)
        assert len(points) == 60


# --- cells, samples, curves, failures ---


def test_samples_stand_side_by_side(board: Any) -> None:
    prompts = board["samples"][PARITY]
    assert [one["prompt_index"] for one in prompts] == [0, 1, 2, 3, 4, 5]
    assert prompts[2]["prompt"] == f"prompt 2 of {PARITY}"
    order = [row["agent"] for row in board["rows"]]
    for prompt in prompts:
        assert [one["agent"] for one in prompt["responses"]] == order
    response = prompts[2]["responses"][1]
    assert (response["agent"], response["seed"], response["response"]) == ("good", 0, "good 0")
    assert response["ref_log_probs"] == (-0.5, -0.5)
    assert board["cells"][response["cell"]]["spec"]["agent"] == "good"


def test_a_cell_has_its_files(made: tuple[Path, Any]) -> None:
    root, board = made
    cell = cell_of(suite_of("good", "bad"), "good", PARITY, 1)
    found, folder = board["cells"][cell.folder_name], CellFolder(root, cell)
    assert found["spec"] == cell.as_dict()
    assert found["manifest"] == folder.read("manifest.json")
    assert found["result"] == folder.read("result.json")
    assert found["sha256sums"] == (folder.path / "SHA256SUMS").read_text()
    assert len(board["cells"]) == 2 * 3 * (2 + len(BASELINES))


def test_curves_are_as_they_were_written(board: Any) -> None:
    curve = board["curves"][0]
    assert (curve["agent"], curve["env"], curve["seed"]) == ("good", PARITY, 0)
    assert curve["tokens"] == [333, 666, 999]
    assert curve["score"] == pytest.approx([0, 0.1, 0.2])
    assert curve["kl"] == [None, pytest.approx(0.1), pytest.approx(0.2)]
    assert len(board["curves"]) == 12  # what does not learn has none


def test_a_long_curve_keeps_200_points_with_both_ends(tmp_path: Path) -> None:
    suite = suite_of("good")
    write_cell(tmp_path, cell_of(suite, "good", PARITY, 0), 0.5, rows=1000)
    (curve,) = make_board(suite, tmp_path)["curves"]
    assert len(curve["tokens"]) == len(curve["score"]) == 200
    assert (curve["tokens"][0], curve["tokens"][-1]) == (1, 1000)
    assert (np.diff(curve["tokens"]) > 0).all()


def test_a_failed_cell_is_shown_and_never_scored(tmp_path: Path) -> None:
    suite = suite_of("good", "shaky")
    write_all_cells(tmp_path, suite, {"good": GOOD})
    places = [(env_id, seed) for env_id in ENVIRONMENTS for seed in suite.seeds]
    for env_id, seed in places[1:]:
        write_cell(tmp_path, cell_of(suite, "shaky", env_id, seed), 0.99)
    fail_cell(tmp_path, cell_of(suite, "shaky", *places[0]), "out of luck")
    board = make_board(suite, tmp_path)
    (failure,) = board["failures"]
    assert (failure["agent"], failure["env"], failure["seed"]) == ("shaky", *places[0])
    assert (failure["type"], failure["message"]) == ("ValueError", "out of luck")
    row = row_of(board, "shaky")
    assert row["iqm"]["value"] == pytest.approx(0.99)
    assert (row["cells_done"], row["cells_failed"]) == (5, 1)
    assert row["marks"] == ["1 of 6 cells failed"]
    assert row["rank_low"] is None  # or failing where one loses would be worth it
    assert row_of(board, "good")["rank_low"] == 1


def test_a_cell_that_was_done_later_is_no_failure(tmp_path: Path) -> None:
    suite = suite_of("good")
    cell = cell_of(suite, "good", PARITY, 0)
    write_cell(tmp_path, cell, 0.5)
    folder = CellFolder(tmp_path, cell)
    folder.path.rename(tmp_path / "aside")
    fail_cell(tmp_path, cell)
    (tmp_path / "aside").rename(folder.path)
    assert make_board(suite, tmp_path)["failures"] == []


def test_a_suite_that_was_never_run_has_an_empty_board(tmp_path: Path) -> None:
    board = make_board(suite_of("good"), tmp_path)
    assert board["is_valid"]
    assert board["cells"] == board["improvement"] == {}
    assert row_of(board, "good")["marks"] == ["6 of 6 cells not done"]
    assert board["samples"] == {PARITY: [], KEYWORD: []}
    json.dumps(board, allow_nan=False)


def test_a_cell_that_is_being_written_is_not_there_yet(tmp_path: Path) -> None:
    suite = suite_of("good")
    CellFolder(tmp_path, cell_of(suite, "good", PARITY, 0)).begin()
    assert row_of(make_board(suite, tmp_path), "good")["cells_done"] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"suite_version": 2},
        {"settings": {"learning_rate": 1.0}},
        {"budget_tokens": 5000},
        {"seed": 17},
        {"agent": "nobody"},
        {"policy": "table"},
        {"eval_episodes": 24},
        {"env_parameters": {"kl_coefficient": 0.5}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_cell_of_another_suite_does_not_count(tmp_path: Path, change: dict[str, Any]) -> None:
    suite = suite_of("good")
    cell = cell_of(suite, **{"agent": "good", "env_id": PARITY, "seed": 0, **change})
    write_cell(tmp_path, cell, 0.9)
    board = make_board(suite, tmp_path)
    assert board["cells"] == {}
    assert board["strangers"] == [cell.folder_name]


def test_a_changed_agent_does_not_take_over_what_the_old_one_reached(tmp_path: Path) -> None:
    suite = suite_of("good")
    today = [cell for cell in plan(suite) if cell.agent == "good"]
    for cell in today[:-1]:
        write_cell(tmp_path, cell, 0.5)
    old = [changed(cell, entry_version="ppo==0.0.1") for cell in today]
    for cell in old:
        write_cell(tmp_path, cell, 0.9)
    board = make_board(suite, tmp_path)
    assert sorted(board["cells"]) == sorted(cell.folder_name for cell in today[:-1])
    assert row_of(board, "good")["iqm"]["value"] == pytest.approx(0.5)
    assert row_of(board, "good")["marks"] == ["1 of 6 cells not done"]
    assert sorted(board["strangers"]) == sorted(cell.folder_name for cell in old)


def changed(cell: Cell, **changes: Any) -> Cell:
    return Cell.from_dict({**cell.as_dict(), **changes})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("result.json", "{"),
        ("result.json", '{"episodes": 1}'),
        ("spec.json", '{"agent": 1}'),
        ("manifest.json", None),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, text: str | None) -> None:
    suite = suite_of("good")
    cell = cell_of(suite, "good", PARITY, 0)
    write_cell(tmp_path, cell, 0.5)
    path = CellFolder(tmp_path, cell).path / name
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidInputError, match=name):
        make_board(suite, tmp_path)


# --- validity ---


def test_a_board_whose_null_agents_are_at_the_bottom_is_valid(board: Any) -> None:
    assert board["is_valid"]
    assert board["problems"] == []


def test_a_null_agent_above_the_reference_on_one_environment_makes_it_invalid(
    tmp_path: Path,
) -> None:
    lucky = {PARITY: [0.3, 0.31, 0.32], KEYWORD: [-5.0] * 3}
    board = board_of(tmp_path, {"good": GOOD, "null_repeat": lucky})
    assert not board["is_valid"]
    (problem,) = board["problems"]
    assert problem.startswith(f"null_repeat is above the reference on {PARITY}: 0.310")
    assert row_of(board, "good")["marks"] == []


def test_a_null_agent_that_may_be_level_with_the_reference_does_not(tmp_path: Path) -> None:
    board = board_of(tmp_path, {"good": GOOD, "null_uniform": {**GOOD, PARITY: [0.9, -0.9, 0.1]}})
    assert not any(PARITY in problem for problem in board["problems"])
    assert any(KEYWORD in problem for problem in board["problems"])


def test_a_null_agent_above_the_reference_in_the_aggregate_makes_it_invalid(
    tmp_path: Path,
) -> None:
    # Above on neither environment, by the few seeds of each, but over both.
    wide = {PARITY: [0.05, 0.2, 0.35], KEYWORD: [0.05, 0.2, 0.35]}
    board = board_of(tmp_path, {"good": GOOD, "null_empty": wide})
    (problem,) = board["problems"]
    assert problem.startswith("null_empty is above the reference over all environments")


def test_an_agent_that_is_not_above_a_null_agent_is_marked(tmp_path: Path) -> None:
    weak = {PARITY: [-0.6] * 3, KEYWORD: [-0.6] * 3}
    board = board_of(tmp_path, {"good": GOOD, "weak": weak, "null_constant": -0.5, "lost": OFF})
    assert board["is_valid"]
    assert row_of(board, "weak")["marks"] == ["below null_constant"]
    marks = row_of(board, "lost")["marks"]
    assert "below null_constant" in marks
    assert "level with null_echo" in marks
    assert row_of(board, "null_constant")["marks"] == []


def test_a_board_on_which_no_agent_is_above_all_null_agents_is_invalid(tmp_path: Path) -> None:
    board = board_of(tmp_path, {"weak": -0.6, "null_constant": -0.5})
    assert board["problems"] == ["no agent is above every null agent"]


def test_null_agents_cannot_be_left_out(tmp_path: Path) -> None:
    board = board_of(tmp_path, {"good": GOOD}, without=("null_echo",))
    assert board["problems"] == ["null_echo has no score: 6 of 6 cells not done. Run its cells."]


# --- compare ---


def test_compare_has_a_welch_test_an_environment(board: Any) -> None:
    found = compare(board, "good", "bad")
    assert found["agents"] == ["good", "bad"]
    assert found["improvement"]["value"] == pytest.approx(1)
    assert found["rank_groups"] == [[1, 1], [2, 2]]
    assert [one["id"] for one in found["environments"]] == list(ENVIRONMENTS)
    expected = welch(GOOD[PARITY], BAD[PARITY])
    parity = found["environments"][0]
    assert parity["difference"]["value"] == pytest.approx(0.65)
    assert parity["difference"]["low"] == pytest.approx(expected.interval().low)
    assert parity["p_value"] == pytest.approx(2 * expected.p_value)
    back = compare(board, "bad", "good")["environments"][0]
    assert back["difference"]["value"] == pytest.approx(-0.65)
    assert back["p_value"] == pytest.approx(parity["p_value"])
    json.dumps(found, allow_nan=False)


def test_compare_takes_what_left_the_reference_as_minus_one(board: Any) -> None:
    parity = compare(board, "good", "null_echo")["environments"][0]
    assert parity["difference"]["value"] == pytest.approx(1.8)


def test_compare_leaves_out_what_cannot_be_compared(tmp_path: Path) -> None:
    board = board_of(tmp_path, {"good": GOOD, "closed": UNKNOWN})
    found = compare(board, "good", "closed")
    assert found["environments"] == []
    assert found["improvement"]["value"] is None


def test_compare_refuses_unknown_and_equal_agents(board: Any) -> None:
    with pytest.raises(InvalidInputError, match="Did you mean 'good'"):
        compare(board, "goood", "bad")
    with pytest.raises(InvalidInputError, match="twice"):
        compare(board, "good", "good")


def test_one_seed_has_differences_without_intervals(tmp_path: Path) -> None:
    suite = suite_of("good", "bad", seeds=[0])
    write_all_cells(tmp_path, suite, {"good": 0.75, "bad": 0.25})
    board = make_board(suite, tmp_path)
    parity = compare(board, "good", "bad")["environments"][0]
    assert parity["difference"] == {"value": pytest.approx(0.5), "low": None, "high": None}
    assert parity["p_value"] is None
    ranks = {row["agent"]: (row["rank_low"], row["rank_high"]) for row in board["rows"]}
    assert ranks["good"] == ranks["bad"] == (1, 2)
    assert row_of(board, "good")["iqm"]["low"] is None
