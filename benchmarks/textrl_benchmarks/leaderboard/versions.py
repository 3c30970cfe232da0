"""entry_version(entry, policy): what an agent is, since its name does not say it.

A cell holds the version of the distribution that its agent comes from, or the SHA-256 of its file,
and that of the weights that it starts from. So a changed agent makes new cells, and never takes
over the results of the old.
"""

import hashlib
import importlib.util
from importlib.metadata import entry_points, packages_distributions, version
from pathlib import Path

from textrl_agents.registry import GROUP, agent_names
from textrl_benchmarks.leaderboard.cell import canonical_json, sha256
from textrl_envs.errors import InvalidInputError, nearest

__all__ = ["entry_version", "weights_sha256"]


def entry_version(entry: str, policy: str = "auto") -> str:
    """Returns what identifies an agent's code, and the weights that it starts from.

    Args:
        entry: a row of every board, an installed agent, `module:Class` or `path/to/file.py:Class`.
        policy: "auto", "table", "lstm" or a Transformers folder.

    Returns:
        "distribution==version", or "sha256:..." of the one file that holds the class (what that
        file imports is not in it); with " weights-sha256:..." behind it for a folder.

    Raises:
        InvalidInputError: no such agent, module, file or folder.
    """
    code = _code_version(entry)
    if policy in ("auto", "table", "lstm"):
        return code
    return f"{code} weights-sha256:{weights_sha256(Path(policy))}"


def weights_sha256(folder: Path) -> str:
    """Returns the SHA-256 of a Transformers folder's config and weights, and of nothing else.

    Raises:
        InvalidInputError: it holds no safetensors.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise InvalidInputError(
            f"There are no weights (*.safetensors) in the policy folder {folder}. "
            'A policy is "auto", "table", "lstm" or a Transformers folder.'
        )
    files = [*weights, *folder.glob("config.json")]
    return sha256(canonical_json({file.name: _file_sha256(file) for file in files}))


def _code_version(entry: str) -> str:
    if entry in ("reference", "optimum"):
        return f"textrl-envs=={version('textrl-envs')}"
    place, colon, _ = entry.rpartition(":")
    if not colon:
        return _distribution(entry)
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise InvalidInputError(f"There is no file {place}.")
        return f"sha256:{_file_sha256(Path(place))}"
    return _module_version(place)


def _distribution(name: str) -> str:
    for entry in entry_points(group=GROUP):
        if entry.name == name and entry.dist is not None:
            return f"{entry.dist.name}=={entry.dist.version}"
    raise InvalidInputError(f"Unknown agent {name!r}. {nearest(name, agent_names())}")


def _module_version(module: str) -> str:
    """Returns the distribution of a module, or the SHA-256 of its file if it belongs to none."""
    names = packages_distributions().get(module.partition(".")[0])
    if names:
        return f"{names[0]}=={version(names[0])}"
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise InvalidInputError(f"There is no module {module!r}.")
    return f"sha256:{_file_sha256(Path(spec.origin))}"


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
