import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.leaderboard.small_board import (
    PPO,
    cell_folder,
    edit_json,
    edit_samples,
    hash_again,
    make,
    suite_of,
)
from textrl_benchmarks.cli import main
from textrl_benchmarks.leaderboard.cell import sha256
from textrl_benchmarks.leaderboard.verification.audit import audit
from textrl_benchmarks.leaderboard.verification.submit import add, submit
from textrl_benchmarks.leaderboard.verification.validate import validate
from textrl_envs.errors import InvalidInputError
from textrl_envs.files import read_json

PASSCODE = "textrl/Passcode-v0"
MINE = {**PPO, "name": "mine", "settings": {**PPO["settings"], "learning_rate": 0.5}}  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The board of somebody who has an agent of his own."""
    return make(suite_of(PASSCODE, agents=[MINE]), tmp_path_factory.mktemp("theirs"))


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(suite_of(PASSCODE), tmp_path_factory.mktemp("public"))


@pytest.fixture
def ours(public: Path, tmp_path: Path) -> Path:
    """The public board, without that agent."""
    return Path(shutil.copytree(public, tmp_path / "ours" / public.name))


@pytest.fixture
def packed(theirs: Path, tmp_path: Path) -> Path:
    words = {"who": "a reader", "link": "https://example.org/mine", "note": "the first"}
    return submit(theirs, "mine", tmp_path / "out" / "mine.tar.gz", **words)


def test_what_is_packed_is_whole_and_says_what_it_claims(packed: Path, tmp_path: Path) -> None:
    assert validate(packed).wrong == []
    found = audit(packed)
    assert found.wrong == []
    assert found.checked["cells"] == found.checked["claims computed again"] == 1
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    claim = read_json(tmp_path / "small" / "submission.json")
    assert (claim["agent"], claim["entry"], claim["who"]) == ("mine", "ppo", "a reader")
    assert claim["link"] == "https://example.org/mine"
    (cell,) = claim["cells"]
    result = read_json(tmp_path / "small" / cell / "result.json")
    assert claim["claims"][PASSCODE]["value"] == result["normalised_score"]
    assert claim["claims"][PASSCODE]["seeds"][0]["cell"] == cell
    assert [one["name"] for one in read_json(tmp_path / "small" / "suite.json")["agents"]] == [
        "mine"
    ]


def test_the_bytes_are_of_the_cells_alone(theirs: Path, packed: Path, tmp_path: Path) -> None:
    words = {"who": "a reader", "link": "https://example.org/mine", "note": "the first"}
    again = submit(theirs, "mine", tmp_path / "another.tar.gz", **words)
    assert again.read_bytes() == packed.read_bytes()
    folder = submit(theirs, "mine", tmp_path / "folder", **words)
    assert audit(folder).wrong == []
    with tarfile.open(packed) as archive:
        members = {member.name: member for member in archive.getmembers()}
        assert sorted(members) == sorted(
            str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
        )
        assert {(m.mtime, m.uid, m.uname) for m in members.values()} == {(0, 0, "")}


def test_a_rival_changes_no_old_score(
    ours: Path, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_json(ours / "board.json")
    assert main(("leaderboard", "add", str(packed), "--out", str(ours.parent))) == 0
    assert "mine is on the board in" in capsys.readouterr().out
    after = read_json(ours / "board.json")
    assert {row["agent"] for row in after["rows"]} == {r["agent"] for r in before["rows"]} | {
        "mine"
    }
    assert {**after["heat"], "mine": None} == {**before["heat"], "mine": None}
    names = ("iqm", "mean", "median", "optimality_gap", "score", "kl")
    rows = {row["agent"]: row for row in after["rows"]}
    assert all(rows[row["agent"]][name] == row[name] for row in before["rows"] for name in names)
    assert audit(ours).wrong == []
    assert read_json(ours / "submissions" / "mine.json")["who"] == "a reader"


def test_a_board_lives_on_without_the_code_of_what_was_sent_in(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = tmp_path / "mine.py"
    code.write_text("from textrl_agents.ppo import PPO\n\n\nclass Mine(PPO):\n    name = 'mine'\n")
    mine = {**PPO, "name": "my agent, tuned", "entry": f"{code}:Mine"}
    theirs = make(suite_of(PASSCODE, agents=[mine]), tmp_path / "theirs")
    add(submit(theirs, "my agent, tuned", tmp_path / "mine.tar.gz"), ours.parent)
    code.unlink()
    place = ("--suite", ours.name, "--out", str(ours.parent))
    for command in ("status", "resume", "report"):
        assert main(("leaderboard", command, *place)) == 0
    rows = {row["agent"] for row in read_json(ours / "board.json")["rows"]}
    assert "my agent, tuned" in rows


# --- what is refused ---


def unpacked(packed: Path, tmp_path: Path) -> Path:
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    return tmp_path / "unpacked" / "small"


def test_a_claim_that_the_cells_do_not_support_is_named(packed: Path, tmp_path: Path) -> None:
    folder = unpacked(packed, tmp_path)
    edit_json("submission.json", lambda claim: claim["claims"][PASSCODE].update(value=0.99))(folder)
    assert audit(folder).files() == {"submission.json"}
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    hash_again_top(folder)
    assert sums != (folder / "SHA256SUMS").read_text().splitlines()
    (one,) = audit(folder).wrong
    assert (one.file, one.field) == ("submission.json", f"claims.{PASSCODE}.value")


def hash_again_top(folder: Path) -> None:
    (folder / "SHA256SUMS").write_text(
        "".join(
            f"{sha256((folder / name).read_bytes())}  {name}\n"
            for name in ("suite.json", "submission.json")
        )
    )


def test_a_tampered_submission_is_not_added(ours: Path, packed: Path, tmp_path: Path) -> None:
    folder = unpacked(packed, tmp_path)
    cell = cell_folder(folder, "mine", PASSCODE)
    edit_samples(lambda lines: lines[0].update(score=5.0))(cell)
    hash_again(cell)
    before = sorted(ours.iterdir())
    with pytest.raises(InvalidInputError, match=r"is refused: .*eval.jsonl.gz: line 1, score"):
        add(folder, ours.parent)
    assert sorted(ours.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "another version: expected 2; got 1"),
        ({"eval_episodes": 64}, "another eval_episodes: expected 64; got 48"),
        ({"seeds": [7]}, r"seeds that the board has not: \[0\]"),
        ({"agents": [MINE]}, "The board has a row 'mine' already"),
        ({"environments": [{"id": PASSCODE, "budget_tokens": 2}]}, "another environment textrl/P"),
    ],
)
def test_a_submission_of_another_suite_is_not_added(
    ours: Path, packed: Path, change: dict[str, Any], message: str
) -> None:
    edit_json("suite.json", lambda suite: suite.update(change))(ours)
    with pytest.raises(InvalidInputError, match=message):
        add(packed, ours.parent)


def test_a_submission_of_another_environment_is_not_added(ours: Path, packed: Path) -> None:
    for path in ours.glob("*/spec.json"):
        edit_json("spec.json", lambda spec: spec.update(env_sha256="0" * 64))(path.parent)
    with pytest.raises(InvalidInputError, match="expected the fingerprint 000000000000, got"):
        add(packed, ours.parent)


@pytest.mark.parametrize("name", ["small/../../evil", "/evil", "evil", "small/a/b/c"])
def test_an_archive_writes_nothing_outside_of_its_place(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(InvalidInputError, match="expected plain files, SUITE/FILE"):
        audit(path)


def test_a_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.tar.gz"
    member = tarfile.TarInfo("small/suite.json")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(member)
    with pytest.raises(InvalidInputError, match="expected plain files"):
        validate(path)
    path.write_bytes(b"no archive")
    with pytest.raises(InvalidInputError, match=r"is no whole \.tar\.gz"):
        validate(path)


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ("mime", "small has no agent 'mime'. Did you mean 'mine'"),
        ("reference", "reference is a row of every board; submit an agent of your own"),
    ],
)
def test_only_an_agent_of_ones_own_is_packed(
    theirs: Path, tmp_path: Path, agent: str, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        submit(theirs, agent, tmp_path / "out.tar.gz")


def test_only_whole_and_sound_cells_are_packed(theirs: Path, packed: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"exists\. Give another --out"):
        submit(theirs, "mine", packed)
    board = Path(shutil.copytree(theirs, tmp_path / "copy" / theirs.name))
    edit_json("suite.json", lambda suite: suite.update(seeds=[0, 1]))(board)
    with pytest.raises(InvalidInputError, match=r"mine has 1 of 2 cells\. Go on with: textrl"):
        submit(board, "mine", tmp_path / "out.tar.gz")
    edit_json("suite.json", lambda suite: suite.update(seeds=[0]))(board)
    cell = cell_folder(board, "mine", PASSCODE)
    (cell / "manifest.json").write_text(json.dumps({"cpu_seconds": 1.0}))
    with pytest.raises(InvalidInputError, match=r"manifest.json: .* Remove that cell"):
        submit(board, "mine", tmp_path / "out.tar.gz")
