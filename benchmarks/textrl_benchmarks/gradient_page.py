"""Writes the tables of docs/gradients.md: variance by baseline, estimators of the KL, their uses.

    python -m textrl_benchmarks.gradient_page

All of it is enumerated or in closed form, but for one seeded sample. It takes seconds.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from textrl_agents.kl import k1, k2, k3
from textrl_benchmarks.gradient_enumeration import (
    AllResponses,
    gradient_variances,
    kl_gradients,
)
from textrl_benchmarks.marked_page import replaced, table
from textrl_envs.environments import build_task
from textrl_envs.optimum.solve import build_mdp

__all__ = [
    "Estimator",
    "estimators",
    "kl_use_rows",
    "main",
    "sampled_estimators",
    "variance_rows",
    "write",
]

PAGE = Path("docs/gradients.md")
SAMPLES = 1_000_000
SHIFTS = (0.1, 1.0)
"""Means of the second normal distribution."""
ENVIRONMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "Classification": ("classification", {"max_new_tokens": 2}),
    "Parity": ("parity", {"max_new_tokens": 8, "least": 4}),
    "SumVerify": ("sum_verify", {}),
}
"""Heading, task and settings: small enough that every response is written out."""
KL_ENVIRONMENT = ("parity", {"max_new_tokens": 6, "least": 3})
SPREADS = (1.0, 0.1)
"""Deviations of the logits of a policy from those of the reference."""

Floats = NDArray[np.float64]


def all_responses(task: str, settings: dict[str, Any]) -> AllResponses:
    """Writes out every response of an environment."""
    return AllResponses.of(build_mdp(build_task(task, settings)))


# --- variance by baseline ---


def variance_rows() -> dict[str, list[float]]:
    """Returns for each baseline the variance over that without, one prompt and all, by task."""
    rows: dict[str, list[float]] = {}
    for task, settings in ENVIRONMENTS.values():
        found = gradient_variances(all_responses(task, settings))
        for name, traces in found.items():
            relative = [x / none for x, none in zip(traces, found["none"], strict=True)]
            rows.setdefault(name, []).extend(relative)
    return rows


# --- estimators of the KL between normal distributions ---


@dataclass(frozen=True, slots=True)
class Estimator:
    """An estimator of KL(q ‖ p) from one sample of q, over the KL itself."""

    name: str
    mean_shift: float
    """μ: q is N(0, 1), p is N(μ, 1), the KL μ²/2 nats."""
    bias: float
    deviation: float


def estimators(mean_shift: float) -> list[Estimator]:
    """Returns bias and standard deviation in closed form: log q/p is N(μ²/2, μ²) under q."""
    square = mean_shift**2
    deviation_of_k3 = math.sqrt(math.expm1(square) - square)
    return [
        Estimator("k1", mean_shift, 0.0, 2 / mean_shift),
        Estimator("k2", mean_shift, square / 4, math.sqrt(2 + square)),
        Estimator("k3", mean_shift, 0.0, 2 * deviation_of_k3 / square),
    ]


def sampled_estimators(mean_shift: float, *, samples: int, seed: int = 0) -> list[Estimator]:
    """Returns the same from samples, by the code that the agents log with."""
    drawn = np.random.default_rng(seed).normal(size=samples)
    log_ratio = torch.from_numpy(mean_shift**2 / 2 - mean_shift * drawn)
    kl, found = mean_shift**2 / 2, []
    for function in (k1, k2, k3):
        value = function(log_ratio).numpy() / kl
        found.append(
            Estimator(function.__name__, mean_shift, float(value.mean() - 1), float(value.std()))
        )
    return found


# --- what a use of the KL does to the gradient ---


def kl_use_rows() -> tuple[list[float], dict[str, list[float]]]:
    """Returns the KL at each spread; and for each use error, cosine and size, spread by spread.

    They compare the expected gradient with that of the KL; error and size are over its size.
    """
    responses, kls = all_responses(*KL_ENVIRONMENT), []
    rows: dict[str, list[float]] = {}
    shape = responses.mdp.limit, *responses.mdp.log_ref.shape
    away = torch.from_numpy(np.random.default_rng(0).normal(size=shape))
    for spread in SPREADS:
        kl, gradients = kl_gradients(responses, (spread * away).requires_grad_())
        wanted = gradients.pop("KL")
        kls.append(kl)
        for name, found in gradients.items():
            size = np.linalg.norm(found) / np.linalg.norm(wanted)
            error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
            # Of a gradient that is 0 but for rounding there is no direction.
            cosine = found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted)
            numbers = [float(error), float(cosine if size > 1e-9 else np.nan), float(size)]
            rows.setdefault(name, []).extend(numbers)
    return kls, rows


# --- the page ---


def write() -> None:
    """Writes the three tables where the page has places for them."""
    headings = [f"{name}, {which}" for name in ENVIRONMENTS for which in ("given", "all")]
    rows = ([name, *_cells(numbers, "{:.3f}")] for name, numbers in variance_rows().items())
    text = replaced(PAGE.read_text(), "variance", [*table(["baseline", *headings], rows)])
    heads = ["", "KL", "bias", "deviation", "bias, sampled", "deviation, sampled"]
    text = replaced(text, "estimators", [*table(heads, _estimator_rows())])
    kls, uses = kl_use_rows()
    headings = [f"{what}, KL {kl:.2g}" for kl in kls for what in ("error", "cosine", "size")]
    rows = ([name, *_cells(numbers, "{:.2g}")] for name, numbers in uses.items())
    PAGE.write_text(replaced(text, "uses", [*table(["use", *headings], rows)]), encoding="utf-8")


def _estimator_rows() -> Iterator[list[str]]:
    for shift in SHIFTS:
        sampled = sampled_estimators(shift, samples=SAMPLES)
        for exact, drawn in zip(estimators(shift), sampled, strict=True):
            numbers = [exact.bias, exact.deviation, drawn.bias, drawn.deviation]
            name = f"{exact.name}, N(0, 1) and N({shift:g}, 1)"
            yield [name, f"{shift**2 / 2:g}", *_cells(numbers, "{:.4f}")]


def _cells(numbers: list[float], form: str) -> list[str]:
    """Writes numbers; rounding errors, which no two machines have in common, as 0."""
    return ["-" if math.isnan(x) else form.format(x) if abs(x) > 1e-9 else "0" for x in numbers]


def main(argv: list[str] | None = None) -> None:
    """Writes the tables."""
    if sys.argv[1:] if argv is None else argv:
        raise SystemExit(__doc__)
    write()


if __name__ == "__main__":
    main()
