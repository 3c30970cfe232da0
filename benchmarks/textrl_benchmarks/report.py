"""What `textrl train` and `textrl evaluate` print at their end: numbers, and texts side by side."""

from collections.abc import Mapping

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from textrl_benchmarks.evaluation import Evaluation

__all__ = ["print_evaluations", "print_samples"]


def print_evaluations(console: Console, evaluations: Mapping[str, Evaluation]) -> None:
    """Prints one row a policy: means with standard errors, normalised scores with intervals."""
    headings = ["policy", "reward", "KL (nats)", "reward − β KL"]
    has_score = any(not np.isnan(found.normalised_score.mean) for found in evaluations.values())
    headings += ["normalised [95 %]"] * has_score + ["length", "episodes"]
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for name, found in evaluations.items():
        table.add_row(
            name,
            str(found.reward),
            str(found.kl),
            str(found.regularised_return),
            *[_with_interval(found)] * has_score,
            f"{found.length.mean:.1f}",
            f"{found.episodes:,}",
        )
    # In a narrow console lines may wrap: cells that wrap would be harder to read.
    console.width = max(console.width, 110)
    console.print(table)


def _with_interval(found: Evaluation) -> str:
    numbers = found.normalised_score.mean, *found.normalised_score.interval
    mean, low, high = (round(number, 3) + 0.0 for number in numbers)  # never "-0.000"
    if found.is_exact:
        return f"{mean:.3f} (exact)"
    return escape(f"{mean:.3f} [{low:.3f}, {high:.3f}]")


def print_samples(console: Console, evaluations: Mapping[str, Evaluation], count: int) -> None:
    """Prints the first episodes of each policy: the seed gives them the same prompts."""
    names = list(evaluations)
    for row in range(min(count, *(len(evaluations[name].samples) for name in names))):
        prompt = evaluations[names[0]].samples[row].prompt
        console.print(f"\n[bold]prompt[/bold] {_short(prompt)}", highlight=False)
        for name in names:
            sample = evaluations[name].samples[row]
            line = f"  {name:>9} [{sample.score:.2f}] "
            console.print(escape(line) + _short(sample.response), highlight=False)


def _short(text: str, limit: int = 400) -> str:
    flat = text.replace("\n", " ⏎ ")
    return escape(flat if len(flat) <= limit else flat[: limit - 1] + "…")
