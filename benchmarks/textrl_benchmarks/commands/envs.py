"""`textrl envs`: the environments there are."""

from dataclasses import dataclass

import gymnasium as gym
from rich.console import Console
from rich.table import Table

from textrl_envs.registration import IDS, register_all

__all__ = ["Envs"]


@dataclass(frozen=True, kw_only=True)
class Envs:
    """List the environments and what each is for."""

    def run(self) -> int:
        """Prints a table."""
        register_all()
        table = Table(box=None, pad_edge=False)
        for heading in ("id", "what it isolates", "V", "prompts", "tokens", "β"):
            table.add_column(heading, overflow="fold")
        for name, (task, isolates) in IDS.items():
            table.add_row(name, isolates, *_size(name, task))
        console = Console()
        # In a narrow console lines may wrap: cells that wrap would be harder to read.
        console.width = max(console.width, 110)
        console.print(table)
        return 0


def _size(name: str, task: str) -> tuple[str, str, str, str]:
    if task == "text_bandit":
        return ("yours",) * 4
    made = gym.make(name).unwrapped.task  # type: ignore[attr-defined]
    return (
        str(made.vocabulary_size),
        str(len(made.prompts)),
        str(made.max_new_tokens),
        f"{made.kl_coefficient:g}",
    )
