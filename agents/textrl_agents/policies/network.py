"""NetworkPolicy: a Transformers trunk with two heads, its last forward remembered."""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from textrl_agents.episodes import Episodes
from textrl_agents.policies.base import Policy
from textrl_envs.language_models.decoder import Decoder
from textrl_envs.language_models.prefix_reader import weights_version

__all__ = ["NetworkPolicy"]


class NetworkPolicy(Policy):
    """Base of the policies that are networks. A subclass says how logits come from hidden states.

    Asked again about the observation it has just acted on, it answers from memory.

    Args:
        decoder: trunk and head.
        vocabulary_size: V of the environment; logits beyond it are left out.
        temperature: divides the logits, in sampling and in every log-probability alike.

    Raises:
        InvalidInputError: a temperature that is not positive.
    """

    def __init__(self, decoder: Decoder, *, vocabulary_size: int, temperature: float = 1.0) -> None:
        super().__init__(vocabulary_size=vocabulary_size, temperature=temperature)
        self.trunk = decoder.trunk
        width: int = decoder.trunk.config.hidden_size  # type: ignore[assignment, union-attr]
        # Not initialised, so that no generator is drawn from.
        self.value_head: nn.Linear = skip_init(nn.Linear, width, 1)  # type: ignore[no-untyped-call]
        # Zero, so that the first advantages are not the noise of a random value.
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.to(decoder.device)
        self._decoder = decoder
        self._memo: tuple[Any, tuple[Tensor, Tensor]] | None = None
        self._weights: tuple[nn.Parameter, ...] = ()
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.value_head.weight.device

    @abstractmethod
    def next_logits(self, hidden: Tensor, obs: Any) -> Tensor:  # noqa: ANN401 - either form
        """Returns the logits after each observation, [B, H] -> [B, V]."""

    @abstractmethod
    def episode_logits(self, hidden: Tensor, episodes: Episodes) -> Tensor:
        """Returns the logits of M response tokens from the hidden states before them, [M, V]."""

    def check_length(self, length: int) -> None:
        """Raises InvalidInputError if texts of that many tokens are too long for the network."""
        self._decoder.reader.check_length(length)

    def forget(self) -> None:
        """Drops what is remembered between calls: the next numbers are fresh, to the last bit."""
        self._decoder.reader.forget()
        self._memo = None

    def _read(self, obs: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - either form
        hidden = self._decoder.reader.read(obs)
        key = (self._decoder.reader.version, len(hidden), self._weights_version(), self.temperature)
        if self._memo is None or self._memo[0] != key:
            logits = self.next_logits(hidden, obs).float() / self.temperature
            values = self.value_head(hidden.float())[:, 0]
            self._memo = key, (logits.log_softmax(-1), values)
        return self._memo[1]

    def _read_episodes(self, episodes: Episodes) -> tuple[Tensor, Tensor]:
        rows, columns = episodes.response_places()
        ids = np.where(episodes.attention_mask != 0, episodes.input_ids, 0)
        hidden = self._decoder.hidden(torch.from_numpy(ids).to(self.device))  # [B, L, H]
        # A token is predicted from the column before it: the last of the prompt, for the first.
        before = hidden[rows, columns - 1]  # [M, H]
        logits = self.episode_logits(before, episodes).float() / self.temperature
        return logits.log_softmax(-1), self.value_head(before.float())[:, 0]

    def _weights_version(self) -> tuple[int, ...]:
        if not self._weights:
            self._weights = tuple(self.parameters())
        return weights_version(self._weights)
