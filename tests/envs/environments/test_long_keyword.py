"""LongKeyword: keywords with sentences between them."""

import itertools
from typing import Any

import pytest

from tests.envs.environments.responses import agree_with, score
from textrl_envs.environments import build_task
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task

SHORT: dict[str, Any] = {"keywords": ("boat", "ring"), "sentences_apart": 1, "max_new_tokens": 16}


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("long_keyword", {})


def is_right(words: list[str], keywords: tuple[str, ...], apart: int) -> float:
    """Tries all places that the keywords could be meant at."""
    places = [[i for i, word in enumerate(words) if word == keyword] for keyword in keywords]
    return float(
        words[-1] == "<eos>"
        and any(
            all(
                one < other and words[one:other].count(".") >= apart
                for one, other in itertools.pairwise(chosen)
            )
            for chosen in itertools.product(*places)
        )
    )


def test_three_sentences_have_to_end_between_the_words(task: Task) -> None:
    gap = "the child slept . "
    assert score(task, f"saw a lantern . {gap * 2}a harbour . <eos>") == 1
    assert score(task, f"saw a lantern . {gap}a harbour . <eos>") == 0
    assert score(task, f"saw a lantern . {gap}a harbour . {gap}the harbour . <eos>") == 1
    assert score(task, f"saw a lantern . {gap * 2}a lantern . the harbour . <eos>") == 1
    assert score(task, f"saw a harbour . {gap * 3}a lantern . <eos>") == 0
    assert score(task, f"{gap * 5}saw a lantern near the harbour . <eos>") == 0
    assert score(task, f"saw a lantern . {gap * 2}a harbour .") == 0


@pytest.mark.parametrize("keywords", [("boat", "ring"), ("boat", "boat"), ("ring", "boat", "ring")])
@pytest.mark.parametrize("apart", [0, 1])
def test_the_reward_is_the_rule(keywords: tuple[str, ...], apart: int) -> None:
    parameters = {"keywords": keywords, "sentences_apart": apart, "max_new_tokens": 20}
    task = build_task("long_keyword", {**parameters, "kl_coefficient": 0.03})
    agree_with(task, lambda _, words: is_right(words, keywords, apart), number=200)


def test_no_sentence_apart_is_keyword() -> None:
    task = build_task("long_keyword", {**SHORT, "sentences_apart": 0})
    assert score(task, "a boat ring <eos>") == 1


def test_prompts_ask_for_one_word_and_then_the_other(task: Task) -> None:
    assert len(task.prompts) == 8
    assert all(text.startswith("tell of lantern then harbour : ") for text in task.prompts.texts)
    assert task.max_new_tokens == 128


def test_a_bad_distance_or_keyword_is_refused() -> None:
    for bad in (-1, 1.5, "2", True):
        message = f"sentences_apart must be an integer of at least 0; got {bad!r}"
        with pytest.raises(InvalidInputError, match=message):
            build_task("long_keyword", {"sentences_apart": bad})
    with pytest.raises(InvalidInputError, match="'lanten' is no word"):
        build_task("long_keyword", {"keywords": ["lanten"]})
