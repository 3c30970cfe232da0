"""Policy: a Transformers trunk with two heads, asked a token at a time or for whole episodes.

step(obs, rng)            act: a token a row, with its log-prob, entropy and value
log_probs(obs, actions)   what the KL wrapper asks; free after `step` on the same observation
evaluate(episodes)        the training forward, with gradients
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import skip_init

from textrl_agents.episodes import Episodes
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.decoder import Decoder
from textrl_envs.language_models.prefix_reader import weights_version

__all__ = ["Policy", "PolicyStep", "TokenEvaluation"]


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
    """The M response tokens of some episodes, row by row, with gradients. Float32 (M,)."""

    log_probs: Tensor
    entropies: Tensor
    values: Tensor


class Policy(nn.Module, ABC):
    """Base of the policies. A subclass says how logits come from hidden states.

    Args:
        decoder: trunk and head.
        vocabulary_size: V of the environment; logits beyond it are left out.
        temperature: divides the logits, in sampling and in every log-probability alike.

    Raises:
        InvalidInputError: a temperature that is not positive.
    """

    default_learning_rate: ClassVar[float]
    """What suits Adam where the user says nothing."""

    def __init__(self, decoder: Decoder, *, vocabulary_size: int, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise InvalidInputError(f"temperature must be positive; got {temperature}.")
        self.trunk = decoder.trunk
        width: int = decoder.trunk.config.hidden_size  # type: ignore[assignment, union-attr]
        # Not initialised, so that no generator is drawn from.
        self.value_head: nn.Linear = skip_init(nn.Linear, width, 1)  # type: ignore[no-untyped-call]
        # Zero, so that the first advantages are not the noise of a random value.
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.to(decoder.device)
        self._decoder = decoder
        self._vocabulary_size = vocabulary_size
        self.temperature = temperature
        self._memo: tuple[Any, Tensor] | None = None
        self._weights: tuple[nn.Parameter, ...] = ()
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
        return self.value_head.weight.device

    @abstractmethod
    def next_logits(self, hidden: Tensor, obs: Any) -> Tensor:  # noqa: ANN401 - either form
        """Returns the logits after each observation, [B, H] -> [B, V]."""

    @abstractmethod
    def episode_logits(self, hidden: Tensor, episodes: Episodes) -> Tensor:
        """Returns the logits of M response tokens from the hidden states before them, [M, V]."""

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
        log_probs = self._next_log_probs(obs)  # [B, V]
        if greedy:
            actions = log_probs.argmax(-1)
        else:
            actions = sample(log_probs, torch.from_numpy(rng.random(len(log_probs))))
        chosen = log_probs.gather(1, actions[:, None])[:, 0]
        entropies = _entropy(log_probs)
        return PolicyStep(
            actions.cpu().numpy(), _float64(chosen), _float64(entropies), self.next_values(obs)
        )

    def check_length(self, length: int) -> None:
        """Raises InvalidInputError if texts of that many tokens are too long for the network."""
        self._decoder.reader.check_length(length)

    def forget(self) -> None:
        """Drops what is remembered between calls: the next numbers are fresh, to the last bit."""
        self._decoder.reader.forget()
        self._memo = None

    @torch.no_grad()
    def next_values(self, obs: Any) -> NDArray[np.float64]:  # noqa: ANN401 - either form
        """Returns the value of each observation, shape (B,)."""
        return _float64(self.value_head(self._decoder.reader.read(obs).float())[:, 0])

    @torch.no_grad()
    def log_probs(self, obs: Any, actions: NDArray[np.integer[Any]]) -> NDArray[np.float64]:  # noqa: ANN401
        """Returns the log-probability of each action in each observation, in nats, (B,)."""
        log_probs = self._next_log_probs(obs)
        chosen = torch.as_tensor(np.asarray(actions), device=log_probs.device)[:, None]
        return _float64(log_probs.gather(1, chosen)[:, 0])

    @torch.no_grad()
    def next_log_probs(self, obs: Any) -> NDArray[np.float64]:  # noqa: ANN401 - either form
        """Returns the log-probabilities of all next tokens, in nats, (B, V)."""
        return _float64(self._next_log_probs(obs))

    def evaluate(self, episodes: Episodes) -> TokenEvaluation:
        """Returns log-prob, entropy and value of every response token, with gradients."""
        rows, columns = episodes.response_places()
        ids = np.where(episodes.attention_mask != 0, episodes.input_ids, 0)
        hidden = self._decoder.hidden(torch.from_numpy(ids).to(self.device))  # [B, L, H]
        # A token is predicted from the column before it: the last of the prompt, for the first.
        before = hidden[rows, columns - 1]  # [M, H]
        logits = self.episode_logits(before, episodes).float() / self.temperature
        log_probs = logits.log_softmax(-1)
        tokens = torch.from_numpy(ids[rows, columns]).to(self.device)
        return TokenEvaluation(
            log_probs.gather(1, tokens[:, None])[:, 0],
            _entropy(log_probs),
            self.value_head(before.float())[:, 0],
        )

    def _weights_version(self) -> tuple[int, ...]:
        if not self._weights:
            self._weights = tuple(self.parameters())
        return weights_version(self._weights)

    def _next_log_probs(self, obs: Any) -> Tensor:  # noqa: ANN401 - either form
        hidden = self._decoder.reader.read(obs)
        key = (self._decoder.reader.version, len(hidden), self._weights_version(), self.temperature)
        if self._memo is None or self._memo[0] != key:
            logits = self.next_logits(hidden, obs).float() / self.temperature
            self._memo = key, logits.log_softmax(-1)
        return self._memo[1]


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


def _entropy(log_probs: Tensor) -> Tensor:
    """Returns −Σ p log p over the last axis; a token of probability 0 adds nothing."""
    is_impossible = log_probs == -torch.inf
    return -(log_probs.exp() * log_probs.masked_fill(is_impossible, 0.0)).sum(-1)


def _float64(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.double().cpu().numpy()
