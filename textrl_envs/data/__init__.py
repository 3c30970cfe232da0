"""Small files that the built-in environments are made of, and the code that makes them.

`python -m textrl_envs.data.build` writes them again; `manifest.json` holds their hashes.
"""

import hashlib
import json
from pathlib import Path

from textrl_envs.errors import InvalidInputError

__all__ = ["FOLDER", "data_file", "data_folder", "sha256"]

FOLDER = Path(__file__).parent


def sha256(path: Path) -> str:
    """Returns the hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def data_file(name: str) -> Path:
    """Returns the path of a shipped file after comparing it with the manifest.

    Raises:
        InvalidInputError: the file is missing or not the one that was shipped.
    """
    path = FOLDER / name
    expected = json.loads((FOLDER / "manifest.json").read_text())["sha256"][name]
    if not path.exists() or sha256(path) != expected:
        raise InvalidInputError(
            f"{path} is not the file that belongs to this version. Install textrl-envs again."
        )
    return path


def data_folder(name: str) -> Path:
    """Returns the path of a shipped folder after comparing its files with the manifest.

    Raises:
        InvalidInputError: one of its files is missing or not the one that was shipped.
    """
    for file in json.loads((FOLDER / "manifest.json").read_text())["sha256"]:
        if file.startswith(f"{name}/"):
            data_file(file)
    return FOLDER / name
