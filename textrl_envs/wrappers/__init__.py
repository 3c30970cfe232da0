"""Wrappers of one environment; `textrl_envs.wrappers.vector` has those of a vector environment."""

from textrl_envs.wrappers.kl_charge import AdaptiveCoefficient
from textrl_envs.wrappers.kl_penalty import KLPenalty

__all__ = ["AdaptiveCoefficient", "KLPenalty"]
