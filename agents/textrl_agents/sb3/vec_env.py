"""SB3VecEnv: the native text vector environment as a Stable-Baselines3 `VecEnv`."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from textrl_agents.collector import native_envs
from textrl_envs.errors import InvalidInputError

__all__ = ["SB3VecEnv"]


class SB3VecEnv(VecEnv):
    """Steps a native text vector environment, wrapped in `KLPenalty` or not, as SB3 wants it.

    A row that ends begins again in the same step. Its info then has `terminal_observation`,
    `episode` with the return "r" and length "l" (what `Monitor` would put there), `kl` (the sum of
    the `log_ratio` that `KLPenalty` charged, in nats; NaN without it), and all that the environment
    says of an end, such as `score`. The other infos say `TimeLimit.truncated` alone: False, since
    every end of a text is scored, and nothing is to be bootstrapped.

    `reset` puts the environment into SAME_STEP autoreset. Observations are the environment's own
    fresh arrays, not copied again.

    Args:
        envs: a `TextVectorEnv` in any stack of vector wrappers.

    Raises:
        InvalidInputError: another kind of vector environment.
    """

    def __init__(self, envs: Any) -> None:  # noqa: ANN401 - any stack of vector wrappers
        base = native_envs(envs)
        self.envs = envs
        self._base = base
        # Of its own, since SB3 seeds and draws from it.
        action_space = copy.deepcopy(base.single_action_space)
        super().__init__(base.num_envs, base.single_observation_space, action_space)
        self._actions: NDArray[np.int64] = np.zeros(self.num_envs, np.int64)
        self._returns: NDArray[np.float64] = np.zeros(self.num_envs)
        self._lengths: NDArray[np.int64] = np.zeros(self.num_envs, np.int64)
        self._kl: NDArray[np.float64] = np.zeros(self.num_envs)

    def reset(self) -> Any:  # noqa: ANN401 - either form of an observation
        """Begins an episode in every row, with the seeds and options that were set."""
        self._base.autoreset_mode = AutoresetMode.SAME_STEP
        obs, infos = self.envs.reset(seed=self._seeds, options=self._joined_options())
        self._reset_seeds()
        self._reset_options()
        for sums in (self._returns, self._lengths, self._kl):
            sums[:] = 0
        self.reset_infos = [_numbers(infos, row) for row in range(self.num_envs)]
        return obs

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Takes the actions of the next `step_wait`, (N,)."""
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], list[dict[str, Any]]]:
        """Steps every row; returns observations, rewards (N,), ends (N,) and N infos."""
        obs, rewards, terminated, truncated, infos = self.envs.step(self._actions)
        ends: NDArray[np.bool_] = terminated | truncated
        self._returns += rewards
        self._lengths += 1
        self._kl += infos.get("log_ratio", np.nan)
        found: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        rows = np.flatnonzero(ends)
        for row in rows.tolist():
            found[row].update(self._ending(row, infos))
        for sums in (self._returns, self._lengths, self._kl):
            sums[rows] = 0
        return obs, rewards, ends, found

    def _ending(self, row: int, infos: dict[str, Any]) -> dict[str, Any]:
        return {
            **_numbers(infos["final_info"], row),
            "kl": float(self._kl[row]),
            "episode": {"r": float(self._returns[row]), "l": int(self._lengths[row])},
            "terminal_observation": infos["final_obs"][row],
        }

    def _joined_options(self) -> dict[str, Any] | None:
        """Returns the options of all rows as the environment takes them: an array a key."""
        if not any(self._options):
            return None
        if any(options.keys() != self._options[0].keys() for options in self._options):
            raise InvalidInputError(
                f"Options must have the same keys in every row; got {self._options}."
            )
        return {key: np.array([row[key] for row in self._options]) for key in self._options[0]}

    def close(self) -> None:
        """Closes the environment."""
        self.envs.close()

    # --- what SB3 asks of one environment at a time; here all rows are one ---

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Returns the attribute of the outermost wrapper that has it, once for each row asked."""
        return [getattr(self._owner(attr_name), attr_name) for _ in self._get_indices(indices)]

    def set_attr(
        self,
        attr_name: str,
        value: Any,  # noqa: ANN401
        indices: VecEnvIndices = None,
    ) -> None:
        """Sets an attribute of the wrapper that keeps it, or else of the environment, for all rows.

        Raises:
            InvalidInputError: some rows alone were named: they have no attributes of their own.
        """
        if sorted(set(self._get_indices(indices))) != list(range(self.num_envs)):
            raise InvalidInputError(
                f"The rows share their attributes: set {attr_name!r} for all; got {indices!r}."
            )
        keepers = (layer for layer in self._layers() if attr_name in vars(layer))
        setattr(next(keepers, self._base), attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,  # noqa: ANN401
        indices: VecEnvIndices = None,
        **method_kwargs: Any,  # noqa: ANN401
    ) -> list[Any]:
        """Calls a method once; a result with an entry a row is handed out, any other is shared."""
        found = getattr(self._owner(method_name), method_name)(*method_args, **method_kwargs)
        is_by_row = isinstance(found, list | tuple | np.ndarray) and len(found) == self.num_envs
        return [found[row] if is_by_row else found for row in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Tells whether a wrapper is in the stack; `Monitor` is, since its numbers are in infos."""
        is_there = wrapper_class is Monitor or any(
            isinstance(layer, wrapper_class) for layer in self._layers()
        )
        return [is_there for _ in self._get_indices(indices)]

    def _layers(self) -> Iterator[Any]:
        layer = self.envs
        while layer is not self._base:
            yield layer
            layer = layer.env
        yield layer

    def _owner(self, name: str) -> Any:  # noqa: ANN401 - a wrapper, or the environment
        """Returns the outermost layer that has an attribute; the environment if none has."""
        return next((layer for layer in self._layers() if hasattr(layer, name)), self._base)


def _numbers(infos: dict[str, Any], row: int) -> dict[str, Any]:
    """Returns what infos say of a row, as plain numbers."""
    return {
        key: values[row].item()
        for key, values in infos.items()
        if not key.startswith("_") and infos[f"_{key}"][row]
    }
