"""Submissions: an agent's cells, packed to be sent, and put onto somebody else's board.

submit(folder, agent, out)   a folder, or one file in bytes that depend on the cells alone
add(submission, root)        audited, and refused unless it is of the same suite and environments
"""

import gzip
import io
import json
import re
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from textrl_benchmarks.leaderboard.cell import Cell, sha256
from textrl_benchmarks.leaderboard.running.contestants import BASELINES
from textrl_benchmarks.leaderboard.running.runner import is_at_work
from textrl_benchmarks.leaderboard.suite import Suite, read_stored_suite, store_suite
from textrl_benchmarks.leaderboard.verification.audit import audit
from textrl_benchmarks.leaderboard.verification.claims import agent_of, claims_of
from textrl_benchmarks.leaderboard.verification.findings import Findings
from textrl_benchmarks.leaderboard.verification.validate import cell_folders, opened, read_cell
from textrl_envs.errors import InvalidInputError
from textrl_envs.files import read_json

__all__ = ["add", "submit"]


def submit(
    folder: Path, agent: str, out: Path, *, who: str = "", link: str = "", note: str = ""
) -> Path:
    """Packs an agent's cells with the suite and what they claim; no weights are in them.

    Args:
        folder: a suite's, with all cells of the agent.
        agent: the row.
        out: a file that ends in .tar.gz, or a folder; neither may exist.
        who: made it.
        link: to its code, say.
        note: whatever else.

    Returns:
        `out`.

    Raises:
        InvalidInputError: cells that are missing or broken, or an `out` that exists.
    """
    if out.exists():
        raise InvalidInputError(f"{out} exists. Give another --out, or remove it.")
    with opened(folder) as place:
        files = _collect(place, agent, {"who": who, "link": link, "note": note})
    if out.name.endswith(".tar.gz"):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(_packed(files))
        return out
    for name, data in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    return out


def add(submission: Path, root: Path) -> Suite:
    """Puts the cells of a submission among those of a board, and its agent among the rows.

    Args:
        submission: what `submit` made.
        root: the folder of all suites.

    Returns:
        The suite, with the rival.

    Raises:
        InvalidInputError: the audit found something; or it is of another suite, version or
            environment; or the board has a row of that name.
    """
    with opened(submission) as folder:
        if not (folder / "submission.json").is_file():
            raise InvalidInputError(
                f"{submission} has no submission.json. Make it by textrl leaderboard submit."
            )
        found = audit(folder)
        if not found.is_clean:
            raise InvalidInputError(
                f"{submission} is refused: {found.wrong[0]}. "
                f"See all {len(found.wrong)} by textrl leaderboard audit {submission}."
            )
        theirs = Suite.from_dict(read_json(folder / "suite.json"), source="suite.json")
        ours = read_stored_suite(root, theirs.name)
        place = root / ours.name
        _check_fits(ours, theirs)
        cells = cell_folders(folder, Findings())
        _check_environments(place, cells)
        if is_at_work(place):
            raise InvalidInputError(f"A run is at work in {place}. Wait for it.")
        for cell in cells:
            partial = place / f"{cell.name}.partial"
            shutil.copytree(cell, partial)
            partial.rename(place / cell.name)
        _keep(folder / "submission.json", place, theirs.agents[0].name)
        merged = replace(ours, agents=(*ours.agents, *theirs.agents))
        store_suite(merged, place)
    return merged


# --- to pack ---


def _collect(folder: Path, agent: str, words: Mapping[str, str]) -> dict[str, bytes]:
    """Returns all files of a submission by name."""
    if not (folder / "suite.json").is_file():
        raise InvalidInputError(f"{folder} is no suite's folder. Give one with suite.json in it.")
    suite = Suite.from_dict(read_json(folder / "suite.json"), source=str(folder / "suite.json"))
    if agent in BASELINES:
        raise InvalidInputError(f"{agent} is a row of every board; submit an agent of your own.")
    only = replace(suite, agents=(agent_of(suite, agent),))
    claims = claims_of(only, folder.parent, agent)
    planned = len(suite.environments) * len(suite.seeds)
    if len(claims["cells"]) < planned:
        raise InvalidInputError(
            f"{agent} has {len(claims['cells'])} of {planned} cells. "
            f"Go on with: textrl leaderboard resume --suite {suite.name} --out {folder.parent}."
        )
    findings = Findings()
    for name in claims["cells"]:
        read_cell(folder / name, findings, name)
    if not findings.is_clean:
        raise InvalidInputError(f"{findings.wrong[0]}. Remove that cell, and run it again.")
    top = {
        "suite.json": _json(only.as_dict()),
        "submission.json": _json({**claims, "textrl_envs": version("textrl-envs"), **words}),
    }
    sums = "".join(f"{sha256(data)}  {name}\n" for name, data in top.items())
    top["SHA256SUMS"] = sums.encode()
    cells = {
        f"{name}/{file.name}": file.read_bytes()
        for name in claims["cells"]
        for file in sorted((folder / name).iterdir())
    }
    return {f"{suite.name}/{name}": data for name, data in {**top, **cells}.items()}


def _json(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def _packed(files: Mapping[str, bytes]) -> bytes:
    """Returns a .tar.gz without clock, user or machine in it."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile("", "wb", fileobj=packed, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


# --- to add ---


def _check_fits(ours: Suite, theirs: Suite) -> None:
    """Refuses what would not be compared like with like."""
    name = theirs.agents[0].name
    if name in [one.name for one in ours.agents]:
        raise InvalidInputError(
            f"The board has a row {name!r} already. Ask for the submission under another name."
        )
    for what in ("version", "num_envs", "eval_episodes"):
        _check_equal(what, getattr(ours, what), getattr(theirs, what))
    known = {one.id: one for one in ours.environments}
    for one in theirs.environments:
        _check_equal(f"environment {one.id}", known.get(one.id, "none"), one)
    if more := sorted(set(theirs.seeds) - set(ours.seeds)):
        raise InvalidInputError(
            f"The submission has seeds that the board has not: {more}. "
            f"Ask for it with seeds of {list(ours.seeds)} alone."
        )


def _check_equal(what: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise InvalidInputError(
            f"The submission was run with another {what}: expected {ours}; got {theirs}. "
            "Ask for a run of the board's suite."
        )


def _check_environments(place: Path, cells: list[Path]) -> None:
    """Refuses cells of other environments than the board's, whatever these are called."""
    ours = {}
    for path in sorted(place.glob("*/spec.json")):
        spec = read_json(path)
        ours[spec["env_id"]] = spec["env_sha256"]
    for folder in cells:
        cell = Cell.from_dict(read_json(folder / "spec.json"))
        expected = ours.get(cell.env_id, cell.env_sha256)
        if cell.env_sha256 != expected:
            raise InvalidInputError(
                f"The submission's {cell.env_id} is not the board's: expected the fingerprint "
                f"{expected[:12]}, got {cell.env_sha256[:12]}. Ask for a run with the same "
                "textrl-envs."
            )


def _keep(path: Path, place: Path, agent: str) -> None:
    """Keeps who claimed what beside the cells."""
    name = re.sub(r"[^\w.-]", "_", agent)
    kept = place / "submissions" / f"{name}.json"
    kept.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, kept)
