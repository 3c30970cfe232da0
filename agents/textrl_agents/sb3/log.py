"""EpisodeLog: the callback by which a training of Stable-Baselines3 writes the suite's log."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from textrl_agents.agent import Progress, TrainingLog
from textrl_agents.objective import keep_coefficient, kl_coefficient, normalised_score
from textrl_agents.sb3.vec_env import SB3VecEnv

__all__ = ["EpisodeLog"]

ROW_TOKENS = 2_048
"""A rollout of fewer tokens, such as DQN's of one step, shares a row with those after it."""


class EpisodeLog(BaseCallback):
    """Appends a row after each rollout and its update: means over the episodes that ended in it.

    A row waits until as many episodes have ended as there are rows in the environment.

    Args:
        log: where the rows go.
        vec_env: what is learnt in.
        stats: what SB3 logs of the update, without its prefix "train/"; NaN before the first.
        memory: where an adaptive KL coefficient is noted after each row.
        progress: called with each row; may raise `StopTraining`.
    """

    def __init__(
        self,
        log: TrainingLog,
        vec_env: SB3VecEnv,
        *,
        stats: Sequence[str],
        memory: dict[str, float],
        progress: Progress | None,
    ) -> None:
        super().__init__()
        self._log = log
        self._vec_env = vec_env
        self._stats = stats
        self._memory = memory
        self._progress = progress
        self._ended: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        self._ended += [info for info in self.locals["infos"] if "episode" in info]
        return True

    def _on_rollout_start(self) -> None:
        # The update of the rollout before this one has been made.
        before = self._log.rows[-1]["tokens"] if self._log.rows else 0
        is_long = self.num_timesteps - before >= ROW_TOKENS
        if is_long and len(self._ended) >= self._vec_env.num_envs:
            self._write()

    def _on_training_end(self) -> None:
        if self._ended:
            self._write()

    def _write(self) -> None:
        ended, envs = self._ended, self._vec_env.envs
        value = float(np.mean([info["episode"]["r"] for info in ended]))
        found = self.logger.name_to_value
        row = {
            "iteration": len(self._log.rows) + 1,
            "tokens": self.num_timesteps,
            "reward": float(np.mean([info["score"] for info in ended])),
            "kl": float(np.mean([info["kl"] for info in ended])),
            "return": value,
            **normalised_score(value, envs),
            "kl_coefficient": kl_coefficient(envs),
            "length": float(np.mean([info["episode"]["l"] for info in ended])),
            **{name: float(found.get(f"train/{name}", np.nan)) for name in self._stats},
        }
        self._ended = []
        self._log.rows.append(row)
        keep_coefficient(envs, self._memory)
        if self._progress is not None:
            self._progress(row)
