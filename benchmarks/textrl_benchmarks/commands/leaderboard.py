"""`textrl leaderboard`: boards of agents x environments x seeds."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from textrl_benchmarks.commands.leaderboard_place import Place
from textrl_benchmarks.commands.leaderboard_read import Compare, Export, Report, print_board
from textrl_benchmarks.commands.leaderboard_verify import Add, Audit, Submit, Validate, Verify
from textrl_envs.errors import InvalidInputError

# What is imported inside the functions loads torch, and `textrl --help` shall not wait for that.
if TYPE_CHECKING:
    from textrl_benchmarks.leaderboard.running.cell_folder import State
    from textrl_benchmarks.leaderboard.running.executors import Executor
    from textrl_benchmarks.leaderboard.running.runner import Status as RunStatus
    from textrl_benchmarks.leaderboard.suite import Suite

__all__ = ["Leaderboard"]

STATES: tuple["State", ...] = ("done", "failed", "running", "pending")
SOME_FAILED = 1
"""Exit status of a run that ended with cells that failed."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A part of a suite, and rivals beside it."""

    seeds: tuple[int, ...] = ()
    """Instead of the suite's."""
    agents: tuple[str, ...] = ()
    """Rows to run; all where none is given. The null agents, the reference and the optimum are run
    in any case."""
    environments: tuple[str, ...] = ()
    """Environments to run; all where none is given."""
    agent: tuple[str, ...] = ()
    """Rivals to add: installed agents, or FILE.py:CLASS."""

    def of(self, suite: str) -> "Suite":
        """Returns that part of a suite."""
        from textrl_benchmarks.leaderboard.suite import read_suite, select

        return select(
            read_suite(suite),
            seeds=self.seeds,
            agents=self.agents,
            environments=self.environments,
            rivals=self.agent,
        )


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How cells are run."""

    workers: int | None = None
    """Cells at once; as many as there are cores, unless told otherwise."""
    executor: Literal["processes", "ray"] = "processes"
    """Worker processes of this machine, or a Ray cluster: that of RAY_ADDRESS or of `ray start`, or
    one that is begun here."""
    threads: int = 1
    """Threads of torch in each worker. Runs are equal byte for byte only at equal threads."""
    retry_failed: bool = False
    """Run cells again that have failed."""

    def run(self, suite: "Suite", root: Path) -> int:
        """Runs what is to be done, writes the board, and says where it is."""
        from textrl_benchmarks.leaderboard.running.runner import run

        console = Console()
        try:
            found = run(
                suite,
                root,
                self._executor(),
                threads=self.threads,
                retry_failed=self.retry_failed,
                argv=sys.argv,
                console=console,
            )
        except KeyboardInterrupt:
            _say(console, f"stopped; go on with: textrl leaderboard resume {_words(suite, root)}")
            raise
        _print_failed(console, found, root)
        _report(suite, root, console)
        return SOME_FAILED if found.failed() else 0

    def _executor(self) -> "Executor":
        for name, value in (("threads", self.threads), ("workers", self.workers)):
            if value is not None and value < 1:
                raise InvalidInputError(f"--{name} must be at least 1; got {value}.")
        workers = self.workers or max(1, _cores() // self.threads)
        if self.executor == "ray":
            from textrl_benchmarks.leaderboard.running.ray_executor import RayExecutor

            return RayExecutor(workers=workers, threads=self.threads)
        from textrl_benchmarks.leaderboard.running.executors import ProcessExecutor

        return ProcessExecutor(workers=workers, threads=self.threads)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """List the cells of a suite, and run none."""

    suite: str = "quick"
    """quick, standard, full, or a TOML file."""
    choice: Annotated[Choice, tyro.conf.OmitArgPrefixes] = field(default_factory=Choice)

    def run(self) -> int:
        """Prints a line a cell."""
        from textrl_benchmarks.leaderboard.plan import plan

        cells = plan(self.choice.of(self.suite))
        console = Console()
        for cell in cells:
            _say(
                console,
                f"{cell.folder_name}  {cell.env_id}  {cell.agent}  seed {cell.seed}  "
                f"{cell.budget_tokens:,} tokens  {cell.entry_version}",
            )
        tokens = sum(cell.budget_tokens for cell in cells)
        _say(console, f"{len(cells)} cells, {tokens:,} tokens to learn from")
        return 0


@dataclass(frozen=True, kw_only=True)
class Run:
    """Run the cells of a suite that are not done, and write the board."""

    place: Annotated[Place, tyro.conf.OmitArgPrefixes] = field(default_factory=Place)
    choice: Annotated[Choice, tyro.conf.OmitArgPrefixes] = field(default_factory=Choice)
    engine: Annotated[Engine, tyro.conf.OmitArgPrefixes] = field(default_factory=Engine)

    def run(self) -> int:
        """Runs and prints where the results are."""
        return self.engine.run(self.choice.of(self.place.suite), self.place.out)


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Go on with a run that was stopped or killed, rivals and all."""

    place: Annotated[Place, tyro.conf.OmitArgPrefixes] = field(default_factory=Place)
    engine: Annotated[Engine, tyro.conf.OmitArgPrefixes] = field(default_factory=Engine)

    def run(self) -> int:
        """Runs and prints where the results are."""
        return self.engine.run(self.place.to_run(), self.place.out)


@dataclass(frozen=True, kw_only=True)
class Status:
    """Say what is done, has failed, is running, and is still to do."""

    place: Annotated[Place, tyro.conf.OmitArgPrefixes] = field(default_factory=Place)

    def run(self) -> int:
        """Prints a table and the errors of failed cells."""
        from textrl_benchmarks.leaderboard.running.runner import is_at_work, status

        suite, console = self.place.to_run(), Console()
        found = status(suite, self.place.out)
        _print_states(console, found)
        _print_failed(console, found, self.place.out)
        if is_at_work(self.place.out / suite.name):
            _say(console, "a run is at work")
        elif found.count("pending"):
            words = _words(suite, self.place.out)
            _say(console, f"go on with: textrl leaderboard resume {words}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Index:
    """Make index.sqlite anew from the folders of all suites."""

    out: Path = Path("runs/leaderboard")
    """The folder of all suites."""

    def run(self) -> int:
        """Writes and says what may be asked."""
        from textrl_benchmarks.leaderboard.running.index import write_index

        if not self.out.is_dir():
            raise InvalidInputError(f"There is no folder {self.out}. Give --out.")
        count = write_index(self.out)
        query = "select agent, env_id, avg(normalised_score) from cells group by 1, 2"
        _say(Console(), f'{count} cells; try: sqlite3 {self.out / "index.sqlite"} "{query}"')
        return 0


Command = (
    Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Resume, tyro.conf.subcommand("resume")]
    | Annotated[Status, tyro.conf.subcommand("status")]
    | Annotated[Index, tyro.conf.subcommand("index")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Validate, tyro.conf.subcommand("validate")]
    | Annotated[Audit, tyro.conf.subcommand("audit")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Submit, tyro.conf.subcommand("submit")]
    | Annotated[Add, tyro.conf.subcommand("add")]
)


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Run boards of agents x environments x seeds, and read them."""

    command: Annotated[Command, tyro.conf.OmitSubcommandPrefixes]

    def run(self) -> int:
        """Runs the command."""
        return self.command.run()


def _report(suite: "Suite", root: Path, console: Console) -> None:
    from textrl_benchmarks.leaderboard.board.report import write_report
    from textrl_benchmarks.leaderboard.suite import read_stored_suite

    board = write_report(read_stored_suite(root, suite.name), root)
    print_board(console, board)
    _say(console, f"\nboard in {root / suite.name / 'index.html'}")


def _print_states(console: Console, found: "RunStatus") -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("agent", *STATES):
        table.add_column(heading, justify="left" if heading == "agent" else "right")
    for agent in dict.fromkeys(cell.agent for cell, _ in found.cells):
        table.add_row(agent, *(str(found.count(state, agent=agent)) for state in STATES))
    table.add_row("all", *(str(found.count(state)) for state in STATES))
    console.print(table)


def _print_failed(console: Console, found: "RunStatus", root: Path) -> None:
    from textrl_benchmarks.leaderboard.running.cell_folder import CellFolder

    for cell in found.failed():
        folder = CellFolder(root, cell)
        error = folder.read("error.json")
        _say(
            console,
            f"failed: {cell.agent} on {cell.env_id}, seed {cell.seed}: {error['type']}: "
            f"{error['message']}  ({folder.failed})",
        )
    if found.failed():
        _say(console, f"{len(found.failed())} failed; --retry-failed runs them again")


def _words(suite: "Suite", root: Path) -> str:
    return f"--suite {suite.name} --out {root}"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
