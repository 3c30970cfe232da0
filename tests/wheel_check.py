"""Builds the wheel, installs it into an empty environment, and uses it away from the repository.

A script and no test: it needs its own environment, and `make wheel` runs it once.
"""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAST = ROOT / "textrl_envs" / "language_models" / "fast"
LOOPS = sorted(path.name for path in FAST.glob("*.[ch]"))
PROGRAM = f"""
import pathlib
import gymnasium as gym, textrl_envs
env = gym.make("textrl/Keyword-v0")
obs, info = env.reset(seed=0)
assert env.unwrapped.reference.vocabulary_size == env.action_space.n
assert "site-packages" in textrl_envs.__file__, textrl_envs.__file__
package = pathlib.Path(textrl_envs.__file__).parent
fast = package / "language_models" / "fast"
for name in {LOOPS}:
    assert (fast / name).exists(), name
"""


def main() -> None:
    """Builds, installs, runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", name, str(ROOT)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        venv.create(folder / "venv", with_pip=True)
        python = str(folder / "venv" / "bin" / "python")
        constraints = ["--constraint", str(ROOT / "constraints.txt")]
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *constraints, "torch==2.13.0"], check=True)
        wheel = next(folder.glob("*.whl"))
        subprocess.run([*pip, *constraints, str(wheel)], check=True)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        textrl = str(folder / "venv" / "bin" / "textrl")
        for command in (
            [python, "-c", PROGRAM],
            [textrl, "envs"],
            [textrl, "train", "--total-tokens", "2000", "--eval-episodes", "64", "--agent-args",
             "episodes_per_batch=64", "--out", "run"],
            [textrl, "evaluate", "run", "--episodes", "64"],
        ):  # fmt: skip
            subprocess.run(command, check=True, cwd=folder, env=environment)


if __name__ == "__main__":
    main()
