"""Whole runs of `textrl train`, in processes of their own."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = [
    "train",
    "--total-tokens=4000",
    "--num-envs=32",
    "--eval-episodes=64",
    "--checkpoint-seconds=0.001",
    "--agent-args",
    "episodes_per_batch=32",
]


def start(words: list[str], folder: Path, *, hash_seed: str = "0") -> "subprocess.Popen[str]":
    program = "import sys; from textrl_benchmarks.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def results(folder: Path) -> dict[str, bytes]:
    """The files that depend on the seed alone."""
    files = {name: (folder / name).read_bytes() for name in ("curves.csv", "result.json")}
    (checkpoint,) = folder.glob("checkpoint-*")
    weights = checkpoint / "policy" / "residual.safetensors"
    return {**files, "samples": (folder / "samples.jsonl").read_bytes(), "w": weights.read_bytes()}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return folder / "run", finish(start([*SMALL, "--out=run"], folder))


def test_a_run_ends_with_numbers_texts_and_its_folder(whole_run: tuple[Path, str]) -> None:
    folder, printed = whole_run

    assert "reference" in printed
    assert "trained" in printed
    assert "prompt tell of lantern and harbour" in printed
    assert printed.rstrip().endswith("results in run")
    found = json.loads((folder / "result.json").read_text())
    assert found["reference"]["kl"]["mean"] == 0
    assert found["trained"]["reward"]["standard_error"] > 0
    with (folder / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["tokens"]) >= 4000
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((folder / "config.json").read_text())
    assert config["agent_config"]["episodes_per_batch"] == 32
    assert config["versions"]["torch"]


def test_equal_seeds_give_equal_bytes_whatever_the_hash_seed(
    whole_run: tuple[Path, str], tmp_path: Path
) -> None:
    finish(start([*SMALL, "--out=run"], tmp_path, hash_seed="123"))
    assert results(tmp_path / "run") == results(whole_run[0])


@pytest.mark.parametrize("checkpoints", [1, 4])
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(
    whole_run: tuple[Path, str], tmp_path: Path, checkpoints: int
) -> None:
    process = start([*SMALL, "--out=run"], tmp_path)
    wait_for_checkpoint(tmp_path / "run", process, checkpoints)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # closes the pipes
    assert not (tmp_path / "run" / "result.json").exists()

    printed = finish(start(["train", "--resume=run"], tmp_path))

    assert "resumed at" in printed
    assert results(tmp_path / "run") == results(whole_run[0])


def test_an_interrupt_keeps_what_was_learnt_and_says_how_to_go_on(
    whole_run: tuple[Path, str], tmp_path: Path
) -> None:
    process = start([*SMALL, "--out=run"], tmp_path)
    wait_for_checkpoint(tmp_path / "run", process, 2)
    process.send_signal(signal.SIGINT)

    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "go on with: textrl train --resume run" in printed
    finish(start(["train", "--resume=run"], tmp_path))
    assert results(tmp_path / "run") == results(whole_run[0])


def test_evaluate_reads_a_run_folder(whole_run: tuple[Path, str], tmp_path: Path) -> None:
    words = ["evaluate", str(whole_run[0]), "--episodes=64", "--json"]
    found = json.loads(finish(start(words, tmp_path)))
    assert set(found) == {"reference", "trained"}
    assert found["trained"]["kl"]["mean"] > 0


def wait_for_checkpoint(folder: Path, process: "subprocess.Popen[str]", iteration: int) -> None:
    """Waits until that many iterations are kept."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        kept = [p.name for p in folder.glob("checkpoint-??????")]
        if kept and max(kept) >= f"checkpoint-{iteration:06d}":
            return
        time.sleep(0.005)
    raise AssertionError("no checkpoint within two minutes")
