"""Rewards by rule, for tasks that can be checked without a model."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError
from textrl_envs.rewards.base import Reward

__all__ = ["exact_answer", "keywords", "regex", "response_length", "valid_json"]

Ids = Sequence[NDArray[np.int64]]
Metadata = Sequence[Mapping[str, Any]]


def response_length(
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    prompt_ids: Ids,
    response_ids: Ids,
    metadata: Metadata,
) -> NDArray[np.float64]:
    """Scores a response by its number of tokens, EOS included: a reward made to be hacked."""
    return np.array([float(len(ids)) for ids in response_ids])


def exact_answer(
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    prompt_ids: Ids,
    response_ids: Ids,
    metadata: Metadata,
) -> NDArray[np.float64]:
    """Scores 1 where the response is the prompt's `answer`, white space at the ends aside.

    Raises:
        InvalidInputError: a prompt carries no answer.
    """
    answers = [about["answer"] for about in metadata]
    if None in answers:
        raise InvalidInputError("exact_answer needs an 'answer' with every prompt.")
    return np.array(
        [float(r.strip() == a.strip()) for r, a in zip(responses, answers, strict=True)]
    )


def valid_json(
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    prompt_ids: Ids,
    response_ids: Ids,
    metadata: Metadata,
) -> NDArray[np.float64]:
    """Scores 1 where the whole response is one JSON value."""
    return np.array([float(_is_json(response)) for response in responses])


def regex(pattern: str) -> Reward:
    """Returns a reward that scores 1 where the whole response, stripped, matches the pattern.

    Raises:
        InvalidInputError: no regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InvalidInputError(f"{pattern!r} is no regular expression: {error}.") from error

    def matches_regex(
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        prompt_ids: Ids,
        response_ids: Ids,
        metadata: Metadata,
    ) -> NDArray[np.float64]:
        return np.array([float(bool(compiled.fullmatch(r.strip()))) for r in responses])

    return matches_regex


def keywords(words: Sequence[str]) -> Reward:
    """Returns a reward that scores the share of the words which the response holds."""
    if isinstance(words, str) or not words:
        raise InvalidInputError(f"keywords needs a sequence of words; got {words!r}.")
    patterns = [re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE) for word in words]

    def mentions_keywords(
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        prompt_ids: Ids,
        response_ids: Ids,
        metadata: Metadata,
    ) -> NDArray[np.float64]:
        return np.array([np.mean([bool(p.search(r)) for p in patterns]) for r in responses])

    return mentions_keywords


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _is_json(text: str) -> bool:
    try:
        # Numbers are left as text: none is too long. NaN and Infinity are no JSON.
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True
