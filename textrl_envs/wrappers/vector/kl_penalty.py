"""KLPenalty for a vector environment: all rows charged by one batch of each model."""

import contextlib
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from textrl_envs.actions import read_actions
from textrl_envs.language_models.base import LanguageModel, TokenScorer
from textrl_envs.observations import Observation
from textrl_envs.wrappers.kl_charge import AdaptiveCoefficient, KLCharge

__all__ = ["KLPenalty"]


class KLPenalty(VectorWrapper, gym.utils.RecordConstructorArgs):
    """Subtracts β (log π(a|s) − log π_ref(a|s)) from the reward of every step of every row.

    A row that has ended and not begun again (NEXT_STEP's dead step, DISABLED's wait) takes no
    action and is charged nothing. Infos gain `log_ratio`, in nats, shape (N,).

    A collector of whole episodes may put the charge off (`deferred`) and have it all at once
    (`charge.penalties(episodes)`): the same numbers from one forward of the reference.

    Args:
        env: a vector of text environments, in any autoreset mode.
        policy: the policy that acts; anything with `log_probs(obs, actions)`. One that remembers
            its last forward answers for free.
        reference: the frozen model; None takes `env.unwrapped.reference`.
        coefficient: β, or an `AdaptiveCoefficient`; None takes `env.unwrapped.kl_coefficient`.

    Raises:
        InvalidInputError: see `KLCharge`.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
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
        VectorWrapper.__init__(self, env)
        self.charge = KLCharge(
            policy=policy,
            reference=reference,
            coefficient=coefficient,
            env=env.unwrapped,
            vocabulary_size=int(env.single_action_space.n),  # type: ignore[attr-defined]
        )
        self._obs: Any = None
        self._is_waiting: NDArray[np.bool_] = np.zeros(env.num_envs, np.bool_)
        self._episode_kl: NDArray[np.float64] = np.zeros(env.num_envs, np.float64)
        self._is_deferred = False

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """The environment's own: TorchRL looks for it here, as Gymnasium's environments have it."""
        mode: AutoresetMode = self.env.unwrapped.metadata["autoreset_mode"]
        return mode

    @contextlib.contextmanager
    def deferred(self) -> Iterator[KLCharge]:
        """Charges nothing inside the block: the caller charges whole episodes himself."""
        self._is_deferred = True
        try:
            yield self.charge
        finally:
            self._is_deferred = False

    def reset(
        self,
        *,
        seed: Any = None,  # noqa: ANN401 - an int, or one a row
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins episodes, in all rows or those of `options["reset_mask"]`."""
        mask = (options or {}).get("reset_mask")
        self._obs, infos = self.env.reset(seed=seed, options=options)
        if mask is None:
            self.charge.reference.forget()
        begun = slice(None) if mask is None else mask
        self._is_waiting[begun] = False
        self._episode_kl[begun] = 0.0
        return self._obs, infos

    def step(
        self,
        actions: Any,  # noqa: ANN401 - an array or a list of token ids
    ) -> tuple[
        Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Charges the actions against the observations they were chosen in."""
        if self._is_deferred:
            self._obs, rewards, terminated, truncated, infos = self.env.step(actions)
            self._note_ends(np.asarray(terminated | truncated, np.bool_))
            return self._obs, rewards, terminated, truncated, infos
        if self._obs is None:
            raise gym.error.ResetNeeded("Call reset() before the first step().")
        size = int(self.single_action_space.n)  # type: ignore[attr-defined]
        tokens = read_actions(actions, self.num_envs, size)
        ratio = self.charge.log_ratio(self._obs, tokens, ~self._is_waiting)
        self._obs, rewards, terminated, truncated, infos = self.env.step(actions)
        rewards = rewards - self.charge.coefficient * ratio
        self._close_episodes(ratio, np.asarray(terminated | truncated, np.bool_))
        infos = {**infos, "log_ratio": ratio, "_log_ratio": np.ones(self.num_envs, np.bool_)}
        return self._obs, rewards, terminated, truncated, infos

    def _close_episodes(self, ratio: NDArray[np.float64], is_end: NDArray[np.bool_]) -> None:
        self._episode_kl += ratio
        if is_end.any():
            self.charge.observe(self._episode_kl[is_end])
            self._episode_kl[is_end] = 0.0
        self._note_ends(is_end)

    def _note_ends(self, is_end: NDArray[np.bool_]) -> None:
        """Keeps which rows wait: the next step takes no action of theirs."""
        if self.autoreset_mode == AutoresetMode.DISABLED:
            self._is_waiting |= is_end
        elif self.autoreset_mode == AutoresetMode.NEXT_STEP:
            self._is_waiting = is_end.copy()  # those that waited have just begun again
