"""Responses to try a task's reward on, and a comparison with the rule as it is said."""

from collections.abc import Callable

import numpy as np
import pytest

from textrl_envs.optimum import optimum, roll_out
from textrl_envs.rewards.base import score_responses
from textrl_envs.task import Task

__all__ = ["agree_with", "measured", "near_misses", "score"]

Words = list[str]


def score(task: Task, text: str, *, prompt: int = 0) -> float:
    """Returns the score of a response, "<eos>" being written out."""
    return measured(task, text, prompt=prompt)["score"]


def measured(task: Task, text: str, *, prompt: int = 0) -> dict[str, float]:
    """Returns the score and the measures of a response."""
    ids = np.array(task.tokenizer.encode(text))
    assert task.tokenizer.decode(ids) == text  # every word is one of the vocabulary
    scores, measures = score_responses(
        task.reward,
        [task.prompts.texts[prompt]],
        [text],
        prompt_ids=[task.prompts.token_ids[prompt].astype(np.int64)],
        response_ids=[ids],
        metadata=[task.prompts.metadata[prompt]],
    )
    return {"score": float(scores[0])} | {name: float(x[0]) for name, x in measures.items()}


def near_misses(task: Task, number: int = 300, *, seed: int = 0) -> list[tuple[int, Words]]:
    """Returns prompts and responses: the best ones, and the same with a few tokens changed.

    Texts drawn at random would nearly all be wrong, and wrong for the same reason.
    """
    rng = np.random.default_rng(seed)
    played = roll_out(task, optimum(task).policy, number, seed=seed)
    eos, size = task.tokenizer.eos_token_id, task.vocabulary_size
    found = []
    for prompt, ids in zip(played.prompt_index.tolist(), played.response_ids, strict=True):
        text = ids.tolist()
        for _ in range(int(rng.integers(4))):
            place = int(rng.integers(len(text) + 1))
            # A token from the text itself is likelier to matter than any other.
            other = (
                int(rng.choice(text)) if text and rng.random() < 0.5 else int(rng.integers(size))
            )
            how = rng.integers(3)
            text[place : place + int(how > 0)] = [other][: int(how < 2)]
        if eos in text:
            text = text[: text.index(eos) + 1]
        text = (text or [eos])[: task.max_new_tokens]
        found.append((prompt, [task.tokenizer.decode([token]) for token in text]))
    return found


def agree_with(
    task: Task, rule: Callable[[str, Words], float | dict[str, float]], *, number: int = 300
) -> None:
    """Checks that the reward is a rule of the prompt's text and the words of the response."""
    seen = []
    for prompt, words in near_misses(task, number):
        expected = rule(task.prompts.texts[prompt], words)
        found = measured(task, " ".join(words), prompt=prompt)
        if not isinstance(expected, dict):
            expected = {"score": expected}
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9), words
        seen.append(expected["score"])
    # The best score and others are both tried often.
    assert 0.05 < np.mean(np.array(seen) > max(seen) - 1e-9) < 0.95 or len(set(seen)) > 20
