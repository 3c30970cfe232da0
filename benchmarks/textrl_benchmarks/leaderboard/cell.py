"""Cell: one agent on one environment with one seed; what it is called follows from what it is."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self

__all__ = ["Cell", "canonical_json", "sha256"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The spec of a run. Neither clock nor machine is in it, so equal specs are equal runs.

    Args:
        suite: name of the suite.
        suite_version: its version.
        env_id: such as "textrl/Keyword-v0".
        env_parameters: what `gym.make_vec` is given beside the id.
        env_sha256: of what the environment is made of (`environments.fingerprint`).
        agent: the name of its row on the board.
        entry: what `textrl_agents.make` is asked for: a name, or `path/to/file.py:MyAgent`.
        entry_version: distribution and version of an installed agent, SHA-256 of a file.
        policy: "auto", "table", "lstm" or a Transformers folder.
        settings: the agent's config as given.
        seed: of training and of evaluation.
        budget_tokens: generated tokens it may learn from; 0 for what does not learn.
        num_envs: rows that generate at once.
        eval_episodes: evaluation samples.
    """

    suite: str
    suite_version: int
    env_id: str
    env_parameters: dict[str, Any] = field(default_factory=dict)
    env_sha256: str = ""
    agent: str
    entry: str
    entry_version: str = ""
    policy: str = "auto"
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int
    budget_tokens: int
    num_envs: int
    eval_episodes: int

    @property
    def cell_id(self) -> str:
        """SHA-256 of the canonical JSON."""
        return sha256(canonical_json(asdict(self)))

    @property
    def folder_name(self) -> str:
        """The first twelve digits of the id."""
        return self.cell_id[:12]

    def as_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, spec: dict[str, Any]) -> Self:
        """Reads what `as_dict` gave; raises TypeError for other fields."""
        return cls(**spec)


def canonical_json(value: Any) -> bytes:  # noqa: ANN401 - anything JSON
    r"""Returns the one JSON text of a value: sorted keys, no spaces, UTF-8, no NaN.

    >>> canonical_json({"b": 1.0, "a": [None, "é"]})
    b'{"a":[null,"\xc3\xa9"],"b":1.0}'
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def sha256(data: bytes) -> str:
    """Returns the hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()
