"""Policies: Transformers language models with a value head, and small networks over a reference."""

from textrl_agents.policies.base import Policy, PolicyStep, TokenEvaluation
from textrl_agents.policies.causal_lm import CausalLMPolicy
from textrl_agents.policies.fixed import FixedPolicy
from textrl_agents.policies.loading import load_policy, make_policy
from textrl_agents.policies.residual import ResidualPolicy

__all__ = [
    "CausalLMPolicy",
    "FixedPolicy",
    "Policy",
    "PolicyStep",
    "ResidualPolicy",
    "TokenEvaluation",
    "load_policy",
    "make_policy",
]
