"""A task: everything the dynamics need, shared by the scalar and the vector environment."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textrl_envs.demonstrations import Demonstrations
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.base import LanguageModel
from textrl_envs.prompts import PromptTable
from textrl_envs.rewards.base import Reward
from textrl_envs.rewards.noise import ScoreNoise
from textrl_envs.tokenizers import Tokenizer

__all__ = ["HasTask", "Task"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """One text bandit: prompts, the limit of a response, and its score.

    Args:
        tokenizer: its vocabulary is the action space; its EOS token ends a response.
        prompts: what is presented.
        reward: scores responses that ended.
        max_new_tokens: a response ends here at the latest, and is scored as it stands.
        stop: texts that end a response as EOS does.
        load_reference: gives the reference model of the KL penalty; called when first asked for,
            so that an environment alone never loads a large model.
        kl_coefficient: β, the price of one nat of KL in units of the score.
        noise: changes what is paid for a score at random, without changing its mean.
        load_demonstrations: gives responses to learn from, where the task has some.

    Raises:
        InvalidInputError: `max_new_tokens` under 1, an empty stop text, or a negative β.
    """

    tokenizer: Tokenizer
    prompts: PromptTable
    reward: Reward
    max_new_tokens: int
    stop: Sequence[str] = ()
    load_reference: Callable[[], LanguageModel] | None = None
    kl_coefficient: float = 0.0
    noise: ScoreNoise | None = None
    load_demonstrations: Callable[[], Demonstrations] | None = None

    def __post_init__(self) -> None:
        limit = self.max_new_tokens
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise InvalidInputError(
                f"max_new_tokens must be an integer of at least 1; got {limit!r}."
            )
        if not _are_texts(self.stop):
            raise InvalidInputError(
                f"stop must be a sequence of non-empty texts, such as ['\\n']; got {self.stop!r}."
            )
        if not _is_number(self.kl_coefficient) or not 0 <= self.kl_coefficient < math.inf:
            raise InvalidInputError(
                f"kl_coefficient must be a number of 0 or more; got {self.kl_coefficient!r}."
            )

    @property
    def vocabulary_size(self) -> int:
        """V, the number of actions."""
        return len(self.tokenizer)

    @property
    def max_tokens(self) -> int:
        """L, the length of an observation."""
        return self.prompts.max_prompt_tokens + self.max_new_tokens


class HasTask:
    """What the scalar and the vector environment both say of their task."""

    task: Task

    @property
    def prompts(self) -> PromptTable:
        """All prompts of the environment."""
        return self.task.prompts

    @property
    def reference(self) -> LanguageModel | None:
        """The frozen model that the KL penalty keeps to; loaded when first asked for."""
        return self.task.load_reference() if self.task.load_reference else None

    @property
    def kl_coefficient(self) -> float:
        """β: the price of one nat of KL, in units of the score."""
        return self.task.kl_coefficient

    @property
    def demonstrations(self) -> Demonstrations | None:
        """Responses to learn from, where the task has some; loaded when first asked for."""
        return self.task.load_demonstrations() if self.task.load_demonstrations else None

    def decode(self, token_ids: Any) -> str:  # noqa: ANN401 - a list, an array or a tensor
        """Returns token ids as text, special tokens included."""
        return str(self.task.tokenizer.decode(np.asarray(token_ids).tolist()))


def _are_texts(value: object) -> bool:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return False
    return all(isinstance(text, str) and text for text in value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
