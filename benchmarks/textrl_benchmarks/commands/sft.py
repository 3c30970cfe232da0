"""`textrl sft`: supervised fine-tuning with its progress on the screen."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from textrl_agents.supervised_config import SupervisedConfig

if TYPE_CHECKING:
    from textrl_agents.supervised import SupervisedResult
    from textrl_agents.supervised_training import Progress as Report

__all__ = ["Sft"]

LINE_SECONDS = 10.0
"""Seconds between two lines of progress where there is no terminal to draw a bar on."""
INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended, as shells have it: a script should not go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sft:
    """Teaches a causal language model to write the responses, or the text, of a file.

    It is saved as a Transformers folder, which `textrl train --model` takes. Ctrl-C stops early and
    saves what was learnt.
    """

    config: tyro.conf.OmitArgPrefixes[SupervisedConfig]
    """Data, model and training."""
    out: Path = Path("runs/sft")
    """Folder for the trained model."""
    overwrite: bool = False
    """Whether an earlier result in that folder may be replaced."""

    def run(self) -> int:
        """Trains, and says what came of it; returns the exit status.

        Raises:
            InvalidInputError: see `train_supervised`.
        """
        # Not above: it loads torch, and `textrl --help` shall not wait for that.
        from textrl_agents.supervised import train_supervised

        console = Console()
        with _reporting(console) as report:
            result = train_supervised(
                self.config, self.out, overwrite=self.overwrite, progress=report
            )
        _print_result(console, result, max_tokens=self.config.max_tokens)
        return INTERRUPTED if result.is_interrupted else 0


@contextmanager
def _reporting(console: Console) -> Iterator["Report"]:
    """Gives the function that shows progress: a bar on a terminal, else a line now and then."""
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task("reading the data", total=None)
            yield lambda numbers: bar.update(
                task,
                completed=numbers["step"],
                total=numbers["steps"],
                description=_describe(numbers),
            )
    else:
        yield _Lines(console)


def _bar(console: Console) -> Progress:
    return Progress(
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
    )


class _Lines:
    """Prints a line of progress, but not oftener than every `LINE_SECONDS`, and the last."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = time.monotonic()

    def __call__(self, numbers: Mapping[str, float]) -> None:
        is_last = numbers["step"] == numbers["steps"]
        if time.monotonic() < self._next and not is_last:
            return
        self._next = time.monotonic() + LINE_SECONDS
        left = numbers["seconds"] / numbers["step"] * (numbers["steps"] - numbers["step"])
        _say(
            self._console,
            f"step {numbers['step']:.0f}/{numbers['steps']:.0f}  {_describe(numbers)}  "
            f"{left:.0f} s left",
        )


def _describe(numbers: Mapping[str, float]) -> str:
    return (
        f"loss {numbers['loss']:.3f}  perplexity {numbers['held_out_perplexity']:.2f}  "
        f"{numbers['tokens_per_second']:,.0f} tokens/s"
    )


def _print_result(console: Console, result: "SupervisedResult", *, max_tokens: int) -> None:
    sample = result.sample
    if result.is_interrupted:
        _say(console, f"Stopped by Ctrl-C after step {result.steps}; what was learnt is kept.")
    _say(console, f"\nprompt      {_indent(sample.prompt)}")
    _say(console, f"response    {_indent(sample.response)}")
    _say(console, f"model       {_indent(sample.completion)}\n")
    _say(
        console,
        f"held-out perplexity  {result.perplexity_before:,.2f} before, "
        f"{result.perplexity_after:,.2f} after, on {result.held_out_examples:,} examples",
    )
    dropped = f"; {result.dropped_examples:,} longer than {max_tokens} tokens left out"
    _say(
        console,
        f"learnt from          {result.training_examples:,} examples, {result.tokens:,} tokens in "
        f"{result.steps:,} steps{dropped if result.dropped_examples else ''}",
    )
    _say(console, f"parameters           {result.parameters:,}")
    _say(console, f"model saved in       {result.folder}")


def _indent(text: str) -> str:
    return text.rstrip().replace("\n", "\n            ")


def _say(console: Console, text: str) -> None:
    # The text is data: square brackets in it are no markup, and long lines stay as they are.
    console.print(text, markup=False, highlight=False, soft_wrap=True)
