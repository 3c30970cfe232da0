"""`textrl speed`: how fast environment and loop are, beside their peers."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Speed"]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Measure environment steps and loop tokens per CPU-second beside Gymnasium and generate."""

    rounds: int = 3
    """Turns of each contender; the median is reported."""
    threads: int = 1
    """Threads of torch."""
    out: Path | None = None
    """Write the rows here as JSON."""

    def run(self) -> int:
        """Measures, and prints one table each."""
        # Not above: it loads torch, and `textrl --help` shall not wait for that.
        from textrl_benchmarks.speed.bench import measure

        measure(rounds=self.rounds, threads=self.threads, out=self.out)
        return 0
