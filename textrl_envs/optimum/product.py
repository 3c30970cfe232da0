"""The graph of an n-gram reference and automata: contexts times states.

All 46^24 responses of `textrl/Keyword-v0` are walks over a few hundred nodes: the reference sees
the newest tokens alone, the score the state of the automaton alone.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.optimum.mdp import TextMDP, check_prompts
from textrl_envs.rewards.automaton import Automaton, AutomatonReward
from textrl_envs.task import Task

__all__ = ["build_product", "is_product"]

MAX_WORK = 1_000_000_000
"""Nodes times tokens times T: about a minute of one core."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def is_product(task: Task) -> bool:
    """Tells whether a task has an n-gram reference, automata as its reward, and no stop texts."""
    return (
        isinstance(task.reward, AutomatonReward)
        and task.load_reference is not None
        and isinstance(task.load_reference(), NGramModel)
        and not task.stop
    )


def build_product(task: Task) -> TextMDP:
    """Builds the graph of all pairs of context and state that can be reached.

    Args:
        task: one that `is_product`.

    Raises:
        InvalidInputError: prompts that cannot be told apart (`check_prompts`), or too many nodes.
    """
    assert isinstance(task.reward, AutomatonReward)
    check_prompts(task)
    table = _table(task)
    automata = _stacked(task.reward.automata)
    stride = (automata.transitions.shape[1], len(table))
    start_keys = _start_keys(task, stride)
    keys = newest = np.unique(start_keys)
    while newest.size:
        children = np.delete(_children(newest, automata, stride), task.tokenizer.eos_token_id, 1)
        newest = np.setdiff1d(children, keys)
        keys = np.union1d(keys, newest)
        _check_size(len(keys), task)
    child_keys = _children(keys, automata, stride)
    # EOS leads nowhere; what stands there is never read.
    child_keys[:, task.tokenizer.eos_token_id] = keys[0]
    automaton, state, context = _split(keys, stride)
    after = automata.transitions[automaton, state]  # [N, V]
    return TextMDP(
        task=task,
        starts=np.searchsorted(keys, start_keys),
        next_nodes=np.searchsorted(keys, child_keys),
        log_ref=table[context],
        token_scores=automata.token_scores[automaton, state],
        end_scores=automata.scores[automaton[:, None], after],
        end_measures={
            name: values[automaton[:, None], after] for name, values in automata.measures.items()
        },
    )


def _check_size(nodes: int, task: Task) -> None:
    work = nodes * task.vocabulary_size * task.max_new_tokens
    if work > MAX_WORK:
        raise InvalidInputError(
            f"The task has {nodes:,} nodes or more, {task.vocabulary_size} tokens and "
            f"{task.max_new_tokens} times: too much to be solved exactly. Lower max_new_tokens, or "
            "let the reward keep fewer states."
        )


@dataclass(frozen=True, slots=True)
class _Stacked:
    """All automata of a task in one array each; states that an automaton lacks are never met."""

    transitions: Ints  # [automata, S, V]
    scores: Floats  # [automata, S]
    token_scores: Floats  # [automata, S, V]
    measures: dict[str, Floats]  # [automata, S] each


def _stacked(automata: tuple[Automaton, ...]) -> _Stacked:
    states = max(len(automaton.scores) for automaton in automata)

    def padded(array: NDArray[Any]) -> NDArray[Any]:
        return np.pad(array, [(0, states - len(array))] + [(0, 0)] * (array.ndim - 1))

    nothing = [
        np.zeros(a.transitions.shape) if a.token_scores is None else a.token_scores
        for a in automata
    ]
    return _Stacked(
        np.stack([padded(a.transitions) for a in automata]),
        np.stack([padded(a.scores) for a in automata]),
        np.stack([padded(array) for array in nothing]),
        {
            name: np.stack([padded(a.measures[name]) for a in automata])
            for name in automata[0].measures
        },
    )


def _table(task: Task) -> Floats:
    """Returns the reference's rows, one a context, (V^(n-1), V)."""
    assert task.load_reference is not None
    reference = task.load_reference()
    assert isinstance(reference, NGramModel)
    return reference.table.reshape(-1, reference.vocabulary_size)


def _start_keys(task: Task, stride: tuple[int, int]) -> Ints:
    table, size = task.prompts, task.vocabulary_size
    context, width = np.zeros(len(table), np.int64), 1
    back = 0
    while width < stride[1]:  # the newest token last; before the text its first token repeats
        columns = np.maximum(table.lengths - 1 - back, 0)
        context += width * table.token_ids[np.arange(len(table)), columns].astype(np.int64)
        width, back = width * size, back + 1
    automaton = np.array([about["automaton"] for about in table.metadata])
    return _join(automaton, np.zeros(len(table), np.int64), context, stride)


def _children(keys: Ints, automata: _Stacked, stride: tuple[int, int]) -> Ints:
    """Returns the key after each token, (N, V): the context's oldest token leaves it."""
    automaton, state, context = _split(keys, stride)
    after = automata.transitions[automaton, state]
    size = after.shape[1]
    shifted = (context[:, None] * size + np.arange(size)) % stride[1]
    return _join(automaton[:, None], after, shifted, stride)


def _join(automaton: Ints, state: Ints, context: Ints, stride: tuple[int, int]) -> Ints:
    """Writes a node as one number; `stride` has the numbers of states and of contexts."""
    joined: Ints = (automaton * stride[0] + state) * stride[1] + context
    return joined


def _split(keys: Ints, stride: tuple[int, int]) -> tuple[Ints, Ints, Ints]:
    rest, context = np.divmod(keys, stride[1])
    automaton, state = np.divmod(rest, stride[0])
    return automaton, state, context
