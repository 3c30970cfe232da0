"""What searches score for their tokens: against what is known exactly, at a small size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import textrl_envs  # noqa: F401 - registers the environments
from textrl_benchmarks import search_scores
from textrl_benchmarks.search_scores import (
    ENVIRONMENTS,
    RESULTS,
    SAMPLES,
    Scored,
    best_of_n,
    main,
    rows,
    searches,
)
from textrl_envs.errors import InvalidInputError
from textrl_envs.files import read_json

ROOT = Path(__file__).parents[2]


@pytest.fixture
def is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SEEDS": (0, 1),
        "EPISODES": 32,
        "SIMULATIONS": (2, 8),
        "SIMULATIONS_OVER_PPO": (4,),
        "LEARNT_TOKENS": 500,
        "REFERENCE_EPISODES": 1024,
    }.items():
        monkeypatch.setattr(search_scores, name, value)


def test_more_samples_cost_more_in_proportion_and_score_more(is_small: None) -> None:
    """A code of four digits is a response of four tokens, whoever writes it."""
    found = list(best_of_n("textrl/Passcode-v0"))
    assert [one.effort for one in found] == [f"n = {n}" for n in SAMPLES]
    np.testing.assert_allclose([one.tokens for one in found], 4 * np.array(SAMPLES), rtol=0.01)
    scores = [one.normalised_score for one in found]
    assert scores == sorted(scores)
    # One success in 10,000: few samples are worth so many times a single one, but for the KL.
    assert 0 < scores[0] < scores[-1] < 1
    assert all(one.error == 0 for one in found)


def test_searches_are_played_and_what_they_spend_is_counted(is_small: None) -> None:
    few, many, plain, over = searches("textrl/Parity-v0")
    assert [one.line for one in (few, many, plain, over)] == [
        "`mcts`", "`mcts`", "`ppo`, 500 tokens", "`mcts` over it",
    ]  # fmt: skip
    assert plain.tokens < over.tokens < many.tokens
    assert few.tokens < many.tokens
    # A simulation over a policy tries a token; over the reference it plays on to the end, too.
    assert over.tokens <= 4 * plain.tokens * 1.5
    assert all(one.normalised_score <= 1.1 for one in (few, many, plain, over))
    assert all(one.error >= 0 for one in (few, many, plain, over))


def test_the_table_has_a_row_for_each_way_and_effort() -> None:
    def stored(*scores: float) -> list[dict[str, Any]]:
        return [
            {"line": "`mcts`", "effort": f"{i}", "normalised_score": x, "error": 0, "tokens": 1e3}
            for i, x in enumerate(scores)
        ]

    found = list(rows({"textrl/A-v0": stored(0.5, 0.75), "textrl/B-v0": stored(0.25)}))
    assert found == [
        "|  |  | A-v0 | B-v0 |",
        "|---|---|---|---|",
        "| `mcts` | 0 | 0.50 at 1,000 | 0.25 at 1,000 |",
        "| `mcts` | 1 | 0.75 at 1,000 |  |",
    ]


def test_an_unknown_environment_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="got 'textrl/Keyword'"):
        main(["textrl/Keyword"])


def test_every_environment_is_stored_in_full() -> None:
    results = read_json(ROOT / RESULTS)
    assert list(results) == list(ENVIRONMENTS)
    for found in results.values():
        scored = [Scored(**one) for one in found]
        assert len(scored) == len(results[ENVIRONMENTS[0]])
        assert all(one.normalised_score < 1.02 for one in scored)


def test_best_of_n_is_better_than_plain_ppo_where_success_is_rare() -> None:
    """Passcode-v0: exactly, and PPO of 30,000 tokens finds nothing."""
    scored = [Scored(**one) for one in read_json(ROOT / RESULTS)["textrl/Passcode-v0"]]
    most = max(one.normalised_score for one in scored if one.line == "`best_of_n`")
    (plain,) = (one for one in scored if one.line.startswith("`ppo`"))
    assert most > 0.1 > plain.normalised_score + 4 * plain.error


def test_what_the_page_says_in_words_is_so() -> None:
    """Its claims, held to the stored results; a claim that fails must be written anew."""
    scored = {
        name.rpartition("/")[2]: [Scored(**one) for one in found]
        for name, found in read_json(ROOT / RESULTS).items()
    }

    def score(name: str, line: str, effort: str) -> float:
        return next(
            one.normalised_score for one in scored[name] if (one.line, one.effort) == (line, effort)
        )

    for name, found in scored.items():
        sampled = [one for one in found if one.line == "`best_of_n`"]
        tokens = np.log([one.tokens for one in sampled])
        scores = [one.normalised_score for one in sampled]
        for tree in (one for one in found if one.line == "`mcts`"):
            # Of the best of n at the same price, between the n there are.
            gain = np.interp(np.log(tree.tokens), tokens, scores) - tree.normalised_score
            if name not in ("Passcode-v0", "SumVerify-v0"):
                assert gain > 0.1
    assert score("SumVerify-v0", "`mcts`", "128 simulations") > 0.99
    names = ("Keyword-v0", "ExactLength-v0", "SumVerify-v0", "Brackets-v0", "Parity-v0")
    assert all(score(name, "`best_of_n`", "n = 256") > 0.99 for name in names)
    kl_trade = [score("KLTrade-v0", "`best_of_n`", f"n = {n}") for n in (64, 256, 1024)]
    assert kl_trade == sorted(kl_trade, reverse=True)
    shown = [f"{score('Passcode-v0', '`best_of_n`', f'n = {n}'):.2f}" for n in (256, 1024)]
    assert shown == ["0.04", "0.13"]
    pairs = [
        [
            f"{score(name, '`ppo`, 30,000 tokens', 'as it is'):.2f}",
            f"{score(name, '`mcts` over it', '8 simulations'):.2f}",
        ]
        for name in ("Keyword-v0", "ExactLength-v0", "SumVerify-v0", "Parity-v0")
    ]
    assert pairs == [["0.25", "0.49"], ["0.09", "0.22"], ["0.26", "0.58"], ["0.22", "0.72"]]


def test_the_page_shows_what_is_stored_and_its_picture() -> None:
    text = (ROOT / "docs" / "agents.md").read_text()
    for line in rows(read_json(ROOT / RESULTS)):
        assert line in text
    assert "(images/search.png)" in text
    assert (ROOT / "docs" / "images" / "search.png").exists()
