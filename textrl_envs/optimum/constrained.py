"""The constrained optimum: the most reward for its KL, at no more than so much cost.

Maximise E[gain] − β KL subject to E[cost] ≤ limit. For a price λ of a unit of cost the problem is
the usual one with the score gain − λ cost, and its cost falls as λ rises; the right price is found
by bisection. Strong duality holds, since objective and constraint are concave in the distribution
over responses (Altman 1999, "Constrained Markov Decision Processes").
"""

from collections.abc import Callable
from dataclasses import dataclass

from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum.solve import Optimum, optimum
from textrl_envs.task import Task

__all__ = ["ConstrainedOptimum", "constrained_optimum"]


@dataclass(frozen=True, slots=True)
class ConstrainedOptimum:
    """The optimum under a constraint."""

    price: float
    """λ, the price of a unit of cost at which the constraint is just kept; 0 if it binds nobody."""
    cost: float
    """E[cost] of the optimum."""
    value: float
    """E[gain] − β KL of the optimum."""
    priced: Optimum
    """The optimum of gain − λ cost."""


def constrained_optimum(
    task_at: Callable[[float], Task],
    *,
    limit: float,
    measure: str = "cost",
    tolerance: float = 1e-9,
) -> ConstrainedOptimum:
    """Finds the price of cost by bisection.

    Args:
        task_at: price -> the task whose score is gain − price · cost.
        limit: of E[cost].
        measure: name of the cost among the measures of the reward.
        tolerance: width of the interval that the price is found in.

    Raises:
        InvalidInputError: no price under 2^20 brings the cost down to the limit.
    """

    def solved(price: float) -> tuple[Optimum, float]:
        found = optimum(task_at(price))
        return found, float(found.at_optimum.measures[measure].mean())

    low, high = 0.0, 0.0
    found, cost = solved(high)
    while cost > limit:
        low, high = high, max(1.0, 2 * high)
        if high > 2**20:
            raise InvalidInputError(
                f"No price brings the mean {measure} down to {limit}; at {low:g} it is {cost:.3g}. "
                "Raise the limit."
            )
        found, cost = solved(high)
    while high - low > tolerance:
        middle = (low + high) / 2
        found, cost = solved(middle)
        low, high = (middle, high) if cost > limit else (low, middle)
    found, cost = solved(high)
    return ConstrainedOptimum(high, cost, found.value + high * cost, found)
