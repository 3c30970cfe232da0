"""Tagging: the task is what its docstring says it is, and its tags are right."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from textrl_envs.data import FOLDER
from textrl_envs.data.build import build_entities
from textrl_envs.data.entities import (
    EOS,
    ORGANISATIONS,
    PAD,
    PEOPLE,
    PLACES,
    SHARED_NAMES,
    TAGS,
    VERBS,
    VOCABULARY,
    tagged_sentences,
)
from textrl_envs.environments import build_task
from textrl_envs.environments.tagging import tagging
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models import NGramModel
from textrl_envs.optimum import optimum
from textrl_envs.optimum.mdp import check_prompts
from textrl_envs.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("tagging", {})


def scores_of(task: Task, prompts: list[int], responses: list[list[str]]) -> Any:
    ids = [np.array([VOCABULARY.index(word) for word in response]) for response in responses]
    nothing: Any = [""] * len(ids)
    metadata = [task.prompts.metadata[prompt] for prompt in prompts]
    return task.reward(nothing, nothing, prompt_ids=ids, response_ids=ids, metadata=metadata)


def tags_of(words: list[str]) -> list[str]:
    """Tags a sentence by what each name is and, where two bear it, by the word before it."""
    tags = []
    for before, word in zip(["", *words], words, strict=False):
        if word in SHARED_NAMES:
            tags.append("LOC" if before in ("in", "from", *VERBS["LOC"]) else "PER")
        elif word in ORGANISATIONS:
            tags.append("ORG")
        else:
            tags.append("PER" if word in PEOPLE else "LOC" if word in PLACES else "O")
    return tags


def sentence_of(task: Task, prompt: int) -> list[str]:
    return str(task.prompts.texts[prompt]).removesuffix(" tags :").split()


def plain_score(sentence: list[str], response: list[str]) -> float:
    """Reads the rule as it is said: one tag a word and EOS, or nothing."""
    *tags, end = response or [""]
    if end != EOS or len(tags) != len(sentence) or not set(tags) <= set(TAGS):
        return 0.0
    return float(
        np.mean([tag == right for tag, right in zip(tags, tags_of(sentence), strict=True)])
    )


def test_every_right_tag_earns_its_share_if_there_is_one_a_word(task: Task) -> None:
    for prompt in range(len(task.prompts)):
        right = tags_of(sentence_of(task, prompt))
        wrong = ["LOC" if tag != "LOC" else "O" for tag in right]
        tries = (
            [*right, EOS],
            [*right[:-1], wrong[-1], EOS],
            [right[0], *wrong[1:], EOS],
            [*wrong, EOS],
            right,  # not ended
            [*right[:-1], EOS],
            [*right, "O", EOS],
            [*right[:-1], "anna", EOS],
            [*right, "O", "O"],
            [EOS],
        )
        shares = [1.0, 1 - 1 / len(right), 1 / len(right)] + [0.0] * 7
        np.testing.assert_allclose(
            scores_of(task, [prompt] * len(tries), list(tries)), shares, rtol=0, atol=1e-12
        )


def test_the_automata_agree_with_the_rule_on_random_responses(task: Task) -> None:
    rng = np.random.default_rng(0)
    prompts = rng.integers(len(task.prompts), size=3000).tolist()
    responses = []
    for prompt in prompts:  # the right answer with words changed, dropped and added
        words = [*tags_of(sentence_of(task, prompt)), EOS]
        for place in np.flatnonzero(rng.random(len(words) - 1) < 0.3):
            words[place] = str(rng.choice([*TAGS, "in"], p=[0.24] * 4 + [0.04]))
        change = rng.random()
        words = words[1:] if change < 0.2 else ["O", *words] if change < 0.4 else words
        responses.append(words[:-1] if rng.random() < 0.1 else words)
    expected = [
        plain_score(sentence_of(task, prompt), response)
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    np.testing.assert_allclose(scores_of(task, prompts, responses), expected, rtol=0, atol=1e-12)
    assert 1000 < np.count_nonzero(expected) < 2000  # or this tests little
    assert len(set(expected)) > 10


def test_an_episode_is_scored_at_its_end() -> None:
    env = gym.make("textrl/Tagging-v0")
    _, info = env.reset(seed=0, options={"prompt_index": 3})
    task = env.unwrapped.task  # type: ignore[attr-defined]
    response = [*tags_of(sentence_of(task, info["prompt_index"])), EOS]
    steps = [env.step(VOCABULARY.index(word)) for word in response]
    assert [reward for _, reward, *_ in steps] == [0.0] * (len(response) - 1) + [1.0]
    assert [ended for _, _, ended, _, _ in steps] == [False] * (len(response) - 1) + [True]


def test_prompts_are_distinct_sentences_of_four_to_seven_words(task: Task) -> None:
    assert len(set(task.prompts.texts)) == len(task.prompts) == 32
    check_prompts(task)  # none begins another
    lengths = [len(sentence_of(task, prompt)) for prompt in range(32)]
    assert [lengths.count(length) for length in (4, 5, 6, 7)] == [8] * 4
    assert all(set(text.split()) <= set(VOCABULARY) for text in task.prompts.texts)


def test_every_answer_is_right(task: Task) -> None:
    for prompt, about in enumerate(task.prompts.metadata):
        assert about["answer"].split() == tags_of(sentence_of(task, prompt))


def test_some_names_are_tagged_by_the_words_around_them(task: Task) -> None:
    found: dict[str, set[str]] = {name: set() for name in SHARED_NAMES}
    for prompt, about in enumerate(task.prompts.metadata):
        for word, tag in zip(sentence_of(task, prompt), about["answer"].split(), strict=True):
            found.get(word, set()).add(tag)
    assert {"PER", "LOC"} in found.values()


def test_the_docstring_counts_the_tokens_and_quotes_a_prompt(task: Task) -> None:
    size = task.vocabulary_size
    assert f"{size} tokens: {size - 2} words" in str(tagging.__doc__)
    assert any(f'"{text}"' in str(tagging.__doc__) for text in task.prompts.texts)


def test_the_reference_writes_tags_and_stops_but_is_seldom_right(task: Task) -> None:
    assert task.load_reference is not None
    follows = np.exp(task.load_reference().table)  # type: ignore[attr-defined]
    tags = [VOCABULARY.index(tag) for tag in TAGS]
    eos = task.tokenizer.eos_token_id
    assert (follows[np.ix_(tags, [*tags, eos])].sum(axis=1) > 0.99).all()
    # Tags before the end, on average, from the fundamental matrix of the chain.
    visits = np.linalg.inv(np.eye(4) - follows[np.ix_(tags, tags)])
    assert 4 < follows[VOCABULARY.index(":"), tags] @ visits.sum(axis=1) < 7
    assert 0.01 < optimum(task).reference_value < 0.1


def test_the_optimum_is_worth_having(task: Task) -> None:
    best = optimum(task)
    assert best.value - best.reference_value >= 0.3
    assert (best.values - best.at_reference.rewards).min() > 0.3  # for every prompt
    assert 0.85 < best.reward < 1
    assert 4 < best.kl < 7


def test_a_dearer_nat_lowers_the_optimum_and_a_longer_limit_does_not(task: Task) -> None:
    best = optimum(task)
    assert optimum(build_task("tagging", {"kl_coefficient": 0.1})).value < best.value - 0.1
    longer = build_task("tagging", {"max_new_tokens": 14})
    assert longer.max_new_tokens == 14
    # What is longer than the sentence earns nothing, whether it is cut or not.
    np.testing.assert_allclose(optimum(longer).values, best.values, rtol=1e-9)


@pytest.mark.parametrize("limit", [0, 7, 10.5, None])
def test_a_limit_without_room_for_the_longest_answer_is_refused(limit: Any) -> None:
    with pytest.raises(InvalidInputError, match="max_new_tokens must be an integer of at least 8"):
        build_task("tagging", {"max_new_tokens": limit})
    assert build_task("tagging", {"max_new_tokens": 8}).max_new_tokens == 8


def test_sentences_are_of_the_vocabulary_and_their_tags_are_right() -> None:
    for text in tagged_sentences(np.random.default_rng(1), 500):
        colon = text.index(":")
        sentence = text[: colon - 1]
        assert text[colon - 1 :] == ["tags", ":", *tags_of(sentence), EOS]
        assert 4 <= len(set(sentence)) == len(sentence) <= 7
        assert set(text) <= set(VOCABULARY) - {PAD}


def test_sentences_repeat_with_their_generator() -> None:
    first, second, other = (
        list(tagged_sentences(np.random.default_rng(seed), 20)) for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


def test_every_word_is_there_once() -> None:
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    assert VOCABULARY[:2] == (PAD, EOS)


def test_the_command_makes_the_same_files_again(tmp_path: Path) -> None:
    table, prompts = build_entities(tmp_path)
    made, shipped = (NGramModel.load(folder / table).table for folder in (tmp_path, FOLDER))
    np.testing.assert_allclose(made, shipped, rtol=0, atol=1e-12)
    assert (FOLDER / table).stat().st_mode & 0o777 == 0o644
    assert (tmp_path / prompts).read_bytes() == (FOLDER / prompts).read_bytes()
