"""`textrl leaderboard validate | audit | verify | submit | add`: can a board be believed?"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

from textrl_envs.errors import InvalidInputError

# What is imported inside the functions loads torch, and `textrl --help` shall not wait for that.
if TYPE_CHECKING:
    from textrl_benchmarks.leaderboard.running.attempt import Outcome
    from textrl_benchmarks.leaderboard.verification.findings import Findings
    from textrl_benchmarks.leaderboard.verification.verify import FreshTest

__all__ = ["Add", "Audit", "Submit", "Validate", "Verify"]

WRONG = 1
"""Exit status where anything is wrong, or a claim is refuted."""
FEW = 5
"""Fresh seeds from which on a claim too high by two standard deviations is mostly refuted."""

Folder = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True, kw_only=True)
class Validate:
    """Check files, hashes and formats, in seconds."""

    folder: Folder
    """Of a cell or a suite, or a submission."""

    def run(self) -> int:
        """Prints what was checked and what is wrong."""
        from textrl_benchmarks.leaderboard.verification.validate import validate

        return _print_findings(validate(self.folder))


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Compute again all that follows from what is stored: scores, results, the board."""

    folder: Folder
    """Of a cell or a suite, or a submission."""

    def run(self) -> int:
        """Prints what was checked and what is wrong."""
        from textrl_benchmarks.leaderboard.verification.audit import audit

        return _print_findings(audit(self.folder))


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Run again what was claimed: the same seeds to the same bytes, or fresh seeds to test it."""

    folder: Folder
    """Of a cell (--exact) or a suite, or a submission."""
    exact: bool = False
    """Run the cells again, and compare bytes."""
    fresh: int | None = None
    """Run so many other seeds, and test whether the claim is too high; 5 is a good number."""
    agent: str = ""
    """Whose cells; a submission's own where none is given, with --exact all."""
    environments: tuple[str, ...] = ()
    """Those to run with --fresh; all where none is given."""
    seed_base: int | None = None
    """The first fresh seed; else the highest that was claimed with, and one. Choose a large one
    that nobody can guess where the claimant may have guessed."""
    keep: Path | None = None
    """Keep the fresh cells in this folder, and go on with those that are there."""
    workers: int = 1
    """Cells at once."""
    threads: int = 1
    """Threads of torch with --fresh; --exact takes those of the manifests."""

    def run(self) -> int:
        """Runs, and prints what came."""
        if self.exact == (self.fresh is not None):
            raise InvalidInputError(
                "Give one of --exact (same seeds, same bytes) and --fresh 5 (five other seeds)."
            )
        for name in ("workers", "threads"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"--{name} must be at least 1; got {getattr(self, name)}.")
        return self._exact() if self.exact else self._fresh()

    def _exact(self) -> int:
        from textrl_benchmarks.leaderboard.verification.verify import verify_exact

        found = verify_exact(self.folder, agent=self.agent, workers=self.workers, tell=_tell)
        return _print_findings(found)

    def _fresh(self) -> int:
        from textrl_benchmarks.leaderboard.running.executors import ProcessExecutor
        from textrl_benchmarks.leaderboard.verification.verify import verify_fresh

        found = verify_fresh(
            self.folder,
            self.agent,
            count=self.fresh or 0,
            environments=self.environments,
            seed_base=self.seed_base,
            out=self.keep,
            executor=ProcessExecutor(workers=self.workers, threads=self.threads),
            threads=self.threads,
            tell=_tell,
        )
        _print_fresh(found)
        return WRONG if found.refuted else 0


@dataclass(frozen=True, kw_only=True)
class Submit:
    """Pack an agent's cells, to be sent to somebody else's board."""

    folder: Folder
    """Of the suite."""
    agent: str
    """The row."""
    out: Path
    """A file that ends in .tar.gz, or a folder."""
    who: str = ""
    """Who made the agent."""
    link: str = ""
    """To its code and weights, which are not packed."""
    note: str = ""
    """Whatever else a reader should know."""

    def run(self) -> int:
        """Packs, and says where."""
        from textrl_benchmarks.leaderboard.verification.submit import submit

        words = {"who": self.who, "link": self.link, "note": self.note}
        path = submit(self.folder, self.agent, self.out, **words)
        _say(Console(), f"submission in {path}; check it with: textrl leaderboard audit {path}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Add:
    """Audit a submission, and put it onto a board."""

    submission: Folder
    """What submit has made."""
    out: Path = Path("runs/leaderboard")
    """The folder of all suites."""

    def run(self) -> int:
        """Adds, and makes the board anew."""
        from textrl_benchmarks.leaderboard.board.report import write_report
        from textrl_benchmarks.leaderboard.verification.submit import add

        suite = add(self.submission, self.out)
        write_report(suite, self.out)
        rival, place = suite.agents[-1].name, self.out / suite.name / "index.html"
        _say(Console(), f"{rival} is on the board in {place}")
        return 0


def _print_findings(found: "Findings") -> int:
    console = Console()
    checked = Table("checked", "number", box=None, pad_edge=False)
    checked.columns[1].justify = "right"
    for what, number in found.checked.items():
        checked.add_row(what, f"{number:,}")
    console.print(checked)
    for note in found.notes:
        _say(console, f"note: {note}")
    for finding in found.wrong:
        _say(console, f"wrong: {finding}")
    _say(console, f"{len(found.wrong)} wrong" if found.wrong else "nothing is wrong")
    return WRONG if found.wrong else 0


def _print_fresh(found: "FreshTest") -> None:
    console = Console()
    headings = ("claim", "claimed", "fresh", "difference", "p", "p, Holm", "")
    table = Table(*headings, box=None, pad_edge=False)
    for name, test in found.tests.items():
        means = [
            f"{sum(x) / len(x):.3f} ({len(x)})" for x in (found.claimed[name], found.fresh[name])
        ]
        verdict = "refuted" if name in found.refuted else "stands"
        p_values = f"{test.p_value:.3g}", f"{found.adjusted[name]:.3g}"
        table.add_row(name, *means, f"{test.difference:+.3f}", *p_values, verdict)
    console.print(table)
    name = next(iter(found.tests))
    _say(console, f"one-sided Welch, alpha {found.alpha}, Holm over {len(found.tests)} claims")
    for is_alone, what in ((True, "alone"), (False, f"first of {len(found.tests)}")):
        one, two = (found.power(name, effect, is_alone=is_alone) for effect in (1.0, 2.0))
        if is_alone or len(found.tests) > 1:
            _say(
                console,
                f"power, {what}: a claim too high by one standard deviation of a run is refuted "
                f"with a chance of {one:.0%}, by two of {two:.0%}",
            )
    if (count := len(found.fresh[name])) < FEW:
        _say(console, f"warning: {count} fresh seeds refute little; give --fresh {FEW}")


def _tell(outcome: "Outcome") -> None:
    cell = outcome.cell
    text = f"{outcome.state}: {cell.agent} on {cell.env_id}, seed {cell.seed}"
    _say(Console(), f"{text}, {outcome.seconds:.1f} s")


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)
