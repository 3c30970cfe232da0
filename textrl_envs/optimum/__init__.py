"""Known optima: the exact best of an environment, or bounds on it.

>>> import gymnasium as gym, textrl_envs
>>> best = optimum(gym.make("textrl/Keyword-v0"))
>>> round(best.reference_value, 3), round(best.value, 3), round(best.kl, 2)
(0.022, 0.62, 3.78)
"""

from textrl_envs.optimum.bounds import Bound, Bounds, bounds
from textrl_envs.optimum.constrained import ConstrainedOptimum, constrained_optimum
from textrl_envs.optimum.law import FrontierPoint, RewardLaw
from textrl_envs.optimum.policy import OptimalPolicy
from textrl_envs.optimum.roll_out import Played, roll_out
from textrl_envs.optimum.solve import Optimum, has_exact_optimum, optimum

__all__ = [
    "Bound",
    "Bounds",
    "ConstrainedOptimum",
    "FrontierPoint",
    "OptimalPolicy",
    "Optimum",
    "Played",
    "RewardLaw",
    "bounds",
    "constrained_optimum",
    "has_exact_optimum",
    "optimum",
    "roll_out",
]
