"""The ids whose optimum is exact."""

from typing import Any

from textrl_envs.environments import build_task
from textrl_envs.registration import IDS
from textrl_envs.task import Task

__all__ = ["EXACT", "task_of"]

EXACT = [name for name in IDS if name not in ("textrl/TextBandit-v0", "textrl/Dialogue-v0")]
"""Written without asking `has_exact_optimum`, which loads models; a test compares the two."""


def task_of(name: str, **parameters: Any) -> Task:
    """Returns the task of a registered id."""
    return build_task(IDS[name][0], parameters)
