"""What a run of a suite shows: a line a finished cell and, in a terminal, how far it is."""

import contextlib
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from textrl_benchmarks.leaderboard.cell import Cell
from textrl_benchmarks.leaderboard.running.attempt import Outcome
from textrl_benchmarks.leaderboard.running.cell_folder import CellFolder

__all__ = ["RunDisplay"]

TOKENS_OF_AN_EPISODE = 10
"""About what playing and writing an evaluation episode costs, in tokens of training."""


class RunDisplay:
    """Counts cells, and estimates the time left from what those of this run have taken.

    Args:
        cells: all that are planned.
        todo: those that this run does.
        console: where to write.
    """

    def __init__(self, cells: Sequence[Cell], todo: Sequence[Cell], console: Console) -> None:
        self._console = console
        self._planned = len(cells)
        self._ended = self._planned - len(todo)
        self._work = sum(_work(cell) for cell in todo)
        self._work_done = 0
        self._start = time.monotonic()
        self._progress = Progress(
            TextColumn("cells"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._task = self._progress.add_task(
            "", total=self._planned, completed=self._ended, left=""
        )

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Shows the live line inside the block, where there is a terminal."""
        self._print(f"{self._planned} cells planned, {self._ended} of them run before")
        if not self._console.is_terminal:
            yield
            return
        with self._progress:
            yield

    def show(self, outcome: Outcome, folder: CellFolder) -> None:
        """Shows a cell that ended."""
        self._ended += 1
        self._work_done += _work(outcome.cell)
        cell, width = outcome.cell, len(str(self._planned))
        place = f"{cell.agent} on {cell.env_id}, seed {cell.seed}"
        left = f"{_time(self._seconds_left())} left"
        self._print(
            f"{self._ended:>{width}}/{self._planned}  {place}: {_told(outcome, folder)}  "
            f"{outcome.seconds:.1f} s  ({_time(time.monotonic() - self._start)}, {left})",
            style="red" if outcome.state == "failed" else None,
        )
        self._progress.update(self._task, completed=self._ended, left=left)

    def _seconds_left(self) -> float:
        elapsed = time.monotonic() - self._start
        return elapsed * (self._work - self._work_done) / self._work_done

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(text, highlight=False, soft_wrap=True, markup=False, style=style)


def _work(cell: Cell) -> int:
    return cell.budget_tokens + TOKENS_OF_AN_EPISODE * cell.eval_episodes


def _told(outcome: Outcome, folder: CellFolder) -> str:
    if outcome.state == "failed":
        return f"failed: {outcome.message.partition(chr(10))[0]}"
    score = folder.read("result.json").get("normalised_score")
    return "no normalised score" if score is None else f"normalised score {score:.3f}"


def _time(seconds: float) -> str:
    """Returns hours, minutes and seconds.

    >>> _time(59.4), _time(3600.0)
    ('0:00:59', '1:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
