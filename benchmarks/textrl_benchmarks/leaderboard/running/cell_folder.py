"""CellFolder: the files of a cell, and the states that they go through. The folder is the truth.

    pending      there is nothing
    running      CELL.partial/    is being written, or was left by a run that was killed
    done         CELL/            spec, manifest, curves, eval, result, and SHA256SUMS of them
    failed       CELL.failed/     spec, manifest and error.json; shown, and never scored

A name without suffix appears by one rename, after every byte has reached the disk.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from textrl_benchmarks.leaderboard.cell import Cell, sha256
from textrl_envs.files import read_json

__all__ = ["CellFolder", "State", "write_sums"]

State = Literal["pending", "running", "done", "failed"]

SUMS = "SHA256SUMS"


class CellFolder:
    """Where a cell's files are.

    Args:
        root: the folder of all suites, `--out`.
        cell: whose files they are.
    """

    def __init__(self, root: Path, cell: Cell) -> None:
        self.cell = cell
        self.path = Path(root) / cell.suite / cell.folder_name
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.failed = self.path.with_name(self.path.name + ".failed")

    @property
    def state(self) -> State:
        """What the names of the folders say."""
        if self.path.is_dir():
            return "done"
        if self.failed.is_dir():
            return "failed"
        return "running" if self.partial.is_dir() else "pending"

    def begin(self) -> Path:
        """Makes an empty folder with spec.json, in place of what an earlier attempt left."""
        self.sweep()
        shutil.rmtree(self.failed, ignore_errors=True)
        self.partial.mkdir(parents=True)
        _write_json(self.partial / "spec.json", self.cell.as_dict())
        return self.partial

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Writes the manifest and the hashes; from now on the cell is done."""
        _write_json(self.partial / "manifest.json", manifest)
        write_sums(self.partial)
        self._publish(self.path)

    def fail(self, error: Mapping[str, str], manifest: Mapping[str, Any]) -> None:
        """Keeps type, message and traceback of an error, with nothing that was half written."""
        self.begin()
        _write_json(self.partial / "manifest.json", manifest)
        _write_json(self.partial / "error.json", error)
        write_sums(self.partial)
        self._publish(self.failed)

    def adopt(self, files: Mapping[str, bytes], state: Literal["done", "failed"]) -> None:
        """Writes the files of a cell that was run elsewhere, hashes included."""
        folder = self.begin()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        self._publish(self.path if state == "done" else self.failed)

    def sweep(self) -> None:
        """Removes what an attempt that did not end has left."""
        if self.partial.exists():
            shutil.rmtree(self.partial)

    def read(self, name: str) -> Any:  # noqa: ANN401 - whatever stands in the file
        """Reads a JSON file of a cell that is done or has failed."""
        return read_json((self.path if self.state == "done" else self.failed) / name)

    def _publish(self, path: Path) -> None:
        for file in self.partial.iterdir():
            _sync(file)
        _sync(self.partial)
        self.partial.rename(path)
        _sync(path.parent)


def write_sums(folder: Path) -> None:
    """Writes SHA256SUMS of all other files of a folder, as `sha256sum -c` reads it."""
    files = sorted(file for file in folder.iterdir() if file.name != SUMS)
    lines = [f"{sha256(file.read_bytes())}  {file.name}\n" for file in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    # As long as it is: a setting that is no JSON shall fail here, and not be written as text.
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
