"""Policy: what every trainable policy answers, a token at a time or for whole episodes.

step(obs, rng)            act: a token a row, with its log-prob, entropy and value
log_probs(obs, actions)   what the KL wrapper asks
evaluate(episodes)        the training forward, with gradients

`network.py` has the policies that are Transformers networks, `table.py` the one that is a table.
"""

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from textrl_agents.episodes import Episodes
from textrl_agents.policies.distribution import TokenDistribution
from textrl_agents.policies.sampling import PLAIN, Sampling
from textrl_envs.errors import InvalidInputError

__all__ = ["Policy", "PolicyStep", "TokenEvaluation", "response_tokens"]


@dataclass(frozen=True, slots=True)
class PolicyStep:
    """One token a row. All arrays have the shape (B,)."""

    actions: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    """Of the actions, in nats."""
    entropies: NDArray[np.float64]
    """Of the whole distribution, in nats."""
    values: NDArray[np.float64]
    """In units of the score; NaN where the policy values whole episodes alone."""


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
        sampling: how the distribution is made of the logits, in drawing and in every
            log-probability alike.
    """

    default_learning_rate: ClassVar[float]
    """What suits Adam where the user says nothing."""
    is_checkpointed: bool = False
    """`evaluate` keeps less for the gradients, and computes the rest again."""
    values_episodes: bool = False
    """Values come from `episode_values`, and not from `step`."""

    def __init__(self, *, vocabulary_size: int, sampling: Sampling = PLAIN) -> None:
        super().__init__()
        self._vocabulary_size = vocabulary_size
        self.sampling = sampling
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
    def _read(self, obs: Any) -> tuple[TokenDistribution, Tensor]:  # noqa: ANN401 - either form
        """Returns the distribution of the next token of each observation, and its value [B]."""

    @abstractmethod
    def evaluate(self, episodes: Episodes, *, with_entropies: bool = True) -> TokenEvaluation:
        """Returns log-prob, entropy and value of the M response tokens, with gradients.

        Args:
            episodes: B of them.
            with_entropies: False leaves the entropies 0, and saves two passes over the logits.
        """

    @abstractmethod
    def check_length(self, length: int) -> None:
        """Raises InvalidInputError if texts of that many tokens are too long."""

    @abstractmethod
    def forget(self) -> None:
        """Drops what is remembered between calls: the next numbers are fresh, to the last bit."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes a folder that `textrl_agents.policies.load_policy` reads."""

    def write_about(self, folder: Path, *, kind: str, **about: Any) -> None:  # noqa: ANN401 - JSON
        """Writes `policy.json`: which policy this is, and what `load` needs beside its weights."""
        about = {"kind": kind, **about, "sampling": asdict(self.sampling)}
        (folder / "policy.json").write_text(json.dumps(about, indent=2) + "\n")

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

        Raises:
            InvalidInputError: logits that are not finite.
        """
        distribution, values = self._read(obs)
        if greedy:
            actions = distribution.argmax()
        else:
            actions = distribution.sample(torch.from_numpy(rng.random(len(distribution))))
        chosen, entropies = distribution.log_probs_of(actions), distribution.entropies()
        # Together, since each transfer from a device waits for it.
        numbers = torch.stack([chosen, entropies, values.to(chosen)]).cpu().double().numpy()
        if not np.isfinite(numbers[0]).all():
            raise InvalidInputError(
                "The policy has logits that are not finite, and nothing can be drawn from them. "
                "Look for NaN in its weights, lower learning_rate, or raise the temperature."
            )
        return PolicyStep(actions.cpu().numpy(), *numbers)

    @torch.no_grad()
    def episode_values(self, episodes: Episodes) -> NDArray[np.float64]:
        """Returns the value before every response token, (B, T), 0 where there is none.

        Most policies give values in `step`. One whose values cost a forward of their own says so by
        `values_episodes`: its `step` gives NaN, and the collector asks here when all is played.
        """
        found = np.zeros(episodes.response_mask.shape)
        found[episodes.response_mask] = _float64(self._episode_values(episodes))
        return found

    def _episode_values(self, episodes: Episodes) -> Tensor:
        """Returns the values before the M response tokens, row by row, [M]."""
        return self.evaluate(episodes, with_entropies=False).values

    @torch.no_grad()
    def next_values(self, obs: Any) -> NDArray[np.float64]:  # noqa: ANN401 - either form
        """Returns the value of each observation, shape (B,)."""
        return _float64(self._read(obs)[1])

    @torch.no_grad()
    def log_probs(self, obs: Any, actions: NDArray[np.integer[Any]]) -> NDArray[np.float64]:  # noqa: ANN401
        """Returns the log-probability of each action in each observation, in nats, (B,)."""
        chosen = torch.as_tensor(np.asarray(actions), device=self.device)
        return _float64(self._read(obs)[0].log_probs_of(chosen))

    @torch.no_grad()
    def next_log_probs(self, obs: Any) -> NDArray[np.float64]:  # noqa: ANN401 - either form
        """Returns the log-probabilities of all next tokens, in nats, (B, V)."""
        return _float64(self._read(obs)[0].log_probs())


def response_tokens(episodes: Episodes, device: torch.device) -> Tensor:
    """Returns the M response tokens, row by row, int64 [M]."""
    return torch.from_numpy(episodes.input_ids[episodes.response_places()]).to(device)


def _float64(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.double().cpu().numpy()
