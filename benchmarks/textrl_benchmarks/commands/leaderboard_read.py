"""`textrl leaderboard report | compare | export`: what the cells of a suite say."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from textrl_benchmarks.commands.leaderboard_place import Place
from textrl_envs.errors import InvalidInputError

__all__ = ["Compare", "Export", "Report", "print_board"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Make the board of the cells that are there: index.html, board.json, board.md, board.csv."""

    place: Annotated[Place, tyro.conf.OmitArgPrefixes] = field(default_factory=Place)
    to: Path | None = None
    """The folder to write to; the suite's own where none is given."""

    def run(self) -> int:
        """Writes and prints the table."""
        from textrl_benchmarks.leaderboard.board.report import write_report

        suite, console = self.place.stored(), Console()
        folder = self.to or self.place.out / suite.name
        print_board(console, write_report(suite, self.place.out, folder))
        _say(console, f"\nboard in {folder / 'index.html'}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Say where one agent is better than another, and how surely."""

    agents: Annotated[tuple[str, str], tyro.conf.Positional]
    """Two rows."""
    place: Annotated[Place, tyro.conf.OmitArgPrefixes] = field(default_factory=Place)

    def run(self) -> int:
        """Prints a line an environment."""
        from textrl_benchmarks.leaderboard.board.board import make_board
        from textrl_benchmarks.leaderboard.board.comparison import compare

        found = compare(make_board(self.place.stored(), self.place.out), *self.agents)
        console, (a, b) = Console(), self.agents
        headings = ("environment", f"{a} - {b}", "95 %", "p", "seeds", "power for 1 sd")
        table = Table(*headings, box=None, pad_edge=False)
        for one in found["environments"]:
            difference, seeds = one["difference"], one["seeds"]
            interval = f"{_number(difference['low'])} {_number(difference['high'])}"
            counts = " and ".join(map(str, seeds))
            numbers = _number(one["p_value"]), counts, _number(one["power_for_one_sd"])
            table.add_row(one["id"], _number(difference["value"]), interval, *numbers)
        console.print(table)
        chance = found["improvement"]
        _say(
            console,
            f"a run of {a} beats one of {b} with a chance of {_number(chance['value'])} "
            f"[{_number(chance['low'])}, {_number(chance['high'])}]",
        )
        return 0


@dataclass(frozen=True, kw_only=True)
class Export:
    """Print the board as JSON, CSV or Markdown, or write it to a file."""

    form: Literal["json", "csv", "md"] = "csv"
    """Of the text; csv has a row a cell."""
    place: Annotated[Place, tyro.conf.OmitArgPrefixes] = field(default_factory=Place)
    to: Path | None = None
    """The file; printed where none is given."""

    def run(self) -> int:
        """Writes or prints."""
        from textrl_benchmarks.leaderboard.board.board import make_board
        from textrl_benchmarks.leaderboard.board.export import as_csv, as_json_text, as_markdown

        if self.to is not None and not self.to.absolute().parent.is_dir():
            raise InvalidInputError(f"There is no folder {self.to.parent}. Give another --to.")
        board: dict[str, Any] = make_board(self.place.stored(), self.place.out)
        text = {"json": as_json_text, "csv": as_csv, "md": as_markdown}[self.form](board)
        if self.to is None:
            Console().out(text, highlight=False, end="")
        else:
            self.to.write_text(text, encoding="utf-8", newline="")
        return 0


def print_board(console: Console, board: dict[str, Any]) -> None:
    """Prints the table of the board, and what is wrong with it."""
    table = Table(box=None, pad_edge=False)
    for heading in ("rank", "agent", "IQM", "95 %", "done"):
        table.add_column(heading, justify="left" if heading == "agent" else "right")
    for row in board["rows"]:
        iqm, low, high = row["iqm"], row["rank_low"], row["rank_high"]
        rank = "" if low is None else f"{low}" if low == high else f"{low}-{high}"
        value, interval = _number(iqm["value"]), f"{_number(iqm['low'])} {_number(iqm['high'])}"
        table.add_row(
            rank, row["agent"], value, interval, f"{row['cells_done']}/{row['cells_planned']}"
        )
    console.print(table)
    for problem in board["problems"]:
        _say(console, f"not valid: {problem}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)
