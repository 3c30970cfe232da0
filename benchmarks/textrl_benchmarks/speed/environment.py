"""Steps of the environment beside Gymnasium's SyncVectorEnv of the scalar one."""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textrl_benchmarks.speed.bench import Case
from textrl_benchmarks.speed.floor import Work
from textrl_benchmarks.speed.models import parameters, vector_env
from textrl_envs.text_env import TextEnv

__all__ = ["cases"]

STEPS = 300
"""Steps of one turn."""


def cases() -> Iterator[Case]:
    """Yields 64 and 1,024 rows: prompts of 16 tokens, 64 new ones, V = 5,000, EOS among them."""
    given = parameters(5_000, 16, 64, eos_token_id=0)
    for count in (64, 1024):
        actions = np.random.default_rng(1).integers(5_000, size=(STEPS, count))
        scalar = gym.vector.SyncVectorEnv([lambda: TextEnv("text_bandit", **given)] * count)
        native = vector_env(count, 5_000, 16, 64, eos_token_id=0)
        yield Case(
            name=f"environment, {count:,} rows",
            unit="steps",
            contenders={
                "SyncVectorEnv of TextEnv": _steps(scalar, actions[:60]),
                "TextVectorEnv": _steps(native, actions),
            },
            # A fresh observation: ids and mask are read and written once.
            work=Work(num_bytes=2 * 80 * (8 + 1)),
        )


def _steps(envs: Any, actions: NDArray[np.int64]) -> Callable[[], int]:  # noqa: ANN401
    def run() -> int:
        envs.reset(seed=0)
        for row in actions:
            envs.step(row)
        return int(actions.size)

    return run
