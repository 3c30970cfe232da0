"""Classification: the task is what its docstring says it is, and its labels are right."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from textrl_envs.data import FOLDER
from textrl_envs.data.build import build_reviews
from textrl_envs.data.reviews import EOS, JOINERS, LEXICON, VOCABULARY, labelled_reviews
from textrl_envs.environments import build_task
from textrl_envs.environments.classification import classification
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import optimum
from textrl_envs.optimum.mdp import check_prompts
from textrl_envs.task import Task

LABELS = ("positive", "neutral", "negative")


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("classification", {})


def scores_of(task: Task, prompts: list[int], responses: list[list[str]]) -> Any:
    ids = [np.array([VOCABULARY.index(word) for word in response]) for response in responses]
    nothing: Any = [""] * len(ids)
    metadata = [task.prompts.metadata[prompt] for prompt in prompts]
    return task.reward(nothing, nothing, prompt_ids=ids, response_ids=ids, metadata=metadata)


def sentiment_of(text: str) -> str:
    """Reads a prompt: the clause that counts, and the sign of its words."""
    words = text.removesuffix(" . label :").split()
    (joiner,) = [word for word in words if word in JOINERS]
    place = words.index(joiner)
    counts = words[place + 1 :] if joiner == "but" else words[:place]
    total = sum(LEXICON.get(word, 0) for word in counts)
    return LABELS[1 - int(np.sign(total))]


@pytest.mark.parametrize("labels", [LABELS, ("negative", "positive"), LABELS[::-1]])
def test_the_right_label_and_an_end_are_wanted_and_nothing_else(labels: tuple[str, ...]) -> None:
    task = build_task("classification", {"labels": labels})
    for prompt, text in enumerate(task.prompts.texts):
        right = sentiment_of(text)
        wrong = next(label for label in LABELS if label != right)
        tries = (
            [right, EOS],
            [right],
            [right, ".", EOS],
            [right, right, EOS],
            ["quite", right, EOS],
            [wrong, EOS],
            [wrong, right, EOS],
            [EOS],
            [right, right, right, right],
        )
        scores = scores_of(task, [prompt] * len(tries), list(tries))
        assert scores.tolist() == [1.0] + [0.0] * (len(tries) - 1)


def test_the_automata_agree_with_the_rule_on_random_responses(task: Task) -> None:
    rng = np.random.default_rng(0)
    words = [*LABELS, "."]
    responses = [
        [*rng.choice(words, size=rng.integers(0, 4)), *([EOS] if rng.random() < 0.7 else [])]
        for _ in range(2000)
    ]
    prompts = rng.integers(len(task.prompts), size=len(responses)).tolist()
    expected = [
        float(response == [sentiment_of(task.prompts.texts[prompt]), EOS])
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    assert scores_of(task, prompts, responses).tolist() == expected
    assert 50 < sum(expected) < 1000  # or this tests little


def test_an_episode_is_over_after_four_tokens_and_earns_nothing() -> None:
    env = gym.make("textrl/Classification-v0")
    env.reset(seed=0)
    steps = [env.step(VOCABULARY.index("positive")) for _ in range(4)]
    assert [(reward, ended) for _, reward, ended, _, _ in steps] == [
        *[(0.0, False)] * 3,
        (0.0, True),
    ]


def test_prompts_are_distinct_reviews_and_labels_are_balanced(task: Task) -> None:
    assert len(set(task.prompts.texts)) == len(task.prompts) == 144
    check_prompts(task)  # none begins another
    answers = [about["answer"] for about in task.prompts.metadata]
    assert [answers.count(label) for label in LABELS] == [48] * 3
    for text in task.prompts.texts:
        assert text.endswith(" . label :")
        assert set(text.split()) <= set(VOCABULARY)


def test_every_answer_is_the_sentiment_of_the_clause_that_counts(task: Task) -> None:
    for text, about in zip(task.prompts.texts, task.prompts.metadata, strict=True):
        assert about["answer"] == about["category"] == sentiment_of(text)


def test_the_words_alone_without_their_order_do_not_tell_the_answer(task: Task) -> None:
    texts = [text.split() for text in task.prompts.texts]
    for joiner in ("but", "although"):
        mixed = [
            {np.sign(LEXICON[word]) for word in text if LEXICON.get(word)}
            for text in texts
            if joiner in text
        ]
        # Both signs, or none where the review is neutral.
        assert all(signs in ({-1, 1}, set()) for signs in mixed)
        assert sum(signs == {-1, 1} for signs in mixed) > 20


def test_the_docstring_counts_the_tokens_and_quotes_a_prompt(task: Task) -> None:
    size = task.vocabulary_size
    assert f"{size} tokens: {size - 2} words" in str(classification.__doc__)
    assert any(f'"{text}"' in str(classification.__doc__) for text in task.prompts.texts)


def test_the_reference_answers_but_knows_nothing(task: Task) -> None:
    best = optimum(task)
    assert 0.2 < best.reference_value < 0.35
    by_label = best.at_reference.rewards.reshape(-1, 3)  # the sentiments come in turn
    assert np.ptp(by_label, axis=0).max() < 1e-12
    assert np.ptp(by_label) < 0.03


def test_the_optimum_is_worth_having(task: Task) -> None:
    best = optimum(task)
    assert best.value - best.reference_value >= 0.3
    assert best.reward > 0.99
    assert 1 < best.kl < 2


def test_parameters_change_the_optimum(task: Task) -> None:
    best = optimum(task)
    assert optimum(build_task("classification", {"kl_coefficient": 0.3})).value < best.value - 0.1
    two = build_task("classification", {"labels": ["negative", "positive"]})
    assert len(two.prompts) == 96
    assert {about["answer"] for about in two.prompts.metadata} == {"negative", "positive"}
    is_asked = [about["answer"] != "neutral" for about in task.prompts.metadata]
    np.testing.assert_allclose(optimum(two).values, best.values[is_asked], rtol=1e-12)


@pytest.mark.parametrize(
    "labels", [(), ("positive",), ("positive", "positive"), ("positive", "good"), "positive", None]
)
def test_labels_that_leave_nothing_to_tell_are_refused(labels: Any) -> None:
    with pytest.raises(InvalidInputError, match="labels must be two or three different ones of"):
        build_task("classification", {"labels": labels})


@pytest.mark.parametrize("limit", [0, 1, 4.5, None])
def test_a_limit_without_room_for_an_answer_is_refused(limit: Any) -> None:
    with pytest.raises(InvalidInputError, match="max_new_tokens must be an integer of at least 2"):
        build_task("classification", {"max_new_tokens": limit})


def test_labelled_reviews_name_their_sentiment_before_they_end() -> None:
    told = list(labelled_reviews(np.random.default_rng(1), 600))
    for review in told:
        colon = review.index(":")
        assert review[colon - 2 : colon] == [".", "label"]
        assert len(review) - colon in (3, 4)
        assert review[-2] in LABELS
        assert review[-1] == EOS
    counts = [sum(review[-2] == label for review in told) for label in LABELS]
    assert min(counts) > 150


def test_the_command_makes_the_same_prompts_again(tmp_path: Path) -> None:
    build_reviews(tmp_path)
    name = "reviews/prompts.jsonl"
    assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
