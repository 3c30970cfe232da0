"""TextVectorEnv: N responses at once, the core as a `gymnasium.vector.VectorEnv`."""

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from textrl_envs.action_masks import allowed_tokens
from textrl_envs.actions import read_actions
from textrl_envs.core import TextCore
from textrl_envs.environments import build_task
from textrl_envs.errors import InvalidInputError
from textrl_envs.observations import Observation, ObsMode, observation_padding, observation_space
from textrl_envs.task import HasTask, Task
from textrl_envs.text_env import draw_prompt

__all__ = ["TextVectorEnv"]

Infos = dict[str, Any]


class TextVectorEnv(HasTask, VectorEnv[Any, Any, Any]):
    """N rows of `TextEnv`, stepped together: for one seed, bit for bit what N scalar ones do.

    Observation, action, reward, ends and infos are those of `TextEnv`, with a leading axis N.

    Autoreset:
        `NEXT_STEP`: a row that ended is reset by the step after, whose action it ignores.
        `SAME_STEP`: it is reset at once; the end is in `final_obs` and `final_info`.
        `DISABLED`: it waits, ignoring actions with reward 0 and no flags, until
        `reset(options={"reset_mask": mask})`.

    Args:
        task: a `Task`, or the name of one in `textrl_envs.environments`.
        num_envs: N.
        obs: the form of the observation, "dict" or "flat".
        autoreset_mode: an `AutoresetMode` or its value ("NextStep", "SameStep", "Disabled").
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
        num_envs: int = 1,
        obs: ObsMode = "dict",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: Literal["ansi"] | None = None,
        **parameters: Any,  # noqa: ANN401 - whatever the task takes
    ) -> None:
        if num_envs < 1:
            raise InvalidInputError(f"num_envs must be at least 1; got {num_envs}.")
        self.task = build_task(task, parameters)
        self.source = {"task": task, "parameters": parameters} if isinstance(task, str) else None
        """Name and parameters that `build_task` makes the task from again, if it has a name."""
        self.num_envs = num_envs
        self.obs_mode = obs
        self.render_mode = render_mode
        self.autoreset_mode = _read_autoreset_mode(autoreset_mode)
        self.single_observation_space = observation_space(
            self.task.max_tokens, self.task.vocabulary_size, obs
        )
        self.single_action_space = gym.spaces.Discrete(self.task.vocabulary_size)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._core = TextCore(
            self.task, num_envs, padding=observation_padding(self.task.tokenizer, obs)
        )
        self._generators: list[np.random.Generator] = []
        self._is_running: NDArray[np.bool_] = np.zeros(num_envs, np.bool_)
        self._all_running = False
        self.tokens_generated = 0
        """Actions taken by rows that were playing, since the environment was made."""

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """How rows that ended begin again. May be changed between episodes."""
        return self._autoreset_mode

    @autoreset_mode.setter
    def autoreset_mode(self, mode: AutoresetMode) -> None:
        self._autoreset_mode = mode
        # The instance gets its own dict: the class's belongs to every environment.
        self.metadata = {**self.metadata, "autoreset_mode": mode}

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, Infos]:
        """Presents new prompts, in all rows or in those of a mask.

        Args:
            seed: row i gets `seed + i`, or `seed[i]`, if it is reset; None leaves its generator as
                it is.
            options: `"reset_mask"`, bool (N,): the rows to reset. `"prompt_index"`, one index or N:
                the prompts to present; without it they are drawn uniformly.

        Raises:
            InvalidInputError: a seed, mask or index of the wrong form.
        """
        options = options or {}
        mask = _read_reset_mask(options.get("reset_mask"), self.num_envs)
        self._seed_rows(seed, mask)
        rows = np.flatnonzero(mask)
        given = options.get("prompt_index")
        if given is None:
            self._start(rows)
        else:
            self._start(rows, self._core.check_prompt_index(given, self.num_envs)[rows])
        self._all_running = bool(self._is_running.all())
        return self._observe(), self._infos(mask)

    def step(
        self,
        actions: Any,  # noqa: ANN401 - an array or a list of token ids
    ) -> tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Infos]:
        """Appends a token to each running row; scores the rows which that ended, in one call.

        Args:
            actions: token ids, shape (N,). Those of rows that do not run are ignored.

        Raises:
            InvalidInputError: actions of the wrong shape, or outside the vocabulary.
            RewardError: the reward raised, or gave other than finite numbers.
        """
        if not self._generators:
            raise InvalidInputError("Call reset() before the first step().")
        tokens = read_actions(actions, self.num_envs, self.task.vocabulary_size)
        rewards = np.zeros(self.num_envs, np.float64)
        terminated = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        if self._all_running:
            ended = self._core.append(tokens)
            self.tokens_generated += self.num_envs
        else:
            ended = self._step_around_waiting_rows(tokens)
        if not ended.size:
            return self._observe(), rewards, terminated, truncated, self._infos()

        scores, extras = self._core.score(ended, self._generators)
        rewards[ended] = scores
        terminated[ended] = True
        self._is_running[ended] = False
        finals = self._final_infos(ended, {"score": scores, **extras})
        if self._autoreset_mode == AutoresetMode.SAME_STEP:
            final_obs = self._final_observations(ended)
            final_info = {**self._infos(terminated), **finals}
            self._start(ended)
            infos = {
                "final_obs": final_obs,
                "_final_obs": terminated.copy(),
                "final_info": final_info,
                "_final_info": terminated.copy(),
                **self._infos(),
            }
        else:
            self._all_running = False
            infos = {**self._infos(), **finals}
        return self._observe(), rewards, terminated, truncated, infos

    def render(self) -> tuple[str, ...] | None:
        """Returns prompt and response so far of each row; None unless `render_mode` is "ansi"."""
        if self.render_mode != "ansi":
            return None
        return tuple(self._core.render(row) for row in range(self.num_envs))

    def action_masks(self) -> NDArray[np.bool_]:
        """Returns which tokens may be chosen, (N, V): `textrl_envs.action_masks.allowed_tokens`.

        In rows that have ended, whose actions are ignored, all.
        """
        masks = np.ones((self.num_envs, self.task.vocabulary_size), np.bool_)
        rows = np.flatnonzero(self._is_running)
        masks[rows] = allowed_tokens(self._core, rows)
        return masks

    def _seed_rows(self, seed: int | Sequence[int | None] | None, mask: NDArray[np.bool_]) -> None:
        """Gives generators to the rows of a mask that got a seed, and to all that have none yet."""
        count = self.num_envs
        if isinstance(seed, int | np.integer):
            seeds: Sequence[int | None] = [int(seed) + i for i in range(count)]
        else:
            seeds = [None] * count if seed is None else list(seed)
        if len(seeds) != count:
            raise InvalidInputError(f"Expected {count} seeds, one a row; got {len(seeds)}.")
        if not self._generators:
            self._generators = [seeding.np_random(None)[0] for _ in range(count)]
        for row in np.flatnonzero(mask).tolist():
            if seeds[row] is not None:
                self._generators[row] = seeding.np_random(seeds[row])[0]

    def _start(
        self, rows: NDArray[np.int64], prompt_index: NDArray[np.int64] | None = None
    ) -> None:
        if prompt_index is None:
            number = len(self.task.prompts)
            drawn = [draw_prompt(self._generators[row], number) for row in rows.tolist()]
            prompt_index = np.array(drawn, np.int64)
        self._core.start(rows, prompt_index)
        self._is_running[rows] = True

    def _step_around_waiting_rows(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Steps the running rows; in NEXT_STEP mode the others begin again instead."""
        running = np.flatnonzero(self._is_running)
        ended: NDArray[np.int64] = self._core.append(tokens[running], running)
        self.tokens_generated += len(running)
        if self._autoreset_mode == AutoresetMode.NEXT_STEP:
            self._start(np.flatnonzero(~self._is_running))
            self._all_running = True
        return ended

    def _observe(self) -> Observation:
        if self.obs_mode == "flat":
            return self._core.input_ids.copy()
        return {
            "input_ids": self._core.input_ids.copy(),
            "attention_mask": self._core.attention_mask.copy(),
        }

    def _final_observations(self, ended: NDArray[np.int64]) -> NDArray[np.object_]:
        final = np.full(self.num_envs, None, dtype=object)
        ids, mask = self._core.input_ids, self._core.attention_mask
        for row in ended:
            final[row] = (
                ids[row].copy()
                if self.obs_mode == "flat"
                else {"input_ids": ids[row].copy(), "attention_mask": mask[row].copy()}
            )
        return final

    def _infos(self, mask: NDArray[np.bool_] | None = None) -> Infos:
        """Returns finish_reason and prompt_index of the rows in a mask (None: of all)."""
        infos: Infos = {}
        for key in ("finish_reason", "prompt_index"):
            values = getattr(self._core, key)
            infos[key] = values.copy() if mask is None else np.where(mask, values, 0)
            infos[f"_{key}"] = np.ones(self.num_envs, np.bool_) if mask is None else mask.copy()
        return infos

    def _final_infos(
        self, ended: NDArray[np.int64], values: dict[str, NDArray[np.float64]]
    ) -> Infos:
        infos: Infos = {}
        for key, value in values.items():
            infos[key] = np.zeros(self.num_envs, np.float64)
            infos[key][ended] = value
            infos[f"_{key}"] = np.zeros(self.num_envs, np.bool_)
            infos[f"_{key}"][ended] = True
        return infos


def _read_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        known = [member.value for member in AutoresetMode]
        raise InvalidInputError(f"Unknown autoreset_mode {mode!r}. Known: {known}.") from None


def _read_reset_mask(mask: Any, count: int) -> NDArray[np.bool_]:  # noqa: ANN401
    if mask is None:
        return np.ones(count, np.bool_)
    array = np.asarray(mask)
    if array.shape != (count,) or array.dtype != np.bool_ or not array.any():
        raise InvalidInputError(
            f"options['reset_mask'] must be a bool array of shape ({count},) with at least one "
            f"True; got {mask!r}."
        )
    return array
