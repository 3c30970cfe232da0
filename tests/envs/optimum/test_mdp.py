"""The graph of a task: where a text stands on it, and which tasks have none."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.envs.optimum.enumeration import random_task
from tests.envs.optimum.exact import task_of
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.optimum import optimum
from textrl_envs.optimum.mdp import check_prompts, find_prompts
from textrl_envs.optimum.product import build_product, is_product
from textrl_envs.optimum.solve import build_mdp
from textrl_envs.prompts import Prompt, PromptTable
from textrl_envs.rewards.automaton import AutomatonReward
from textrl_envs.task import Task

PAD, EOS, A, B = range(4)


def with_prompts(*prompts: str) -> Task:
    task = random_task(0)
    given = [Prompt(text=text, metadata={"automaton": 0}) for text in prompts]
    return replace(task, prompts=PromptTable(given, task.tokenizer))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (("b", "a b", "a b c", "a a"), "'a b' begins 'a b c'"),
        (("c b a", "b", "c b"), "'c b' begins 'c b a'"),
        (("a b", "c", "a b"), "'a b' begins 'a b'"),
    ],
)
def test_prompts_of_which_one_begins_another_are_refused(
    prompts: tuple[str, ...], message: str
) -> None:
    task = with_prompts(*prompts)
    with pytest.raises(InvalidInputError, match=f"Expected prompts of which none.*{message}"):
        check_prompts(task)
    with pytest.raises(InvalidInputError, match=message):
        optimum(task)


def test_prompts_that_differ_at_any_token_are_fine() -> None:
    check_prompts(with_prompts("a a b", "a a c", "a b", "b", "c a a a"))
    check_prompts(with_prompts("a"))


def test_every_text_is_found_by_its_prompt() -> None:
    task = with_prompts("a b", "b", "a c a", "c")
    texts = ["c c c c", "a b a b", "b a c a", "a c a a", "b"]
    ids = np.zeros((len(texts), 4), np.int64)
    lengths = np.array([len(text.split()) for text in texts])
    for row, text in zip(ids, texts, strict=True):
        row[: len(text.split())] = task.tokenizer.encode(text)
    assert find_prompts(task, ids, lengths).tolist() == [3, 0, 1, 2, 1]


@pytest.mark.parametrize("text", ["a a b", "a", "a c"])
def test_a_text_that_begins_with_no_prompt_is_refused(text: str) -> None:
    task = with_prompts("a b", "b", "a c a", "c")
    ids = np.array([task.tokenizer.encode(text)])
    with pytest.raises(InvalidInputError, match="begin with a prompt of the task; got one that"):
        find_prompts(task, ids, np.array([ids.shape[1]]))
    for ask in (optimum(task).policy.next_values, optimum(task).policy.next_log_probs):
        with pytest.raises(InvalidInputError, match="begin with a prompt of the task"):
            ask(ids)


def test_a_text_is_located_by_time_node_end_and_what_it_earned() -> None:
    task = random_task(1)  # prompts "a", "b a" and "b b a"; four tokens at most
    assert isinstance(task.reward, AutomatonReward)
    mdp = build_mdp(task)
    texts = ["a", "b a c b", "a b c", "b b a c <eos>", "a b b b b", "b a a a a <eos>"]
    flat = np.full((len(texts), 7), -1)
    for ids, text in zip(flat, texts, strict=True):
        ids[: len(text.split())] = task.tokenizer.encode(text)
    time, node, has_ended, earned = mdp.locate(flat)
    assert time[:3].tolist() == [0, 2, 2]
    assert has_ended.tolist() == [False, False, False, True, True, True]
    assert node[0] == mdp.starts[0]
    for row, prompt in ((0, 0), (1, 1), (2, 0)):
        automaton = task.reward.automata[task.prompts.metadata[prompt]["automaton"]]
        assert automaton.token_scores is not None
        state, total, at = 0, 0.0, int(mdp.starts[prompt])
        for token in texts[row].split()[task.prompts.lengths[prompt] :]:
            (place,) = task.tokenizer.encode(token)
            total += float(automaton.token_scores[state, place])
            state = int(automaton.transitions[state, place])
            at = int(mdp.next_nodes[at, place])
        assert earned[row] == total
        assert node[row] == at


def test_walking_gives_the_node_before_each_token() -> None:
    task = random_task(1)
    mdp = build_mdp(task)
    responses = np.array([[A, B, B, A], [B, A, EOS, PAD]])
    nodes = mdp.walk(np.array([2, 0]), responses)
    for row, prompt in ((0, 2), (1, 0)):
        for time in range(3):
            ids = task.prompts.token_ids[prompt, : task.prompts.lengths[prompt]]
            text = np.concatenate([ids, responses[row, :time]])
            _, (node,), _, _ = mdp.locate(text[None])
            assert nodes[row, time] == node


def test_the_graph_has_no_more_nodes_than_contexts_and_states_allow() -> None:
    mdp = build_mdp(task_of("textrl/Keyword-v0"))
    assert len(mdp.log_ref) < 46 * 6
    np.testing.assert_allclose(np.exp(mdp.log_ref).sum(axis=1), 1, atol=1e-9)
    assert mdp.limit == 24


class Foreign:
    """A reference of another kind."""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"stop": ["a"]}, False),
        ({"load_reference": None}, False),
        ({"load_reference": Foreign}, False),
        ({"reward": lambda *_, **__: [0.0]}, False),
    ],
)
def test_a_product_needs_automata_an_ngram_model_and_no_stop_texts(
    change: dict[str, Any], expected: bool
) -> None:
    assert is_product(replace(random_task(0), **change)) is expected


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_product_reads_the_references_own_rows(order: int) -> None:
    # Also where a context reaches back beyond a prompt of one token.
    rng = np.random.default_rng(order)
    logits = rng.normal(size=(5,) * order)
    model = NGramModel(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))
    task = replace(random_task(0), load_reference=lambda: model)
    mdp = build_product(task)
    texts = [[A], [A, 4], [A, 4, B], [B, A], [B, A, 4], [B, B, A], [B, B, A, B, 4, A]]
    for text in texts:
        _, (node,), _, _ = mdp.locate(np.array([text]))
        expected = model.next_log_probs(np.array([text]))[0]
        np.testing.assert_array_equal(mdp.log_ref[node], expected)
