import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import textrl_envs  # noqa: F401 - registers the ids
from textrl_agents.policies import TablePolicy
from textrl_benchmarks import environment_page, over_optimisation, training
from textrl_benchmarks.commands.train import Train
from textrl_benchmarks.environment_page import LEARNERS, SEEDS, Page, environments, runs
from textrl_benchmarks.marked_page import replaced
from textrl_benchmarks.over_optimisation import fit
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import has_exact_optimum
from textrl_envs.registration import IDS

# --- the text ---


def test_what_stands_between_two_marks_is_replaced_and_the_rest_kept() -> None:
    text = (
        "above\n<!-- table -->\nold\nolder\n<!-- end -->\nbelow\n<!-- figures -->\n<!-- end -->\n"
    )
    found = replaced(text, "table", ["new", "newer"])
    assert found == (
        "above\n<!-- table -->\nnew\nnewer\n<!-- end -->\nbelow\n<!-- figures -->\n<!-- end -->\n"
    )
    again = replaced(found, "figures", ["![one](two.png)"])
    assert again == found.replace("figures -->\n", "figures -->\n![one](two.png)\n")
    assert replaced(found, "table", ["new", "newer"]) == found


@pytest.mark.parametrize("text", ["", "<!-- table -->\nno end", "<!-- end -->", "<!-- table --> x"])
def test_a_page_without_the_marks_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="no place marked <!-- table -->"):
        replaced(text, "table", ["new"])


def test_the_page_there_is_has_both_marks() -> None:
    text = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()
    for name in ("table", "figures"):
        assert "NEW" in replaced(text, name, ["NEW"])


def test_a_curve_is_averaged_over_neighbouring_batches() -> None:
    curve = np.stack([np.arange(1.0, 101.0), np.arange(100.0)], axis=1)
    tokens, scores = environment_page._smooth(curve)
    assert tokens == [4.0 * i for i in range(1, 26)]  # the last of each four
    np.testing.assert_allclose(scores, [4 * i + 1.5 for i in range(25)])
    assert environment_page._smooth(curve[:3]) == ([1.0, 2.0, 3.0], [0.0, 1.0, 2.0])


# --- the runs ---


@pytest.fixture(scope="module")
def all_runs() -> list[Any]:
    return list(runs())


def test_every_learner_meets_every_environment_it_is_for_once_a_seed(all_runs: list[Any]) -> None:
    met = [(name, learner.name, seed) for name, learner, seed, _ in all_runs]
    assert len(set(met)) == len(met)
    assert len({folder for *_, folder in all_runs}) == len(met)
    by_learner = {
        learner.name: {name for name, other, *_ in all_runs if other is learner}
        for learner in LEARNERS
    }
    assert by_learner["ppo"] == by_learner["reinforce"] == set(environments())
    assert by_learner["shown"] == {"textrl/Imitate-v0"}
    assert by_learner["expert"] == {"textrl/Passcode-v0"}
    for name, learner, _, _ in all_runs:
        assert {s for n, other, s, _ in all_runs if (n, other) == (name, learner)} == set(SEEDS)


def test_tables_are_tried_where_there_is_an_optimum_and_they_are_not_too_large(
    all_runs: list[Any],
) -> None:
    tried = {name for name, learner, *_ in all_runs if learner.policy == "table"}
    exact = {name for name in environments() if has_exact_optimum(gym.make(name))}
    assert exact - tried == {"textrl/LongKeyword-v0", "textrl/TinyGPT-v0"}
    assert tried <= exact
    with pytest.raises(InvalidInputError, match="too large"):
        TablePolicy.of(gym.make_vec("textrl/LongKeyword-v0", num_envs=1))


def test_listing_the_runs_again_does_not_build_every_graph_again(
    all_runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(env: Any) -> Any:
        raise AssertionError("built again")

    monkeypatch.setattr(environment_page, "optimum", build)
    assert list(runs()) == all_runs


def test_every_environment_that_needs_nothing_of_the_users_is_on_the_page() -> None:
    assert set(IDS) - set(environments()) == {"textrl/TextBandit-v0"}


@pytest.fixture
def trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_runs: list[Any]
) -> list[tuple[str, Any]]:
    """Notes what would be trained, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    noted: list[tuple[str, Any]] = []

    def train(options: Train) -> bool:
        noted.append(("new", options))
        return True

    def resume(path: Path) -> bool:
        noted.append(("resumed", path))
        return True

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(training, "resume", resume)
    return noted


def test_runs_with_a_result_are_not_made_again(
    trained: list[tuple[str, Any]], all_runs: list[Any]
) -> None:
    done = Path("runs/environments/Imitate-v0-shown-1")
    done.mkdir(parents=True)
    (done / "result.json").touch()
    environment_page.main(["train", "shown", "expert"])
    assert {how for how, _ in trained} == {"new"}
    options = [options for _, options in trained]
    assert [(o.environment.env, o.agent, o.seed) for o in options] == [
        ("textrl/Imitate-v0", "ppo", 0),
        ("textrl/Imitate-v0", "ppo", 2),
        ("textrl/Passcode-v0", "expert_iteration", 0),
        ("textrl/Passcode-v0", "expert_iteration", 1),
        ("textrl/Passcode-v0", "expert_iteration", 2),
    ]
    assert options[0].agent_args == ("demonstration_coefficient=1",)
    assert options[0].out == Path("runs/environments/Imitate-v0-shown-0")


def test_a_run_that_was_interrupted_goes_on_where_it_was(trained: list[tuple[str, Any]]) -> None:
    begun = Path("runs/environments/Imitate-v0-shown-1")
    (begun / "checkpoint-000003").mkdir(parents=True)
    (begun / "config.json").touch()
    environment_page.main(["train", "shown"])
    assert [how for how, _ in trained] == ["new", "resumed", "new"]
    assert trained[1][1] == begun


def test_an_interrupt_ends_all_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not the one that happens to be trained alone."""
    monkeypatch.chdir(tmp_path)
    calls: list[Train] = []

    def interrupted(options: Train) -> bool:
        calls.append(options)
        return False

    monkeypatch.setattr(training, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        environment_page.main(["train", "expert"])
    assert len(calls) == 1


def test_other_words_are_answered_with_how_to_use_it(trained: list[tuple[str, Any]]) -> None:
    for words in ([], ["trian"], ["write", "more"], ["train", "pqo"]):
        with pytest.raises(SystemExit, match="environment_page train"):
            environment_page.main(words)
    assert not trained


# --- the table ---


def write_result(folder: Path, score: float | None, value: float) -> None:
    folder.mkdir(parents=True)
    numbers = {"normalised_score": {"mean": score}, "regularised_return": {"mean": value}}
    (folder / "result.json").write_text(json.dumps({"trained": numbers}))


def test_a_cell_has_the_score_of_each_seed_or_the_return_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ppo = LEARNERS[0]
    page, name = Page(), "textrl/Parity-v0"
    assert page._scores(name, ppo) == "-"
    write_result(Path("runs/environments/Parity-v0-ppo-0"), 0.5, 0.1)
    write_result(Path("runs/environments/Parity-v0-ppo-2"), 0.25, 0.2)
    write_result(Path("runs/environments/Parity-v0-reinforce-0"), 0.75, 0.2)
    assert page._scores(name, ppo) == "0.500, 0.250"
    write_result(Path("runs/environments/Dialogue-v0-ppo-0"), None, 0.31)
    assert page._scores("textrl/Dialogue-v0", ppo) == "0.310"
    write_result(Path("runs/environments/Dialogue-v0-ppo-1"), 0.4, 0.2)  # never both in one cell
    assert page._scores("textrl/Dialogue-v0", ppo) == "0.310, 0.200"


# --- over-optimisation ---


@pytest.mark.parametrize("form", ["rl", "best_of_n"])
def test_the_fit_finds_the_coefficients_that_made_the_numbers(form: str) -> None:
    distance = np.linspace(0.3, 4.0, 20)
    bend = np.log(distance) if form == "rl" else distance
    gain = distance * (0.7 - 0.2 * bend)
    assert fit(distance, gain, form=form) == pytest.approx((0.7, 0.2, 1.0), abs=1e-9)
    # The other form does not explain them fully.
    other = "best_of_n" if form == "rl" else "rl"
    assert fit(distance, gain, form=other)[2] < 0.9999


def test_the_share_explained_is_that_of_the_variance() -> None:
    distance = np.linspace(0.3, 4.0, 20)
    noise = np.random.default_rng(0).normal(0, 0.2, 20)
    gain = distance * (0.7 - 0.2 * distance) + noise
    alpha, beta, explained = fit(distance, gain, form="best_of_n")
    left = gain - distance * (alpha - beta * distance)
    assert explained == pytest.approx(1 - left.var() / gain.var())
    assert 0.3 < explained < 0.99


def test_what_a_run_reached_is_read_from_its_result(tmp_path: Path) -> None:
    numbers = {"kl": {"mean": 1.5}, "reward": {"mean": 0.25}}
    (tmp_path / "result.json").write_text(json.dumps({"reference": {}, "trained": numbers}))
    assert over_optimisation.reached(tmp_path) == (1.5, 0.25)
