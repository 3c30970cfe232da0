"""optimum(env): the best that any policy can reach, exactly."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_envs.environments.checks import check_count
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.top_k import TopKModel
from textrl_envs.optimum.dynamic_programming import (
    Expectations,
    expectations,
    optimal_log_probs,
    reward_law,
    soft_values,
)
from textrl_envs.optimum.law import FrontierPoint, RewardLaw
from textrl_envs.optimum.mdp import TextMDP
from textrl_envs.optimum.policy import OptimalPolicy
from textrl_envs.optimum.prefix_tree import build_tree
from textrl_envs.optimum.product import build_product, is_product
from textrl_envs.task import Task

__all__ = ["Optimum", "build_mdp", "has_exact_optimum", "optimum"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The maximum of J(π) = E[score] − β KL(π ‖ π_ref), and the policy that reaches it.

    Shapes: P prompts. The mean is over prompts, as the environment draws them uniformly.
    """

    mdp: TextMDP
    kl_coefficient: float
    """β."""
    values: Floats
    """V*(x) of each prompt, (P,)."""
    at_optimum: Expectations
    """What π* earns, pays in KL, and measures, for each prompt."""
    at_reference: Expectations
    """The same of the reference, whose KL is 0."""
    policy: OptimalPolicy
    """π*: acts, and answers what a language model answers."""

    @property
    def value(self) -> float:
        """J*, the mean of V*(x)."""
        return float(self.values.mean())

    @property
    def reference_value(self) -> float:
        """J of the reference: its mean score."""
        return float(self.at_reference.rewards.mean())

    @property
    def reward(self) -> float:
        """Mean score of π*."""
        return float(self.at_optimum.rewards.mean())

    @property
    def kl(self) -> float:
        """KL(π* ‖ π_ref) of a response, in nats."""
        return max(float(self.at_optimum.kls.mean()), 0.0)  # never less, but for rounding

    def normalise(self, value: float) -> float:
        """Returns the normalised score of a J, (J − J_ref) / (J* − J_ref); NaN if that is 0/0."""
        if not self.is_worth_having:
            return float("nan")
        return (value - self.reference_value) / (self.value - self.reference_value)

    @property
    def is_worth_having(self) -> bool:
        """Tells whether anything is to be gained over the reference."""
        return self.value - self.reference_value > 1e-12

    def laws(self, measure: str | None = None) -> list[RewardLaw]:
        """Returns the distribution of the score under the reference, one a prompt.

        Raises:
            InvalidInputError: an unknown measure, or scores on no lattice.
        """
        if measure is not None and measure not in self.mdp.end_measures:
            raise InvalidInputError(
                f"Unknown measure {measure!r}; there are {sorted(self.mdp.end_measures)}."
            )
        return reward_law(self.mdp, measure)

    def frontier(
        self, kl_coefficients: Sequence[float], *, measure: str | None = None
    ) -> list[FrontierPoint]:
        """Returns reward and KL of the optimum at each β: no policy has more reward for its KL."""
        kl_coefficients = np.asarray(kl_coefficients).tolist()  # numpy's numbers as well
        for beta in kl_coefficients:
            _check_coefficient(beta)
        laws = self.laws(measure)
        return [_mean([law.optimal(beta) for law in laws]) for beta in kl_coefficients]

    def most_reward(self, kl: float) -> float:
        """Returns the most mean score that a policy with this KL can have: the frontier there.

        What an agent without a fixed β, or best-of-n, is to be compared with. Found by bisection
        over log β.

        Args:
            kl: of a response from the reference, in nats. Beyond the KL of the highest scores, more
                of it buys nothing.
        """
        laws = self.laws()
        low, high = np.log(1e-4 * self.kl_coefficient), np.log(1e6 * self.kl_coefficient)
        for _ in range(60):
            middle = (low + high) / 2
            found = _mean([law.optimal(float(np.exp(middle))) for law in laws])
            low, high = (middle, high) if found.kl > kl else (low, middle)
        return _mean([law.optimal(float(np.exp(high))) for law in laws]).reward

    def best_of(self, numbers: Sequence[int], *, measure: str | None = None) -> list[FrontierPoint]:
        """Returns reward and KL of the best of n samples of the reference, for each n, exactly."""
        numbers = np.asarray(numbers).tolist()
        for number in numbers:
            check_count("Each of numbers", number)
        laws = self.laws(measure)
        return [_mean([law.best_of(number) for law in laws]) for number in numbers]


def optimum(env: Any, *, kl_coefficient: float | None = None) -> Optimum:  # noqa: ANN401
    """Solves an environment; the answer is kept, so that asking again costs nothing.

    Args:
        env: a text environment, scalar or vector, wrapped or not, or a `Task`.
        kl_coefficient: β; None takes the environment's own.

    Raises:
        InvalidInputError: no optimum can be computed exactly; `bounds` may serve.
    """
    task = task_of(env)
    beta = task.kl_coefficient if kl_coefficient is None else kl_coefficient
    _check_coefficient(beta)
    return _solve(task, beta)


def task_of(env: Any) -> Task:  # noqa: ANN401 - whatever a user gives
    """Returns the task of a text environment, wrapped or not, or the task itself.

    Raises:
        InvalidInputError: something else.
    """
    task = env if isinstance(env, Task) else getattr(getattr(env, "unwrapped", None), "task", None)
    if not isinstance(task, Task):
        raise InvalidInputError(
            f"Expected a text environment such as gym.make('textrl/Keyword-v0'); got {env!r:.80}."
        )
    return task


def _check_coefficient(beta: float) -> None:
    if not isinstance(beta, int | float) or not 0 < beta < float("inf"):
        raise InvalidInputError(
            f"An optimum needs a positive kl_coefficient, or the policy may leave the reference "
            f"for nothing; got {beta!r}."
        )


def has_exact_optimum(env: Any) -> bool:  # noqa: ANN401 - a text environment or a Task
    """Tells whether `optimum` is meant to succeed, without trying.

    So it is for an n-gram reference with automata, and for a reference that keeps k tokens. Other
    tasks may be small enough too; `optimum` finds out.
    """
    task = task_of(env)
    if task.load_reference is None or task.kl_coefficient <= 0:
        return False
    return is_product(task) or isinstance(task.load_reference(), TopKModel)


@functools.lru_cache(maxsize=8)
def build_mdp(task: Task) -> TextMDP:
    """Builds a task's graph: the product of reference and automata, or the tree of all texts.

    Raises:
        InvalidInputError: there is neither.
    """
    return build_product(task) if is_product(task) else build_tree(task)


@functools.lru_cache(maxsize=8)
def _solve(task: Task, beta: float) -> Optimum:
    mdp = build_mdp(task)
    values = soft_values(mdp, beta)
    return Optimum(
        mdp=mdp,
        kl_coefficient=beta,
        values=values[0, mdp.starts],
        at_optimum=expectations(mdp, optimal_log_probs(mdp, values, beta)),
        at_reference=expectations(mdp, lambda _: mdp.log_ref),
        policy=OptimalPolicy(mdp, values, beta),
    )


def _mean(points: list[FrontierPoint]) -> FrontierPoint:
    return FrontierPoint(
        reward=float(np.mean([point.reward for point in points])),
        kl=float(np.mean([point.kl for point in points])),
        measure=float(np.mean([point.measure for point in points])),
    )
