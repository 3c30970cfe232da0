"""Cells and agents for the tests of one cell."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from textrl_benchmarks.leaderboard.cell import Cell
from textrl_benchmarks.leaderboard.result import Result, Sample
from textrl_benchmarks.leaderboard.running.run_cell import run_cell
from textrl_benchmarks.leaderboard.samples import read_samples
from textrl_envs.files import read_json

CELL = Cell(
    suite="test",
    suite_version=1,
    env_id="textrl/Parity-v0",
    agent="reference",
    entry="reference",
    seed=0,
    budget_tokens=0,
    num_envs=32,
    eval_episodes=128,
)

BIASED = """
import numpy as np
from textrl_agents import TrainingLog

class Biased:
    # The reference's logits and a number for every token; draws from the global generator.
    def __init__(self, envs, rate):
        self.reference, self.rate = envs.unwrapped.reference, rate
        self.bias = np.zeros(self.reference.vocabulary_size)

    @classmethod
    def make(cls, envs, *, seed, device, rate=5.0):
        return cls(envs, rate)

    def next_log_probs(self, obs):
        logits = self.reference.next_log_probs(obs) + self.bias
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def act(self, obs, *, greedy=False):
        steps = np.exp(self.next_log_probs(obs)).cumsum(axis=1)
        return (steps[:, :-1] < np.random.random((len(steps), 1))).sum(axis=1)

    def log_probs(self, obs, actions):
        return self.next_log_probs(obs)[np.arange(len(actions)), actions]

    def learn(self, envs, *, total_tokens, progress=None):
        log, (obs, _) = TrainingLog(), envs.reset(seed=0)
        for step in range(-(-total_tokens // envs.num_envs)):
            actions = self.act(obs)
            obs, rewards, *_ = envs.step(actions)
            np.add.at(self.bias, actions, self.rate * (rewards - rewards.mean()) / len(rewards))
            log.rows.append({"step": step, "reward": float(rewards.mean())})
        return log
"""


def cell(**changes: Any) -> Cell:
    """Returns a cell of the reference on Parity-v0, but for the changes; the row's name follows."""
    if "entry" in changes:
        changes.setdefault("agent", changes["entry"])
    return replace(CELL, **changes)


def run(spec: Cell, folder: Path) -> tuple[Result, list[Sample]]:
    """Runs a cell and reads what it wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    run_cell(spec, folder)
    return Result.from_dict(read_json(folder / "result.json")), read_samples(
        folder / "eval.jsonl.gz"
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of every file in a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def agent_file(folder: Path, text: str = BIASED, name: str = "Biased") -> str:
    """Writes an agent's file and returns its entry."""
    path = folder / "third_party.py"
    path.write_text(text)
    return f"{path}:{name}"
