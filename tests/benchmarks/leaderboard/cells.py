"""Cell folders with chosen scores, whose files are those of a run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textrl_agents.agent import TrainingLog
from textrl_benchmarks.commands.environment_options import make_environment
from textrl_benchmarks.leaderboard.cell import Cell
from textrl_benchmarks.leaderboard.result import Anchors, Sample, summarise
from textrl_benchmarks.leaderboard.running.cell_folder import CellFolder
from textrl_benchmarks.leaderboard.running.contestants import BASELINES
from textrl_benchmarks.leaderboard.samples import rounded, write_samples
from textrl_benchmarks.leaderboard.suite import Suite, SuiteAgent, SuiteEnvironment
from textrl_envs.optimum import optimum

__all__ = [
    "ENVIRONMENTS",
    "KL",
    "OFF",
    "UNKNOWN",
    "cell_of",
    "fail_cell",
    "suite_of",
    "write_all_cells",
    "write_cell",
]

ENVIRONMENTS = ("textrl/Parity-v0", "textrl/Keyword-v0")
OFF, UNKNOWN = "off", "unknown"
"""Instead of a normalised score: the reference never says it; nobody knows how likely it was."""
KL = 0.5
"""Of every cell whose KL is known, in nats."""
PROMPTS = 8


def suite_of(*agents: str, seeds: Sequence[int] = (0, 1, 2), **changes: Any) -> Suite:
    """Returns a suite of two environments, with one tag of their own and one of both."""
    return Suite(
        name="tiny",
        version=1,
        description="Two environments.",
        seeds=tuple(seeds),
        num_envs=4,
        eval_episodes=16,
        environments=tuple(
            SuiteEnvironment(id=env_id, budget_tokens=1000, tags=("both", tag))
            for env_id, tag in zip(ENVIRONMENTS, ("parity", "keyword"), strict=True)
        ),
        agents=tuple(SuiteAgent(name=name, entry="ppo") for name in agents),
        **changes,
    )


def cell_of(suite: Suite, agent: str, env_id: str, seed: int, **changes: Any) -> Cell:
    """Returns the cell of a place."""
    spec = {
        "suite": suite.name,
        "suite_version": suite.version,
        "env_id": env_id,
        "env_sha256": "e",
        "agent": agent,
        "entry": agent if agent in BASELINES else "ppo",
        "entry_version": "v",
        "seed": seed,
        "budget_tokens": 0 if agent in BASELINES else 1000,
        "num_envs": suite.num_envs,
        "eval_episodes": suite.eval_episodes,
    }
    return Cell(**{**spec, **changes})


def write_cell(root: Path, cell: Cell, score: float | str, *, rows: int = 3) -> None:
    """Writes a cell of this normalised score, or one that is `OFF` the reference or `UNKNOWN`."""
    best = optimum(make_environment(cell.env_id, {}, 1))
    anchors = Anchors(
        reference=best.reference_value, optimum=best.value, kl_coefficient=best.kl_coefficient
    )
    folder = CellFolder(root, cell)
    path = folder.begin()
    samples = [rounded(_sample(index, score, anchors, cell)) for index in _order(cell)]
    write_samples(samples, path / "eval.jsonl.gz")
    result = summarise(samples, anchors, tokens=cell.budget_tokens).as_dict()
    (path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    if cell.budget_tokens:
        log = TrainingLog([_row(i, cell.budget_tokens // rows) for i in range(rows)])
        log.write_csv(path / "curves.csv")
    folder.finish({"cpu_seconds": 1.5, "start": "2026-01-01T00:00:00+00:00"})


def fail_cell(root: Path, cell: Cell, message: str = "no more") -> None:
    """Writes a cell that raised."""
    folder = CellFolder(root, cell)
    folder.begin()
    error = {"type": "ValueError", "message": message, "traceback": "Traceback ..."}
    folder.fail(error, {"cpu_seconds": 0.5})


def write_all_cells(
    root: Path, suite: Suite, scores: Mapping[str, Any], *, without: Sequence[str] = ()
) -> None:
    """Writes every cell: scores[agent] is one for all places, or a dict of environments to lists.

    What `scores` does not name of the rows of every board gets its natural score.
    """
    natural = dict.fromkeys(BASELINES, OFF) | {"reference": 0.0, "optimum": 1.0}
    for agent, wanted in {**natural, **scores}.items():
        for env in suite.environments if agent not in without else ():
            for i, seed in enumerate(suite.seeds):
                score = wanted[env.id][i] if isinstance(wanted, dict) else wanted
                write_cell(root, cell_of(suite, agent, env.id, seed), score)


def _order(cell: Cell) -> list[int]:
    """Returns the prompts of the episodes: each once before any again, in an order by seed."""
    rng = np.random.default_rng(cell.seed)
    rounds = cell.eval_episodes // PROMPTS
    return [int(index) for _ in range(rounds) for index in rng.permutation(PROMPTS)]


def _sample(index: int, score: float | str, anchors: Anchors, cell: Cell) -> Sample:
    wish = score if isinstance(score, float) else 0.0
    value = anchors.reference + wish * (anchors.optimum - anchors.reference)
    return Sample(
        prompt_index=index,
        prompt=f"prompt {index} of {cell.env_id}",
        response=f"{cell.agent} {cell.seed}",
        prompt_ids=(index,),
        response_ids=(index % 2, 1),
        tokens=("a", "<eos>"),
        finish_reason="stop",
        score=value + anchors.kl_coefficient * KL,
        log_probs=None if score == UNKNOWN else (-0.25, -0.25),
        ref_log_probs=(None, -0.75) if score == OFF else (-0.5, -0.5),
    )


def _row(iteration: int, tokens: int) -> dict[str, float]:
    score = iteration / 10
    return {
        "iteration": iteration,
        "tokens": (iteration + 1) * tokens,
        "reward": score,
        "kl": float("nan") if iteration == 0 else score,
        "normalised_score": score - 1,
    }
