"""docs/add-an-agent.md, done as it says, with its own code."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from textrl_agents.collector import Collector
from textrl_agents.policies import TablePolicy
from textrl_envs.files import read_json
from textrl_envs.optimum import optimum
from textrl_envs.optimum.dynamic_programming import optimal_log_probs, soft_values
from textrl_envs.wrappers.vector import KLPenalty

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "add-an-agent.md").read_text()
AGENT, LEARNING = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(LINE,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
TRAIN, BOARD = re.findall(r"^textrl (.*)$", PAGE, re.MULTILINE)
PROGRAM = "import sys; from textrl_benchmarks.cli import main; sys.exit(main(sys.argv[1:]))"
BUILD = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
PROJECT = '[project]\nname = "reward-weighted"\nversion = "0.1"\n'
WHEEL = '[tool.hatch.build.targets.wheel]\nonly-include = ["reward_weighted.py"]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the page's file in it, as a user would have."""
    (tmp_path / "reward_weighted.py").write_text(AGENT)
    return tmp_path


def run(folder: Path, *command: str, **variables: str) -> str:
    environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def textrl(folder: Path, *words: str, **variables: str) -> str:
    return run(folder, sys.executable, "-c", PROGRAM, *words, **variables)


def loaded(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("rw", folder / "reward_weighted.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rw"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_file_trains_by_its_name(folder: Path) -> None:
    words = TRAIN.replace("100000", "6000").split()
    textrl(folder, *words, "--eval-episodes=64", "--out=run")
    assert "gradient_norm" in (folder / "run" / "curves.csv").read_text().splitlines()[0]


@pytest.mark.slow
def test_a_table_learns_by_it(folder: Path) -> None:
    printed = run(folder, sys.executable, "-W", "error", "-c", LEARNING)
    score = re.search(r"normalised score ([\d.]+)", printed)
    assert score is not None
    assert 0.65 < float(score[1]) < 1


@pytest.mark.slow
def test_the_line_of_a_distribution_gives_it_a_name(folder: Path) -> None:
    (folder / "pyproject.toml").write_text(BUILD + PROJECT + LINE + WHEEL)
    installed = folder / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    run(folder, *pip, "--target", str(installed), str(folder))
    (folder / "reward_weighted.py").unlink()

    words = ["train", "--agent=reward_weighted", "--total-tokens=6000", "--eval-episodes=64"]
    textrl(folder, *words, "--out=run", PYTHONPATH=str(installed))
    options = read_json(folder / "run" / "config.json")["options"]
    assert options["agent"] == "reward_weighted"


@pytest.mark.slow
def test_it_is_on_the_board(folder: Path) -> None:
    suite = (
        'name = "mine"\nversion = 1\ndescription = "One."\nseeds = [0]\nnum_envs = 64\n'
        'eval_episodes = 64\n[[environments]]\nid = "textrl/Keyword-v0"\nbudget_tokens = 20_000\n'
    )
    (folder / "mine.toml").write_text(suite)
    textrl(folder, *BOARD.replace("quick", "mine.toml").split(), "--out=boards", "--workers=1")
    rows = read_json(folder / "boards" / "mine" / "board.json")["rows"]
    assert {"RewardWeighted", "ppo"} <= {row["agent"] for row in rows}


def test_the_optimum_is_its_fixed_point(folder: Path) -> None:
    """At the optimum all returns of a prompt are equal, so that every weight is 0."""
    envs = gym.make_vec("textrl/Passcode-v0", num_envs=64)  # one prompt: its mean is its own
    policy, best = TablePolicy.of(envs), optimum(envs)
    at = optimal_log_probs(policy.mdp, soft_values(policy.mdp, best.kl_coefficient), 1.0)
    with torch.no_grad():
        for time in range(policy.mdp.limit):
            is_possible = np.isfinite(policy.mdp.log_ref)
            advantages = np.where(is_possible, at(time) - policy.mdp.log_ref, 0)
            policy.table[time] = torch.from_numpy(advantages / best.kl_coefficient)
    agent = loaded(folder).RewardWeighted(policy)
    episodes = Collector(KLPenalty(envs, policy=policy)).collect(policy, 256, seed=[0])
    np.testing.assert_allclose(agent._weights(episodes), 0.0, atol=1e-9)

    # And nowhere else: halfway there, the lucky episodes weigh more.
    with torch.no_grad():
        policy.table.mul_(0.5)
    episodes = Collector(KLPenalty(envs, policy=policy)).collect(policy, 256, seed=[0])
    assert np.ptp(agent._weights(episodes)) > 0.1
