"""Samples on disk: a JSON object a line, gzipped, in bytes that depend on the samples alone."""

import gzip
import json
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from textrl_benchmarks.leaderboard.cell import canonical_json
from textrl_benchmarks.leaderboard.result import Sample
from textrl_envs.errors import InvalidInputError

__all__ = ["read_samples", "rounded", "write_samples"]

DIGITS = 6
"""Significant digits of a number per token."""
LEVEL = 6
"""Of gzip's compression: part of the bytes."""


def rounded(sample: Sample) -> Sample:
    """Returns the sample as it is stored: numbers per token have six significant digits."""
    return replace(
        sample,
        log_probs=_round(sample.log_probs),
        ref_log_probs=None
        if sample.ref_log_probs is None
        else tuple(None if one is None else _significant(one) for one in sample.ref_log_probs),
        values=_round(sample.values),
        advantages=_round(sample.advantages),
    )


def write_samples(samples: Sequence[Sample], path: Path) -> None:
    """Writes samples that are rounded already; neither clock nor file name is in the bytes.

    Raises:
        ValueError: a number that is not finite, which JSON has not.
    """
    lines = b"".join(canonical_json(sample.as_dict()) + b"\n" for sample in samples)
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0, compresslevel=LEVEL) as packed,
    ):
        packed.write(lines)


def read_samples(path: Path) -> list[Sample]:
    """Reads what `write_samples` wrote.

    Raises:
        InvalidInputError: the file is missing or no gzip file, or a line is no sample; the message
            names the line.
    """
    lines = _unpack(path).split(b"\n")
    return [
        _parse(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if number < len(lines) or line  # behind the last end of line is nothing
    ]


def _unpack(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InvalidInputError(
            f"{path} is no whole gzip file: {error}. Restore it, or run its cell again."
        ) from error
    except OSError as error:
        raise InvalidInputError(
            f"Cannot read the samples {path}: {error.strerror}. Give a cell's eval.jsonl.gz."
        ) from error


def _parse(line: bytes, place: str) -> Sample:
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except ValueError as error:
        raise InvalidInputError(f"{place}: not valid JSON ({error}).") from error
    if not isinstance(record, dict):
        raise InvalidInputError(f"{place}: expected an object; got {type(record).__name__}.")
    try:
        sample = Sample.from_dict(record)
    except TypeError as error:
        reason = str(error).partition(" ")[2]  # without "Sample.__init__()"
        raise InvalidInputError(f"{place}: not the fields of a sample: {reason}.") from error
    _check(sample, place)
    return sample


def _check(sample: Sample, place: str) -> None:
    """Raises InvalidInputError unless every field is of its kind, and of the response's length."""
    for name, (is_right, expected) in FIELDS.items():
        value = getattr(sample, name)
        if not is_right(value):
            raise InvalidInputError(f"{place}: {name} must be {expected}; got {value!r:.100}.")
    length = len(sample.response_ids)
    for name in ("tokens", "log_probs", "ref_log_probs", "values", "advantages"):
        value = getattr(sample, name)
        if value is not None and len(value) != length:
            raise InvalidInputError(
                f"{place}: {name} must have an entry for each of the {length} tokens of the "
                f"response; got {len(value)}."
            )


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_optional_number(value: object) -> bool:
    return value is None or _is_number(value)


def _many(is_right: Callable[[object], bool], *, may_miss: bool = False) -> Callable[[Any], bool]:
    def are_right(value: object) -> bool:
        if value is None:
            return may_miss
        return isinstance(value, tuple) and all(is_right(one) for one in value)

    return are_right


FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "prompt_index": (_is_index, "an index"),
    "prompt": (_is_text, "text"),
    "response": (_is_text, "text"),
    "prompt_ids": (_many(_is_index), "token ids"),
    "response_ids": (lambda ids: bool(ids) and _many(_is_index)(ids), "at least one token id"),
    "tokens": (_many(_is_text), "texts"),
    "finish_reason": (lambda value: value in ("stop", "length"), "'stop' or 'length'"),
    "score": (_is_number, "a finite number"),
    "gold": (_is_optional_number, "a finite number or null"),
    "log_probs": (_many(_is_number, may_miss=True), "finite numbers or null"),
    "ref_log_probs": (_many(_is_optional_number, may_miss=True), "numbers and nulls, or null"),
    "values": (_many(_is_number, may_miss=True), "finite numbers or null"),
    "advantages": (_many(_is_number, may_miss=True), "finite numbers or null"),
}


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _round(numbers: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return None if numbers is None else tuple(_significant(one) for one in numbers)


def _significant(value: float) -> float:
    """Rounds to six significant digits; never "-0.0".

    >>> _significant(-1.23456789e-5), _significant(-0.0)
    (-1.23457e-05, 0.0)
    """
    return float(f"{value:.{DIGITS}g}") + 0.0
