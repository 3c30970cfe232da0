"""Cells on a Ray cluster: the same bytes, and the same care for what dies or raises."""

import importlib.util
import io
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.benchmarks.leaderboard import cheap_cells
from tests.benchmarks.leaderboard.cheap_cells import contents, suite_of, where
from textrl_benchmarks.leaderboard.running.attempt import RUN_CELL
from textrl_benchmarks.leaderboard.running.cell_folder import CellFolder
from textrl_benchmarks.leaderboard.running.executors import ProcessExecutor
from textrl_benchmarks.leaderboard.running.ray_executor import RayExecutor
from textrl_benchmarks.leaderboard.running.runner import Status, run
from textrl_benchmarks.leaderboard.suite import Suite, select
from textrl_envs.errors import InvalidInputError

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is an extra: textrl-envs[ray]"
)
# Ray's own, in the process that begins a cluster.
quiet = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def begin_a_cluster_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever other cluster there is on this machine."""
    monkeypatch.setenv("RAY_ADDRESS", "local")


def run_here(root: Path, suite: Suite, executor: Any, run_one: str) -> Status:
    return run(suite, root, executor, run_one=run_one, console=Console(file=io.StringIO()))


def test_a_missing_ray_is_one_line_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it raises, as if it were not there
    with pytest.raises(InvalidInputError, match=r"pip install 'textrl-envs\[ray\]'") as caught:
        RayExecutor(workers=2)
    assert "\n" not in str(caught.value)


@needs_ray
def test_an_address_where_nobody_answers_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(InvalidInputError, match=f"No Ray cluster answers at .*{address}"):
            next(RayExecutor(workers=2).run([]))


@needs_ray
@quiet
@pytest.mark.slow
def test_a_cluster_of_two_workers_gives_the_bytes_of_processes(tmp_path: Path) -> None:
    suite = select(suite_of(), environments=["Passcode-v0"])
    run_here(tmp_path / "processes", suite, ProcessExecutor(workers=1), RUN_CELL)
    found = run_here(tmp_path / "ray", suite, RayExecutor(workers=2), RUN_CELL)

    assert found.count("done") == len(found.cells) == 9
    assert contents(tmp_path / "ray") == contents(tmp_path / "processes")
    assert not list(tmp_path.glob("ray/*/*.partial"))


@needs_ray
@quiet
@pytest.mark.slow
def test_what_raises_is_kept_and_what_dies_is_retried_and_then_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    suite = select(suite_of(), environments=["Passcode-v0"])
    found = run_here(tmp_path, suite, RayExecutor(workers=2), where(cheap_cells.raise_or_die))

    errors = {cell.agent: CellFolder(tmp_path, cell).read("error.json") for cell in found.failed()}
    assert set(errors) == {"table", "null_echo"}
    assert errors["table"]["message"] == "table cannot play"
    assert errors["null_echo"]["type"] == "WorkerDied"
    assert "WorkerCrashedError after 2 retries" in errors["null_echo"]["message"]
    assert found.count("done") == 7
    assert found.count("done", agent="ppo") == 1
    assert Path("ppo.died").exists()
