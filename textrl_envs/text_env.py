"""TextEnv: one response at a time, a row of the core as a `gymnasium.Env`."""

from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textrl_envs.action_masks import allowed_tokens
from textrl_envs.actions import read_action
from textrl_envs.core import TextCore
from textrl_envs.environments import build_task
from textrl_envs.errors import InvalidInputError
from textrl_envs.observations import Observation, ObsMode, observation_padding, observation_space
from textrl_envs.task import HasTask, Task

__all__ = ["TextEnv"]

_ROW: NDArray[np.int64] = np.zeros(1, np.int64)


class TextEnv(HasTask, gym.Env[Any, Any]):
    """A text bandit: a prompt, a response token by token, a score when it ends.

    Observation:
        `obs="dict"`: `input_ids` Box int64 (L,), `attention_mask` Box int8 (L,), right-padded;
        prompt, then response so far; L = max_prompt_tokens + max_new_tokens.
        `obs="flat"`: one Box int64 (L,), padded with -1.
    Action:
        `Discrete(V)`: a token id.
    Reward:
        0 until the response ends, then the score, a float.
    Termination:
        An EOS token, a stop text, or `max_new_tokens` tokens. All three are scored.
    Truncation:
        Never: a response cut at its limit is scored, so its value must not be bootstrapped.
    Info:
        `finish_reason` (`FinishReason`) and `prompt_index`; at the end `score` and what the reward
        adds.

    Args:
        task: a `Task`, or the name of one in `textrl_envs.environments`.
        obs: the form of the observation.
        render_mode: "ansi" or None.
        parameters: of the named task.

    Raises:
        InvalidInputError: an unknown task or parameter, or one that cannot be used.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self,
        task: Task | str,
        *,
        obs: ObsMode = "dict",
        render_mode: Literal["ansi"] | None = None,
        **parameters: Any,  # noqa: ANN401 - whatever the task takes
    ) -> None:
        self.task = build_task(task, parameters)
        self.source = {"task": task, "parameters": parameters} if isinstance(task, str) else None
        """Name and parameters that `build_task` makes the task from again, if it has a name."""
        self.obs_mode = obs
        self.render_mode = render_mode
        self.observation_space = observation_space(
            self.task.max_tokens, self.task.vocabulary_size, obs
        )
        self.action_space = gym.spaces.Discrete(self.task.vocabulary_size)
        self._core = TextCore(self.task, 1, padding=observation_padding(self.task.tokenizer, obs))
        self._is_running = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Presents a prompt: `options["prompt_index"]`, or one drawn uniformly."""
        super().reset(seed=seed)
        given = (options or {}).get("prompt_index")
        if given is None:
            index = draw_prompt(self.np_random, len(self.task.prompts))
        else:
            index = int(self._core.check_prompt_index(given, 1)[0])
        self._core.start(_ROW, np.array([index]))
        self._is_running = True
        return self._observe(), self._info()

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Appends a token; scores the response if that ended it.

        Raises:
            InvalidInputError: the action is no token id, or the episode has ended.
            RewardError: the reward raised, or gave no finite number.
        """
        if not self._is_running:
            raise InvalidInputError("The response has ended. Call reset() before the next step().")
        token = read_action(action, self.task.vocabulary_size)
        ended = self._core.append(token).size > 0
        reward, extras = 0.0, {}
        if ended:
            self._is_running = False
            scores, more = self._core.score(_ROW, [self.np_random])
            reward = float(scores[0])
            extras = {"score": reward, **{key: float(x[0]) for key, x in more.items()}}
        return self._observe(), reward, ended, False, {**self._info(), **extras}

    def render(self) -> str | None:
        """Returns prompt and response so far as text; None unless `render_mode` is "ansi"."""
        return self._core.render(0) if self.render_mode == "ansi" else None

    def action_masks(self) -> NDArray[np.bool_]:
        """Returns which tokens may be chosen, (V,): `textrl_envs.action_masks.allowed_tokens`."""
        masks: NDArray[np.bool_] = allowed_tokens(self._core, _ROW)[0]
        return masks

    def _observe(self) -> Observation:
        if self.obs_mode == "flat":
            flat: Observation = self._core.input_ids[0].copy()
            return flat
        return {
            "input_ids": self._core.input_ids[0].copy(),
            "attention_mask": self._core.attention_mask[0].copy(),
        }

    def _info(self) -> dict[str, Any]:
        return {
            "finish_reason": int(self._core.finish_reason[0]),
            "prompt_index": int(self._core.prompt_index[0]),
        }


def draw_prompt(generator: np.random.Generator, number: int) -> int:
    """Draws a prompt index uniformly from 0..number-1.

    A float is drawn faster than `Generator.integers` draws, and its 53 bits are uniform enough: no
    index is off by more than number / 2^53.
    """
    return int(generator.random() * number)
