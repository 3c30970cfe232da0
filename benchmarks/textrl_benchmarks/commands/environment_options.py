"""The options that name an environment, shared by `textrl train` and `textrl evaluate`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from textrl_envs.errors import InvalidInputError, nearest
from textrl_envs.registration import IDS, register_all

__all__ = ["EnvironmentOptions", "check_numbers", "make_environment", "read_settings"]

register_all()


@dataclass(frozen=True, kw_only=True)
class EnvironmentOptions:
    """Which environment, and what it is made of."""

    env: str = "textrl/Keyword-v0"
    """The environment's id; `textrl envs` lists them."""
    model: str | None = None
    """A Transformers folder: the policy starts from it. For textrl/TextBandit-v0 it is also the
    tokenizer and the reference, unless those are given by --env-args."""
    prompts: str | None = None
    """For textrl/TextBandit-v0 a JSONL file of prompts, instructions for the built-in ones, or
    another library's: reasoning_gym:TASK, gem:ID or datasets:FILE, and ?SETTING=VALUE&... behind
    it."""
    reward: str | None = None
    """The reward, as module:function or path/to/file.py:function, for textrl/TextBandit-v0."""
    max_new_tokens: int | None = None
    """The limit of a response; each environment has its own default."""
    kl_coefficient: float | None = None
    """β, the price of a nat of KL; each environment has its own default."""
    env_args: tuple[str, ...] = ()
    """Further parameters of the environment as NAME=VALUE, such as prompt_field=question."""

    def parameters(self) -> dict[str, Any]:
        """Returns the parameters for `gym.make_vec`."""
        given: dict[str, Any] = {
            "prompts": self.prompts,
            "reward": self.reward,
            "max_new_tokens": self.max_new_tokens,
            "kl_coefficient": self.kl_coefficient,
        }
        if self.model is not None and self.env.startswith("textrl/TextBandit"):
            given |= {"tokenizer": self.model, "reference": self.model}
        set_ones = {key: value for key, value in given.items() if value is not None}
        further = read_settings(self.env_args)
        if twice := (set_ones.keys() - {"tokenizer", "reference"}) & further.keys():
            raise InvalidInputError(f"{min(twice)} was given twice: as a flag and by --env-args.")
        parameters = {**set_ones, **further}
        if self.env.startswith("textrl/TextBandit"):
            _check_bandit(parameters)
        return parameters


def _check_bandit(parameters: dict[str, Any]) -> None:
    flags = {"tokenizer": "--model FOLDER", "prompts": "--prompts FILE", "reward": "--reward NAME"}
    missing = [flag for name, flag in flags.items() if name not in parameters]
    if missing:
        raise InvalidInputError(f"textrl/TextBandit needs {', '.join(missing)}.")


def make_environment(env: str, parameters: dict[str, Any], num_envs: int) -> Any:  # noqa: ANN401
    """Makes a vector environment by id.

    Raises:
        InvalidInputError: an unknown id, or parameters that the environment does not take.
    """
    name = env.rpartition(":")[2]
    if name not in gym.registry and ":" not in env:
        raise InvalidInputError(f"Unknown environment {env!r}. {nearest(env, IDS)}")
    try:
        envs = gym.make_vec(env, num_envs=num_envs, **parameters)
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise InvalidInputError(f"Cannot make the environment {env!r}: {error}") from error
    if not hasattr(envs.unwrapped, "task"):
        raise InvalidInputError(f"{env!r} is no text environment. {nearest(env, IDS)}")
    return envs


def read_settings(settings: Sequence[str]) -> dict[str, Any]:
    r"""Reads NAME=VALUE pairs; a value that is JSON is read as such, any other is text.

    Raises:
        InvalidInputError: a pair without "=".

    >>> read_settings(["clip=0.1", "baseline=value", 'stop=["end"]', "target_kl=null"])
    {'clip': 0.1, 'baseline': 'value', 'stop': ['end'], 'target_kl': None}
    """
    read: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise InvalidInputError(f"Expected NAME=VALUE; got {setting!r}.")
        if name in read:
            raise InvalidInputError(f"{name} was given twice.")
        try:
            read[name] = json.loads(value)
        except json.JSONDecodeError:
            read[name] = value.replace("\\n", "\n")
    return read


def check_numbers(options: Any, *, positive: Sequence[str]) -> None:  # noqa: ANN401 - a command
    """Checks flags that are numbers, and the seed.

    Raises:
        InvalidInputError: one that is not positive, or a seed outside 0..2^63-1.
    """
    for name in positive:
        if not 0 < getattr(options, name) < float("inf"):
            flag = name.replace("_", "-")
            raise InvalidInputError(f"--{flag} must be positive; got {getattr(options, name)}.")
    if not 0 <= options.seed < 2**63:
        raise InvalidInputError(f"--seed must be in 0..2^63-1; got {options.seed}.")
