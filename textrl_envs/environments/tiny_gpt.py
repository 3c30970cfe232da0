"""TinyGPT: a story told by a Transformers model that keeps few tokens, for any reward."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_envs.data import data_folder
from textrl_envs.data.dialogues import VOCABULARY
from textrl_envs.data.stories import EOS
from textrl_envs.environments.checks import check_count
from textrl_envs.language_models.base import LanguageModel
from textrl_envs.prompts import PromptTable
from textrl_envs.rewards.base import Reward
from textrl_envs.rewards.loading import load_reward
from textrl_envs.task import Task
from textrl_envs.tokenizers import Tokenizer, load_tokenizer

__all__ = ["ends_itself", "tells_of_lantern", "tiny_gpt", "tiny_gpt_model", "tiny_gpt_tokenizer"]

PROMPTS = (
    ": the sailor",
    ": a child",
    ": the tall farmer",
    ": a quiet baker",
    ": the young child",
    ": a small farmer",
)


def tells_of_lantern(
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    prompt_ids: Sequence[NDArray[np.int64]],
    response_ids: Sequence[NDArray[np.int64]],
    metadata: Sequence[Mapping[str, Any]],
) -> list[float]:
    """Scores 1 for a finished sentence with the word "lantern" and no word twice, else 0."""
    return [
        float(ends_itself(ids) and _is_right(response.split()))
        for response, ids in zip(responses, response_ids, strict=True)
    ]


@functools.cache
def tiny_gpt(
    *,
    reward: str | Reward = "textrl_envs.environments.tiny_gpt:tells_of_lantern",
    top_k: int = 3,
    max_new_tokens: int = 8,
    kl_coefficient: float = 0.1,
) -> Task:
    """Go on with a story in one sentence that tells of a lantern and has no word twice.

    Observation:
        A prompt such as ": the tall farmer", then the response, such as "found a lantern near the
        harbour . <eos>".
    Action:
        One of 68 tokens: 66 words, EOS and padding.
    Reward:
        At the end 1 if the response has the word "lantern", has no word twice, and ends by a full
        stop and EOS; else 0. With `reward`, whatever that gives.
    Termination:
        EOS, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    The reference is a GPT-2 of 109 thousand weights, trained on short stories and dialogues, of
    which the `top_k` likeliest tokens are kept. That leaves so few responses that all can be read:
    the optimum is known exactly, whatever the reward. A token that was not kept has no probability,
    and `KLPenalty` refuses it; policies add to the reference's logits and so never choose one.

    Args:
        reward: scores responses: `module:function`, `file.py:function`, or a callable that can be
            hashed, such as a function.
        top_k: tokens that the reference keeps; there are about `top_k ** max_new_tokens` responses.
        max_new_tokens: the limit of a response.
        kl_coefficient: β of the regularised return.

    Raises:
        InvalidInputError: a reward that cannot be found, or a `top_k` out of range.
    """
    check_count("top_k", top_k, most=len(VOCABULARY))
    tokenizer = tiny_gpt_tokenizer()
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable(PROMPTS, tokenizer),
        reward=load_reward(reward),
        max_new_tokens=max_new_tokens,
        load_reference=functools.partial(_top_k_model, top_k),
        kl_coefficient=kl_coefficient,
    )


def ends_itself(response_ids: NDArray[np.int64]) -> bool:
    """Tells whether a response ended by EOS."""
    return bool(response_ids[-1] == VOCABULARY.index(EOS))


def tiny_gpt_tokenizer() -> Tokenizer:
    """Returns the tokenizer of stories and dialogues: a word a token."""
    return load_tokenizer(str(data_folder("tiny_gpt")))


@functools.cache
def tiny_gpt_model() -> LanguageModel:
    """Returns the tiny GPT-2 in float32, as a user would load it."""
    from textrl_envs.language_models.causal import CausalLanguageModel

    return CausalLanguageModel.load(str(data_folder("tiny_gpt")))


@functools.cache
def _top_k_model(k: int) -> LanguageModel:
    from textrl_envs.language_models.causal import CausalLanguageModel
    from textrl_envs.language_models.decoder import load_causal_lm
    from textrl_envs.language_models.top_k import TopKModel

    # In float64 the numbers of one token at a time and of whole texts agree to the twelfth digit.
    model = load_causal_lm(str(data_folder("tiny_gpt"))).double()
    return TopKModel(CausalLanguageModel(model), k)


def _is_right(words: list[str]) -> bool:
    return "lantern" in words and words[-1] == "." and len(set(words)) == len(words)
