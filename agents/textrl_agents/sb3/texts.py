"""Texts of Stable-Baselines3's batches as `Episodes`: the form in which networks evaluate."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from textrl_agents.episodes import Episodes
from textrl_envs.observations import read_observation

__all__ = ["as_arrays", "next_tokens", "text_pieces"]

Ints = NDArray[np.int64]


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
    return text_pieces(input_ids, lengths, np.ones_like(lengths))


def text_pieces(input_ids: Ints, begins: Ints, counts: Ints) -> Episodes:
    """Returns texts whose last tokens are to be evaluated; what is not known of them is 0.

    Args:
        input_ids: right-padded with 0, (B, L).
        begins: tokens before the first that is evaluated, (B,).
        counts: tokens that are, (B,).
    """
    is_text = np.arange(input_ids.shape[1]) < (begins + counts)[:, None]
    mask = np.arange(int(counts.max())) < counts[:, None]
    blank, none = np.zeros(mask.shape), np.zeros(len(begins), np.int64)
    return Episodes(
        input_ids=input_ids,
        attention_mask=is_text.astype(np.int8),
        prompt_lengths=begins,
        response_mask=mask,
        log_probs=blank,
        ref_log_probs=None,
        values=blank,
        entropies=blank,
        task_rewards=blank,
        rewards=blank,
        bootstrap_values=np.zeros(len(begins)),
        prompt_index=none,
        finish_reason=none,
    )
