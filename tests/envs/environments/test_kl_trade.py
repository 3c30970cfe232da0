"""KLTrade: the task is what its docstring says it is, and its optimum is a true trade."""

import itertools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from textrl_envs.data import FOLDER
from textrl_envs.data.build import build_reviews
from textrl_envs.data.reviews import (
    ATTRIBUTES,
    EOS,
    FUNCTION_WORDS,
    LEXICON,
    NOUNS,
    PAD,
    PREDICATES,
    SENTIMENTS,
    VERBS,
    VOCABULARY,
    reviews,
)
from textrl_envs.environments import build_task
from textrl_envs.environments.kl_trade import kl_trade
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models import NGramModel
from textrl_envs.optimum import optimum
from textrl_envs.optimum.mdp import check_prompts
from textrl_envs.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("kl_trade", {})


def scores_of(task: Task, responses: list[list[str]]) -> Any:
    ids = [np.array([VOCABULARY.index(word) for word in response]) for response in responses]
    nothing: Any = [""] * len(ids)
    metadata = [task.prompts.metadata[0]] * len(ids)
    return task.reward(nothing, nothing, prompt_ids=ids, response_ids=ids, metadata=metadata)


def score_of(task: Task, text: str) -> float:
    return float(scores_of(task, [text.split()])[0])


def plain_score(words: list[str], bound: int) -> float:
    """Reads the rule as it is said: add up, and never leave the bounds."""
    count = 0
    for word in words:
        count = min(bound, max(-bound, count + LEXICON.get(word, 0)))
    return count / bound


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("splendid view . <eos>", 0.5),
        ("splendid view .", 0.5),  # EOS is not asked for
        ("good view and the staff was dull . <eos>", 0.0),
        ("typical view . <eos>", 0.0),
        ("<eos>", 0.0),
        ("poor view . we hated that pool", -0.75),
        ("superb view . we loved that pool and the staff was perfect .", 1.0),
        ("superb view . we loved that pool . the staff was perfect but the service was dull", 0.75),
        ("awful awful awful awful nice", -0.75),  # the count stops at the bound, and comes back
    ],
)
def test_a_response_scores_the_weights_of_its_words(task: Task, text: str, score: float) -> None:
    assert score_of(task, text) == score


@pytest.mark.parametrize("bound", [2, 3, 4, 7])
def test_the_automaton_agrees_with_the_rule_on_random_responses(bound: int) -> None:
    rng = np.random.default_rng(bound)
    words = [word for word in VOCABULARY if word != EOS]
    responses = [
        [*rng.choice(words, size=rng.integers(0, 16)), *([EOS] if rng.random() < 0.5 else [])]
        for _ in range(500)
    ]
    expected = [plain_score(response, bound) for response in responses]
    scores = scores_of(build_task("kl_trade", {"bound": bound}), responses)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12)
    assert len(set(expected)) == 2 * bound + 1  # or this tests little


def test_an_episode_ends_at_its_limit_and_is_scored_as_it_stands() -> None:
    env = gym.make("textrl/KLTrade-v0", max_new_tokens=3)
    env.reset(seed=0)
    steps = [env.step(VOCABULARY.index(word)) for word in ("superb", "nice", "view")]
    assert [(reward, ended, cut) for _, reward, ended, cut, _ in steps] == [
        (0.0, False, False),
        (0.0, False, False),
        (0.75, True, False),
    ]


def test_prompts_begin_a_review_in_words_of_the_vocabulary(task: Task) -> None:
    assert len(task.prompts) == 8
    check_prompts(task)  # none begins another
    for text in task.prompts.texts:
        assert text.startswith("review : ")
        assert set(text.split()) <= set(VOCABULARY)
        assert plain_score(text.split(), 4) == 0.0


def test_the_docstring_counts_the_tokens_and_quotes_a_prompt(task: Task) -> None:
    size = task.vocabulary_size
    assert f"{size} tokens: {size - 2} words" in str(kl_trade.__doc__)
    assert any(f'"{text}"' in str(kl_trade.__doc__) for text in task.prompts.texts)


def test_the_optimum_is_a_trade_worth_making(task: Task) -> None:
    best = optimum(task)
    assert best.value - best.reference_value >= 0.3 * 2
    assert (best.values - best.at_reference.rewards).min() > 0.5  # for every prompt
    assert best.reward < 0.85  # more could be had: the last words are not worth their KL
    assert 2 < best.kl < 4


def test_a_dearer_nat_a_wider_bound_or_fewer_tokens_lower_the_optimum(task: Task) -> None:
    best = optimum(task)
    for changes in ({"kl_coefficient": 0.2}, {"bound": 6}, {"max_new_tokens": 6}):
        other = optimum(build_task("kl_trade", changes))
        assert other.value < best.value - 0.05
        assert other.kl < best.kl


def test_roll_outs_of_the_reference_earn_what_the_optimum_says(task: Task) -> None:
    assert task.load_reference is not None
    follows = np.exp(task.load_reference().table)  # type: ignore[attr-defined]
    rng, totals = np.random.default_rng(0), []
    for row, length in zip(task.prompts.token_ids, task.prompts.lengths, strict=True):
        for _ in range(250):
            last = row[length - 1]
            words: list[str] = []
            while len(words) < task.max_new_tokens and EOS not in words:
                last = rng.choice(len(follows), p=follows[last])
                words.append(VOCABULARY[last])
            totals.append(plain_score(words, 4))
    error = np.std(totals) / np.sqrt(len(totals))
    assert abs(np.mean(totals) - optimum(task).reference_value) < 4 * error


@pytest.mark.parametrize("bound", [0, -4, 4.5, "4", None, True])
def test_a_bound_that_is_no_count_is_refused(bound: Any) -> None:
    with pytest.raises(InvalidInputError, match="bound must be an integer of at least 1; got"):
        build_task("kl_trade", {"bound": bound})


@pytest.mark.parametrize("changes", [{"max_new_tokens": 0}, {"kl_coefficient": -0.1}])
def test_a_limit_or_coefficient_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(changes))):
        build_task("kl_trade", changes)


def test_reviews_are_sentences_of_the_vocabulary_from_colon_to_end() -> None:
    for review in reviews(np.random.default_rng(1), 300):
        assert review[0] == ":"
        assert review[-2:] == [".", EOS]
        assert review.count(EOS) == 1
        assert 1 <= review.count(".") <= 3
        assert set(review) <= set(VOCABULARY) - {PAD, "label", *SENTIMENTS}
        for _, group in itertools.groupby(review, key=lambda word: word == "."):
            content = [word for word in group if word not in FUNCTION_WORDS]
            assert len(set(content)) == len(content)


def test_most_reviews_complain() -> None:
    told = reviews(np.random.default_rng(2), 2000)
    assert np.mean([sum(LEXICON.get(word, 0) for word in review) for review in told]) < -1


def test_reviews_repeat_with_their_generator() -> None:
    first, second, other = (list(reviews(np.random.default_rng(seed), 20)) for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_every_word_is_there_once_and_every_weight_has_its_words() -> None:
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    assert VOCABULARY[:2] == (PAD, EOS)
    assert LEXICON["superb"] == LEXICON["adored"] == 2
    assert LEXICON["average"] == 0
    assert LEXICON["dreadful"] == LEXICON["terrible"] == -2
    assert len(LEXICON) == 30
    assert [list(LEXICON.values()).count(weight) for weight in (-2, -1, 0, 1, 2)] == [6] * 5


def test_the_bigram_model_puts_words_where_they_belong(task: Task) -> None:
    assert task.load_reference is not None
    follows = np.exp(task.load_reference().table)  # type: ignore[attr-defined]

    def chance(before: str, after: Any) -> float:
        row = follows[VOCABULARY.index(before)]
        return float(sum(row[VOCABULARY.index(word)] for word in after))

    adjectives, predicates, verbs = (
        [word for words in kind.values() for word in words]
        for kind in (ATTRIBUTES, PREDICATES, VERBS)
    )
    assert chance("a", adjectives) > 0.99
    assert chance("quite", predicates) > 0.99
    assert chance("we", verbs) > 0.99
    assert min(chance(adjective, NOUNS) for adjective in adjectives) > 0.99
    assert min(chance(verb, ["that"]) for verb in verbs) > 0.99


def test_the_command_makes_the_same_bigram_models_again(tmp_path: Path) -> None:
    names = build_reviews(tmp_path)
    tables = [name for name in names if name.endswith(".safetensors")]
    assert len(tables) == 2
    for name in tables:
        made, shipped = (NGramModel.load(folder / name).table for folder in (tmp_path, FOLDER))
        np.testing.assert_allclose(made, shipped, rtol=0, atol=1e-12)
        assert (FOLDER / name).stat().st_mode & 0o777 == 0o644
