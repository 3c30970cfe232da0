"""AgentPolicy: any agent that acts, as a policy that a collector can play."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from textrl_agents.policies import PolicyStep
from textrl_envs.errors import InvalidInputError

if TYPE_CHECKING:
    from textrl_envs.language_models.base import TokenScorer

__all__ = ["AgentPolicy"]


class AgentPolicy:
    """Any agent as the collector's policy: `act` chooses, `log_probs` tells how likely it was.

    Log-probabilities are NaN where the agent has none, values 0. It draws from a generator of its
    own, not from the collector's.

    Args:
        name: for errors.
        agent: with `act`; `log_probs`, `next_values` and `forget` are asked of it or its policy.
    """

    def __init__(self, name: str, agent: Any) -> None:  # noqa: ANN401 - follows `Agent`
        self._name = name
        self._agent = agent
        self.scorer: TokenScorer | None = _owner(agent, "log_probs")
        self._valuer = _owner(agent, "next_values")
        self._reader = _owner(agent, "forget")

    def step(self, obs: Any, rng: np.random.Generator, *, greedy: bool = False) -> PolicyStep:  # noqa: ANN401
        """Chooses a token in each observation."""
        values = self.next_values(obs)
        actions = np.asarray(self._agent.act(obs, greedy=True) if greedy else self._agent.act(obs))
        log_probs = np.full(len(values), np.nan)
        if self.scorer is not None:
            found = self.scorer.log_probs(obs, actions)
            log_probs = self._numbers("log_probs", found, len(values))
        return PolicyStep(actions, log_probs, np.zeros(len(values)), values)

    def forget(self) -> None:
        """Drops what the agent remembers between calls, if it says that it does."""
        if self._reader is not None:
            self._reader.forget()

    def next_values(self, obs: Any) -> NDArray[np.float64]:  # noqa: ANN401 - either form
        """Returns the value of each observation, (B,); 0 where the agent has none."""
        count = len(obs["input_ids"] if isinstance(obs, dict) else obs)
        if self._valuer is None:
            return np.zeros(count)
        return self._numbers("next_values", self._valuer.next_values(obs), count)

    def _numbers(self, method: str, given: Any, count: int) -> NDArray[np.float64]:  # noqa: ANN401
        numbers = np.asarray(given, np.float64)
        if numbers.shape != (count,):
            raise InvalidInputError(
                f"{self._name}.{method} must return one number an observation, shape ({count},); "
                f"got {numbers.shape}."
            )
        return numbers


def _owner(agent: Any, method: str) -> Any:  # noqa: ANN401 - agent, policy or None
    """Returns the agent, or else its policy, whichever has the method; None where neither has."""
    owners = (agent, getattr(agent, "policy", None))
    return next((one for one in owners if callable(getattr(one, method, None))), None)
