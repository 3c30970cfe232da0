"""What a suite's folder says as a whole: that the cells are its own, the board and the claims."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textrl_benchmarks.leaderboard.board.board import make_board
from textrl_benchmarks.leaderboard.board.export import as_csv, as_json_text, as_markdown
from textrl_benchmarks.leaderboard.board.page import write_page
from textrl_benchmarks.leaderboard.board.records import is_of
from textrl_benchmarks.leaderboard.suite import Suite
from textrl_benchmarks.leaderboard.verification.claims import claims_of
from textrl_benchmarks.leaderboard.verification.findings import Findings, differences
from textrl_benchmarks.leaderboard.verification.validate import StoredCell
from textrl_envs.errors import InvalidInputError
from textrl_envs.files import read_json

__all__ = ["audit_suite"]


def audit_suite(
    suite: Suite, folder: Path, stored: Sequence[StoredCell], findings: Findings
) -> None:
    """Checks a suite against the cells of its folder, and all that was computed from them."""
    for one in stored:
        if one.cell is not None and not is_of(one.cell, suite):
            findings.add(one.file("spec.json"), "all", "a cell of suite.json", "another")
    _note_missing(suite, stored, findings)
    is_whole = all(one.cell and one.manifest and (one.is_failed or one.result) for one in stored)
    if not is_whole or suite.name != folder.name:
        findings.notes.append("board and claims: not computed again, as files are broken")
        return
    if (folder / "submission.json").is_file():
        _check_claims(folder, suite, findings)
    if (folder / "board.json").is_file():
        _check_board(folder, suite, findings)


def _note_missing(suite: Suite, stored: Sequence[StoredCell], findings: Findings) -> None:
    there = {(one.cell.agent, one.cell.env_id, one.cell.seed) for one in stored if one.cell}
    for agent in dict.fromkeys(one.cell.agent for one in stored if one.cell):
        planned = [(agent, env.id, seed) for env in suite.environments for seed in suite.seeds]
        missing = len(set(planned) - there)
        if missing:
            findings.notes.append(f"{agent}: {missing} of {len(planned)} cells are not there")


def _check_claims(folder: Path, suite: Suite, findings: Findings) -> None:
    findings.count("claims computed again")
    claimed = json.loads((folder / "submission.json").read_text("utf-8"))
    try:
        again = claims_of(suite, folder.parent, claimed.get("agent", ""))
    except InvalidInputError as error:
        findings.add("submission.json", "claims", "what its cells say", str(error))
        return
    parts = {key: claimed.get(key) for key in again}
    for place, expected, found in differences(again, parts):
        findings.add("submission.json", place, f"{expected!r}, by its cells", found)


def _check_board(folder: Path, suite: Suite, findings: Findings) -> None:
    findings.count("boards computed again")
    try:
        board = read_json(folder / "board.json")
        again = json.loads(as_json_text(make_board(suite, folder.parent)))
    except InvalidInputError as error:
        findings.add("board.json", "all", "a board of the cells", str(error))
        return
    wrong = list(differences(again, board))
    for place, expected, found in wrong[:5]:
        findings.add("board.json", place, f"{expected!r}, by the cells", repr(found))
    if wrong:
        where = f"{len(wrong)} differences; older than a cell, it is made anew by report"
        findings.notes.append(f"board.json: {where}")
        return
    for name, text in _tables(board).items():
        if not (folder / name).is_file():
            findings.add(name, "file", "there, beside board.json", "missing")
        elif (folder / name).read_text("utf-8") != text:
            findings.add(name, "all", "what board.json says", "something else")


def _tables(board: dict[str, Any]) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "index.html"
        write_page(board, page)
        html = page.read_text("utf-8")
    return {"board.md": as_markdown(board), "board.csv": as_csv(board), "index.html": html}
