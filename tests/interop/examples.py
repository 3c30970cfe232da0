"""Runs the programs in `examples/`, as a reader would."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["EXAMPLES", "load_example", "normalised_score", "run_example"]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load_example(name: str) -> ModuleType:
    """Returns an example as a module: it is no package, and is found by its path."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


def run_example(name: str, *words: str, warnings: str = "error") -> str:
    """Returns what an example prints, in a process of its own.

    Args:
        name: of the file, without its ending.
        words: of the command line.
        warnings: what becomes of them: "error", or "default" for a library that warns by itself.
    """
    done = subprocess.run(
        [sys.executable, "-W", warnings, str(EXAMPLES / f"{name}.py"), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def normalised_score(printed: str) -> tuple[float, float]:
    """Returns the score at the end of what an example printed, and its standard error."""
    found = re.search(r"normalised score (-?[\d.]+) ± ([\d.]+)", printed)
    assert found is not None, printed
    return float(found[1]), float(found[2])
