"""Small loops of C, compiled when a process first needs them: a quarter of a second each."""

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

__all__ = ["compile_library"]

FLAGS = ["-O3", "-march=native", "-shared", "-fPIC"]
# -ffast-math would set a mode of the processor for the whole process; these do not.
FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"]
FLAGS += ["-fassociative-math", "-freciprocal-math"]


@functools.cache
def compile_library(name: str, **definitions: int) -> ctypes.CDLL | None:
    """Compiles NAME.c of this folder; returns None where that cannot be done.

    Args:
        name: of the source.
        definitions: macros.
    """
    # CC may have arguments: "ccache gcc", "gcc -m64".
    compiler = shlex.split(
        os.environ.get("CC", "") or shutil.which("cc") or shutil.which("gcc") or ""
    )
    if not compiler or not hasattr(os, "fork"):
        return None
    source = Path(__file__).with_name(f"{name}.c")
    macros = [f"-D{key}={value}" for key, value in definitions.items()]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / f"{name}.so"
        command = [*compiler, *FLAGS, *macros, "-o", str(library), str(source), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True)
            return ctypes.CDLL(str(library))  # it stays loaded when the file is gone
        except (OSError, subprocess.CalledProcessError):
            return None
