"""Writes docs/imitation.md: demonstrations against reward on Imitate-v0, at equal compute.

    python -m textrl_benchmarks.imitation_page [run | write]

"run" makes the runs that benchmarks/results/imitation.json lacks, "write" writes tables and picture
from those there are, and without a word both are done.

Compute is counted in token forwards: reading a response token once is 1, reading it and going back
for its gradient 3. A token that is sampled and trained on in four epochs is so 13. Prompts, what
the reference reads, and the evaluation at the end are left out, for all alike.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch

import textrl_agents
from textrl_benchmarks.evaluation import evaluate
from textrl_benchmarks.marked_page import replaced, table
from textrl_benchmarks.plot import save_figure
from textrl_envs.files import read_json
from textrl_envs.wrappers.vector import KLPenalty

if TYPE_CHECKING:
    from textrl_agents.cloning import Cloning
    from textrl_agents.policies import Policy
    from textrl_agents.ppo import PPO

__all__ = ["METHODS", "Run", "main", "run_missing", "scores", "train"]

ENVIRONMENT = "textrl/Imitate-v0"
COUNTS = (10, 100, 1_000, 10_000)
"""Demonstrations."""
SEEDS = (0, 1, 2)
"""Each has demonstrations of its own, too."""
BUDGET = 2_000_000
"""Token forwards of a run."""
MORE = 8_000_000
"""Of two runs more, from the most demonstrations with the first seed: what the budget decides."""
PATIENCE = 100
"""Iterations of cloning, of up to 256 demonstrations, without a smaller held-out loss."""
EPISODES = 2048
"""Of an evaluation."""
TRAINED = 3
"""Token forwards that a trained token is worth: its own, and twice as much for the gradient."""
RESULTS = Path("benchmarks/results/imitation.json")
PAGE, PICTURE = Path("docs/imitation.md"), Path("docs/images/imitation.png")

Results = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Run:
    """One training."""

    method: str
    demonstrations: int
    seed: int
    budget: int = BUDGET

    @property
    def key(self) -> str:
        """Its name among the results."""
        return f"{self.method}, {self.demonstrations}, seed {self.seed}, {self.budget} forwards"


class Training:
    """A policy in its environment, and what was spent on it.

    Args:
        run: says which demonstrations, and the seed.
    """

    def __init__(self, run: Run) -> None:
        self.envs: Any = gym.make_vec(
            ENVIRONMENT,
            num_envs=64,
            demonstrations=run.demonstrations,
            demonstration_seed=run.seed,
        )
        self.seed = run.seed
        self.policy: Policy | None = None
        self.forwards = 0.0

    def clone(self, budget: float) -> None:
        """Clones until held-out demonstrations become less likely, or that much is spent."""
        agent: Cloning = self._make("supervised", patience=PATIENCE)
        agent.learn(self.envs, total_tokens=0)  # nothing is read yet but how they are divided
        read = min(agent.config.episodes_per_batch, len(agent.learnt))
        cost = TRAINED + len(agent.held_out) / read
        agent.learn(self.envs, total_tokens=round(budget / cost))
        self.forwards += TRAINED * agent.tokens + agent.iteration * agent.held_out.num_tokens

    def reinforce(self, budget: float) -> None:
        """Trains by PPO until that much is spent."""
        agent: PPO = self._make("ppo")
        cost = 1 + TRAINED * agent.config.epochs
        agent.learn(self.charged, total_tokens=round(budget / cost))
        self.forwards += cost * agent.tokens

    @property
    def charged(self) -> KLPenalty:
        """The environment, with the KL charged."""
        assert self.policy is not None
        return KLPenalty(self.envs, policy=self.policy)

    def _make(self, name: str, **settings: Any) -> Any:  # noqa: ANN401 - an agent
        agent = textrl_agents.make(
            name, self.envs, policy=self.policy, seed=self.seed, device="cpu", **settings
        )
        self.policy = agent.policy
        return agent


def clone_then_reinforce(training: Training, budget: float) -> None:
    """Spends half the budget at most on cloning, and the rest on PPO."""
    training.clone(budget / 2)
    training.reinforce(budget - training.forwards)


METHODS: dict[str, Callable[[Training, float], None]] = {
    "cloning": Training.clone,
    "cloning, then PPO": clone_then_reinforce,
    "PPO": Training.reinforce,
}


def train(run: Run) -> dict[str, float]:
    """Trains, and returns score, its standard error, reward, KL, token forwards and CPU seconds."""
    training, begin = Training(run), time.process_time()
    METHODS[run.method](training, run.budget)
    seconds = time.process_time() - begin
    found = evaluate(training.policy, training.charged, episodes=EPISODES, seed=run.seed)
    return {
        "normalised_score": found.normalised_score.mean,
        "standard_error": found.normalised_score.standard_error,
        "reward": found.reward.mean,
        "kl": found.kl.mean,
        "forwards": training.forwards,
        "cpu_seconds": round(seconds, 1),
    }


def runs() -> Iterator[Run]:
    """Yields every run; PPO alone is the same whatever was shown, and made once a seed."""
    for seed in SEEDS:
        yield Run("PPO", 2, seed)
        for count in COUNTS:
            for method in METHODS:
                if method != "PPO":
                    yield Run(method, count, seed)
    for method in ("cloning", "cloning, then PPO"):
        yield Run(method, COUNTS[-1], SEEDS[0], MORE)


def run_missing(path: Path = RESULTS) -> None:
    """Makes the runs that have no result yet, and writes each as soon as it is there."""
    results = read_json(path) if path.exists() else {}
    for run in runs():
        if run.key not in results:
            results[run.key] = train(run)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(run.key, results[run.key], flush=True)  # noqa: T201


# --- the page ---


def scores(results: Results, method: str, count: int, field: str) -> list[float]:
    """Returns a number of each seed's run, of those there are."""
    count = 2 if method == "PPO" else count
    keys = [Run(method, count, seed).key for seed in SEEDS]
    return [results[key][field] for key in keys if key in results]


def score_rows(results: Results) -> Iterator[list[str]]:
    """Yields the normalised scores of all seeds: a row a number of demonstrations."""
    for count in COUNTS:
        cells = (scores(results, method, count, "normalised_score") for method in METHODS)
        yield [f"{count:,}", *(", ".join(map(_shown, found)) for found in cells)]


def cost_rows(results: Results) -> Iterator[list[str]]:
    """Yields what a run of each method took on average, and where it ended."""
    for method in METHODS:
        for count in COUNTS if method != "PPO" else (0,):
            fields = ("forwards", "cpu_seconds", "reward", "kl")
            means = [np.mean(scores(results, method, count, field)) for field in fields]
            forwards, seconds, reward, kl = (float(mean) for mean in means)
            shown = "-" if method == "PPO" else f"{count:,}"
            numbers = [f"{forwards:,.0f}", f"{seconds:.0f}", f"{reward:.2f}", f"{kl:.1f}"]
            yield [method, shown, *numbers]


def budget_rows(results: Results) -> Iterator[list[str]]:
    """Yields what the first seed reaches from the most demonstrations, at both budgets."""
    for method in ("cloning", "cloning, then PPO"):
        keys = (Run(method, COUNTS[-1], SEEDS[0], budget).key for budget in (BUDGET, MORE))
        found = [results[key] for key in keys]
        shown = (f"{one['normalised_score']:.3f} ± {one['standard_error']:.3f}" for one in found)
        yield [method, *shown]


def write(path: Path = RESULTS) -> None:
    """Writes tables and picture."""
    results: Results = read_json(path)
    text = PAGE.read_text(encoding="utf-8")
    text = replaced(text, "scores", list(table(["shown", *METHODS], score_rows(results))))
    heads = ["", "shown", "token forwards", "CPU seconds", "reward", "KL (nats)"]
    text = replaced(text, "costs", list(table(heads, cost_rows(results))))
    heads = ["", *(f"{budget:,} forwards" for budget in (BUDGET, MORE))]
    text = replaced(text, "budgets", list(table(heads, budget_rows(results))))
    PAGE.write_text(text, encoding="utf-8")
    plot(results)


def plot(results: Results) -> None:
    """Draws score and reward of each method over the number of demonstrations: means and seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = ("normalised_score", "normalised score"), ("reward", "responses that succeed")
    for place, (field, label) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, 2, place)
        axes.axhline(1, color="#3a7d44", linewidth=1.2, label="optimum")
        axes.axhline(0, color="#888888", linewidth=1, linestyle="--", label="reference")
        for method, color in zip(METHODS, ("#1f6f8b", "#c1440e", "#222222"), strict=True):
            found = [scores(results, method, count, field) for count in COUNTS]
            axes.plot(COUNTS, [np.mean(x) for x in found], "-", color=color, label=method)
            for count, values in zip(COUNTS, found, strict=True):
                axes.plot([count] * len(values), values, ".", color=color, markersize=5)
        axes.set_xscale("log")
        axes.set_xlabel("demonstrations", fontsize=9)
        axes.set_title(label, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if place == 1:
            axes.legend(fontsize=7, frameon=False, loc="lower right")
    save_figure(figure, PICTURE)


def _shown(score: float) -> str:
    return f"{round(score, 2) + 0.0:.2f}"  # never "-0.00"


def main(words: list[str]) -> None:
    """Runs or writes."""
    commands: dict[str, Callable[[], None]] = {"run": run_missing, "write": write}
    if len(words) > 1 or not set(words) <= set(commands):
        raise SystemExit(__doc__)
    torch.set_num_threads(1)
    for word in words or commands:
        commands[word]()


if __name__ == "__main__":
    main(sys.argv[1:])
