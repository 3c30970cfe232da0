"""The tree of all texts: any reference, any reward, few texts."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.envs.optimum.enumeration import all_texts, random_task
from tests.envs.optimum.exact import task_of
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.language_models.top_k import TopKModel
from textrl_envs.optimum import has_exact_optimum, optimum
from textrl_envs.optimum.dynamic_programming import (
    expectations,
    optimal_log_probs,
    reward_law,
    soft_values,
)
from textrl_envs.optimum.prefix_tree import build_tree
from textrl_envs.optimum.product import build_product
from textrl_envs.prompts import Prompt, PromptTable
from textrl_envs.rewards.base import RewardOutput
from textrl_envs.task import Task


def keyword() -> Task:
    return task_of("textrl/Keyword-v0", max_new_tokens=3, keywords=("boat",))


@pytest.mark.parametrize(
    "make",
    [
        keyword,
        lambda: task_of("textrl/Safe-v0", price=0.4, max_new_tokens=3),
        lambda: task_of("textrl/ProxyReward-v0", max_new_tokens=2),
        lambda: task_of("textrl/Passcode-v0"),
        lambda: random_task(0),
        lambda: random_task(1, order=3, limit=5),
        lambda: random_task(2, order=3, limit=6, keep=2),
    ],
)
def test_tree_and_product_are_worth_the_same(make: Callable[[], Task]) -> None:
    task, beta = make(), make().kl_coefficient
    graphs = [build_tree(task), build_product(task)]
    values = [soft_values(mdp, beta) for mdp in graphs]
    one, other = (v[0, mdp.starts] for v, mdp in zip(values, graphs, strict=True))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)
    for policies in (
        [optimal_log_probs(mdp, v, beta) for mdp, v in zip(graphs, values, strict=True)],
        [lambda _, mdp=mdp: mdp.log_ref for mdp in graphs],
    ):
        tree, product = (expectations(m, p) for m, p in zip(graphs, policies, strict=True))
        np.testing.assert_allclose(tree.rewards, product.rewards, rtol=0, atol=1e-9)
        np.testing.assert_allclose(tree.kls, product.kls, rtol=0, atol=1e-9)
        assert sorted(tree.measures) == sorted(product.measures)
        for name, values_of_it in tree.measures.items():
            np.testing.assert_allclose(values_of_it, product.measures[name], rtol=0, atol=1e-9)
    for tree_law, law in zip(reward_law(graphs[0]), reward_law(graphs[1]), strict=True):
        assert tree_law.value(beta) == pytest.approx(law.value(beta), abs=1e-9)
        assert tree_law.best_of(4).kl == pytest.approx(law.best_of(4).kl, abs=1e-9)


def repeats(
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    prompt_ids: Sequence[Any],
    response_ids: Sequence[Any],
    metadata: Sequence[Mapping[str, Any]],
) -> RewardOutput:
    """Scores what no small automaton can: words of the prompt's length, none of them twice."""
    words = [response.split() for response in responses]
    scores = [
        float(len(set(w)) == len(w)) + 0.1 * len(ids) * len(w)
        for w, ids in zip(words, prompt_ids, strict=True)
    ]
    kinds = [float(about["automaton"]) for about in metadata]
    lengths = [float(len(ids)) for ids in response_ids]
    return scores, {"tokens": lengths, "kind": kinds}


def cut_task(seed: int, *, limit: int = 4) -> Task:
    """Returns a task of any reward over a model that keeps two tokens."""
    task = random_task(seed, limit=limit)
    assert task.load_reference is not None
    base = task.load_reference()
    assert isinstance(base, NGramModel)
    model = TopKModel(base, 2)
    return replace(task, reward=repeats, load_reference=lambda: model)


@pytest.mark.parametrize("seed", range(4))
def test_any_reward_has_the_optimum_that_summing_over_all_responses_gives(seed: int) -> None:
    task = cut_task(seed)
    assert has_exact_optimum(task)
    solved, beta = optimum(task), task.kl_coefficient
    for prompt in range(len(task.prompts)):
        texts = all_texts(task, prompt)
        best = texts.tilted(beta)
        expected: list[Any] = [
            beta * np.log(texts.probs @ np.exp(texts.scores / beta)),
            texts.probs @ texts.scores,
            best @ texts.scores,
            texts.kl(best),
            best @ texts.measures["tokens"],
            best @ texts.measures["kind"],
        ]
        found = [
            solved.values[prompt],
            solved.at_reference.rewards[prompt],
            solved.at_optimum.rewards[prompt],
            solved.at_optimum.kls[prompt],
            solved.at_optimum.measures["tokens"][prompt],
            solved.at_optimum.measures["kind"][prompt],
        ]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert list(solved.at_optimum.measures) == ["kind", "tokens"]


def test_responses_that_all_end_early_leave_nothing_to_read() -> None:
    # The only token kept after "a" is EOS.
    task = random_task(0)
    table = np.full((5, 5), -np.inf)
    table[:, 1] = 0.0
    model = NGramModel(table)
    solved = optimum(replace(task, reward=repeats, load_reference=lambda: model))
    np.testing.assert_allclose(solved.values, 1.0, atol=1e-12)
    np.testing.assert_allclose(solved.at_optimum.measures["tokens"], 1.0)
    assert len(solved.mdp.log_ref) == 3


def test_a_tree_of_more_prefixes_than_are_read_at_once_is_the_same() -> None:
    # 3^6 prefixes and more, 512 of them a batch.
    task = random_task(5, limit=7)
    mdp = build_tree(task, max_prefixes=100_000)
    assert len(mdp.log_ref) > 4**6
    exact = soft_values(mdp, 0.3)[0, mdp.starts]
    product = build_product(task)
    np.testing.assert_allclose(
        exact, soft_values(product, 0.3)[0, product.starts], rtol=0, atol=1e-9
    )


def test_too_many_prefixes_are_refused_before_they_are_read() -> None:
    task = replace(task_of("textrl/Keyword-v0"), reward=repeats_nothing)
    begin = time.process_time()
    with pytest.raises(
        InvalidInputError, match=r"More than 50,000 prefixes.*TopKModel.*max_new_tokens.*bounds"
    ):
        optimum(task)
    assert time.process_time() - begin < 10


def repeats_nothing(*_: Any, response_ids: Sequence[Any], **__: Any) -> list[float]:
    return [0.0] * len(response_ids)


def test_the_limit_of_prefixes_is_exact() -> None:
    # Of each prompt: the empty text, and four words after it; a second token ends it.
    task = random_task(0, limit=2)
    assert len(build_tree(task, max_prefixes=3 * 5).log_ref) == 3 * 5
    with pytest.raises(InvalidInputError, match="More than 14 prefixes"):
        build_tree(task, max_prefixes=14)


def test_stop_texts_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="a reference and without stop texts"):
        optimum(replace(cut_task(0), stop=["a b"]))


def test_a_task_without_a_reference_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="a reference and without stop texts"):
        build_tree(replace(cut_task(0), load_reference=None))


def test_prompts_of_which_one_begins_another_are_refused() -> None:
    task = cut_task(0)
    prompts = [Prompt(text=text, metadata={"automaton": 0}) for text in ("a", "b", "a c")]
    with pytest.raises(InvalidInputError, match="of which none begins another; 'a' begins 'a c'"):
        optimum(replace(task, prompts=PromptTable(prompts, task.tokenizer)))
