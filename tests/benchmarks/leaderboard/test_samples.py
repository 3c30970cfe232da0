import gzip
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from textrl_benchmarks.leaderboard.result import Sample
from textrl_benchmarks.leaderboard.samples import read_samples, rounded, write_samples
from textrl_envs.errors import InvalidInputError

SAMPLE = Sample(
    prompt_index=1,
    prompt="tell é\u2028 of",  # U+2028 ends a line for some readers, and not in JSON
    response="x\ny",
    prompt_ids=(4, 5),
    response_ids=(7, 1),
    tokens=("x", "<eos>"),
    finish_reason="stop",
    score=1 / 3,
    gold=None,
    log_probs=(-0.123456789, -0.0),
    ref_log_probs=(None, -1e-9),
    values=(0.5, 123456.789),
    advantages=None,
)


def test_numbers_per_token_have_six_digits_and_the_others_all() -> None:
    found = rounded(SAMPLE)
    assert found.log_probs == (-0.123457, 0.0)
    assert math.copysign(1, found.log_probs[1]) == 1
    assert found.ref_log_probs == (None, -1e-9)
    assert found.values == (0.5, 123457.0)
    assert found.score == 1 / 3
    assert rounded(found) == found


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    samples = [rounded(SAMPLE), rounded(replace(SAMPLE, prompt_index=0, gold=0.25))]
    write_samples(samples, tmp_path / "eval.jsonl.gz")
    assert read_samples(tmp_path / "eval.jsonl.gz") == samples


def test_a_line_is_canonical_json(tmp_path: Path) -> None:
    write_samples([SAMPLE], tmp_path / "a")
    text = gzip.decompress((tmp_path / "a").read_bytes()).decode()
    assert text.endswith("}\n")
    assert text.startswith('{"advantages":null,"finish_reason":"stop","gold":null,')
    assert "é" in text


def test_the_bytes_hang_neither_on_name_nor_on_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_samples([SAMPLE], tmp_path / "a.gz")
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_samples([SAMPLE], tmp_path / "another.gz")
    os.utime(tmp_path / "another.gz", (0, 0))
    first = (tmp_path / "a.gz").read_bytes()
    assert first == (tmp_path / "another.gz").read_bytes()
    assert first[3] == 0  # no flag: no name, no comment
    assert first[4:8] == bytes(4)  # no time


def test_a_number_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_samples([replace(SAMPLE, score=math.nan)], tmp_path / "a")


def written(path: Path, **changes: Any) -> Path:
    """Writes a good line and a changed one."""
    good: dict[str, Any] = json.loads(json.dumps(SAMPLE.as_dict()))
    bad = {key: value for key, value in {**good, **changes}.items() if value != "absent"}
    path.write_bytes(gzip.compress(f"{json.dumps(good)}\n{json.dumps(bad)}\n".encode()))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "absent"}, "not the fields of a sample: missing 1 required .* 'score'"),
        ({"colour": 1}, "not the fields of a sample: got an unexpected .* 'colour'"),
        ({"score": math.nan}, r"not valid JSON \(NaN is no number"),
        ({"score": True}, "score must be a finite number; got True"),
        ({"prompt_index": -1}, "prompt_index must be an index; got -1"),
        ({"response_ids": [], "tokens": []}, "response_ids must be at least one token id"),
        ({"tokens": ["x"]}, "tokens must have an entry for each of the 2 tokens .* got 1"),
        ({"log_probs": [-1.0]}, "log_probs must have an entry for each of the 2 tokens"),
        ({"log_probs": [None, -1.0]}, "log_probs must be finite numbers or null"),
        ({"ref_log_probs": "none"}, "ref_log_probs must be numbers and nulls, or null"),
        ({"finish_reason": "bored"}, "finish_reason must be 'stop' or 'length'; got 'bored'"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "eval.jsonl.gz", **changes)
    with pytest.raises(InvalidInputError, match=rf"eval\.jsonl\.gz, line 2: {message}"):
        read_samples(path)


def test_a_line_that_is_no_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(b"[1]\n"))
    with pytest.raises(InvalidInputError, match="line 1: expected an object; got list"):
        read_samples(path)
    path.write_bytes(gzip.compress(b"\xff\n"))
    with pytest.raises(InvalidInputError, match="line 1: not valid JSON"):
        read_samples(path)


def test_a_file_that_is_no_whole_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(InvalidInputError, match=r"Cannot read the samples .* No such file"):
        read_samples(path)
    path.write_bytes(b"plain text")
    with pytest.raises(InvalidInputError, match="no whole gzip file"):
        read_samples(path)
    write_samples([SAMPLE], path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InvalidInputError, match="no whole gzip file"):
        read_samples(path)
