"""Writes the figures of docs/over-optimisation.md and of the reward-KL frontier.

    python -m textrl_benchmarks.over_optimisation

PPO runs at several β are kept in runs/frontier and not made again. Everything else is exact.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textrl_benchmarks.commands.environment_options import EnvironmentOptions
from textrl_benchmarks.commands.train import Train
from textrl_benchmarks.frontier import plot_frontier
from textrl_benchmarks.run_folder import RunFolder
from textrl_envs.optimum import FrontierPoint, optimum

__all__ = ["fit", "main"]

Floats = NDArray[np.float64]

PROXY, TRADE = "textrl/ProxyReward-v0", "textrl/KLTrade-v0"
FACTORS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""β of the PPO runs, as multiples of the environment's own."""
SAMPLES = tuple(2**power for power in range(17))
TOKENS = 150_000
RUNS, IMAGES = Path("runs/frontier"), Path("docs/images")


def train_at(name: str, factor: float) -> Path:
    """Trains PPO at a multiple of the environment's β, unless it is done; returns the folder."""
    from textrl_benchmarks.training import complete

    folder = RUNS / f"{name.rpartition('/')[2]}-{factor:g}"
    beta = gym.make(name).unwrapped.kl_coefficient * factor  # type: ignore[attr-defined]
    options = EnvironmentOptions(env=name, kl_coefficient=beta)
    complete(Train(environment=options, total_tokens=TOKENS, eval_episodes=2048, out=folder))
    return folder


def reached(folder: Path) -> tuple[float, float]:
    """Returns KL and reward of a run."""
    found = json.loads((folder / "result.json").read_text())["trained"]
    return found["kl"]["mean"], found["reward"]["mean"]


def gold_of(folder: Path, episodes: int = 2048) -> float:
    """Plays a run's agent and returns its mean gold score."""
    from textrl_agents.registry import agent_class
    from textrl_envs.environments.proxy_reward import gold_automaton
    from textrl_envs.optimum import roll_out

    run = RunFolder.open(folder)
    policy = agent_class(run.options()["agent"]).load(run.checkpoint()).policy
    task: Any = gym.make(PROXY).unwrapped
    played = roll_out(task.task, policy, episodes, seed=1)
    automaton = gold_automaton()
    return float(np.mean([automaton.score(ids) for ids in played.response_ids]))


def fit(distance: Floats, gain: Floats, *, form: str) -> tuple[float, float, float]:
    """Fits gain = d (α − β f(d)), f = log for RL and f = d for best-of-n, by least squares.

    The forms of Gao et al. 2022 (arXiv:2210.10760), equation 1.

    Args:
        distance: d = √KL, positive, (n,).
        gain: of the gold score over the reference's, (n,).
        form: "rl" or "best_of_n".

    Returns:
        α, β and the share of the variance that is explained, R².

    >>> d = np.array([1.0, 2.0, 3.0])
    >>> [round(x, 6) for x in fit(d, d * (2 - 0.5 * d), form="best_of_n")]
    [2.0, 0.5, 1.0]
    """
    second = np.log(distance) if form == "rl" else distance
    design = np.stack([distance, -distance * second], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(design, gain, rcond=None)
    residual = gain - design @ np.array([alpha, beta])
    return float(alpha), float(beta), float(1 - residual.var() / gain.var())


def main() -> None:
    """Trains what is missing, draws both figures and prints the fits."""
    trade = optimum(gym.make(TRADE))
    points = [reached(train_at(TRADE, factor)) for factor in FACTORS]
    IMAGES.mkdir(parents=True, exist_ok=True)
    plot_frontier(trade, IMAGES / "frontier.png", title=f"{TRADE}, exact", agents={"PPO": points})

    folders = [train_at(PROXY, factor) for factor in FACTORS]
    agents = [(*reached(folder), gold_of(folder)) for folder in folders]
    proxy = optimum(gym.make(PROXY))
    betas = np.geomspace(2.0, 0.012, 60)
    by_rl = proxy.frontier(betas.tolist(), measure="gold")
    by_samples = proxy.best_of(SAMPLES, measure="gold")
    _plot(by_rl, by_samples, agents, float(proxy.at_reference.measures["gold"].mean()))
    for name, points_of, form in (
        ("optimum over β", by_rl, "rl"),
        ("optimum over β", by_rl, "best_of_n"),
        ("best of n", by_samples[1:], "rl"),
        ("best of n", by_samples[1:], "best_of_n"),
    ):
        start = proxy.at_reference.measures["gold"].mean()
        distance = np.sqrt([point.kl for point in points_of])
        gain = np.array([point.measure for point in points_of]) - start
        alpha, beta, explained = fit(distance, gain, form=form)
        print(f"{name}, form {form}: α {alpha:.3f}, β {beta:.3f}, R² {explained:.3f}")  # noqa: T201
    for title, points_of in (("optimum over β", by_rl), ("best of n", by_samples)):
        best = max(points_of, key=lambda point: point.measure)
        last = points_of[-1]
        print(  # noqa: T201
            f"{title}: gold peaks at {best.measure:.3f} (√KL {best.kl**0.5:.2f}, proxy "
            f"{best.reward:.3f}), ends at {last.measure:.3f} (√KL {last.kl**0.5:.2f}, proxy "
            f"{last.reward:.3f})"
        )
    for factor, (kl, reward, gold) in zip(FACTORS, agents, strict=True):
        print(f"PPO, β x {factor:g}: √KL {kl**0.5:.2f}, proxy {reward:.3f}, gold {gold:.3f}")  # noqa: T201


def _plot(
    by_rl: Sequence[FrontierPoint],
    by_samples: Sequence[FrontierPoint],
    agents: Sequence[tuple[float, float, float]],
    start: float,
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    for place, (title, field) in enumerate((("proxy", "reward"), ("gold", "measure")), start=1):
        axes = figure.add_subplot(1, 2, place)
        for points, color, label in (
            (by_rl, "#3a7d44", "optimum over β, exact"),
            (by_samples, "#1f6f8b", f"best of n to {SAMPLES[-1]:,}, exact"),
        ):
            distance = [max(point.kl, 0.0) ** 0.5 for point in points]
            values = [getattr(point, field) for point in points]
            style = "-" if points is by_rl else "o-"
            axes.plot(distance, values, style, color=color, markersize=3, label=label)
        values = [agent[place] for agent in agents]
        axes.plot([agent[0] ** 0.5 for agent in agents], values, "s", color="#c1440e", label="PPO")
        if field == "measure":
            axes.axhline(start, color="#888888", linestyle="--", linewidth=1, label="reference")
        axes.set_title(f"{title} score", fontsize=10)
        axes.set_xlabel("√KL from the reference (√nats)", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False)
    figure.savefig(IMAGES / "over-optimisation.png", dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
