"""Bounds on the optimum of any task with a reference, from samples: never called an optimum.

    lower     J(π) of any policy π
    estimate  β log mean e^{G/β} over episodes of any policy with full support, G = r − β log-ratio;
              consistent, and without variance at π*
    upper     β log of an upper confidence limit of E_ref e^{r/β}, for scores that never exceed a
              known maximum

All are per prompt and then averaged, since J* is a mean of logarithms. For the upper bound an
episode of the reference is accepted with chance e^{(r − r_max)/β}; the number accepted is binomial
with mean n E_ref e^{(r − r_max)/β}, which has an exact confidence limit (Clopper and Pearson 1934).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.base import LanguageModel
from textrl_envs.optimum.roll_out import Played, Sampled, roll_out
from textrl_envs.optimum.solve import task_of
from textrl_envs.task import Task

__all__ = ["Bound", "Bounds", "binomial_upper_limit", "bounds"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bound:
    """A number and its interval of 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What samples tell of J*, the mean over prompts of V*(x)."""

    reference: Bound
    """Mean score of the reference."""
    lower: Bound
    """J of the policy: the optimum is no less."""
    estimate: Bound
    """Importance-sampled V*, ± 1.96 bootstrap errors; biased downwards while samples are few."""
    upper: float | None
    """At most one time in twenty is the optimum more; None without a known maximum score."""
    kl_coefficient: float
    """β."""


def bounds(
    env: Any,  # noqa: ANN401 - a text environment, wrapped or not, or a Task
    *,
    policy: Sampled | None = None,
    episodes: int = 4096,
    seed: int = 0,
    max_score: float | None = None,
    kl_coefficient: float | None = None,
) -> Bounds:
    """Brackets the optimum of an environment by playing in it.

    Args:
        env: has a reference.
        policy: that the lower bound and the estimate are sampled from, the better the tighter; None
            takes the reference.
        episodes: to play by the policy, and again by the reference; at least two a prompt.
        seed: of all sampling.
        max_score: the highest score there can be, for the upper bound.
        kl_coefficient: β; None takes the environment's own.

    Raises:
        InvalidInputError: no reference, β not positive, too few episodes, or a score above
            `max_score`.
    """
    task = task_of(env)
    beta = task.kl_coefficient if kl_coefficient is None else kl_coefficient
    reference = _checked_reference(task, beta, episodes)
    # Noise leaves the mean of a score as it is, but not the mean of its exponential.
    task = replace(task, noise=None)
    by_reference = roll_out(task, reference, episodes, seed=seed)
    played = by_reference if policy is None else roll_out(task, policy, episodes, seed=seed + 1)
    prompts = len(task.prompts)
    rng = np.random.default_rng([seed, 2])
    return Bounds(
        reference=_mean(by_reference.scores),
        lower=_mean(played.returns(beta)),
        estimate=_estimate(played, prompts, beta, rng),
        upper=None if max_score is None else _upper(by_reference, prompts, beta, max_score, rng),
        kl_coefficient=beta,
    )


def binomial_upper_limit(successes: int, trials: int, *, error: float) -> float:
    """Returns the chance p at which so few successes have the probability `error`.

    The one-sided limit of Clopper and Pearson (1934), found by bisection.

    >>> round(binomial_upper_limit(0, 100, error=0.05), 6) == round(1 - 0.05 ** 0.01, 6)
    True
    """
    if successes >= trials:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(successes, trials, middle) > error else (low, middle)
    return high


def _at_most(successes: int, trials: int, chance: float) -> float:
    """Returns the probability of at most so many successes, summed from logarithms."""
    if chance in (0.0, 1.0):
        return 1.0 - chance
    counts = range(successes + 1)
    logs = [
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(chance)
        + (trials - k) * math.log1p(-chance)
        for k in counts
    ]
    return math.fsum(math.exp(x) for x in logs)


def _checked_reference(task: Task, beta: float, episodes: int) -> LanguageModel:
    if task.load_reference is None:
        raise InvalidInputError("Bounds need a reference, and the environment carries none.")
    if not 0 < beta < math.inf:
        raise InvalidInputError(f"kl_coefficient must be positive; got {beta}.")
    if episodes < 2 * len(task.prompts):
        raise InvalidInputError(
            f"episodes must be at least two a prompt, {2 * len(task.prompts)}; got {episodes}."
        )
    return task.load_reference()


def _mean(values: Floats) -> Bound:
    mean = float(values.mean())
    width = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Bound(mean, mean - width, mean + width)


def _estimate(played: Played, prompts: int, beta: float, rng: np.random.Generator) -> Bound:
    exponents = [
        played.returns(beta)[played.prompt_index == prompt] / beta for prompt in range(prompts)
    ]

    def estimate(rows: list[Floats]) -> float:
        return float(np.mean([beta * _log_mean_exp(row) for row in rows]))

    found = estimate(exponents)
    again = [estimate([rng.choice(x, len(x)) for x in exponents]) for _ in range(1000)]
    # Not the quantiles themselves: those of a logarithm of few samples all lie too low.
    width = 1.96 * float(np.std(again))
    return Bound(found, found - width, found + width)


def _upper(
    played: Played, prompts: int, beta: float, max_score: float, rng: np.random.Generator
) -> float:
    if played.scores.max() > max_score:
        raise InvalidInputError(
            f"max_score is {max_score}, but a response scored {played.scores.max():g}. Raise it."
        )
    is_accepted = rng.random(len(played.scores)) < np.exp((played.scores - max_score) / beta)
    limits = []
    for prompt in range(prompts):
        accepted = is_accepted[played.prompt_index == prompt]
        # Each prompt has a share of the error, so that all limits hold together.
        limits.append(
            binomial_upper_limit(int(accepted.sum()), len(accepted), error=0.05 / prompts)
        )
    return float(max_score + beta * np.mean(np.log(limits)))


def _log_mean_exp(values: Floats) -> float:
    top = values.max()
    return float(top + np.log(np.exp(values - top).mean()))
