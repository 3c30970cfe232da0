"""Wrappers of a vector environment; `textrl_envs.wrappers` has those of one environment."""

from textrl_envs.wrappers.kl_charge import AdaptiveCoefficient
from textrl_envs.wrappers.vector.kl_penalty import KLPenalty

__all__ = ["AdaptiveCoefficient", "KLPenalty"]
