"""docs/imitation.md: compute is counted as it is said, and the page is what the results say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from textrl_agents.episodes import Episodes
from textrl_agents.policies import Policy, PolicyStep, ResidualPolicy, TokenEvaluation
from textrl_benchmarks import imitation_page
from textrl_benchmarks.imitation_page import (
    COUNTS,
    METHODS,
    PAGE,
    PICTURE,
    RESULTS,
    SEEDS,
    TRAINED,
    Run,
    Training,
    cost_rows,
    run_missing,
    runs,
    score_rows,
)
from textrl_envs.files import read_json

BUDGET = 30_000
"""Of the small runs here: cloning reads some 500 demonstrations, PPO plays a batch."""


class Counter:
    """Counts the tokens that a policy really reads, as the page says they are counted."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.sampled, self.read, self.trained = 0, 0, 0
        evaluate, step = ResidualPolicy.evaluate, Policy.step

        def counting_evaluate(policy: Any, episodes: Episodes, **settings: Any) -> TokenEvaluation:
            if torch.is_grad_enabled():
                self.trained += episodes.num_tokens
            else:
                self.read += episodes.num_tokens
            return evaluate(policy, episodes, **settings)

        def counting_step(policy: Any, obs: Any, *rest: Any, **settings: Any) -> PolicyStep:
            self.sampled += int((obs["attention_mask"].sum(axis=1) > 0).sum())
            return step(policy, obs, *rest, **settings)

        patch.setattr(ResidualPolicy, "evaluate", counting_evaluate)
        patch.setattr(Policy, "step", counting_step)

    def forwards(self, sampled: int) -> int:
        return sampled + self.read + TRAINED * self.trained


def trained(
    method: str, demonstrations: int, patch: pytest.MonkeyPatch
) -> tuple[Training, Counter]:
    counter, training = Counter(patch), Training(Run(method, demonstrations, 0))
    METHODS[method](training, BUDGET)
    return training, counter


def tokens_played(training: Training) -> int:
    return int(training.envs.unwrapped.tokens_generated)


@pytest.mark.parametrize("demonstrations", [10, 1_000])
@pytest.mark.parametrize("method", METHODS)
def test_the_forwards_that_are_claimed_are_those_that_are_made(
    method: str, demonstrations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the token."""
    training, counter = trained(method, demonstrations, monkeypatch)
    made = counter.forwards(tokens_played(training))
    assert training.forwards == made
    assert counter.sampled >= tokens_played(training)  # rows that wait are asked, too


def test_no_run_spends_more_than_the_budget_and_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in METHODS:
        training, _ = trained(method, 1_000, monkeypatch)
        batch = 256 * 20 * (1 + TRAINED * 4)  # episodes, tokens of each, and what each costs
        assert BUDGET * 0.9 < training.forwards < BUDGET + batch


def test_few_demonstrations_are_soon_learnt_and_the_rest_is_not_spent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(imitation_page, "PATIENCE", 3)
    training, _ = trained("cloning", 10, monkeypatch)
    assert training.forwards < BUDGET / 2


def test_each_seed_has_demonstrations_of_its_own() -> None:
    shown = [Training(Run("cloning", 10, seed)).envs.unwrapped.demonstrations for seed in (0, 1)]
    texts = [[ids.tolist() for ids in one.response_ids] for one in shown]
    assert texts[0] != texts[1]


def test_a_run_is_made_once_and_ppo_alone_once_a_seed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[Run] = []

    def train(run: Run) -> dict[str, float]:
        made.append(run)
        return {"normalised_score": 0.5}

    monkeypatch.setattr(imitation_page, "train", train)
    for _ in range(2):
        run_missing(tmp_path / "results.json")
    assert made == list(runs())
    assert len(set(made)) == len(made) == len(SEEDS) * (1 + len(COUNTS) * (len(METHODS) - 1)) + 2


# --- the page ---


def test_the_rows_are_those_of_the_results() -> None:
    results = {
        run.key: {
            "normalised_score": run.seed / 10 + (run.method == "PPO"),
            "forwards": 1000.0 * (run.seed + 1),
            "cpu_seconds": 3.0,
            "reward": 0.25,
            "kl": 2.0,
        }
        for run in runs()
    }
    rows = list(score_rows(results))
    assert [row[0] for row in rows] == ["10", "100", "1,000", "10,000"]
    assert rows[0][1:] == ["0.00, 0.10, 0.20"] * 2 + ["1.00, 1.10, 1.20"]
    costs = list(cost_rows(results))
    assert costs[0] == ["cloning", "10", "2,000", "3", "0.25", "2.0"]
    assert [row[:2] for row in costs if row[0] == "PPO"] == [["PPO", "-"]]


def test_the_page_there_is_is_the_page_that_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = Path(__file__).parents[2]
    text = (root / PAGE).read_text()
    page = tmp_path / "imitation.md"
    page.write_text(text)
    monkeypatch.setattr(imitation_page, "PAGE", page)
    monkeypatch.setattr(imitation_page, "PICTURE", tmp_path / "imitation.png")
    imitation_page.write(root / RESULTS)
    assert page.read_text() == text
    assert (tmp_path / "imitation.png").stat().st_size > 1000
    assert f"({PICTURE.relative_to('docs')})" in text
    with pytest.raises(SystemExit, match="imitation_page"):
        imitation_page.main(["runs"])


def test_what_the_page_says_in_words_is_so() -> None:
    """Its claims, held to the stored results; a claim that fails must be written anew."""
    results = read_json(Path(__file__).parents[2] / RESULTS)

    def seeds(method: str, count: int, field: str = "normalised_score") -> list[float]:
        return imitation_page.scores(results, method, count, field)

    both = "cloning, then PPO"
    assert max(one["standard_error"] for one in results.values()) < 0.0165
    assert max(map(abs, seeds("PPO", 2))) < 0.005
    assert max(seeds("cloning", 10)) < -0.03
    assert max(map(abs, seeds(both, 10))) < 0.005
    assert max(seeds("cloning", 100)) < -0.2
    lost, *found = sorted(seeds(both, 100))
    assert abs(lost) < 0.005
    assert [round(score, 2) for score in found] == [0.68, 0.68]
    assert np.mean(seeds(both, 1_000)) == pytest.approx(0.80, abs=0.005)
    assert np.mean(seeds("cloning", 10_000)) == pytest.approx(0.69, abs=0.005)
    assert min(seeds(both, 1_000)) > max(seeds("cloning", 10_000))
    assert np.mean(seeds("cloning", 10_000, "reward")) == pytest.approx(0.79, abs=0.005)
    assert min(seeds(both, 1_000, "reward") + seeds(both, 10_000, "reward")) > 0.94
    for run in runs():
        spent = results[run.key]["forwards"] / run.budget
        assert spent < 1.04  # a batch more, at most
        assert spent > 1 or (run.method == "cloning" and run.demonstrations <= 100)
