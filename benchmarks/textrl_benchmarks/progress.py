"""What a long command shows while it works: a live line in a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["TrainingDisplay"]

SECONDS_BETWEEN_LINES = 10.0


class TrainingDisplay:
    """Shows reward, KL, entropy, length, tokens per second and the time left.

    Args:
        total_tokens: the budget.
        console: where to write.
    """

    def __init__(self, total_tokens: int, console: Console) -> None:
        self._total = total_tokens
        self._console = console
        self._last_line = -SECONDS_BETWEEN_LINES
        self._start = time.monotonic()
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:3.0f}%"),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._task = self._progress.add_task("", total=total_tokens, numbers="")

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Shows the live line inside the block, where there is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with self._progress:
            yield

    def show(self, row: Mapping[str, float], tokens_per_second: float) -> None:
        """Shows the newest iteration."""
        numbers = (
            f"reward {row['reward']:.3f}  KL {row['kl']:.2f}  entropy {row['entropy']:.2f}  "
            f"length {row['length']:.1f}  {tokens_per_second:,.0f} tok/s"
        )
        if self._console.is_terminal:
            done = min(row["tokens"], self._total)
            self._progress.update(self._task, completed=done, numbers=numbers)
            return
        elapsed = time.monotonic() - self._start
        if elapsed - self._last_line >= SECONDS_BETWEEN_LINES or row["tokens"] >= self._total:
            self._last_line = elapsed
            self._console.print(
                f"{row['tokens']:>9,.0f}/{self._total:,} tokens  {numbers}  {elapsed:.0f} s",
                highlight=False,
                soft_wrap=True,
            )
