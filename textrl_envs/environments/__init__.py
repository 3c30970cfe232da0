"""The built-in tasks. A task is a function in a file of its own; it returns a `Task`.

A new one: write the file, add a line to `TASKS`, register an id in `textrl_envs/registration.py`.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from textrl_envs.errors import InvalidInputError, nearest
from textrl_envs.task import Task

__all__ = ["TASKS", "build_task"]

TASKS = {
    "keyword": "textrl_envs.environments.keyword:keyword",
    "keyword_dense": "textrl_envs.environments.keyword_dense:keyword_dense",
    "long_keyword": "textrl_envs.environments.long_keyword:long_keyword",
    "exact_length": "textrl_envs.environments.exact_length:exact_length",
    "brackets": "textrl_envs.environments.brackets:brackets",
    "parity": "textrl_envs.environments.parity:parity",
    "passcode": "textrl_envs.environments.passcode:passcode",
    "sum_verify": "textrl_envs.environments.sum_verify:sum_verify",
    "format_records": "textrl_envs.environments.format:format_records",
    "length_hack": "textrl_envs.environments.length_hack:length_hack",
    "mixture": "textrl_envs.environments.mixture:mixture",
    "classification": "textrl_envs.environments.classification:classification",
    "kl_trade": "textrl_envs.environments.kl_trade:kl_trade",
    "tagging": "textrl_envs.environments.tagging:tagging",
    "noisy": "textrl_envs.environments.noisy:noisy",
    "safe": "textrl_envs.environments.safe:safe",
    "proxy_reward": "textrl_envs.environments.proxy_reward:proxy_reward",
    "imitate": "textrl_envs.environments.imitate:imitate",
    "tiny_gpt": "textrl_envs.environments.tiny_gpt:tiny_gpt",
    "dialogue": "textrl_envs.environments.dialogue:dialogue",
    "text_bandit": "textrl_envs.environments.text_bandit:text_bandit",
}


def build_task(task: Task | str, parameters: Mapping[str, Any]) -> Task:
    """Returns a task; a name is looked up in `TASKS` and called with the parameters.

    Raises:
        InvalidInputError: an unknown name or parameter, or a missing one.
    """
    if isinstance(task, Task):
        if parameters:
            raise InvalidInputError(
                f"A Task takes no further parameters; got {sorted(parameters)}. "
                "Set them where the Task is made."
            )
        return task
    if task not in TASKS:
        raise InvalidInputError(f"Unknown task {task!r}. {nearest(task, TASKS)}")
    module, _, name = TASKS[task].partition(":")
    function: Callable[..., Task] = getattr(importlib.import_module(module), name)
    _check_parameters(task, function, parameters)
    # JSON has lists where Python has tuples; only the latter can be the key of a cache.
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()}
    return function(**values)


def _check_parameters(
    task: str, function: Callable[..., Task], parameters: Mapping[str, Any]
) -> None:
    known = inspect.signature(function).parameters
    for name in parameters:
        if name not in known:
            raise InvalidInputError(f"{task} has no parameter {name!r}. {nearest(name, known)}")
    missing = [n for n, p in known.items() if p.default is p.empty and n not in parameters]
    if missing:
        raise InvalidInputError(f"{task} needs {', '.join(missing)}; give each as name=value.")
