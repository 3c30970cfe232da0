"""Runs: every cell once, whatever is killed, raised or asked for twice."""

import io
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.benchmarks.leaderboard import cheap_cells
from tests.benchmarks.leaderboard.cheap_cells import calls, contents, suite_of, where
from textrl_benchmarks.leaderboard.plan import plan
from textrl_benchmarks.leaderboard.running.attempt import RUN_CELL, Job, attempt
from textrl_benchmarks.leaderboard.running.cell_folder import CellFolder
from textrl_benchmarks.leaderboard.running.executors import ProcessExecutor
from textrl_benchmarks.leaderboard.running.runner import Status, is_at_work, run, status
from textrl_benchmarks.leaderboard.suite import Suite, read_stored_suite, select
from textrl_envs.errors import InvalidInputError

FORK = multiprocessing.get_context("fork")
"""For runs that are killed: importing takes longer than their cells."""
SMALL = select(suite_of(), environments=["Passcode-v0"])
CELLS = 9


def run_here(
    root: Path, suite: Suite = SMALL, *, run_one: Any = cheap_cells.write, **options: Any
) -> tuple[Status, str]:
    """Runs with one worker unless told otherwise; returns the status and what was shown."""
    executor = ProcessExecutor(workers=options.pop("workers", 1), threads=options.get("threads", 1))
    place = run_one if isinstance(run_one, str) else where(run_one)
    console = Console(file=io.StringIO(), width=200)
    found = run(suite, root, executor, run_one=place, console=console, **options)
    assert isinstance(console.file, io.StringIO)
    return found, console.file.getvalue()


def start(root: Path, suite: Suite, run_one: str) -> Any:
    """Runs in a process of its own, with two workers."""
    process = FORK.Process(
        target=lambda: run(
            suite,
            root,
            ProcessExecutor(workers=2),
            run_one=run_one,
            console=Console(file=io.StringIO()),
        )
    )
    process.start()
    return process


def wait_until(is_so: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def test_every_cell_is_run_once_and_never_again(tmp_path: Path) -> None:
    found, shown = run_here(tmp_path)

    assert found.count("done") == CELLS == len(plan(SMALL))
    assert sorted(calls(tmp_path)) == sorted(cell.folder_name for cell in plan(SMALL))
    assert "9 cells planned, 0 of them run before" in shown
    assert "9/9  optimum on textrl/Passcode-v0, seed 0: normalised score 0.000" in shown
    again, shown = run_here(tmp_path, retry_failed=True)
    assert again.count("done") == CELLS
    assert "9 cells planned, 9 of them run before" in shown
    assert len(calls(tmp_path)) == CELLS


def test_a_manifest_says_where_when_and_how(tmp_path: Path) -> None:
    run_here(tmp_path, threads=2, argv=["/some/where/textrl", "leaderboard"])

    folder = CellFolder(tmp_path, plan(SMALL)[0])
    manifest = folder.read("manifest.json")
    assert manifest["threads"] == 2
    assert manifest["argv"] == ["textrl", "leaderboard"]
    assert manifest["packages"]["torch"]
    assert manifest["start"] <= manifest["end"]
    assert manifest["wall_seconds"] >= 0
    assert manifest["cpu_seconds"] >= 0
    assert len(manifest["pip_freeze_sha256"]) == 64
    assert folder.read("result.json")["threads"] == "2"  # OMP_NUM_THREADS in the worker


def test_an_agent_that_raises_is_kept_shown_and_not_run_again(tmp_path: Path) -> None:
    found, shown = run_here(tmp_path, run_one=cheap_cells.raise_for_ppo)

    (failed,) = found.failed()
    assert failed.agent == "ppo"
    assert found.count("done") == CELLS - 1
    error = CellFolder(tmp_path, failed).read("error.json")
    assert error["type"] == "ValueError"
    assert error["message"] == "ppo cannot play textrl/Passcode-v0"
    assert "in raise_for_ppo" in error["traceback"]
    assert "failed: ValueError: ppo cannot play textrl/Passcode-v0" in shown
    assert not (CellFolder(tmp_path, failed).failed / "result.json").exists()

    run_here(tmp_path, run_one=cheap_cells.raise_for_ppo)
    assert len(calls(tmp_path)) == CELLS
    found, _ = run_here(tmp_path, retry_failed=True)
    assert found.count("done") == CELLS
    assert len(calls(tmp_path)) == CELLS + 1


def test_a_worker_that_is_killed_costs_an_attempt_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found, _ = run_here(tmp_path, run_one=cheap_cells.die_once)

    assert found.count("done") == CELLS
    assert Path("ppo.died").exists()


def test_a_cell_whose_workers_always_die_has_failed_of_the_signal(tmp_path: Path) -> None:
    found, _ = run_here(tmp_path, run_one=cheap_cells.die_always, workers=2)

    (failed,) = found.failed()
    error = CellFolder(tmp_path, failed).read("error.json")
    assert error["type"] == "WorkerDied"
    assert error["message"] == "Its worker was ended by SIGKILL in the last of 3 attempts."
    assert calls(tmp_path).count(failed.folder_name) == 3
    assert found.count("done") == CELLS - 1


def test_a_folder_that_cannot_be_written_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run_here(tmp_path, run_one=cheap_cells.fill_the_disk)
    assert len(calls(tmp_path)) == 1


@pytest.mark.slow
def test_order_and_number_of_workers_do_not_change_a_byte(tmp_path: Path) -> None:
    suite = select(suite_of(), agents=["ppo", "table"])
    turned = select(
        Suite.from_dict(
            {
                **suite.as_dict(),
                "environments": suite.as_dict()["environments"][::-1],
                "agents": suite.as_dict()["agents"][::-1],
            }
        )
    )
    run_here(tmp_path / "a", suite, run_one=RUN_CELL)
    run_here(tmp_path / "b", turned, run_one=RUN_CELL, workers=2)

    assert len(contents(tmp_path / "a")) == 18 * 3 + 4
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    process = start(tmp_path, SMALL, where(cheap_cells.write_slowly))
    try:
        wait_until(lambda: is_at_work(tmp_path / "small"))
        with pytest.raises(InvalidInputError, match=f"process {process.pid}.*another --out"):
            run_here(tmp_path)
        wait_until(lambda: status(SMALL, tmp_path).count("running"))
    finally:
        process.join()
    assert process.exitcode == 0
    assert not is_at_work(tmp_path / "small")
    assert sorted(calls(tmp_path)) == sorted(cell.folder_name for cell in plan(SMALL))


def test_ctrl_c_keeps_what_is_done_and_sweeps_the_rest(tmp_path: Path) -> None:
    process = start(tmp_path, SMALL, where(cheap_cells.write_slowly))
    wait_until(lambda: status(SMALL, tmp_path).count("done") >= 2)
    done = {path for path in (tmp_path / "small").iterdir() if (path / "SHA256SUMS").exists()}
    os.kill(process.pid, signal.SIGINT)
    process.join(20)

    assert process.exitcode == 1  # KeyboardInterrupt, which the command turns into 130
    assert not list((tmp_path / "small").glob("*.partial"))
    found, _ = run_here(tmp_path)
    assert found.count("done") == CELLS
    assert all(path.exists() for path in done)


def test_a_rival_adds_cells_and_changes_none(tmp_path: Path) -> None:
    run_here(tmp_path)
    before = contents(tmp_path)

    found, _ = run_here(tmp_path, select(SMALL, rivals=["reinforce"]))

    after = contents(tmp_path)
    assert found.count("done") == CELLS + 1
    assert before.items() <= after.items()
    assert len(calls(tmp_path)) == CELLS + 1
    stored = read_stored_suite(tmp_path, "small")
    assert [agent.name for agent in stored.agents] == ["ppo", "table", "reinforce"]


def test_an_agent_that_is_edited_in_mid_run_does_not_take_the_old_ones_place(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from textrl_agents.ppo import PPO\n\nclass Mine(PPO):\n    name = 'mine'\n")
    suite = select(suite_of(agents=[]), environments=["Passcode-v0"], rivals=[f"{path}:Mine"])
    (cell,) = [cell for cell in plan(suite) if cell.agent == "Mine"]
    path.write_text(path.read_text() + "# edited\n")
    outcome = attempt(Job(cell=cell, root=tmp_path, run_one=where(cheap_cells.write)))

    assert outcome.state == "failed"
    assert "changed since the run began" in outcome.message
    assert not calls(tmp_path)


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_the_same_bytes_and_repeat_nothing(
    tmp_path: Path,
) -> None:
    suite = suite_of(seeds=[0, 1])
    run_here(tmp_path / "whole", suite, run_one=RUN_CELL)
    rng, root, begun = random.Random(0), tmp_path / "killed", 0
    finished: dict[Path, int] = {}
    for kill in range(10):
        process = start(root, suite, RUN_CELL)
        is_early = kill % 5 < 3  # at any time since the start
        if kill % 5 == 3:  # while the first cells are run
            wait_until_cells_run(root, process)
        elif kill % 5 == 4:  # when one more is done, and others are on their way
            wait_until(lambda: len(done(root)) > len(finished) or not process.is_alive())  # noqa: B023
        time.sleep(rng.uniform(0, 2 if is_early else 0.6))
        process.kill()
        process.join()
        begun += bool(list(root.glob("*/*.partial")))
        finished = check_kept(root, finished)

    assert begun >= 2, "the kills fell between the cells, and tested nothing"
    assert 0 < len(finished) < len(plan(suite))
    found, _ = run_here(root, suite, run_one=RUN_CELL)

    check_kept(root, finished)
    assert found.count("done") == len(plan(suite)) == 36
    assert not list(root.glob("*/*.partial"))
    assert contents(root) == contents(tmp_path / "whole")


def wait_until_cells_run(root: Path, process: Any) -> None:
    wait_until(lambda: list(root.glob("*/*.partial")) or not process.is_alive())


def done(root: Path) -> list[Path]:
    """Returns the manifest of every cell that is done."""
    return [path for path in root.glob("*/*/manifest.json") if not path.parent.suffix]


def check_kept(root: Path, before: dict[Path, int]) -> dict[Path, int]:
    """Returns the manifest of every cell that is done, and checks that the earlier are the same."""
    found = {path: path.stat().st_ino for path in done(root) if json.loads(path.read_text())}
    assert before.items() <= found.items()
    return found
