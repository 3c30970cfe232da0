"""What Stable-Baselines3 changes and is not its own: given back as it was."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from textrl_envs.vector_env import TextVectorEnv

__all__ = ["autoreset_mode_kept", "global_generators_kept"]


@contextlib.contextmanager
def global_generators_kept() -> Iterator[None]:
    """Gives the global generators of Python, NumPy and torch back as they were."""
    devices = range(torch.cuda.device_count())
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - to be given back
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextlib.contextmanager
def autoreset_mode_kept(base: TextVectorEnv) -> Iterator[None]:
    """Gives the environment its autoreset mode back; `SB3VecEnv` needs one of its own."""
    mode = base.autoreset_mode
    try:
        yield
    finally:
        base.autoreset_mode = mode
