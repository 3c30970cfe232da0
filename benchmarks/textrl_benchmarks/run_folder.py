"""RunFolder: everything that a training run leaves behind, in one folder.

config.json        what was asked for, the agent's full config, and the versions
curves.csv         one row an iteration; the same bytes for the same seed and threads
timing.csv         seconds and tokens per second of each iteration
checkpoint-N/      the agent after N iterations, the newest one only
samples.jsonl      texts of the reference and of the trained policy
result.json        both evaluated, with standard errors
curves.png         reward, KL and return over tokens
"""

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from textrl_agents.agent import TrainingLog
from textrl_benchmarks.evaluation import Evaluation
from textrl_envs.errors import InvalidInputError
from textrl_envs.files import read_json

__all__ = ["RunFolder"]

PACKAGES = ("textrl-envs", "gymnasium", "numpy", "torch", "transformers")


class RunFolder:
    """One run's files.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path | None, *, name: str) -> "RunFolder":
        """Makes a new folder: `path`, or runs/NAME, runs/NAME-2, ...

        Raises:
            InvalidInputError: the folder holds something, or cannot be written.
        """
        if path is None:
            path, count = Path("runs") / name, 1
            while path.exists():
                count += 1
                path = Path("runs") / f"{name}-{count}"
        elif path.is_file():
            raise InvalidInputError(f"Cannot write the run folder {path}: it is a file.")
        elif path.exists() and any(path.iterdir()):
            raise InvalidInputError(
                f"{path} is not empty. Give another --out, or go on with --resume {path}."
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "config.json").touch()
        except OSError as error:
            raise InvalidInputError(
                f"Cannot write the run folder {path}: {error.strerror}. Give another --out."
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Opens the folder of an earlier run.

        Raises:
            InvalidInputError: there is no run in it.
        """
        if not (path / "config.json").is_file():
            raise InvalidInputError(f"{path} holds no run: there is no config.json in it.")
        return cls(path)

    def write_config(self, options: Mapping[str, Any], agent_config: Any) -> None:  # noqa: ANN401
        """Writes what was asked for."""
        config = {
            "options": dict(options),
            "agent_config": asdict(agent_config),
            "versions": {package: version(package) for package in PACKAGES},
        }
        _write_json(self.path / "config.json", config)

    def options(self) -> dict[str, Any]:
        """Returns what was asked for."""
        config = read_json(self.path / "config.json")
        if not isinstance(config, dict) or "options" not in config:
            raise InvalidInputError(f"{self.path / 'config.json'} is broken: it has no options.")
        options: dict[str, Any] = config["options"]
        for name in ("agent", "environment"):
            if name not in options:
                raise InvalidInputError(f"{self.path / 'config.json'} is broken: it has no {name}.")
        return options

    def save(self, agent: Any) -> None:  # noqa: ANN401 - an agent
        """Writes curves and a checkpoint. The one before stays until the new one is whole."""
        agent.save(self.path / f"checkpoint-{agent.iteration:06d}")
        self.write_curves(agent.log)
        for old in self._checkpoints()[:-1]:
            shutil.rmtree(old)

    def checkpoint(self) -> Path:
        """Returns the newest checkpoint.

        Raises:
            InvalidInputError: there is none.
        """
        found = self._checkpoints()
        if not found:
            raise InvalidInputError(f"{self.path} holds no checkpoint yet.")
        return found[-1]

    def has_checkpoint(self) -> bool:
        """Tells whether there is a checkpoint."""
        return bool(self._checkpoints())

    def write_curves(self, log: TrainingLog) -> None:
        """Writes one row an iteration."""
        partial = self.path / "curves.csv.partial"
        log.write_csv(partial)
        partial.replace(self.path / "curves.csv")

    def add_timing(self, row: Mapping[str, float]) -> None:
        """Appends a row of seconds and rates."""
        path = self.path / "timing.csv"
        is_new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if is_new:
                writer.writeheader()
            writer.writerow(row)

    def write_result(self, evaluations: Mapping[str, Evaluation]) -> None:
        """Writes result.json and samples.jsonl."""
        _write_json(
            self.path / "result.json",
            {name: evaluation.as_dict() for name, evaluation in evaluations.items()},
        )
        with (self.path / "samples.jsonl").open("w", encoding="utf-8") as file:
            for name, evaluation in evaluations.items():
                for sample in evaluation.samples:
                    file.write(json.dumps({"policy": name, **asdict(sample)}) + "\n")

    def _checkpoints(self) -> list[Path]:
        found = self.path.glob("checkpoint-*")
        return sorted(path for path in found if path.suffix != ".partial")


def _write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - anything JSON
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
