"""What a language model answers. A policy is asked the first question too, by the KL wrapper."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["LanguageModel", "TokenScorer"]


class TokenScorer(Protocol):
    """Anything that gives actions a probability: a reference, or the policy that is trained."""

    @property
    def vocabulary_size(self) -> int:
        """V: the tokens that it gives a probability."""

    def log_probs(self, obs: Any, actions: NDArray[np.integer[Any]]) -> NDArray[np.floating[Any]]:  # noqa: ANN401
        """Returns the log-probability of each action in each observation, in nats, shape (B,)."""


class LanguageModel(TokenScorer, Protocol):
    """A distribution over the next token, given all tokens so far."""

    def next_log_probs(self, obs: Any) -> NDArray[np.floating[Any]]:  # noqa: ANN401
        """Returns the log-probabilities of all next tokens, in nats, shape (B, V).

        Args:
            obs: a batch of observations of either form (`textrl_envs.observations`).
        """

    def forget(self) -> None:
        """Drops what is remembered between calls, if anything.

        Numbers read afresh and numbers read on may differ in their last bits: work that must repeat
        byte for byte begins by forgetting.
        """

    def score(
        self, input_ids: NDArray[np.integer[Any]], attention_mask: NDArray[np.integer[Any]]
    ) -> NDArray[np.floating[Any]]:
        """Returns the log-probability of every token given those before it, in one pass.

        Args:
            input_ids: token ids, right-padded, shape (B, L).
            attention_mask: 1 where there is text, shape (B, L).

        Returns:
            Shape (B, L), in nats. 0 in column 0, which nothing precedes, and behind the text.
        """

    def log_probs_at(
        self,
        input_ids: NDArray[np.integer[Any]],
        attention_mask: NDArray[np.integer[Any]],
        places: tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]],
    ) -> NDArray[np.floating[Any]]:
        """Returns log p(. | tokens up to and with a place) for M places, shape (M, V), in nats.

        Args:
            input_ids: token ids, right-padded, shape (B, L).
            attention_mask: 1 where there is text, shape (B, L).
            places: row and column of each place, shape (M,) both.
        """
