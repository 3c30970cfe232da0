"""TextBandit: the user's own tokenizer, prompts, reward and reference model."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.base import LanguageModel
from textrl_envs.prompt_sources import find_prompts
from textrl_envs.prompts import Prompt, PromptTable
from textrl_envs.rewards.base import Reward
from textrl_envs.rewards.loading import load_reward
from textrl_envs.task import Task
from textrl_envs.tokenizers import (
    Tokenizer,
    check_same_vocabulary,
    check_tokenizer,
    load_tokenizer,
)

__all__ = ["text_bandit"]


def text_bandit(
    *,
    tokenizer: str | Tokenizer,
    prompts: str | Path | Iterable[Prompt | str],
    reward: str | Reward,
    max_new_tokens: int = 64,
    max_prompt_tokens: int | None = None,
    prompt_field: str = "prompt",
    template: str = "{prompt}",
    stop: Sequence[str] = (),
    reference: str | LanguageModel | None = None,
    kl_coefficient: float = 0.05,
    trust_remote_code: bool = False,
) -> Task:
    """Present one of the user's prompts; score the response by the user's reward.

    Observation:
        A prompt in the user's tokens, then the response.
    Action:
        A token of the user's tokenizer.
    Reward:
        At the end the user's score; its range is the user's.
    Termination:
        EOS, a text of `stop`, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    Names instead of objects keep the environment's spec JSON: a folder or hub id for `tokenizer`
    and `reference`, a path or a name for `prompts`, `module:function` or `file.py:function` for
    `reward`.

    Args:
        tokenizer: a Transformers tokenizer with an EOS token, or where it is.
        prompts: a JSONL file (`read_prompts`), prompts, or, unless there is a file of that name,
            "instructions": 1000 requests in ten categories (`textrl_envs.data.instructions`), or
            what another library makes, such as "reasoning_gym:chain_sum?size=100&seed=0", "gem:ID"
            or "datasets:FILE" (`textrl_envs.interop`); or a dataset of the library datasets.
        reward: scores the batch of responses that ended (`textrl_envs.rewards.Reward`).
        max_new_tokens: the limit of a response.
        max_prompt_tokens: the longest prompt allowed; None takes the longest there is.
        prompt_field: the key that holds the prompt in a JSONL file.
        template: how a prompt is presented; `{prompt}` stands for its text.
        stop: texts that end a response as EOS does.
        reference: the frozen model of the KL penalty, or where it is.
        kl_coefficient: β of the regularised return.
        trust_remote_code: run code that comes with a hub id's tokenizer or model.

    Raises:
        InvalidInputError: anything of it that cannot be used.
    """
    if isinstance(tokenizer, str):
        tokenizer = load_tokenizer(tokenizer, trust_remote_code=trust_remote_code)
    else:
        check_tokenizer(tokenizer, type(tokenizer).__name__)
    table = PromptTable(
        find_prompts(prompts, prompt_field=prompt_field),
        tokenizer,
        template=template,
        max_prompt_tokens=max_prompt_tokens,
    )
    return Task(
        tokenizer=tokenizer,
        prompts=table,
        reward=load_reward(reward),
        max_new_tokens=max_new_tokens,
        stop=(stop,) if isinstance(stop, str) else _as_tuple(stop),
        load_reference=_reference_loader(reference, tokenizer, trust_remote_code),
        kl_coefficient=kl_coefficient,
    )


def _reference_loader(
    reference: Any,  # noqa: ANN401 - a name, a model, or None
    tokenizer: Tokenizer,
    trust_remote_code: bool,
) -> Callable[[], LanguageModel] | None:
    if reference is None:
        return None
    vocabulary_size = len(tokenizer)
    if not isinstance(reference, str):
        if reference.vocabulary_size != vocabulary_size:
            raise InvalidInputError(
                f"The vocabularies do not match: the tokenizer has {vocabulary_size} tokens, the "
                f"reference {reference.vocabulary_size}. Use the tokenizer that belongs to it."
            )
        return lambda: reference

    def load() -> LanguageModel:
        from textrl_envs.language_models.causal import CausalLanguageModel

        check_same_vocabulary(reference, tokenizer)
        return CausalLanguageModel.load(
            reference, vocabulary_size=vocabulary_size, trust_remote_code=trust_remote_code
        )

    return load


def _as_tuple(stop: Any) -> Any:  # noqa: ANN401 - the task refuses what is no sequence of texts
    return tuple(stop) if isinstance(stop, list) else stop
