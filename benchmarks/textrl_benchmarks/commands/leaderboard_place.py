"""Place: which suite, and where its cells are; shared by the commands of `textrl leaderboard`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from textrl_envs.files import read_json

# What is imported inside the functions loads torch, and `textrl --help` shall not wait for that.
if TYPE_CHECKING:
    from textrl_benchmarks.leaderboard.suite import Suite

__all__ = ["Place"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which suite, and where its cells are."""

    suite: str = "quick"
    """quick, standard, full, or a TOML file."""
    out: Path = Path("runs/leaderboard")
    """The folder of all suites; each has one of its own in it."""

    def stored(self) -> "Suite":
        """Returns the suite of the folder, with all rivals that were run in it."""
        from textrl_benchmarks.leaderboard.suite import read_stored_suite

        return read_stored_suite(self.out, self.suite)

    def to_run(self) -> "Suite":
        """Returns the same without the rows that were sent in: their agents need not be here."""
        suite = self.stored()
        kept = (self.out / suite.name / "submissions").glob("*.json")
        sent_in = {read_json(path)["agent"] for path in kept}
        ours = tuple(agent for agent in suite.agents if agent.name not in sent_in)
        return replace(suite, agents=ours)
