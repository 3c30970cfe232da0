"""A complete board of invented numbers, for drawing and for the page's tests. Nothing was run.

Its shape is that of `board.json`; a few responses are hostile on purpose.

    python -m tests.benchmarks.leaderboard.example_board FOLDER    writes FOLDER/index.html
"""

import json
import math
import sys
from itertools import product
from pathlib import Path

import numpy as np

from tests.benchmarks.leaderboard.example_parts import (
    AGENTS,
    ENVIRONMENTS,
    FAILING,
    FIXED,
    HOSTILE,
    JSON,
    PROMPTS,
    STORY,
    TAUS,
    UNKNOWN_KL,
    Environment,
    cell_files,
    digits,
    failure,
)
from textrl_benchmarks.leaderboard.board.page import write_page
from textrl_benchmarks.leaderboard.cell import Cell, sha256

__all__ = ["HOSTILE", "example_board"]


def example_board(
    *, environments: int = 12, agents: int = 12, seeds: int = 5, prompts: int = 6, points: int = 60
) -> JSON:
    """Returns a board; the same for the same arguments."""
    return _Builder(environments, agents, seeds, prompts, points).board()


class _Builder:
    def __init__(self, environments: int, agents: int, seeds: int, prompts: int, points: int):
        self.rng = np.random.default_rng(5)
        self.seeds, self.prompts, self.points = list(range(seeds)), prompts, points
        self.envs = [
            Environment(f"textrl/{name}-v0", tags, top, 2.4, kl)
            for (name, tags), top, kl in zip(
                list(ENVIRONMENTS.items())[:environments],
                self.rng.uniform(0.8, 1.3, environments),
                self.rng.uniform(2, 5, environments),
                strict=True,
            )
        ]
        self.agents = {name: AGENTS[name] for name in list(AGENTS)[:agents]}
        self.names = [*self.agents, *FIXED]
        self.cells: JSON = {}
        self.curves: list[JSON] = []
        self.failures: list[JSON] = []
        self.heat: JSON = {name: {} for name in self.names}

    def board(self) -> JSON:
        for name, env in product(self.names, self.envs):
            self._cells(name, env)
        rows = sorted((self._row(name) for name in self.names), key=_order)
        _rank(rows)
        return {
            "suite": {
                "name": "example",
                "version": 1,
                "description": "Invented numbers, for drawing only: nothing here was run.",
                "seeds": self.seeds,
                "num_envs": 64,
                "eval_episodes": 512,
                "environments": [env.as_dict() for env in self.envs],
            },
            "is_valid": True,
            "problems": [],
            "rows": rows,
            "heat": self.heat,
            "curves": self.curves,
            "profiles": {"taus": TAUS, "agents": {n: self._profile(n) for n in self._scored()}},
            "improvement": {
                a: {b: self._beats(a, b) for b in self._scored() if b != a} for a in self._scored()
            },
            "tags": self._tags(),
            "failures": self.failures,
            "cells": self.cells,
            "samples": {env.id: self._samples(env) for env in self.envs},
            "strangers": ["0123456789ab"],
        }

    # --- cells ---

    def _kind(self, name: str) -> str:
        return "agent" if name in AGENTS else FIXED[name][0]

    def _cells(self, name: str, env: Environment) -> None:
        hardness = 1 - 0.9 * (env.tags == ["exploration"]) * (name != "expert_iteration")
        center = AGENTS[name][2] * hardness if name in AGENTS else FIXED[name][1]
        seeds: list[JSON] = []
        for seed in self.seeds:
            spec = self._spec(name, env, seed)
            if name == FAILING and env is self.envs[-1]:
                self.failures.append(failure(spec))
            else:
                seeds.append(self._cell(spec, env, center))
        known = [one["normalised_score"] for one in seeds if one["normalised_score"] is not None]
        if seeds:
            self.heat[name][env.id] = {
                **_around(known if len(known) == len(seeds) else []),
                "interval": "bootstrap" if len(seeds) >= 5 else "t prediction",
                "seeds": seeds,
            }

    def _spec(self, name: str, env: Environment, seed: int) -> Cell:
        entry, policy, _ = AGENTS.get(name, (name, "auto", 0))
        return Cell(
            suite="example",
            suite_version=1,
            env_id=env.id,
            env_sha256=sha256(env.id.encode()),
            agent=name,
            entry=entry,
            policy=policy,
            settings={"learning_rate": 0.003, "note": HOSTILE[0]} if name == "ppo" else {},
            seed=seed,
            budget_tokens=60_000 if name in AGENTS else 0,
            num_envs=64,
            eval_episodes=512,
        )

    def _cell(self, spec: Cell, env: Environment, center: float) -> JSON:
        rng, is_off = self.rng, math.isinf(center)
        spread = 0.05 if spec.agent in AGENTS else 0.004
        wish = min(center + spread * rng.standard_normal(), 0.995 if center < 1 else 1.0)
        kl = 0.0 if center == 0 else env.best_kl * (1 if center == 1 else rng.uniform(0.6, 1.3))
        score = 0.0 if is_off else min(wish * env.optimum + env.beta * kl, env.score(kl))
        normalised = None if is_off else (score - env.beta * kl) / env.optimum
        is_known = not is_off and spec.agent != UNKNOWN_KL
        record = {
            "seed": spec.seed,
            "normalised_score": digits(normalised) if is_known and normalised is not None else None,
            "is_off_reference": is_off,
            "score": digits(score),
            "kl": digits(kl) if is_known else None,
            "gold": None,
            "length": digits(rng.uniform(4, 18)),
            "distinct": digits(rng.uniform(0.1, 0.9)),
            "commonest": digits(rng.uniform(0.01, 0.3)),
            "cell": spec.folder_name,
        }
        self.cells[spec.folder_name] = cell_files(spec, record, env, is_off)
        if spec.budget_tokens:
            self.curves.append(self._curve(spec, record, env))
        return record

    def _curve(self, spec: Cell, record: JSON, env: Environment) -> JSON:
        tokens = np.linspace(1_000, 60_000, self.points).round().astype(int)
        share = 1 - np.exp(-tokens / 15_000)
        noise = 0.05 * self.rng.standard_normal(self.points)
        end = record["normalised_score"]
        scores = record["score"] * share + noise
        kls = None if record["kl"] is None else record["kl"] * share
        return {
            "agent": spec.agent,
            "env": env.id,
            "seed": spec.seed,
            "cell": spec.folder_name,
            "tokens": tokens.tolist(),
            "normalised_score": [None if end is None else digits(end * s) for s in share + noise],
            "score": [digits(one) for one in scores],
            "kl": [None] * self.points if kls is None else [digits(one) for one in kls],
        }

    # --- aggregates ---

    def _values(self, name: str) -> list[float]:
        """One value a cell, cut at -1; empty where a KL is unknown."""
        seeds = [one for cell in self.heat[name].values() for one in cell["seeds"]]
        if name == UNKNOWN_KL:
            return []
        raw = [one["normalised_score"] for one in seeds]
        return [-1.0 if one is None else max(one, -1.0) for one in raw]

    def _scored(self) -> list[str]:
        return [name for name in self.names if self._values(name)]

    def _row(self, name: str) -> JSON:
        values = sorted(self._values(name))
        quarter = len(values) // 4
        done = [one for cell in self.heat[name].values() for one in cell["seeds"]]
        failed = sum(one["agent"] == name for one in self.failures)
        kls = [one["kl"] for one in done if one["kl"] is not None]
        entry, policy, _ = AGENTS.get(name, (name, "auto", 0))
        return {
            "agent": name,
            "kind": self._kind(name),
            "entry": entry,
            "policy": policy,
            "settings": {"learning_rate": 0.003} if name == "ppo" else {},
            "rank_low": None,
            "rank_high": None,
            "iqm": _around(values[quarter : len(values) - quarter]),
            "mean": _around(values),
            "median": _around([float(np.median(values))] if values else []),
            "optimality_gap": _around([1 - value for value in values]),
            "score": _around([one["score"] for one in done]),
            "kl": _around(kls if len(kls) == len(done) else []),
            "cells_done": len(done),
            "cells_planned": len(done) + failed,
            "cells_failed": failed,
            "seeds": self.seeds,
            "tokens": 61_440 * len(done) if name in AGENTS else 0,
            "cpu_seconds": digits(len(done) * (38.2 if name in AGENTS else 1.3)),
            "marks": self._marks(name, failed, len(done) + failed),
        }

    def _marks(self, name: str, failed: int, planned: int) -> list[str]:
        strayed = [env for env, cell in self.heat[name].items() if cell["value"] is None]
        return [
            *([f"{failed} of {planned} cells failed"] if failed else []),
            *(["its KL is unknown"] if name == UNKNOWN_KL else []),
            *(f"off the reference on {env}" for env in strayed if name != UNKNOWN_KL),
        ]

    def _profile(self, name: str) -> JSON:
        values = np.array(self._values(name))
        share = [(values > tau).mean() for tau in TAUS]
        return {
            "value": [digits(one) for one in share],
            "low": [digits(max(one - 0.05, 0)) for one in share],
            "high": [digits(min(one + 0.05, 1)) for one in share],
        }

    def _beats(self, a: str, b: str) -> JSON:
        ours, theirs = np.array(self._values(a))[:, None], np.array(self._values(b))[None]
        value = (ours > theirs).mean() + 0.5 * (ours == theirs).mean()
        return {
            "value": digits(value),
            "low": digits(max(value - 0.06, 0)),
            "high": digits(min(value + 0.06, 1)),
        }

    def _tags(self) -> JSON:
        found: JSON = {}
        tagged = [(env, tag) for env in self.envs for tag in env.tags]
        for env, tag in tagged:
            for name in self._scored():
                value = self.heat[name].get(env.id, {}).get("value")
                found.setdefault(tag, {}).setdefault(name, []).append(
                    -1.0 if value is None else max(value, -1.0)
                )
        return {
            tag: {name: digits(float(np.mean(values))) for name, values in agents.items()}
            for tag, agents in found.items()
        }

    # --- samples ---

    def _samples(self, env: Environment) -> list[JSON]:
        return [
            {
                "prompt_index": index,
                "prompt": text,
                "responses": [
                    self._response(name, env, index, text)
                    for name in self.names
                    if env.id in self.heat[name]
                ],
            }
            for index, text in enumerate(PROMPTS[: self.prompts])
        ]

    def _response(self, name: str, env: Environment, index: int, prompt: str) -> JSON:
        rng, is_first = self.rng, env is self.envs[0] and index == 0
        words = [str(word) for word in rng.choice(STORY.split(), rng.integers(5, 22))]
        tokens = [*(HOSTILE if is_first and name == "ppo" else ()), *words, "<eos>"]
        count = len(tokens)
        ref = [digits(-one) for one in rng.gamma(1.5, 1.4, count)]
        ours = [digits(min(one + rng.normal(0.5, 0.8), -1e-4)) for one in ref]
        is_off, is_known = name == "null_echo", name != UNKNOWN_KL
        learns = name in AGENTS and is_known and AGENTS[name][0] != "expert_iteration"
        return {
            "agent": name,
            "seed": 0,
            "cell": self.heat[name][env.id]["seeds"][0]["cell"],
            "prompt_index": index,
            "prompt": prompt,
            "response": " ".join(tokens[:-1]),
            "prompt_ids": list(range(len(prompt.split()))),
            "response_ids": [int(one) for one in rng.integers(0, 46, count)],
            "tokens": tokens,
            "finish_reason": "stop",
            "score": digits(rng.uniform(0, 1)),
            "gold": None,
            "log_probs": ours if is_known else None,
            "ref_log_probs": [None if is_off and i % 3 == 1 else one for i, one in enumerate(ref)],
            "values": [digits(one) for one in rng.uniform(0, 1, count)] if learns else None,
            "advantages": [digits(one) for one in rng.normal(0, 0.4, count)] if learns else None,
        }


def _around(values: list[float]) -> JSON:
    if not values:
        return {"value": None, "low": None, "high": None}
    mean, error = float(np.mean(values)), 4 * float(np.std(values)) / math.sqrt(len(values))
    return {"value": digits(mean), "low": digits(mean - error), "high": digits(mean + error)}


def _order(row: JSON) -> tuple[bool, float]:
    value = row["iqm"]["value"]
    return value is None, -(value or 0.0)


def _rank(rows: list[JSON]) -> None:
    """Groups agents whose intervals overlap."""
    ranked = [row for row in rows if row["kind"] == "agent" and row["iqm"]["value"] is not None]
    for row in ranked:
        above = sum(other["iqm"]["low"] > row["iqm"]["high"] for other in ranked)
        below = sum(other["iqm"]["high"] < row["iqm"]["low"] for other in ranked)
        row["rank_low"], row["rank_high"] = above + 1, len(ranked) - below


def main(folder: Path) -> None:
    """Writes the board and its page."""
    board = example_board()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "board.json").write_text(json.dumps(board, allow_nan=False))
    write_page(board, folder / "index.html")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
