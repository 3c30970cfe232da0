"""validate(folder): the cheap check of files, hashes and formats. Nothing is scored again.

a cell's folder       spec.json and what belongs to it
a suite's folder      suite.json, cells, and perhaps a board
a submission          a suite's folder with submission.json, or that packed as .tar.gz
"""

import contextlib
import csv
import io
import json
import math
import re
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from textrl_benchmarks.leaderboard.cell import Cell, sha256
from textrl_benchmarks.leaderboard.result import Result, Sample
from textrl_benchmarks.leaderboard.samples import read_samples
from textrl_benchmarks.leaderboard.suite import Suite
from textrl_benchmarks.leaderboard.verification.findings import Findings
from textrl_benchmarks.leaderboard.verification.schema import (
    ErrorFields,
    ManifestFields,
    Submission,
    misfits,
)
from textrl_envs.errors import InvalidInputError
from textrl_envs.files import read_json

__all__ = [
    "StoredCell",
    "cell_folders",
    "check_sums",
    "opened",
    "read_cell",
    "read_suite_of",
    "validate",
]

SUMS = "SHA256SUMS"
CELL_NAME = re.compile(r"[0-9a-f]{12}(\.failed)?")
DONE = ("spec.json", "manifest.json", "eval.jsonl.gz", "result.json")
FAILED = ("spec.json", "manifest.json", "error.json")
SECONDS = 2.0
"""Start and end are whole seconds, and are read beside the clock that counts."""
MOST_BYTES = 2**31
"""Of an unpacked submission."""


@dataclass(slots=True)
class StoredCell:
    """What could be read of a cell's folder; None for what is not there, or broken."""

    folder: Path
    name: str
    """Of the folder, below what is checked; "" for the folder itself."""
    cell: Cell | None = None
    manifest: dict[str, Any] | None = None
    result: Result | None = None
    samples: list[Sample] | None = None
    curve: list[dict[str, float]] | None = field(default=None)

    def file(self, name: str) -> str:
        """Returns how findings call a file of it."""
        return f"{self.name}/{name}" if self.name else name

    @property
    def is_failed(self) -> bool:
        """Tells whether it raised, and has no result."""
        return self.folder.suffix == ".failed"


def validate(path: Path) -> Findings:
    """Checks which files there are, their hashes, and that each holds what it should.

    Raises:
        InvalidInputError: neither a cell, a suite's folder nor a submission.
    """
    findings = Findings()
    with opened(path) as folder:
        read_suite_of(folder, findings)
        for one in cell_folders(folder, findings):
            read_cell(one, findings, "" if one == folder else one.name)
    return findings


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Gives the folder of a cell or of a suite, unpacked for a while if it is an archive.

    Raises:
        InvalidInputError: none of them, or several.
    """
    if path.is_file():
        with tempfile.TemporaryDirectory() as place:
            _unpack(path, Path(place))
            yield _find(Path(place), path)
    else:
        yield _find(path, path)


def cell_folders(folder: Path, findings: Findings) -> list[Path]:
    """Returns the folders of cells that are done or have failed, by name."""
    if not (folder / "suite.json").is_file():
        return [folder]
    found = []
    for one in sorted(path for path in folder.iterdir() if path.is_dir()):
        if one.suffix == ".partial":
            findings.notes.append(f"{one.name}: half written, and not checked")
        elif CELL_NAME.fullmatch(one.name) or (one / "spec.json").exists():
            found.append(one)
    return found


def read_suite_of(folder: Path, findings: Findings) -> Suite | None:
    """Reads suite.json, and checks submission.json where there is one; None for a cell's folder."""
    top = StoredCell(folder, "")
    if (folder / "submission.json").is_file():
        check_sums(folder, findings, "")
        _read_object(top, "submission.json", Submission, findings)
    if not (folder / "suite.json").is_file():
        return None
    findings.count("files parsed")
    try:
        suite = Suite.from_dict(read_json(folder / "suite.json"), source="suite.json")
    except InvalidInputError as error:
        findings.add("suite.json", "all", "a suite", str(error))
        return None
    findings.expect("suite.json", "name", folder.name, suite.name)
    return suite


def read_cell(folder: Path, findings: Findings, name: str) -> StoredCell:
    """Reads a cell's folder, and keeps a finding for everything that is wrong in it."""
    stored = StoredCell(folder, name)
    findings.count("cells")
    check_sums(folder, findings, name)
    _check_names(stored, findings)
    stored.cell = _read_spec(stored, findings)
    stored.manifest = _read_manifest(stored, findings)
    if stored.is_failed:
        _read_object(stored, "error.json", ErrorFields, findings)
        return stored
    record = _read_object(stored, "result.json", Result, findings)
    stored.result = None if record is None else Result.from_dict(record)
    stored.samples = _read_samples(stored, findings)
    stored.curve = _read_curve(stored, findings)
    return stored


# --- files and hashes ---


def check_sums(folder: Path, findings: Findings, name: str) -> None:
    """Checks SHA256SUMS: every file is listed, is there, and has its hash."""
    place, path = f"{name}/" if name else "", folder / SUMS
    if not path.is_file():
        findings.add(f"{place}{SUMS}", "file", "there", "missing")
        return
    listed: dict[str, str] = {}
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        parts = re.fullmatch(r"([0-9a-f]{64}) [ *]([\w.-]+)", line)
        if parts is None:
            findings.add(f"{place}{SUMS}", f"line {number}", "'<sha256>  <file>'", line)
        else:
            listed[parts[2]] = parts[1]
    there = {one.name for one in folder.iterdir() if one.is_file() and one.name != SUMS}
    for file in sorted(there | listed.keys()):
        findings.count("hashes")
        if file not in there:
            findings.add(f"{place}{file}", "file", "there, as SHA256SUMS says", "missing")
        elif file not in listed:
            findings.add(f"{place}{file}", "file", "listed in SHA256SUMS", "not listed")
        else:
            found = sha256((folder / file).read_bytes())
            findings.expect(f"{place}{file}", "sha256", listed[file], found)


def _check_names(stored: StoredCell, findings: Findings) -> None:
    expected = FAILED if stored.is_failed else DONE
    there = {one.name for one in stored.folder.iterdir()}
    for name in sorted(set(expected) - there):
        findings.add(stored.file(name), "file", "there", "missing")
    for name in sorted(there - {*expected, SUMS, "curves.csv"}):
        findings.add(stored.file(name), "file", "no such file in a cell", "it is there")


# --- formats ---


def _read_spec(stored: StoredCell, findings: Findings) -> Cell | None:
    record = _read_object(stored, "spec.json", Cell, findings)
    if record is None:
        return None
    cell = Cell.from_dict(record)
    name = stored.folder.name.removesuffix(".failed")
    file = stored.file("spec.json")
    if not findings.expect(file, "hash, the folder's name", name, cell.folder_name):
        findings.notes.append(f"{file}: of another cell; this one's files are not checked by it")
        return None
    if cell.eval_episodes < max(2, cell.num_envs) or cell.num_envs < 1 or cell.budget_tokens < 0:
        found = f"{cell.eval_episodes} episodes, {cell.num_envs} rows, {cell.budget_tokens} tokens"
        findings.add(file, "numbers", "what can be run", found)
        return None
    return cell


def _read_manifest(stored: StoredCell, findings: Findings) -> dict[str, Any] | None:
    made = _read_object(stored, "manifest.json", ManifestFields, findings)
    if made is None:
        return None
    file = stored.file("manifest.json")
    begin, end = (datetime.fromisoformat(made[key]) for key in ("start", "end"))
    between = (end - begin).total_seconds()
    wall, cpu = made["wall_seconds"], made["cpu_seconds"]
    if between < 0 or not 0 <= wall <= between + SECONDS:
        findings.add(file, "wall_seconds", f"0 to {between:.0f}, from start to end", wall)
    most = max(wall, 0) * max(made["cpu_count"] or 1, 1) + SECONDS
    if not 0 <= cpu <= most:
        findings.add(file, "cpu_seconds", f"0 to {most:.0f}, of all cores", cpu)
    if made["threads"] < 1:
        findings.add(file, "threads", "at least 1", made["threads"])
    return made


def _read_object(
    stored: StoredCell, name: str, kind: type, findings: Findings
) -> dict[str, Any] | None:
    """Returns a JSON object that has the fields of a dataclass, or None."""
    path, file = stored.folder / name, stored.file(name)
    if not path.is_file():
        return None  # named already
    findings.count("files parsed")
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except ValueError as error:  # of the text's encoding, too
        findings.add(file, "all", "JSON", str(error))
        return None
    wrong = list(misfits(kind, record))
    for place, expected, found in wrong:
        findings.add(file, place, expected, found)
    return None if wrong else record


def _read_samples(stored: StoredCell, findings: Findings) -> list[Sample] | None:
    path = stored.folder / "eval.jsonl.gz"
    if not path.is_file():
        return None
    findings.count("files parsed")
    try:
        samples = read_samples(path)
    except InvalidInputError as error:
        place = str(error).removeprefix(str(path)).lstrip(", ")
        findings.add(stored.file(path.name), "format", "a sample in each line", place)
        return None
    findings.count("samples", len(samples))
    return samples


def _read_curve(stored: StoredCell, findings: Findings) -> list[dict[str, float]] | None:
    path, file = stored.folder / "curves.csv", stored.file("curves.csv")
    if stored.cell is not None and path.is_file() != (stored.cell.budget_tokens > 0):
        expected = "there" if stored.cell.budget_tokens else "none where nothing is learnt"
        findings.add(file, "file", expected, "there" if path.is_file() else "missing")
    if not path.is_file():
        return None
    findings.count("files parsed")
    lines = list(csv.reader(io.StringIO(path.read_text("utf-8", "replace"))))
    heading, rows = (lines[0], lines[1:]) if lines else ([], [])
    numbers = []
    for number, row in enumerate(rows, 2):
        found = [_number(text) for text in row]
        if len(row) != len(heading) or None in found:
            findings.add(file, f"line {number}", f"{len(heading)} numbers", ",".join(row))
        else:
            numbers.append({k: v for k, v in zip(heading, found, strict=True) if v is not None})
    return numbers if len(numbers) == len(rows) else None


def _number(text: str) -> float | None:
    """Returns a number, NaN for an empty field, or None for what is none."""
    try:
        return float(text) if text else math.nan
    except ValueError:
        return None


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


# --- places ---


def _find(folder: Path, asked: Path) -> Path:
    if (folder / "spec.json").is_file() or (folder / "suite.json").is_file():
        return folder
    if CELL_NAME.fullmatch(folder.name) and folder.is_dir():
        return folder  # without its spec, which is a finding
    below = sorted(path.parent for path in folder.glob("*/suite.json"))
    if len(below) == 1:
        return below[0]
    hint = (
        f"Give one of {', '.join(one.name for one in below)} in it."
        if below
        else "Give one with spec.json or suite.json in it, or a submission's .tar.gz."
    )
    raise InvalidInputError(f"{asked} is no folder of a cell, a suite or a submission. {hint}")


def _unpack(path: Path, place: Path) -> None:
    """Writes an archive's files: plain ones only, and none outside of the place."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            members = archive.getmembers()
            if sum(member.size for member in members) > MOST_BYTES:
                raise InvalidInputError(f"{path} unpacks to over {MOST_BYTES >> 30} GiB: refused.")
            for member in members:
                _write_member(archive, member, place, path)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InvalidInputError(
            f"{path} is no whole .tar.gz: {error}. Make it by textrl leaderboard submit."
        ) from error


def _write_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path, path: Path
) -> None:
    is_plain = re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*){1,2}", member.name)
    data = archive.extractfile(member) if member.isfile() else None
    if not is_plain or data is None:
        raise InvalidInputError(
            f"{path} holds {member.name!r}; expected plain files, SUITE/FILE and SUITE/CELL/FILE. "
            "Make it by textrl leaderboard submit."
        )
    (place / member.name).parent.mkdir(parents=True, exist_ok=True)
    (place / member.name).write_bytes(data.read())
