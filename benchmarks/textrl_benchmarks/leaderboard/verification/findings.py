"""Findings: what a check looked at, and everything that is not as it should be."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Finding", "Findings", "differences"]

MOST = 5
"""Findings of one file under one name that are kept one by one; the others are counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Args:
        file: which, below the folder that was checked.
        field: where in it.
        expected: what should be there.
        found: what is there.
    """

    file: str
    field: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field}: expected {self.expected}; found {self.found}"


@dataclass(slots=True)
class Findings:
    """The record of a check.

    Args:
        checked: how often each kind of thing was looked at.
        wrong: what is not as it should be.
        notes: what a reader should know, and nothing is wrong with.
    """

    checked: Counter[str] = field(default_factory=Counter)
    wrong: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _kept: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def is_clean(self) -> bool:
        """Tells whether nothing is wrong."""
        return not self.wrong

    def files(self) -> set[str]:
        """Returns the files with which something is wrong."""
        return {finding.file for finding in self.wrong}

    def count(self, what: str, number: int = 1) -> None:
        """Notes that things of a kind were looked at."""
        self.checked[what] += number

    def add(self, file: str, place: str, expected: object, found: object) -> None:
        """Keeps a finding; numbers in `place`, such as a line's, do not make another kind of it."""
        kind = file, place.rpartition(", ")[2]
        self._kept[kind] += 1
        if self._kept[kind] <= MOST:
            self.wrong.append(Finding(file, place, _short(expected), _short(found)))
        elif self._kept[kind] == MOST + 1:
            self.notes.append(f"{file}: more findings like that, of {kind[1]}")

    def expect(self, file: str, place: str, expected: object, found: object) -> bool:
        """Compares, keeps a finding where they differ, and tells whether they are equal."""
        if expected != found:
            self.add(file, place, expected, found)
        return expected == found


def differences(expected: Any, found: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:  # noqa: ANN401
    """Yields where two JSON values differ, with both; floats may differ in their last digits.

    >>> list(differences({"a": [1, 2.0]}, {"a": [1, 3.0], "b": None}))
    [('a.1', 2.0, 3.0), ('b', 'nothing', None)]
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in dict.fromkeys((*expected, *found)):
            parts = expected.get(key, "nothing"), found.get(key, "nothing")
            yield from differences(*parts, f"{place}.{key}" if place else str(key))
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for i, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from differences(one, other, f"{place}.{i}" if place else str(i))
    elif not _are_equal(expected, found):
        yield place, expected, found


def _are_equal(expected: object, found: object) -> bool:
    if isinstance(expected, float) and isinstance(found, float):
        return math.isclose(expected, found, rel_tol=1e-9, abs_tol=1e-9)
    return type(expected) is type(found) and expected == found


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return " ".join(text.split())[:160] or repr(value)
