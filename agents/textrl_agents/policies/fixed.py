"""FixedPolicy: a language model as a policy that is never trained, such as the reference."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from textrl_agents.policies.base import PolicyStep
from textrl_agents.policies.distribution import TokenDistribution
from textrl_envs.language_models.base import LanguageModel

__all__ = ["FixedPolicy"]


class FixedPolicy:
    """Samples from a language model.

    Args:
        language_model: whose distribution is sampled.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        self.language_model = language_model

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.language_model.vocabulary_size

    def step(self, obs: Any, rng: np.random.Generator, *, greedy: bool = False) -> PolicyStep:  # noqa: ANN401
        """Chooses a token in each observation; values are 0."""
        log_probs = np.asarray(self.language_model.next_log_probs(obs), np.float64)
        distribution = TokenDistribution(torch.from_numpy(log_probs))
        if greedy:
            actions = distribution.argmax()
        else:
            actions = distribution.sample(torch.from_numpy(rng.random(len(log_probs))))
        return PolicyStep(
            actions.numpy(),
            # The model's own, so that its KL to itself is 0 to the last bit.
            np.take_along_axis(log_probs, actions.numpy()[:, None], axis=1)[:, 0],
            distribution.entropies().numpy(),
            np.zeros(len(log_probs)),
        )

    def forget(self) -> None:
        """Drops what the model remembers between calls."""
        self.language_model.forget()

    def next_values(self, obs: Any) -> NDArray[np.float64]:  # noqa: ANN401 - either form
        """Returns 0 for each observation: nothing was learnt."""
        ids = obs["input_ids"] if isinstance(obs, dict) else obs
        return np.zeros(len(ids))

    def log_probs(self, obs: Any, actions: NDArray[np.integer[Any]]) -> NDArray[np.float64]:  # noqa: ANN401
        """Returns the log-probability of each action in each observation, in nats, (B,)."""
        return self.language_model.log_probs(obs, actions).astype(np.float64)
