"""Writes docs/environments.md and its figures: what each environment is worth, and who learns it.

    python -m textrl_benchmarks.environment_page train     every run, kept in runs/environments
    python -m textrl_benchmarks.environment_page write     the page, from the runs there are

A run that has a result is not made again, so that an interrupted `train` goes on where it was.
"""

import csv
import functools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textrl_benchmarks.commands.environment_options import EnvironmentOptions
from textrl_benchmarks.commands.train import Train
from textrl_benchmarks.marked_page import replaced
from textrl_envs.optimum import Optimum, has_exact_optimum, optimum
from textrl_envs.registration import IDS

__all__ = ["Learner", "Page", "main"]

TOKENS = 100_000
MAX_TABLE = 4_000_000
"""Numbers of a table that is still trained in seconds."""
SEEDS = (0, 1, 2)
RUNS = Path("runs/environments")


@dataclass(frozen=True)
class Learner:
    """A column of the table."""

    name: str
    heading: str
    agent: str
    policy: str = "auto"
    agent_args: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    """Environments that it is tried on; all where empty."""


LEARNERS = (
    Learner("ppo", "PPO", "ppo"),
    Learner("reinforce", "REINFORCE", "reinforce"),
    Learner("table", "PPO, table", "ppo", policy="table"),
    Learner(
        "shown",
        "PPO, demonstrations",
        "ppo",
        agent_args=("demonstration_coefficient=1",),
        only=("textrl/Imitate-v0",),
    ),
    Learner("expert", "expert iteration", "expert_iteration", only=("textrl/Passcode-v0",)),
)


def environments() -> list[str]:
    """Returns the ids that need nothing of the user's."""
    return [name for name, (task, _) in IDS.items() if task != "text_bandit"]


def runs() -> Iterator[tuple[str, Learner, int, Path]]:
    """Yields environment, learner, seed and folder of every run."""
    for learner in LEARNERS:
        for name in environments():
            if learner.only and name not in learner.only:
                continue
            if learner.policy == "table" and not _fits_a_table(name):
                continue
            for seed in SEEDS:
                folder = RUNS / f"{name.rpartition('/')[2]}-{learner.name}-{seed}"
                yield name, learner, seed, folder


def train_all(learners: tuple[str, ...]) -> None:
    """Makes every run of some learners that has no result yet."""
    from textrl_benchmarks.training import complete

    for name, learner, seed, folder in runs():
        if learner.name not in learners:
            continue
        complete(
            Train(
                environment=EnvironmentOptions(env=name),
                agent=learner.agent,
                agent_args=learner.agent_args,
                policy="table" if learner.policy == "table" else "auto",
                total_tokens=TOKENS,
                eval_episodes=2048,
                seed=seed,
                out=folder,
            )
        )


@functools.cache
def _fits_a_table(name: str) -> bool:
    env = gym.make(name)
    if not has_exact_optimum(env):
        return False
    mdp = optimum(env).mdp
    return mdp.limit * mdp.log_ref.size <= MAX_TABLE


# --- the page ---


@dataclass(frozen=True, slots=True)
class Page:
    """Writes the page."""

    docs: Path = field(default=Path("docs"))

    def write(self) -> None:
        """Writes table and figures."""
        images = self.docs / "images" / "environments"
        images.mkdir(parents=True, exist_ok=True)
        rows, figures = [], []
        for name in environments():
            env = gym.make(name)
            best = optimum(env) if has_exact_optimum(env) else None
            beta = env.unwrapped.kl_coefficient  # type: ignore[attr-defined]
            rows.append(self._row(name, beta, best))
            if best is not None:
                short = name.rpartition("/")[2]
                self._curves(name, images / f"{short}.png")
                figures.append(f"![{name}](images/environments/{short}.png)")
        page = self.docs / "environments.md"
        text = replaced(page.read_text(), "table", [*_HEAD, *rows])
        page.write_text(replaced(text, "figures", figures))

    def _row(self, name: str, beta: float, best: Optimum | None) -> str:
        short = name.rpartition("/")[2]
        cells = [f"`{short}`", f"{beta:g}"]
        if best is None:
            cells += ["-"] * 5
        else:
            laws = best.laws()
            low = min(law.scores[0] for law in laws)
            high = max(law.scores[-1] for law in laws)
            cells += [
                f"{best.reference_value:.4f}",
                f"{best.value:.4f}",
                f"{best.reward:.3f}",
                f"{best.kl:.2f}",
                f"[{low:.2g}, {high:.2g}]",
            ]
        for learner in LEARNERS:
            cells.append(self._scores(name, learner))
        return "| " + " | ".join(cells) + " |"

    def _scores(self, name: str, learner: Learner) -> str:
        found = [
            json.loads((folder / "result.json").read_text())["trained"]
            for run_name, run_learner, _, folder in runs()
            if run_name == name and run_learner is learner and (folder / "result.json").exists()
        ]
        if not found:
            return "-"
        scores = [one["normalised_score"]["mean"] for one in found]
        if any(score is None for score in scores):
            scores = [one["regularised_return"]["mean"] for one in found]
        return ", ".join(f"{score:.3f}" for score in scores)

    def _curves(self, name: str, path: Path) -> None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(3.4, 2.1), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(1, color="#3a7d44", linewidth=1.2)
        axes.axhline(0, color="#888888", linewidth=1, linestyle="--")
        colors = {"ppo": "#c1440e", "reinforce": "#1f6f8b", "table": "#8a5fa8"}
        colors |= {"shown": "#222222", "expert": "#222222"}
        named: set[str] = set()
        for run_name, learner, _, folder in runs():
            if run_name != name or not (folder / "curves.csv").exists():
                continue
            tokens, scores = _smooth(_read_curve(folder / "curves.csv"))
            label = learner.heading if learner.name not in named else None
            named.add(learner.name)
            axes.plot(tokens, scores, color=colors[learner.name], linewidth=0.9, label=label)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("generated tokens", fontsize=7)
        axes.set_ylabel("normalised score", fontsize=7)
        axes.set_ylim(-0.35, 1.08)
        axes.tick_params(labelsize=6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=6, frameon=False, loc="best")
        figure.savefig(path, dpi=130, metadata={"Software": None})


_COLUMNS = ("id", "β", "J_ref", "J*", "E r", "KL", "scores")
_HEAD = [
    "| " + " | ".join([*_COLUMNS, *(learner.heading for learner in LEARNERS)]) + " |",
    "|" + "---|" * (len(_COLUMNS) + len(LEARNERS)),
]


def _read_curve(path: Path) -> NDArray[np.float64]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(float(r["tokens"]), float(r["normalised_score"])) for r in csv.DictReader(file)]
    return np.array(rows)


def _smooth(curve: NDArray[np.float64], points: int = 25) -> tuple[list[float], list[float]]:
    """Averages neighbouring batches, so that about 25 points remain."""
    parts = np.array_split(curve, min(points, len(curve)))
    return [float(p[-1, 0]) for p in parts], [float(p[:, 1].mean()) for p in parts]


def main(argv: list[str] | None = None) -> None:
    """Trains or writes."""
    words = sys.argv[1:] if argv is None else argv
    names = tuple(learner.name for learner in LEARNERS)
    if words[:1] == ["train"] and set(words[1:]) <= set(names):
        train_all(tuple(words[1:]) or names)
    elif words == ["write"]:
        Page().write()
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
