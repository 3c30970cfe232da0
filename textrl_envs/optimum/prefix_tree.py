"""The graph of all texts themselves: for any reference and any reward, where they are few.

A reference that gives only k tokens a chance (`TopKModel`) has at most k^T responses, and many of
them end early; a full vocabulary is out of reach beyond four or five tokens.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.base import LanguageModel
from textrl_envs.optimum.mdp import TextMDP, check_prompts
from textrl_envs.rewards.base import score_responses
from textrl_envs.task import Task
from textrl_envs.tokenizers import DecodedTexts

__all__ = ["build_tree"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BATCH = 512
"""Prefixes that the reference reads at once."""


def build_tree(task: Task, *, max_prefixes: int = 50_000) -> TextMDP:
    """Reads every prefix that has a chance under the reference, and scores every response.

    Args:
        task: any without stop texts.
        max_prefixes: gives up beyond this, before anything of that size is read.

    Raises:
        InvalidInputError: no reference, stop texts, prompts that cannot be told apart, or too many
            prefixes.
    """
    if task.load_reference is None or task.stop:
        raise InvalidInputError(
            "Expected a task with a reference and without stop texts to enumerate its responses."
        )
    check_prompts(task)
    reference = task.load_reference()
    tree = _Tree(task, max_prefixes)
    level = tree.roots()
    for time in range(task.max_new_tokens):
        log_ref = _read(task, reference, level)
        level = tree.grow(level, log_ref, is_last=time + 1 == task.max_new_tokens)
    return tree.finish()


@dataclass(frozen=True, slots=True)
class _Level:
    """Prefixes of one length."""

    prompt: Ints  # [n]
    tokens: Ints  # [n, t]


class _Tree:
    """Collects nodes level by level; a node's number is its place in order of growth."""

    def __init__(self, task: Task, max_prefixes: int) -> None:
        self._task = task
        self._max = max_prefixes
        self._count = len(task.prompts)
        self._log_ref: list[Floats] = []
        self._next: list[Ints] = []
        self._scores: list[Floats] = []
        self._measures: list[dict[str, Floats]] = []

    def roots(self) -> _Level:
        """Returns the empty response to each prompt."""
        prompts = np.arange(len(self._task.prompts))
        return _Level(prompts, np.zeros((len(prompts), 0), np.int64))

    def grow(self, level: _Level, log_ref: Floats, *, is_last: bool) -> _Level:
        """Notes a level's tokens, scores those that end a response, and returns the others."""
        eos = self._task.tokenizer.eos_token_id
        is_possible = np.isfinite(log_ref)
        is_end = is_possible & (is_last | (np.arange(log_ref.shape[1]) == eos))
        parents, tokens = np.nonzero(is_possible & ~is_end)
        if self._count + len(parents) > self._max:
            raise InvalidInputError(
                f"More than {self._max:,} prefixes are possible, too many to enumerate. Let the "
                "reference keep fewer tokens (TopKModel), lower max_new_tokens, or use "
                "textrl_envs.optimum.bounds(env)."
            )
        following = np.zeros(log_ref.shape, np.int64)
        following[parents, tokens] = self._count + np.arange(len(parents))
        self._count += len(parents)
        scores, measures = self._score(level, is_end)
        self._log_ref.append(log_ref)
        self._next.append(following)
        self._scores.append(scores)
        self._measures.append(measures)
        grown = np.concatenate([level.tokens[parents], tokens[:, None]], axis=1)
        return _Level(level.prompt[parents], grown)

    def finish(self) -> TextMDP:
        """Returns the graph."""
        scores = np.concatenate(self._scores)
        names = {name for measures in self._measures for name in measures}
        return TextMDP(
            task=self._task,
            starts=np.arange(len(self._task.prompts)),
            next_nodes=np.concatenate(self._next),
            log_ref=np.concatenate(self._log_ref),
            token_scores=np.zeros_like(scores),
            end_scores=scores,
            end_measures={
                name: np.concatenate(
                    [
                        measures.get(name, np.zeros(scored.shape))
                        for measures, scored in zip(self._measures, self._scores, strict=True)
                    ]
                )
                for name in sorted(names)
            },
        )

    def _score(self, level: _Level, is_end: NDArray[np.bool_]) -> tuple[Floats, dict[str, Floats]]:
        """Scores the responses that end with the marked tokens, (n, V); 0 elsewhere."""
        (parents, tokens), shape = np.nonzero(is_end), is_end.shape
        scores = np.zeros(shape)
        if not len(parents):
            return scores, {}
        table = self._task.prompts
        ended = np.concatenate([level.tokens[parents], tokens[:, None]], axis=1)
        index = level.prompt[parents].tolist()
        found, extras = score_responses(
            self._task.reward,
            [table.texts[i] for i in index],
            DecodedTexts(self._task.tokenizer, list(ended)),
            prompt_ids=[table.token_ids[i, : table.lengths[i]].astype(np.int64) for i in index],
            response_ids=list(ended),
            metadata=[table.metadata[i] for i in index],
        )
        scores[parents, tokens] = found
        measures = {name: np.zeros(shape) for name in extras}
        for name, values in extras.items():
            measures[name][parents, tokens] = values
        return scores, measures


def _read(task: Task, reference: LanguageModel, level: _Level) -> Floats:
    """Returns the reference's log-probabilities after each prefix, (n, V)."""
    table = task.prompts
    begins = table.lengths[level.prompt]
    size = level.tokens.shape[1]
    ids = np.zeros((len(begins), int(begins.max(initial=1)) + size), np.int64)
    ids[:, : table.token_ids.shape[1]] = table.token_ids[level.prompt][:, : ids.shape[1]]
    rows = np.arange(len(ids))
    ids[rows[:, None], begins[:, None] + np.arange(size)] = level.tokens
    ends = begins + size
    mask = (np.arange(ids.shape[1]) < ends[:, None]).astype(np.int8)
    parts = [
        reference.log_probs_at(ids[part], mask[part], (np.arange(len(part)), ends[part] - 1))
        for part in np.array_split(rows, max(1, -(-len(rows) // BATCH)))
        if len(part)
    ]
    return np.concatenate([*parts, np.zeros((0, task.vocabulary_size))]).astype(np.float64)
