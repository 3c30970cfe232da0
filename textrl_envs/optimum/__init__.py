"""Known optima: the exact best of an environment, or bounds on it."""

from textrl_envs.optimum.law import FrontierPoint, RewardLaw
from textrl_envs.optimum.policy import OptimalPolicy
from textrl_envs.optimum.solve import Optimum, optimum

__all__ = ["FrontierPoint", "OptimalPolicy", "Optimum", "RewardLaw", "optimum"]
