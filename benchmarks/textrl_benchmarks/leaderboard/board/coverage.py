"""How often the leaderboard's intervals and tests are right, by simulation.

    python -m textrl_benchmarks.leaderboard.board.coverage

prints the tables of docs/leaderboard-statistics.md in under a minute. A run's score is its
environment's mean plus noise of standard deviation 1: normal, or skewed, 1 − Exp(1), as where most
runs end near the best and some fail. Eight environments have means half a deviation apart.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from textrl_benchmarks.leaderboard.board.significance import (
    claim_test,
    prediction_interval,
    ranks,
    welch_power,
)
from textrl_benchmarks.leaderboard.board.statistics import Bootstrap, Scores, iqm

__all__ = ["Noise", "claim_rates", "iqm_coverage", "main", "prediction_coverage", "true_iqm"]

Floats = NDArray[np.float64]

SEEDS = (3, 5, 10, 20)
ENVIRONMENTS = (1, 8)
FRESH = (1, 3, 5)
BOARD = 5
"""Equal agents on a simulated board."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise of mean 0 and standard deviation 1, by its quantile function."""

    name: str
    quantile: Callable[[Floats], Floats]

    def draw(self, rng: np.random.Generator, *shape: int) -> Floats:
        """Draws independent numbers."""
        return self.quantile(rng.random(shape))


NOISES = (
    Noise("normal", lambda u: np.asarray(ndtri(u), np.float64)),
    Noise("skewed", lambda u: 1 + np.log(np.maximum(u, 1e-300))),
)


def means_of(environments: int) -> Floats:
    """Means of the simulated environments, (E,)."""
    return np.arange(environments) / 2


def true_iqm(noise: Noise, environments: int, grid: int = 100_000) -> float:
    """What the IQM is with infinitely many seeds: that of a fine grid of quantiles."""
    quantiles = noise.quantile((np.arange(grid) + 0.5) / grid)
    scores = Scores.of([mean + quantiles for mean in means_of(environments)])
    return float(iqm(scores, scores.weights))


@dataclass(frozen=True, slots=True)
class IqmCoverage:
    """Shares of simulations."""

    percentile: float
    """The plain percentile interval holds the true IQM."""
    expanded: float
    """The expanded one, which the board shows, does."""
    false_ranks: float
    """Boards of equal agents on which any two are called apart."""


def iqm_coverage(
    noise: Noise,
    seeds: int,
    environments: int,
    rng: np.random.Generator,
    *,
    boards: int = 160,
    replicates: int = 1000,
) -> IqmCoverage:
    """Simulates boards of five equal agents; their intervals are looked at one by one."""
    truth = true_iqm(noise, environments)
    is_held, false_ranks = np.zeros((boards, BOARD, 2)), 0
    for board in range(boards):
        values, errors, freedoms = np.zeros((3, BOARD))
        for agent in range(BOARD):
            runs = means_of(environments)[:, None] + noise.draw(rng, environments, seeds)
            drawn = Bootstrap.draw(Scores.of(list(runs)), rng, replicates)
            found = drawn.replicates(iqm)
            for kind, tail in enumerate((0.025, drawn.tail())):
                low, high = np.quantile(found, [tail, 1 - tail])
                is_held[board, agent, kind] = low <= truth <= high
            values[agent] = drawn.point(iqm)
            errors[agent] = drawn.correction * found.std()
            freedoms[agent] = drawn.freedom()
        false_ranks += any(place != (1, BOARD) for place in ranks(values, errors, freedoms))
    percentile, expanded = is_held.mean((0, 1))
    return IqmCoverage(float(percentile), float(expanded), false_ranks / boards)


def prediction_coverage(
    noise: Noise, seeds: int, rng: np.random.Generator, *, simulations: int = 5000
) -> float:
    """Share of prediction intervals that hold a fresh run."""
    runs, fresh = noise.draw(rng, simulations, seeds), noise.draw(rng, simulations)
    found = [prediction_interval(row) for row in runs]
    return float(np.mean([x.low <= y <= x.high for x, y in zip(found, fresh, strict=True)]))


def claim_rates(
    noise: Noise, seeds: int, fresh: int, rng: np.random.Generator, *, simulations: int = 2000
) -> tuple[float, float, float]:
    """Shares of claims that are refuted: honest, and too high by 1 and by 2 deviations."""
    claimed, again = noise.draw(rng, simulations, seeds), noise.draw(rng, simulations, fresh)
    honest, by_one, by_two = (
        np.mean([claim_test(a, b).is_refuted for a, b in zip(claimed + effect, again, strict=True)])
        for effect in (0.0, 1.0, 2.0)
    )
    return float(honest), float(by_one), float(by_two)


def interval_table(rng: np.random.Generator) -> Iterator[str]:
    """Yields the lines of the table of intervals."""
    yield (
        "| scores | environments | seeds | percentile | expanded (the board's) | false ranks "
        "| fresh run in the t prediction interval |"
    )
    yield "|---|---|---|---|---|---|---|"
    for noise, environments, seeds in product(NOISES, ENVIRONMENTS, SEEDS):
        found = iqm_coverage(noise, seeds, environments, rng)
        fresh = _percent(prediction_coverage(noise, seeds, rng)) if environments == 1 else ""
        yield (
            f"| {noise.name} | {environments} | {seeds} | {_percent(found.percentile)} "
            f"| {_percent(found.expanded)} | {_percent(found.false_ranks)} | {fresh} |"
        )


def claim_table(rng: np.random.Generator) -> Iterator[str]:
    """Yields the lines of the table of claims."""
    yield (
        "| scores | seeds claimed | fresh | honest, flagged | +1 sd, caught | +2 sd, caught "
        "| power stated for +1, +2 sd |"
    )
    yield "|---|---|---|---|---|---|---|"
    for noise, seeds, fresh in product(NOISES, SEEDS, FRESH):
        rates = " | ".join(_percent(rate) for rate in claim_rates(noise, seeds, fresh, rng))
        stated = ", ".join(_percent(welch_power(seeds, fresh, effect)) for effect in (1.0, 2.0))
        yield f"| {noise.name} | {seeds} | {fresh} | {rates} | {stated} |"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def main(seed: int = 0) -> None:
    """Prints both tables, in percent."""
    rng = np.random.default_rng(seed)
    for line in (*interval_table(rng), "", *claim_table(rng)):
        print(line)  # noqa: T201 - it is what the command is for


if __name__ == "__main__":
    main()
