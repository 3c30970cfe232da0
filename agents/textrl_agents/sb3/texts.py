"""Texts of Stable-Baselines3's batches as `Episodes`: the form in which networks evaluate."""

from typing import Any

import numpy as np
from torch import Tensor

from textrl_agents.episodes import Episodes
from textrl_envs.observations import read_observation

__all__ = ["as_arrays", "next_tokens"]


def as_arrays(obs: Any) -> Any:  # noqa: ANN401 - either form
    """Returns observations in tensors, of either form, as arrays; on a CPU nothing is copied."""
    if isinstance(obs, dict):
        return {key: tensor.cpu().numpy() for key, tensor in obs.items()}
    return obs.cpu().numpy()


def next_tokens(obs: Any, actions: Tensor) -> Episodes:  # noqa: ANN401 - either form
    """Returns B observations in arrays, each as the prompt of a response of one token.

    Args:
        obs: of either form.
        actions: the tokens, int64 (B,).
    """
    ids, lengths = read_observation(obs)
    input_ids = np.zeros((len(ids), ids.shape[1] + 1), np.int64)
    input_ids[:, :-1] = np.where(np.arange(ids.shape[1]) < lengths[:, None], ids, 0)
    input_ids[np.arange(len(ids)), lengths] = actions.cpu().numpy()
    return Episodes.of_texts(input_ids, lengths, np.ones_like(lengths))
