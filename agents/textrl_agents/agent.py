"""The contract of an agent, and the record of its training."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Agent", "Progress", "StopTraining", "TrainingLog"]

Progress = Callable[[Mapping[str, float]], None]
"""Called after each iteration with the newest row of the log. May raise `StopTraining`."""


class StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Raised by a progress callback: `learn` returns cleanly after the iteration that is done."""


@dataclass(slots=True)
class TrainingLog:
    """One row an iteration: plain numbers that depend on the seed alone, never on the clock."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def write_csv(self, path: Path) -> None:
        """Writes the rows; numbers are written in full, so that equal runs give equal bytes."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.rows[0]) if self.rows else [])
            writer.writeheader()
            writer.writerows(self.rows)


class Agent(Protocol):
    """What the benchmarks ask of an agent.

    Three more methods are optional, of the agent or else of its `policy`:
    `log_probs(obs, actions)`, in nats, (B,), by which its KL is charged; `next_values(obs)`, in
    units of the score, (B,), what it expects; `forget()`, to drop what is remembered between calls.
    """

    def act(self, obs: Any, *, greedy: bool = False) -> NDArray[np.int64]:  # noqa: ANN401
        """Returns a token id for each observation, (B,)."""

    def learn(
        self,
        envs: Any,  # noqa: ANN401 - a vector environment, wrapped or not
        *,
        total_tokens: int,
        progress: Progress | None = None,
    ) -> TrainingLog:
        """Trains until that many tokens were generated; called again, goes on from there."""

    def save(self, folder: Path) -> None:
        """Writes everything that `load` needs to go on."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote."""
