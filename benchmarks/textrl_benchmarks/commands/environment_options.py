"""The options that name an environment, shared by `textrl train` and `textrl evaluate`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from textrl_envs.errors import InvalidInputError, nearest
from textrl_envs.registration import IDS, register_all

__all__ = ["EnvironmentOptions", "make_environment", "read_settings"]

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
    """A JSONL file of prompts, for textrl/TextBandit-v0."""
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
        return {**set_ones, **read_settings(self.env_args)}


def make_environment(env: str, parameters: dict[str, Any], num_envs: int) -> Any:  # noqa: ANN401
    """Makes a vector environment by id.

    Raises:
        InvalidInputError: an unknown id, or parameters that the environment does not take.
    """
    name = env.rpartition(":")[2]
    if name not in gym.registry and ":" not in env:
        raise InvalidInputError(f"Unknown environment {env!r}. {nearest(env, IDS)}")
    try:
        return gym.make_vec(env, num_envs=num_envs, **parameters)
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise InvalidInputError(f"Cannot make the environment {env!r}: {error}") from error


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
        try:
            read[name] = json.loads(value)
        except json.JSONDecodeError:
            read[name] = value.replace("\\n", "\n")
    return read
