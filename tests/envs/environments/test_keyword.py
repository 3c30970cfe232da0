"""Keyword: the task is what its docstring says it is."""

import numpy as np
import pytest

from textrl_envs.environments import build_task
from textrl_envs.errors import InvalidInputError
from textrl_envs.rewards.automaton import AutomatonReward
from textrl_envs.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("keyword", {})


def success_probability(task: Task, prompt: int) -> float:
    """Returns the exact chance of the reference to score 1, by a forward pass over its states."""
    assert task.load_reference is not None
    assert isinstance(task.reward, AutomatonReward)
    automaton = task.reward.automata[0]
    follows = np.exp(task.load_reference().table)  # type: ignore[attr-defined]
    tokens = np.arange(task.vocabulary_size)
    context = task.prompts.token_ids[prompt, task.prompts.lengths[prompt] - 1]
    weight = np.zeros((len(automaton.scores), task.vocabulary_size))  # [state, last token]
    weight[0, context] = 1.0
    total = 0.0
    for _ in range(task.max_new_tokens):
        arriving = np.zeros_like(weight)
        for state, row in enumerate(weight):
            np.add.at(arriving, (automaton.transitions[state], tokens), row @ follows)
        total += float(automaton.scores @ arriving[:, task.tokenizer.eos_token_id])
        arriving[:, task.tokenizer.eos_token_id] = 0.0
        weight = arriving
    return total + float(automaton.scores @ weight.sum(axis=1))


def test_the_reference_succeeds_about_once_in_fifty_tries(task: Task) -> None:
    chances = [success_probability(task, prompt) for prompt in range(len(task.prompts))]
    assert 1 / 75 < np.mean(chances) < 1 / 35


def test_prompts_ask_for_the_keywords_and_begin_a_story(task: Task) -> None:
    assert len(task.prompts) == 8
    for text, ids, length in zip(
        task.prompts.texts, task.prompts.token_ids, task.prompts.lengths, strict=True
    ):
        assert text.startswith("tell of lantern and harbour : ")
        assert task.tokenizer.decode(ids[:length]) == text
        assert task.tokenizer.pad_token_id not in ids[:length]  # no unknown word


def test_no_prompt_begins_another_so_that_an_observation_tells_its_time(task: Task) -> None:
    # The value depends on the tokens that are left. Were one prompt the beginning of another, the
    # same observation could come early or late, and no policy could attain the known optimum.
    texts = [
        ids[:length].tolist()
        for ids, length in zip(task.prompts.token_ids, task.prompts.lengths, strict=True)
    ]
    for one in texts:
        for other in texts:
            assert one is other or other[: len(one)] != one


def test_both_words_in_order_and_an_end_are_wanted(task: Task) -> None:
    assert isinstance(task.reward, AutomatonReward)
    (automaton,) = task.reward.automata
    encode = task.tokenizer.encode

    def score(text: str) -> float:
        return automaton.score(np.array(encode(text)))

    assert score("saw a lantern near the harbour . <eos>") == 1.0
    assert score("saw a harbour near the lantern . <eos>") == 0.0
    assert score("saw a lantern near the harbour .") == 0.0
    assert score("saw a lantern . <eos>") == 0.0


def test_other_keywords_make_another_task() -> None:
    task = build_task("keyword", {"keywords": ["boat"], "max_new_tokens": 9, "kl_coefficient": 0.2})
    assert task.prompts.texts[0].startswith("tell of boat : ")
    assert (task.max_new_tokens, task.kl_coefficient) == (9, 0.2)


def test_a_task_is_made_once_a_process(task: Task) -> None:
    assert build_task("keyword", {}) is task
    assert build_task("keyword", {"keywords": ["boat"]}) is build_task(
        "keyword", {"keywords": ("boat",)}
    )


@pytest.mark.parametrize("word", ["lanten", "<eos>", "", "tell of"])
def test_a_keyword_that_is_no_word_is_refused(word: str) -> None:
    with pytest.raises(InvalidInputError, match="is no word of the stories"):
        build_task("keyword", {"keywords": [word]})


def test_a_misspelt_keyword_gets_the_nearest() -> None:
    with pytest.raises(InvalidInputError, match=r"'lanten' is no word .* mean 'lantern'\?"):
        build_task("keyword", {"keywords": ["lanten"]})


def test_no_keyword_at_all_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="keywords needs at least one word; got none"):
        build_task("keyword", {"keywords": []})
