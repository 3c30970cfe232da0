"""Verification: runs again what was claimed.

verify_exact(folder)          the same seeds, in fresh processes, to the same bytes
verify_fresh(folder, agent)   other seeds, and a test of whether the claim is too high
"""

import contextlib
import csv
import gzip
import io
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from textrl_benchmarks.leaderboard.board.records import Record
from textrl_benchmarks.leaderboard.board.significance import (
    ClaimTest,
    claim_test,
    holm,
    welch_power,
)
from textrl_benchmarks.leaderboard.cell import Cell
from textrl_benchmarks.leaderboard.plan import plan
from textrl_benchmarks.leaderboard.result import Result
from textrl_benchmarks.leaderboard.running.attempt import Job, Outcome
from textrl_benchmarks.leaderboard.running.cell_folder import CellFolder
from textrl_benchmarks.leaderboard.running.contestants import BASELINES
from textrl_benchmarks.leaderboard.running.executors import Executor, ProcessExecutor
from textrl_benchmarks.leaderboard.suite import Suite, select
from textrl_benchmarks.leaderboard.verification.claims import agent_of, records_of
from textrl_benchmarks.leaderboard.verification.findings import Findings, differences
from textrl_benchmarks.leaderboard.verification.validate import (
    StoredCell,
    cell_folders,
    opened,
    read_cell,
)
from textrl_envs.errors import InvalidInputError
from textrl_envs.files import read_json

__all__ = [
    "AGGREGATE",
    "FreshTest",
    "first_difference",
    "fresh_test",
    "verify_exact",
    "verify_fresh",
]

AGGREGATE = "all environments"
"""The claim of the mean over environments, a number a seed."""
COMPARED = ("curves.csv", "eval.jsonl.gz", "result.json")

Tell = Callable[[Outcome], None]
Scores = Mapping[str, Mapping[int, float]]
"""Environment -> seed -> normalised score, as aggregates count it."""


# --- exact ---


def verify_exact(
    path: Path, *, agent: str = "", workers: int = 1, tell: Tell = lambda _: None
) -> Findings:
    """Runs cells again, each at the thread count of its manifest, and compares bytes.

    Args:
        path: a cell's folder, or a suite's or a submission for all of their cells.
        agent: only its cells, where one is given.
        workers: cells at once.
        tell: is called as each cell ends.

    Raises:
        InvalidInputError: nothing there that can be run again.
    """
    findings = Findings()
    with opened(path) as folder, tempfile.TemporaryDirectory() as place:
        by_threads: dict[int, list[StoredCell]] = defaultdict(list)
        for one in cell_folders(folder, Findings()):
            stored = read_cell(one, findings, "" if one == folder else one.name)
            stored.samples = None  # of all cells they would fill the memory
            if stored.is_failed or not stored.cell or agent not in ("", stored.cell.agent):
                continue
            by_threads[stored.manifest["threads"] if stored.manifest else 1].append(stored)
        if not by_threads and findings.is_clean:
            who = f" of {agent}" if agent else ""
            raise InvalidInputError(f"{path} has no cell{who} that is done and can be run again.")
        for threads, cells in by_threads.items():
            _run_again(cells, Path(place), threads, workers, findings, tell)
    return findings


def _run_again(
    stored: Sequence[StoredCell],
    root: Path,
    threads: int,
    workers: int,
    findings: Findings,
    tell: Tell,
) -> None:
    known = {one.cell.cell_id: one for one in stored if one.cell}
    jobs = [Job(cell=one.cell, root=root, threads=threads) for one in stored if one.cell]
    for outcome in _outcomes(jobs, ProcessExecutor(workers=workers, threads=threads)):
        tell(outcome)
        one = known[outcome.cell.cell_id]
        findings.count("cells run again")
        if outcome.state == "failed":
            findings.add(one.file("spec.json"), "run again", "a result", outcome.message)
            continue
        again = CellFolder(root, outcome.cell).path
        for name in COMPARED:
            findings.count("files compared")
            found = first_difference(name, _bytes(again / name), _bytes(one.folder / name))
            if found is not None:
                findings.add(one.file(name), *found)


def first_difference(name: str, again: bytes, stored: bytes) -> tuple[str, str, str] | None:
    """Returns where the stored file first departs from the one made again: place, and both."""
    if again == stored:
        return None
    try:
        parts = _parts(name, again), _parts(name, stored)
    except (ValueError, OSError, EOFError) as error:
        return "all", "what can be read", str(error)
    for number, (ours, theirs) in enumerate(zip(*parts, strict=False), 1):
        for place, expected, found in differences(ours, theirs):
            line = f"line {number}, " if len(parts[0]) > 1 else ""
            return f"{line}{place}", repr(expected), repr(found)
    if len(parts[0]) != len(parts[1]):
        return "lines", str(len(parts[0])), str(len(parts[1]))
    return "bytes", f"{len(again)}, of the same numbers", f"{len(stored)}"


def _parts(name: str, data: bytes) -> list[object]:
    """Returns a file as JSON values, one a line or one for all."""
    if name.endswith(".gz"):
        return [json.loads(line) for line in gzip.decompress(data).splitlines()]
    if name.endswith(".csv"):
        lines = list(csv.reader(io.StringIO(data.decode())))
        heading = lines[0] if lines else []
        return [heading, *(dict(zip(heading, line, strict=False)) for line in lines[1:])]
    return [json.loads(data)] if data else []


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _outcomes(jobs: Sequence[Job], executor: Executor) -> Iterator[Outcome]:
    for job in jobs:
        (job.root / job.cell.suite).mkdir(parents=True, exist_ok=True)
    with contextlib.closing(executor.run(jobs)) as outcomes:
        yield from outcomes


# --- fresh ---


@dataclass(frozen=True, slots=True)
class FreshTest:
    """Whether fresh seeds refute what was claimed."""

    tests: dict[str, ClaimTest]
    """Of each environment, and of their mean as `AGGREGATE` where there are several."""
    adjusted: dict[str, float]
    """Holm's p-values, of all tests together."""
    alpha: float
    claimed: dict[str, list[float]]
    fresh: dict[str, list[float]]

    @property
    def refuted(self) -> list[str]:
        """The claims that are refuted; an honest agent has any with a chance of α at most."""
        return [name for name, p in self.adjusted.items() if p <= self.alpha]

    def power(self, name: str, effect: float, *, is_alone: bool = True) -> float:
        """Chance of refuting a claim too high by so many standard deviations of a run.

        Args:
            name: of the claim.
            effect: in standard deviations.
            is_alone: it is the one test; else the first of all in Holm's order.
        """
        counts = len(self.claimed[name]), len(self.fresh[name])
        level = self.alpha if is_alone else self.alpha / len(self.tests)
        return welch_power(*counts, effect, level)


def fresh_test(claimed: Scores, fresh: Scores, alpha: float = 0.05) -> FreshTest:
    """Tests each environment's claim and that of the mean: one-sided Welch, Holm over all.

    So the chance that an honest agent is refuted at all is at most α.

    Raises:
        InvalidInputError: an environment without a score on either side, or one seed on both.
    """
    ours, theirs = _columns(claimed), _columns(fresh)
    for name in ours:
        if not theirs.get(name):
            raise InvalidInputError(f"There is no fresh run of {name}. Run it again.")
    names = [name for name in ours if ours[name] and theirs.get(name)]
    tests = {name: claim_test(ours[name], theirs[name], alpha) for name in names}
    adjusted = holm([test.p_value for test in tests.values()]).tolist()
    return FreshTest(tests, dict(zip(tests, adjusted, strict=True)), alpha, ours, theirs)


def _columns(scores: Scores) -> dict[str, list[float]]:
    """Returns the scores of each environment by seed, and their means where seeds have all."""
    found = {name: [by_seed[seed] for seed in sorted(by_seed)] for name, by_seed in scores.items()}
    common = set.intersection(*(set(by_seed) for by_seed in scores.values()))
    if len(scores) > 1 and common:
        found[AGGREGATE] = [
            float(np.mean([by_seed[seed] for by_seed in scores.values()]))
            for seed in sorted(common)
        ]
    return found


def verify_fresh(
    path: Path,
    agent: str = "",
    *,
    count: int = 5,
    environments: Sequence[str] = (),
    seed_base: int | None = None,
    out: Path | None = None,
    executor: Executor | None = None,
    threads: int = 1,
    tell: Tell = lambda _: None,
) -> FreshTest:
    """Runs an agent with seeds that the claimant did not choose, and tests his claim.

    Args:
        path: a suite's folder or a submission.
        agent: whose claim; a submission's own where none is given.
        count: M, fresh seeds.
        environments: some of the suite's; all where none is given.
        seed_base: the first fresh seed; the highest of the folder and one, where none is given.
        out: keeps the fresh cells, and goes on with those that are there.
        executor: runs the cells; one worker process where none is given.
        threads: of torch.
        tell: is called as each cell ends.

    Raises:
        InvalidInputError: nothing that can be tested, another version of agent or environment than
            was claimed, or a fresh cell that failed.
    """
    if count < 1:
        raise InvalidInputError(f"--fresh must be at least 1; got {count}.")
    with opened(path) as folder, _kept(out) as root:
        suite, name = _read_claimant(folder, agent)
        suite = select(suite, environments=environments)
        records = records_of(suite, folder.parent, name)
        seeds = _fresh_seeds(suite, records, count, seed_base)
        cells = _fresh_cells(suite, name, seeds, records)
        todo = [cell for cell in cells if CellFolder(root, cell).state != "done"]
        jobs = [Job(cell=cell, root=root, threads=threads) for cell in todo]
        for outcome in _outcomes(jobs, executor or ProcessExecutor(workers=1, threads=threads)):
            tell(outcome)
            if outcome.state == "failed":
                raise InvalidInputError(
                    f"A fresh run of {name} on {outcome.cell.env_id} failed, so that its claim "
                    f"cannot be tested: {outcome.message}"
                )
        claimed = _scores((one.cell, one.counted_score) for one in records)
        return fresh_test(claimed, _scores((cell, _counted(root, cell)) for cell in cells))


@contextlib.contextmanager
def _kept(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


def _read_claimant(folder: Path, agent: str) -> tuple[Suite, str]:
    if not (folder / "suite.json").is_file():
        raise InvalidInputError(
            f"{folder} is no suite's folder and no submission, and a single cell is no claim of a "
            "mean. Give one with suite.json in it."
        )
    suite = Suite.from_dict(read_json(folder / "suite.json"), source=str(folder / "suite.json"))
    if suite.name != folder.name:
        raise InvalidInputError(
            f"Expected the folder of {suite.name} to be called so; got {folder.name}. Rename it."
        )
    names = [one.name for one in suite.agents]
    if not agent and len(names) != 1:
        raise InvalidInputError(f"Whose claim? Give --agent, one of {', '.join(names)}.")
    name = agent or names[0]
    agent_of(suite, name)
    return suite, name


def _fresh_seeds(
    suite: Suite, records: Sequence[Record], count: int, base: int | None
) -> tuple[int, ...]:
    used = {*suite.seeds, *(one.cell.seed for one in records)}
    first = max(used) + 1 if base is None else base
    seeds = tuple(range(first, first + count))
    if both := sorted(used & set(seeds)):
        raise InvalidInputError(
            f"The seeds {both} were claimed with, and are not fresh. Give another --seed-base."
        )
    return seeds


def _fresh_cells(
    suite: Suite, agent: str, seeds: tuple[int, ...], records: Sequence[Record]
) -> list[Cell]:
    """Returns the cells to run, after checking that they are of what was claimed."""
    rows = () if agent in BASELINES else (agent_of(suite, agent),)
    cells = [one for one in plan(replace(suite, seeds=seeds, agents=rows)) if one.agent == agent]
    ours = {cell.env_id: cell for cell in cells}
    for one in records:
        fresh = ours[one.cell.env_id]
        for what in ("entry_version", "env_sha256"):
            expected, found = getattr(one.cell, what), getattr(fresh, what)
            if expected != found:
                raise InvalidInputError(
                    f"The claim on {fresh.env_id} is of {what} {expected}; here it is {found}. "
                    "Install what it was made with."
                )
    return cells


def _counted(root: Path, cell: Cell) -> float | None:
    folder = CellFolder(root, cell)
    return Record(cell, folder.path, Result.from_dict(folder.read("result.json")), {}).counted_score


def _scores(found: Iterator[tuple[Cell, float | None]]) -> dict[str, dict[int, float]]:
    scores: dict[str, dict[int, float]] = defaultdict(dict)
    for cell, score in found:
        if score is None:
            raise InvalidInputError(
                f"{cell.agent} has no log_probs, so that its KL on {cell.env_id} is unknown: there "
                "is no normalised score to test."
            )
        scores[cell.env_id][cell.seed] = score
    return dict(scores)
