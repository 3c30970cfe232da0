"""Demonstrations of an environment as episodes that a policy can evaluate."""

from typing import Any

import numpy as np

from textrl_agents.episodes import Episodes
from textrl_envs.errors import InvalidInputError

__all__ = ["demonstration_episodes"]


def demonstration_episodes(envs: Any) -> Episodes:  # noqa: ANN401 - a text environment, wrapped or not
    """Returns an environment's demonstrations, one row each; what was never sampled is 0.

    Raises:
        InvalidInputError: the environment has none.
    """
    shown, task = envs.unwrapped.demonstrations, envs.unwrapped.task
    if shown is None:
        raise InvalidInputError(
            "The environment has no demonstrations to learn from; textrl/Imitate-v0 has. "
            "Set demonstration_coefficient to 0."
        )
    count, table = len(shown), task.prompts
    lengths = np.array([len(ids) for ids in shown.response_ids])
    begins = table.lengths[shown.prompt_index]
    response_mask = np.arange(task.max_new_tokens) < lengths[:, None]
    columns = np.arange(task.max_tokens)
    is_text = columns < (begins + lengths)[:, None]
    input_ids = np.zeros(is_text.shape, np.int64)
    input_ids[:, : table.token_ids.shape[1]] = table.token_ids[shown.prompt_index]
    is_response = is_text & (columns >= begins[:, None])
    input_ids[is_response] = np.concatenate(shown.response_ids)
    blank = np.zeros(response_mask.shape)
    return Episodes(
        input_ids=input_ids,
        attention_mask=is_text.astype(np.int8),
        prompt_lengths=begins,
        response_mask=response_mask,
        log_probs=blank,
        ref_log_probs=None,
        values=blank,
        entropies=blank,
        task_rewards=blank,
        rewards=blank,
        bootstrap_values=np.zeros(count),
        prompt_index=shown.prompt_index,
        finish_reason=np.zeros(count, np.int64),
    )
