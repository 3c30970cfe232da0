"""Policy: what every trainable policy answers, a token at a time or for whole episodes.

step(obs, rng)            act: a token a row, with its log-prob, entropy and value
log_probs(obs, actions)   what the KL wrapper asks
evaluate(episodes)        the training forward, with gradients

`network.py` has the policies that are Transformers networks, `table.py` the one that is a table.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from textrl_agents.episodes import Episodes
from textrl_envs.errors import InvalidInputError

__all__ = ["Policy", "PolicyStep", "TokenEvaluation", "sample"]


@dataclass(frozen=True, slots=True)
class PolicyStep:
    """One token a row. All arrays have the shape (B,)."""

    actions: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    """Of the actions, in nats."""
    entropies: NDArray[np.float64]
    """Of the whole distribution, in nats."""
    values: NDArray[np.float64]
    """In units of the score."""


@dataclass(frozen=True, slots=True)
class TokenEvaluation:
    """The M response tokens of some episodes, row by row, with gradients, (M,)."""

    log_probs: Tensor
    entropies: Tensor
    values: Tensor


class Policy(nn.Module, ABC):
    """Base of the policies. A subclass says what distribution and value a text has.

    Args:
        vocabulary_size: V of the environment.
        temperature: divides the logits, in sampling and in every log-probability alike.

    Raises:
        InvalidInputError: a temperature that is not positive.
    """

    default_learning_rate: ClassVar[float]
    """What suits Adam where the user says nothing."""

    def __init__(self, *, vocabulary_size: int, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise InvalidInputError(f"temperature must be positive; got {temperature}.")
        self._vocabulary_size = vocabulary_size
        self.temperature = temperature
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: dropout would make the ratio of new and old policy random."""
        return super().train(False)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self._vocabulary_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @abstractmethod
    def _read(self, obs: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - either form
        """Returns log-probabilities [B, V] of the next tokens, in nats, and values [B]."""

    @abstractmethod
    def _read_episodes(self, episodes: Episodes) -> tuple[Tensor, Tensor]:
        """Returns the same before each of M response tokens, row by row, with gradients."""

    @abstractmethod
    def check_length(self, length: int) -> None:
        """Raises InvalidInputError if texts of that many tokens are too long."""

    @abstractmethod
    def forget(self) -> None:
        """Drops what is remembered between calls: the next numbers are fresh, to the last bit."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes a folder that `textrl_agents.policies.load_policy` reads."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Reads what `save` wrote."""

    @torch.no_grad()
    def step(self, obs: Any, rng: np.random.Generator, *, greedy: bool = False) -> PolicyStep:  # noqa: ANN401
        """Chooses a token in each observation.

        Args:
            obs: a batch of B observations.
            rng: gives one uniform number a row.
            greedy: take the likeliest token; its log-probability is still that of sampling.
        """
        log_probs, values = self._read(obs)  # [B, V], [B]
        if greedy:
            actions = log_probs.argmax(-1)
        else:
            actions = sample(log_probs, torch.from_numpy(rng.random(len(log_probs))))
        chosen = log_probs.gather(1, actions[:, None])[:, 0]
        entropies = entropy(log_probs)
        return PolicyStep(
            actions.cpu().numpy(), _float64(chosen), _float64(entropies), _float64(values)
        )

    @torch.no_grad()
    def next_values(self, obs: Any) -> NDArray[np.float64]:  # noqa: ANN401 - either form
        """Returns the value of each observation, shape (B,)."""
        return _float64(self._read(obs)[1])

    @torch.no_grad()
    def log_probs(self, obs: Any, actions: NDArray[np.integer[Any]]) -> NDArray[np.float64]:  # noqa: ANN401
        """Returns the log-probability of each action in each observation, in nats, (B,)."""
        log_probs, _ = self._read(obs)
        chosen = torch.as_tensor(np.asarray(actions), device=log_probs.device)[:, None]
        return _float64(log_probs.gather(1, chosen)[:, 0])

    @torch.no_grad()
    def next_log_probs(self, obs: Any) -> NDArray[np.float64]:  # noqa: ANN401 - either form
        """Returns the log-probabilities of all next tokens, in nats, (B, V)."""
        return _float64(self._read(obs)[0])

    def evaluate(self, episodes: Episodes) -> TokenEvaluation:
        """Returns log-prob, entropy and value of every response token, with gradients."""
        log_probs, values = self._read_episodes(episodes)
        tokens = episodes.input_ids[episodes.response_places()]
        chosen = torch.from_numpy(tokens).to(log_probs.device)[:, None]
        return TokenEvaluation(log_probs.gather(1, chosen)[:, 0], entropy(log_probs), values)


def sample(log_probs: Tensor, uniforms: Tensor) -> Tensor:
    """Draws a token a row by inverting the cumulative distribution.

    One uniform number a row, made by the caller's generator and not by the device's; and faster
    than `torch.multinomial`.

    Args:
        log_probs: [B, V], in nats.
        uniforms: float64 [B], in [0, 1).

    Returns:
        int64 [B]. A token of probability 0 is never drawn.
    """
    cumulative = log_probs.exp().cumsum(-1, dtype=torch.float64)
    # The sum is 1 up to rounding: scaled by it, the number lies below the last step for certain.
    targets = uniforms.to(log_probs.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True)[:, 0]


def entropy(log_probs: Tensor) -> Tensor:
    """Returns −Σ p log p over the last axis; a token of probability 0 adds nothing."""
    is_impossible = log_probs == -torch.inf
    return -(log_probs.exp() * log_probs.masked_fill(is_impossible, 0.0)).sum(-1)


def _float64(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.double().cpu().numpy()
