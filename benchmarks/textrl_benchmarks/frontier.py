"""The picture of a reward-KL frontier: the exact curve, best-of-n, and agents."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from textrl_benchmarks.plot import save_figure
from textrl_envs.optimum import FrontierPoint, Optimum

__all__ = ["plot_frontier"]

SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def plot_frontier(
    best: Optimum,
    path: Path,
    *,
    title: str,
    agents: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> None:
    """Draws the most reward that there is for each KL, and who comes near.

    Args:
        best: the optimum at the environment's β, marked on the curve.
        path: the picture to write, PNG or SVG.
        title: stands above.
        agents: name -> (KL, reward) of each run.
    """
    from matplotlib.figure import Figure

    betas = best.kl_coefficient * np.geomspace(1 / 8, 64, 60)
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*_places(best.frontier(betas.tolist())), color="#3a7d44", label="optimum over β")
    axes.plot(
        *_places(best.best_of(SAMPLES)),
        "o",
        color="#1f6f8b",
        markersize=3,
        label=f"best of n, n to {SAMPLES[-1]:,}",
    )
    axes.plot([best.kl], [best.reward], "*", color="#3a7d44", markersize=11)
    axes.annotate(
        f" β = {best.kl_coefficient:g}", (best.kl, best.reward), fontsize=8, va="top", ha="left"
    )
    for (name, points), marker in zip((agents or {}).items(), "sD^v", strict=False):
        kls, rewards = zip(*points, strict=True)
        axes.plot(kls, rewards, marker, color="#c1440e", markersize=5, label=name)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("KL from the reference (nats)", fontsize=9)
    axes.set_ylabel("reward", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    save_figure(figure, path)


def _places(points: Sequence[FrontierPoint]) -> tuple[list[float], list[float]]:
    return [point.kl for point in points], [point.reward for point in points]
