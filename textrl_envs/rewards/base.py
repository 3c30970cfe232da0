"""The signature of a reward, and the one place where rewards are called and checked."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import RewardError

__all__ = ["Reward", "RewardOutput", "score_responses"]

Scores = Sequence[float] | NDArray[Any]
RewardOutput = Scores | tuple[Scores, Mapping[str, Scores]]
"""One score a response; or the scores and further numbers a response, which go to the info."""


RESERVED = frozenset(
    ("score", "finish_reason", "prompt_index", "log_ratio", "final_obs", "final_info", "episode")
)
"""Names in the info that a reward may not take."""


class Reward(Protocol):
    """Scores responses. Called once with all responses that ended at the same step."""

    def __call__(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        prompt_ids: Sequence[NDArray[np.int64]],
        response_ids: Sequence[NDArray[np.int64]],
        metadata: Sequence[Mapping[str, Any]],
    ) -> RewardOutput:
        """Returns B scores, or B scores and a dict of further numbers, B each.

        Args:
            prompts: B texts as presented.
            responses: B texts without special tokens, decoded when they are read.
            prompt_ids: B arrays of token ids, without padding.
            response_ids: B arrays of token ids, the EOS token included where there is one.
            metadata: B mappings: "category", "answer" and what else the prompt carries.
        """


def score_responses(
    reward: Reward,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    prompt_ids: Sequence[NDArray[np.int64]],
    response_ids: Sequence[NDArray[np.int64]],
    metadata: Sequence[Mapping[str, Any]],
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Calls a reward and checks its answer.

    Returns:
        scores: shape (B,), finite.
        extras: name -> numbers, shape (B,), finite.

    Raises:
        RewardError: the reward raised, or gave other than B finite numbers; the message names the
            prompt and the response.
    """
    try:
        output = reward(
            prompts,
            responses,
            prompt_ids=prompt_ids,
            response_ids=response_ids,
            metadata=metadata,
        )
    # A reward is foreign code and may raise anything; it is raised again, with the text at fault.
    except Exception as error:
        raise RewardError(
            f"{_name(reward)} raised {type(error).__name__}: {error}; "
            f"{_quote(prompts, responses, 0)}{_and_others(len(responses))}."
        ) from error
    scores, extras = _split(reward, output)
    named = {"score": scores, **extras}
    checked = {key: _check(reward, key, x, prompts, responses) for key, x in named.items()}
    return checked.pop("score"), checked


def _split(reward: Reward, output: RewardOutput) -> tuple[Scores, Mapping[str, Scores]]:
    """Returns scores and further numbers; a tuple of numbers alone is scores."""
    if not (isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], Mapping)):
        return output, {}
    for key in output[1]:
        if key in RESERVED or key.startswith("_"):
            raise RewardError(
                f"{_name(reward)} may not report {key!r}: the name has a meaning of its own. "
                "Choose another."
            )
    return output


def _check(
    reward: Reward, key: str, values: Scores, prompts: Sequence[str], responses: Sequence[str]
) -> NDArray[np.float64]:
    try:
        if values is None:
            raise TypeError("None is no number")
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RewardError(
            f"{_name(reward)} must return one number a response as {key!r}; got {values!r:.200}; "
            f"{_quote(prompts, responses, 0)}{_and_others(len(responses))}."
        ) from error
    if array.shape != (len(responses),):
        raise RewardError(
            f"{_name(reward)} must return one {key!r} a response, shape ({len(responses)},); "
            f"got {array.shape}; {_quote(prompts, responses, 0)}{_and_others(len(responses))}."
        )
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array))[0])
        raise RewardError(
            f"{_name(reward)} must return finite numbers; got {key!r} {array[bad]}; "
            f"{_quote(prompts, responses, bad)}."
        )
    return array


def _name(reward: Reward) -> str:
    return f"Reward {getattr(reward, '__name__', type(reward).__name__)!r}"


def _quote(prompts: Sequence[str], responses: Sequence[str], index: int) -> str:
    return f"prompt {prompts[index]!r:.300}, response {responses[index]!r:.300}"


def _and_others(count: int) -> str:
    return f" and {count - 1} others" if count > 1 else ""
