"""manifest.json: where, when, by which code and how fast. The one file with a clock in it."""

import functools
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from textrl_benchmarks.leaderboard.cell import sha256

__all__ = ["Stopwatch", "manifest"]

PACKAGES = ("textrl-envs", "gymnasium", "numpy", "safetensors", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """When something began: by the calendar, and by two clocks that only go forward."""

    start: datetime = field(default_factory=lambda: datetime.now(UTC))
    wall: float = field(default_factory=time.monotonic)
    cpu: float = field(default_factory=time.process_time)

    def read(self) -> dict[str, Any]:
        """Returns start, end, and the seconds between: by the wall, and of all threads."""
        return {
            "start": self.start.isoformat(timespec="seconds"),
            "end": datetime.now(UTC).isoformat(timespec="seconds"),
            "wall_seconds": round(time.monotonic() - self.wall, 3),
            "cpu_seconds": round(time.process_time() - self.cpu, 3),
        }


def manifest(watch: Stopwatch, *, threads: int, argv: Sequence[str]) -> dict[str, Any]:
    """Returns the manifest of a cell that ends now.

    Args:
        watch: made when it began.
        threads: of torch.
        argv: the words of the command that asked for it.
    """
    # Of the program its name alone: boards are published, and where it lies is nobody's business.
    words = [Path(word).name for word in argv[:1]] + list(argv[1:])
    return {**_place(), "threads": threads, "argv": words, **watch.read()}


@functools.cache
def _place() -> Mapping[str, Any]:
    """Returns what does not change while a process lives."""
    return {
        "git": _git(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "pip_freeze_sha256": sha256(_freeze().encode()),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "gpu": _gpu(),
    }


def _git() -> dict[str, Any] | None:
    """Returns commit and state of the repository that this file is tracked in, if it is in one.

    A package installed below somebody else's repository is not of that repository's commit.
    """
    here = Path(__file__)
    if _output("git", "ls-files", "--error-unmatch", here.name) is None:
        return None
    status = _output("git", "status", "--porcelain", "--untracked-files=no")
    return {"commit": _output("git", "rev-parse", "HEAD"), "is_dirty": bool(status)}


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return None
    return done.stdout.strip()


def _freeze() -> str:
    """Returns name==version of all that is installed, a line each, sorted: much as pip freeze."""
    found = {f"{one.name}=={one.version}" for one in distributions()}
    return "\n".join(sorted(found, key=str.lower))


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
