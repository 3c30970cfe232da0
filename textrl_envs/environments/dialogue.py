"""Dialogue: the assistant's second turn, after facts, a question and a follow-up."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_envs.data.dialogues import CLOSINGS, KINDS, dialogues
from textrl_envs.environments.tiny_gpt import ends_itself, tiny_gpt_model, tiny_gpt_tokenizer
from textrl_envs.prompts import Prompt, PromptTable
from textrl_envs.task import Task

__all__ = ["answers_politely", "dialogue"]

NUM_PROMPTS = 24


def answers_politely(
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    prompt_ids: Sequence[NDArray[np.int64]],
    response_ids: Sequence[NDArray[np.int64]],
    metadata: Sequence[Mapping[str, Any]],
) -> tuple[list[float], dict[str, list[float]]]:
    """Scores a reply that ended itself: 0.75 for the right answer, 0.25 for a polite closing.

    Both are reported besides, as 1 or 0, also of replies that did not end.
    """
    right = [
        float(_answers(response.split(), about["answer"]))
        for response, about in zip(responses, metadata, strict=True)
    ]
    polite = [float(response.endswith(CLOSINGS)) for response in responses]
    scores = [
        (0.75 * is_right + 0.25 * is_polite) * ends_itself(ids)
        for is_right, is_polite, ids in zip(right, polite, response_ids, strict=True)
    ]
    return scores, {"right": right, "polite": polite}


@functools.cache
def dialogue(*, max_new_tokens: int = 12, kl_coefficient: float = 0.1) -> Task:
    """Answer the second question of a dialogue rightly, close politely, and end.

    Observation:
        A prompt such as "user : the sailor lost a ring behind the tower . where is the ring ?
        assistant : it is behind the tower . user : thank you . and who lost the ring ? assistant
        :", then the response, such as "the sailor lost it . glad to help . <eos>".
    Action:
        One of 68 tokens: 66 words, EOS and padding.
    Reward:
        At the end, if by EOS, from 0 to 1: 0.75 if of all people, things or places, whichever was
        asked for, the response names the right one alone; and 0.25 if it closes by one of three
        polite phrases. Else 0. The info tells both apart, as `right` and `polite`.
    Termination:
        EOS, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    The reference is a GPT-2 of 109 thousand weights, trained on short stories and on dialogues with
    a careless assistant (`textrl_envs.data.dialogues`). It gives every token a chance, so there is
    no exact optimum; `textrl_envs.optimum.bounds` encloses it.

    Args:
        max_new_tokens: the limit of a response.
        kl_coefficient: β of the regularised return.
    """
    tokenizer = tiny_gpt_tokenizer()
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable(_prompts(), tokenizer),
        reward=answers_politely,
        max_new_tokens=max_new_tokens,
        load_reference=tiny_gpt_model,
        kl_coefficient=kl_coefficient,
    )


def _prompts() -> list[Prompt]:
    """Returns dialogues unseen in training. All end alike, so none begins another."""
    drawn = dialogues(np.random.default_rng(1), NUM_PROMPTS)
    return [Prompt(text=" ".join(one.opening), answer=one.answer) for one in drawn]


def _answers(words: list[str], answer: str) -> bool:
    """Tells whether the answer, and no other noun of its kind, is among the words."""
    kind = next(nouns for nouns in KINDS.values() if answer in nouns)
    return {word for word in words if word in kind} == {answer}
