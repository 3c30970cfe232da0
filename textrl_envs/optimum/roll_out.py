"""Plays a language model in a task: whole episodes, with their scores and log-ratios."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from textrl_envs.language_models.sampling import draw
from textrl_envs.task import Task
from textrl_envs.vector_env import TextVectorEnv

__all__ = ["Played", "Sampled", "roll_out"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROWS = 256
"""Episodes played at once."""


class Sampled(Protocol):
    """What can be played: any language model, and the optimal policy."""

    def next_log_probs(self, obs: Any) -> NDArray[np.floating[Any]]:  # noqa: ANN401
        """Returns the log-probabilities of all next tokens, in nats, (B, V)."""

    def forget(self) -> None:
        """Drops what is remembered between calls."""


@dataclass(frozen=True, slots=True)
class Played:
    """B episodes."""

    prompt_index: Ints
    """(B,)."""
    response_ids: tuple[Ints, ...]
    """Token ids of each, EOS included."""
    scores: Floats
    """(B,)."""
    log_ratios: Floats
    """log π − log π_ref of the whole response, in nats, (B,)."""

    def returns(self, kl_coefficient: float) -> Floats:
        """Returns score − β log-ratio of each episode, (B,)."""
        return self.scores - kl_coefficient * self.log_ratios


def roll_out(task: Task, policy: Sampled, episodes: int, *, seed: int = 0) -> Played:
    """Plays every prompt in turn, as often as each other give or take one.

    Args:
        task: has a reference.
        policy: whose tokens are drawn.
        episodes: how many, B.
        seed: decides the tokens.
    """
    rng = np.random.default_rng(seed)
    prompts = np.arange(episodes) % len(task.prompts)
    parts = [_play(task, policy, rng, prompts[i : i + ROWS]) for i in range(0, episodes, ROWS)]
    return Played(
        prompts,
        tuple(ids for part in parts for ids in part.response_ids),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.log_ratios for part in parts]),
    )


def _play(task: Task, policy: Sampled, rng: np.random.Generator, prompts: Ints) -> Played:
    assert task.load_reference is not None
    reference = task.load_reference()
    count, rows = len(prompts), np.arange(len(prompts))
    envs = TextVectorEnv(task, num_envs=count, autoreset_mode=AutoresetMode.DISABLED)
    seed = int(rng.integers(2**31))
    obs, _ = envs.reset(seed=seed, options={"prompt_index": prompts})
    is_playing = np.ones(count, np.bool_)
    scores, log_ratios = np.zeros((2, count))
    written: list[list[int]] = [[] for _ in rows]
    policy.forget()
    reference.forget()
    while is_playing.any():
        log_probs = np.asarray(policy.next_log_probs(obs), np.float64)
        actions = draw(log_probs, rng)
        log_ratio = log_probs[rows, actions] - reference.log_probs(obs, actions)
        log_ratios += np.where(is_playing, log_ratio, 0.0)
        for row in np.flatnonzero(is_playing).tolist():
            written[row].append(int(actions[row]))
        obs, rewards, ended, _, _ = envs.step(actions)
        scores += rewards
        is_playing &= ~ended
    return Played(prompts, tuple(np.array(ids) for ids in written), scores, log_ratios)
