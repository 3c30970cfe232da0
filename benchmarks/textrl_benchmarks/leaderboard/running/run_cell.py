"""run_cell: trains one agent on one environment with one seed, plays it, and writes what came."""

import contextlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from textrl_benchmarks.commands.environment_options import make_environment
from textrl_benchmarks.leaderboard.cell import Cell
from textrl_benchmarks.leaderboard.fingerprint import check_fingerprint
from textrl_benchmarks.leaderboard.result import Anchors, summarise
from textrl_benchmarks.leaderboard.running.contestants import Contestant, make_contestant
from textrl_benchmarks.leaderboard.running.play import play
from textrl_benchmarks.leaderboard.samples import write_samples
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import optimum

__all__ = ["anchors_of", "make_envs", "run_cell"]

EVALUATION = 4
"""Stands beside the seed in evaluation, as in `textrl_benchmarks.evaluation`, not in training."""
MOST = 1.25
"""Of the budget may be spent: the last batch is finished, however the budget falls."""


def run_cell(cell: Cell, folder: Path) -> None:
    """Writes curves.csv (where something was learnt), eval.jsonl.gz and result.json.

    Their bytes are a function of the cell and the number of threads.

    Args:
        cell: what to run.
        folder: an existing one.

    Raises:
        InvalidInputError: an unknown environment, agent or setting; an environment without exact
            optimum, or other than the cell's; an agent that spent more than 1.25 times its budget.
    """
    if cell.eval_episodes < max(2, cell.num_envs):
        raise InvalidInputError(
            f"eval_episodes must be at least num_envs, {cell.num_envs}, and 2; "
            f"got {cell.eval_episodes}."
        )
    with _global_seed(cell.seed):
        envs = make_envs(cell)
        anchors = anchors_of(envs, cell.env_id)
        if cell.env_sha256:
            check_fingerprint(envs, cell.env_sha256, cell.env_id)
        contestant = make_contestant(
            cell.entry, envs, policy=cell.policy, seed=cell.seed, settings=cell.settings
        )
        tokens = _learn(cell, contestant, envs, folder)
        samples = play(
            contestant,
            make_envs(cell),  # as nobody has left it
            episodes=cell.eval_episodes,
            seed=[cell.seed, EVALUATION],
        )
    write_samples(samples, folder / "eval.jsonl.gz")
    result = summarise(samples, anchors, tokens=tokens)
    text = json.dumps(result.as_dict(), sort_keys=True, indent=2, allow_nan=False)
    (folder / "result.json").write_text(text + "\n", encoding="utf-8")


def make_envs(cell: Cell) -> Any:  # noqa: ANN401 - a vector environment
    """Makes the environment of a cell.

    Raises:
        InvalidInputError: an unknown id, or parameters that it does not take.
    """
    return make_environment(cell.env_id, cell.env_parameters, cell.num_envs)


def anchors_of(envs: Any, name: str) -> Anchors:  # noqa: ANN401 - any text environment
    """Returns the exact values of reference and optimum.

    Args:
        envs: the environment.
        name: of it, for errors.

    Raises:
        InvalidInputError: no optimum is exact, or nothing is to be gained.
    """
    try:
        best = optimum(envs)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"{name} has no exact optimum, and so no normalised score. {error}"
        ) from error
    if not best.is_worth_having:
        raise InvalidInputError(
            f"{name} has nothing to learn: the optimum is worth {best.value}, as the reference."
        )
    return Anchors(
        reference=best.reference_value,
        optimum=best.value,
        kl_coefficient=float(best.kl_coefficient),
    )


def _learn(cell: Cell, contestant: Contestant, envs: Any, folder: Path) -> int:  # noqa: ANN401
    """Trains and writes the curves; returns the tokens that were generated."""
    if cell.budget_tokens == 0:
        return 0
    before: int = envs.unwrapped.tokens_generated
    log = contestant.learn(envs, cell.budget_tokens)
    tokens: int = envs.unwrapped.tokens_generated - before
    if tokens > MOST * cell.budget_tokens:
        raise InvalidInputError(
            f"{cell.agent} generated {tokens:,} tokens; its budget is {cell.budget_tokens:,}, and "
            f"{MOST} times that is the most. Let its batches be smaller, or raise the budget."
        )
    log.write_csv(folder / "curves.csv")
    return tokens


@contextlib.contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seeds the global generators, which other people's agents draw from, and puts them back.

    So a cell does not depend on what its process has run before.
    """
    legacy, plain = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(legacy)  # noqa: NPY002
            random.setstate(plain)
