"""Ranked completions from a file: what people preferred, as episodes that an agent can compare.

A line of the JSONL file is one prompt:

    {"prompt": "tell of tea", "completions": ["a cup", "no", "none"], "ranking": [1, 2, 2]}
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_agents.demonstrations import written_episodes
from textrl_agents.episodes import Episodes
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task
from textrl_envs.wrappers.vector import KLPenalty

__all__ = ["ranked_episodes"]

Ints = NDArray[np.int64]


def ranked_episodes(path: Path, envs: Any) -> tuple[Episodes, Ints]:  # noqa: ANN401
    """Reads ranked completions, a row each; the score of each is minus its rank.

    Args:
        path: a JSONL file; a line holds "prompt", one of the environment's as it presents it;
            "completions", two texts or more; and "ranking", the rank of each, 1 for the best, with
            equal ranks for equals.
        envs: gives prompts, tokenizer and limits, and by `KLPenalty` the reference.

    Returns:
        The completions, EOS behind each; and the line of each, counted from 0, (B,).

    Raises:
        InvalidInputError: a line that is not as above, a completion longer than the environment
            allows, or an environment that is not within `KLPenalty`.
    """
    if not isinstance(envs, KLPenalty):
        raise InvalidInputError("Ranked completions need a reference: wrap the env in KLPenalty.")
    task: Task = envs.unwrapped.task  # type: ignore[attr-defined]
    # Not above: it loads Transformers.
    from textrl_agents.supervised_data import read_text

    rows = enumerate(read_text(path).split("\n"), start=1)
    lines = [_read(row, f"{path}, line {n}", task) for n, row in rows if row.strip()]
    counts = [len(line.ranks) for line in lines]
    episodes = written_episodes(
        task,
        np.repeat([line.prompt_index for line in lines], counts),
        [ids for line in lines for ids in line.response_ids],
    )
    task_rewards = np.zeros(episodes.response_mask.shape)
    last = np.arange(len(episodes)), episodes.lengths - 1
    task_rewards[last] = -np.concatenate([line.ranks for line in lines])
    ref_log_probs = envs.charge.reference_log_probs(episodes)
    episodes = replace(episodes, task_rewards=task_rewards, ref_log_probs=ref_log_probs)
    return episodes, np.repeat(np.arange(len(lines)), counts)


@dataclass(frozen=True, slots=True)
class _Line:
    """One prompt: its place among the environment's, K responses, and their ranks, (K,)."""

    prompt_index: int
    response_ids: list[Ints]
    ranks: NDArray[np.float64]


def _read(text: str, place: str, task: Task) -> _Line:
    try:
        value = json.loads(text)
        prompt, completions = value["prompt"], value["completions"]
        ranks = np.array(value["ranking"], np.float64)
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInputError(
            f'{place}: expected {{"prompt": ..., "completions": [...], "ranking": [...]}} '
            f"({type(error).__name__}: {error})."
        ) from error
    are_texts = isinstance(completions, list) and all(isinstance(c, str) for c in completions)
    if not are_texts or len(completions) < 2 or ranks.shape != (len(completions),):
        raise InvalidInputError(
            f"{place}: expected two completions or more, all of them texts, and a rank for each."
        )
    if prompt not in task.prompts.texts:
        raise InvalidInputError(
            f"{place}: {prompt!r:.80} is no prompt of the environment. Make it with these prompts."
        )
    responses = [_encode(completion, place, task) for completion in completions]
    return _Line(task.prompts.texts.index(prompt), responses, ranks)


def _encode(completion: str, place: str, task: Task) -> Ints:
    ids = task.tokenizer.encode(completion)
    eos = task.tokenizer.eos_token_id
    ids = ids if ids[-1:] == [eos] else [*ids, eos]
    if len(ids) > task.max_new_tokens:
        raise InvalidInputError(
            f"{place}: a completion has {len(ids)} tokens, EOS included; the environment allows "
            f"{task.max_new_tokens}. Shorten it, or raise max_new_tokens."
        )
    return np.array(ids)
