"""The picture of a run: reward, KL and regularised return over generated tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from textrl_benchmarks.evaluation import Evaluation
from textrl_envs.optimum import Optimum

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_curves", "save_figure"]


def plot_curves(
    rows: Sequence[Mapping[str, float]],
    evaluations: Mapping[str, Evaluation],
    path: Path,
    *,
    title: str,
    best: Optimum | None = None,
) -> None:
    """Draws the training curves, and each evaluation as a level with its standard error.

    Args:
        rows: of a `TrainingLog`.
        evaluations: name -> evaluation, such as "reference" and "trained".
        path: the picture to write, PNG or SVG.
        title: stands above.
        best: the exact optimum, drawn as a level in each panel.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    figure.suptitle(title, fontsize=10)
    panels = (
        ("reward", "reward", "reward"),
        ("kl", "kl", "KL from the reference (nats)"),
        ("return", "regularised_return", "reward − β KL"),
    )
    tokens = [row["tokens"] for row in rows]
    for place, (column, field, label) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, 3, place)
        axes.plot(tokens, [row[column] for row in rows], color="#1f6f8b", linewidth=1.4)
        for name, color in (("reference", "#888888"), ("trained", "#c1440e")):
            if name in evaluations:
                found = getattr(evaluations[name], field)
                axes.axhline(found.mean, color=color, linewidth=1, linestyle="--")
                low, high = found.mean - found.standard_error, found.mean + found.standard_error
                axes.axhspan(low, high, color=color, alpha=0.2, linewidth=0, label=name)
        if best is not None:
            level = {"reward": best.reward, "kl": best.kl, "return": best.value}[column]
            axes.axhline(level, color="#3a7d44", linewidth=1.2, label="optimum")
        axes.set_title(label, fontsize=9)
        axes.set_xlabel("generated tokens", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.spines[["top", "right"]].set_visible(False)
        if place == 1:
            axes.legend(fontsize=7, frameon=False)
    save_figure(figure, path)


def save_figure(figure: "Figure", path: Path) -> None:
    """Writes a picture, PNG or SVG, without what would differ from version to version."""
    is_svg = path.suffix.lower() == ".svg"
    figure.savefig(path, dpi=160, metadata={"Date" if is_svg else "Software": None})
