"""Files and folders: what a cache needs to know of them."""

from pathlib import Path

__all__ = ["stamp"]


def stamp(path: str | Path) -> tuple[tuple[str, int, int], ...]:
    """Returns what changes when a folder's files change: their names, times in ns and sizes.

    Empty for what is no folder, such as a hub id.
    """
    folder = Path(path)
    if not folder.is_dir():
        return ()
    files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    return tuple((f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in files)
