"""SearchAgent: a policy that searches, as an agent. It learns nothing."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from textrl_agents.agent import Progress, TrainingLog
from textrl_agents.policies.base import PolicyStep
from textrl_agents.search.simulator import BasePolicy

__all__ = ["SearchAgent", "SearchPolicy", "load_base"]


class SearchPolicy(Protocol):
    """A policy that spends tokens on each decision."""

    tokens_spent: int

    def step(self, obs: Any, rng: np.random.Generator, *, greedy: bool = False) -> PolicyStep:  # noqa: ANN401
        """Chooses a token in each observation."""

    def choose(
        self,
        obs: Any,  # noqa: ANN401 - either form
        rng: np.random.Generator,
        *,
        greedy: bool = False,
    ) -> NDArray[np.int64]:
        """Returns a token for each observation, (B,)."""


class SearchAgent:
    """Acts by a search. Its `policy` tells its log-probabilities.

    Args:
        policy: what searches.
        seed: of the tokens drawn.
    """

    def __init__(self, policy: SearchPolicy, *, seed: int = 0) -> None:
        self.policy = policy
        self.rng = np.random.default_rng([seed, 1])

    @property
    def tokens_spent(self) -> int:
        """Tokens that all decisions so far have cost."""
        return self.policy.tokens_spent

    def act(self, obs: Any, *, greedy: bool = False) -> NDArray[np.int64]:  # noqa: ANN401
        """Returns a token id for each observation, (B,)."""
        return self.policy.choose(obs, self.rng, greedy=greedy)

    def learn(
        self,
        envs: Any,  # noqa: ANN401 - a vector environment
        *,
        total_tokens: int,
        progress: Progress | None = None,
    ) -> TrainingLog:
        """Does nothing, and generates nothing; the log is empty."""
        return TrainingLog()


def load_base(base: str, *, device: str = "auto") -> BasePolicy | None:
    """Returns the policy of a folder; None for "reference", the environment's own.

    Raises:
        InvalidInputError: the folder holds no policy.
    """
    if base == "reference":
        return None
    from textrl_agents.policies.loading import load_policy

    return load_policy(base, device=device)
