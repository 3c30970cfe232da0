"""KeywordDense: Keyword, every word being paid."""

import pytest

from tests.envs.environments.responses import agree_with, score
from textrl_envs.environments import build_task
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("keyword_dense", {})


def share_in_order(words: list[str], keywords: tuple[str, ...]) -> float:
    """Reads the rule as it is said."""
    met = 0
    for word in words:
        met += met < len(keywords) and word == keywords[met]
    return met / len(keywords) if words[-1] == "<eos>" else 0.0


def test_each_word_in_order_is_paid_at_an_end(task: Task) -> None:
    assert score(task, "saw a lantern near the harbour . <eos>") == 1
    assert score(task, "saw a lantern . <eos>") == 0.5
    assert score(task, "saw a harbour near the lantern . <eos>") == 0.5
    assert score(task, "saw a harbour . <eos>") == 0
    assert score(task, "<eos>") == 0
    assert score(task, "saw a lantern near the harbour .") == 0


def test_the_reward_is_the_rule(task: Task) -> None:
    agree_with(task, lambda _, words: share_in_order(words, ("lantern", "harbour")))
    three = ("boat", "boat", "tower")
    other = build_task("keyword_dense", {"keywords": three, "kl_coefficient": 0.05})
    agree_with(other, lambda _, words: share_in_order(words, three))


def test_all_but_the_reward_is_that_of_keyword(task: Task) -> None:
    twin = build_task("keyword", {})
    assert task.prompts.texts == twin.prompts.texts
    assert (task.max_new_tokens, task.kl_coefficient) == (twin.max_new_tokens, twin.kl_coefficient)
    assert task.load_reference is not None
    assert twin.load_reference is not None
    assert task.load_reference() is twin.load_reference()


def test_a_keyword_that_is_no_word_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"'lanten' is no word .* mean 'lantern'\?"):
        build_task("keyword_dense", {"keywords": ["lanten"]})
    with pytest.raises(InvalidInputError, match="needs at least one word; got none"):
        build_task("keyword_dense", {"keywords": []})
    with pytest.raises(InvalidInputError, match="must be a sequence of words; got 'boat'"):
        build_task("keyword_dense", {"keywords": "boat"})
