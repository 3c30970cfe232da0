"""What the tests of both search agents share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from tests.agents.tiny import (
    Floats,
    Ints,
    Response,
    TableReward,
    all_responses,
    tiny_task,
    vector_env,
)
from textrl_envs.task import Task

RESPONSES = all_responses(4, 3)


class RoundReward(TableReward):
    """Scores that are multiples of a half, so that many tie; keeps the lengths it was shown."""

    def __init__(self, *, seed: int) -> None:
        super().__init__(2, RESPONSES, seed=seed)
        self.table = {key: round(2 * score) / 2 for key, score in self.table.items()}
        self.lengths: list[int] = []

    def __call__(self, *texts: Any, response_ids: Sequence[Ints], **more: Any) -> list[float]:
        self.lengths += [len(ids) for ids in response_ids]
        return super().__call__(*texts, response_ids=response_ids, **more)


def round_task(seed: int = 0) -> tuple[Task, RoundReward]:
    reward = RoundReward(seed=seed + 1)
    return tiny_task(seed=seed, reward=reward), reward


def every_obs(task: Task, prompt: int, response: Response) -> list[dict[str, Any]]:
    """Returns the observation before each token of a response, as one row."""
    table = task.prompts
    text = [*table.token_ids[prompt, : table.lengths[prompt]].tolist(), *response]
    begin = len(text) - len(response)
    found: list[dict[str, Any]] = []
    for time in range(len(response)):
        ids = np.zeros((1, task.max_tokens), np.int64)
        ids[0, : begin + time] = text[: begin + time]
        mask = (np.arange(task.max_tokens) < begin + time)[None].astype(np.int8)
        found.append({"input_ids": ids, "attention_mask": mask})
    return found


def log_probs_of(scorer: Any, task: Task, prompt: int, response: Response) -> Floats:
    """Asks for the log-probability of each token of a response."""
    rows = zip(every_obs(task, prompt, response), response, strict=True)
    return np.concatenate([scorer.log_probs(obs, np.array([token])) for obs, token in rows])


def play(agent: Any, task: Task, prompts: Ints) -> list[Response]:
    """Plays an episode a row."""
    envs = vector_env(task, len(prompts), autoreset_mode=AutoresetMode.DISABLED)
    obs: Any = envs.reset(seed=0, options={"prompt_index": prompts})[0]
    is_playing = np.ones(len(prompts), np.bool_)
    while is_playing.any():
        obs, _, ended, _, _ = envs.step(agent.act(obs))
        is_playing &= ~ended
    starts, ends = task.prompts.lengths[prompts], obs["attention_mask"].sum(axis=1)
    return [
        tuple(row[a:b].tolist()) for row, a, b in zip(obs["input_ids"], starts, ends, strict=True)
    ]
