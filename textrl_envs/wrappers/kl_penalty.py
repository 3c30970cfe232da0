"""KLPenalty for one environment. It runs the models at batch 1: for speed use the vector form."""

from typing import Any

import gymnasium as gym
import numpy as np

from textrl_envs.actions import read_action
from textrl_envs.language_models.base import LanguageModel, TokenScorer
from textrl_envs.observations import Observation
from textrl_envs.wrappers.kl_charge import AdaptiveCoefficient, KLCharge

__all__ = ["KLPenalty"]


class KLPenalty(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Subtracts β (log π(a|s) − log π_ref(a|s)) from the reward of every step.

    Info gains `log_ratio`, that of the step's action in nats.

    Args:
        env: a text environment.
        policy: the policy that acts; anything with `log_probs(obs, actions)`.
        reference: the frozen model; None takes `env.unwrapped.reference`.
        coefficient: β, or an `AdaptiveCoefficient`; None takes `env.unwrapped.kl_coefficient`.

    Raises:
        InvalidInputError: see `KLCharge`.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        policy: TokenScorer,
        reference: LanguageModel | None = None,
        coefficient: float | AdaptiveCoefficient | None = None,
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(
            self,
            _disable_deepcopy=True,
            policy=policy,
            reference=reference,
            coefficient=coefficient,
        )
        gym.Wrapper.__init__(self, env)
        self.charge = KLCharge(
            policy=policy,
            reference=reference,
            coefficient=coefficient,
            env=env.unwrapped,
            vocabulary_size=int(env.action_space.n),  # type: ignore[attr-defined]
        )
        self._obs: Observation | None = None
        self._episode_kl = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins an episode; nothing is charged yet."""
        self._obs, info = self.env.reset(seed=seed, options=options)
        self._episode_kl = 0.0
        self.charge.reference.forget()
        return self._obs, info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:  # noqa: ANN401
        """Charges the action against the observation it was chosen in."""
        obs = _batch_of_one(self._obs)
        token = read_action(action, int(self.action_space.n))  # type: ignore[attr-defined]
        ratio = float(self.charge.log_ratio(obs, token)[0])
        self._obs, reward, terminated, truncated, info = self.env.step(action)
        charged = float(reward) - self.charge.coefficient * ratio
        self._episode_kl += ratio
        if terminated or truncated:
            self.charge.observe(np.array([self._episode_kl]))
        return self._obs, charged, terminated, truncated, {**info, "log_ratio": ratio}


def _batch_of_one(obs: Observation | None) -> Any:  # noqa: ANN401 - an observation with an axis more
    if obs is None:
        raise gym.error.ResetNeeded("Call reset() before the first step().")
    if isinstance(obs, dict):
        return {key: value[None] for key, value in obs.items()}
    return obs[None]
