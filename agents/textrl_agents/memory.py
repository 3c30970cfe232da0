"""keep_freed_memory: what is freed is used again, and not handed back to the system each time."""

import ctypes
import platform

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Names of <malloc.h>."""


def keep_freed_memory() -> bool:
    """Tells the C library to keep what is freed for the next allocation, in the whole process.

    By itself glibc hands large blocks back, and every page of the next one is fetched from the
    system again: much of the update of a large model, in a virtual machine above all. The process
    then stays as large as it once was.

    Returns:
        Whether there is such a setting here: with glibc, on Linux.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
