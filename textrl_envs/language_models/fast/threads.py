"""Who works on what: the loops of C in several threads, and small products in one."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import torch

__all__ = ["in_threads", "threads_for"]

SMALL_PRODUCT = 1 << 22
"""Multiplications, some 40 µs on one core: two wait for each other for as long as they save, and
the one that waits burns its core."""


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Calls work(0) .. work(count - 1) at once, the first in this thread."""
    if count == 1:
        work(0)
        return
    others = [_pool().submit(work, part) for part in range(1, count)]
    try:
        work(0)
    finally:
        wait(others)  # whatever happens: they write into arrays of the caller
    for part in others:
        part.result()


@contextlib.contextmanager
def threads_for(multiplications: int) -> Iterator[None]:
    """Within it torch has one thread, if products are small; else as many as it had.

    Args:
        multiplications: of a product, on an average.
    """
    threads = torch.get_num_threads()
    if threads == 1 or multiplications > SMALL_PRODUCT:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="textrl")
