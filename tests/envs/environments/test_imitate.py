"""Imitate: rare success, and demonstrations of it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.envs.environments.responses import agree_with, score
from textrl_envs.demonstrations import Demonstrations
from textrl_envs.environments import build_task
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import Optimum, optimum
from textrl_envs.optimum.dynamic_programming import (
    expectations,
    optimal_log_probs,
    soft_values,
)
from textrl_envs.task import Task
from textrl_envs.text_env import TextEnv
from textrl_envs.vector_env import TextVectorEnv

KEYWORDS = ("letter", "garden", "child", "slept")


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("imitate", {"demonstrations": 1024})


@pytest.fixture(scope="module")
def solved(task: Task) -> Optimum:
    return optimum(task)


def shown(task: Task) -> Demonstrations:
    assert task.load_demonstrations is not None
    return task.load_demonstrations()


def test_all_four_words_in_order_and_an_end_are_wanted(task: Task) -> None:
    text = "lost a letter in the garden and then the child slept . <eos>"
    assert score(task, text) == 1
    assert score(task, text.removesuffix(" <eos>")) == 0
    assert score(task, text.replace("letter", "boat")) == 0
    assert score(task, "saw a garden and a letter and the child slept . <eos>") == 0


def test_the_reward_is_the_rule(task: Task) -> None:
    def rule(_: str, words: list[str]) -> float:
        rest = iter(words)
        return float(all(word in rest for word in [*KEYWORDS, "<eos>"]))

    agree_with(task, rule)


def test_the_reference_succeeds_as_rarely_as_the_docstring_says(solved: Optimum) -> None:
    assert 1 / solved.reference_value == pytest.approx(3500, rel=0.1)


def test_every_environment_shows_the_same_demonstrations() -> None:
    task = build_task("imitate", {})
    found = [TextEnv(task).demonstrations, TextVectorEnv(task, num_envs=2).demonstrations]
    assert found[0] is found[1]
    assert found[0] is not None
    assert len(found[0]) == 256
    assert TextEnv(build_task("keyword", {})).demonstrations is None


def test_a_seed_decides_the_demonstrations() -> None:
    def texts(**parameters: Any) -> list[list[int]]:
        found = shown(build_task("imitate", {"demonstrations": 40, **parameters}))
        return [ids.tolist() for ids in found.response_ids]

    # Another β makes another task, whose optimum is the same only if it is asked for.
    one, other = texts(), texts(demonstration_seed=1)
    assert one == texts(demonstration_seed=0) != other
    longer = shown(build_task("imitate", {"demonstrations": 41}))
    assert len(longer) == 41


def test_demonstrations_are_responses_to_the_prompts(task: Task) -> None:
    found = shown(task)
    assert np.bincount(found.prompt_index).tolist() == [128] * 8
    eos = task.tokenizer.eos_token_id
    for ids in found.response_ids:
        assert 1 <= len(ids) <= task.max_new_tokens
        assert eos not in ids[:-1]


def test_demonstrations_succeed_as_often_as_the_optimum(task: Task, solved: Optimum) -> None:
    scores = [score(task, task.tokenizer.decode(ids)) for ids in shown(task).response_ids]
    chance = solved.reward
    assert abs(np.mean(scores) - chance) <= 4 * np.sqrt(chance * (1 - chance) / 1024)


def test_the_best_imitators_cross_entropy_is_the_entropy_of_the_optimum(
    task: Task, solved: Optimum
) -> None:
    found = shown(task)
    log_likelihoods = []
    for prompt, ids in zip(found.prompt_index.tolist(), found.response_ids, strict=True):
        begin = task.prompts.token_ids[prompt, : task.prompts.lengths[prompt]]
        texts = np.full((len(ids), len(begin) + len(ids)), -1)
        for place in range(len(ids)):
            texts[place, : len(begin) + place] = [*begin, *ids[:place]]
        log_likelihoods.append(solved.policy.log_probs(texts, ids).sum())
    # The entropy is E[− log π*] = E[− log π_ref] − KL.
    entropy = expected_surprise(solved) - solved.at_optimum.kls
    standard_error = np.std(log_likelihoods) / np.sqrt(len(log_likelihoods))
    assert abs(np.mean(log_likelihoods) + entropy.mean()) < 4 * standard_error
    assert standard_error < 0.02 * entropy.mean()  # or this tests nothing


def expected_surprise(solved: Optimum) -> Any:
    """Returns E[− log π_ref] of the optimal policy's responses, for each prompt."""
    mdp, beta = solved.mdp, solved.kl_coefficient
    policy = optimal_log_probs(mdp, soft_values(mdp, beta), beta)
    surprised = replace(mdp, token_scores=-mdp.log_ref, end_scores=np.zeros_like(mdp.end_scores))
    return expectations(surprised, policy).rewards


@pytest.mark.parametrize(
    ("name", "bad", "least"),
    [
        ("demonstrations", 0, 1),
        ("demonstrations", 2.5, 1),
        ("demonstrations", "8", 1),
        ("demonstration_seed", -1, 0),
        ("demonstration_seed", None, 0),
    ],
)
def test_a_bad_number_is_refused(name: str, bad: Any, least: int) -> None:
    message = f"{name} must be an integer of at least {least}; got {bad!r}"
    with pytest.raises(InvalidInputError, match=message):
        build_task("imitate", {name: bad})


def test_a_keyword_that_is_no_word_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'lanten' is no word"):
        build_task("imitate", {"keywords": ["lanten"]})
