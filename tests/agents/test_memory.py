"""keep_freed_memory: tried in a process of its own, since it is for the whole process."""

import ctypes
import os
import platform
import subprocess
import sys

import pytest

from textrl_agents.memory import keep_freed_memory

ALLOCATE = """
import mmap, resource, sys
import numpy as np
from textrl_agents.memory import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else False

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = np.ones(200_000_000, np.uint8)  # written to, so that every page is fetched
    assert block[-1] == 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
print(kept, first, faults(), 200_000_000 // mmap.PAGESIZE)
"""


def measure(how: str) -> tuple[bool, int, int, int]:
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATE, how],
        capture_output=True,
        text=True,
        check=True,
        # Without huge pages there is a fault for each page; with them, as many as the system likes.
        env={**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"},
    )
    kept, *numbers = done.stdout.split()
    first, second, pages = map(int, numbers)
    return kept == "True", first, second, pages


def test_a_second_large_block_costs_hardly_a_page_fault() -> None:
    kept, first, second, pages = measure("keep")
    if not kept:
        pytest.skip("not glibc: there is nothing to set")
    _, _, plain_second, _ = measure("plain")
    if plain_second < pages // 2:
        pytest.skip("huge pages hide on this system what is counted here")
    assert first > pages // 2  # it was fetched once
    assert second < pages // 100


def test_with_another_c_library_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it must not be opened")

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert keep_freed_memory() is False
