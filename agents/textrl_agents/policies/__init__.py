"""Policies: Transformers models with a value head, small networks over a reference, tables."""

from textrl_agents.policies.base import Policy, PolicyStep, TokenEvaluation
from textrl_agents.policies.causal_lm import CausalLMPolicy
from textrl_agents.policies.fixed import FixedPolicy
from textrl_agents.policies.loading import load_policy, make_policy
from textrl_agents.policies.lora import Lora, LoraPolicy
from textrl_agents.policies.lstm import LSTMPolicy
from textrl_agents.policies.network import NetworkPolicy
from textrl_agents.policies.residual import ResidualPolicy
from textrl_agents.policies.sampling import Sampling
from textrl_agents.policies.table import TablePolicy

__all__ = [
    "CausalLMPolicy",
    "FixedPolicy",
    "LSTMPolicy",
    "Lora",
    "LoraPolicy",
    "NetworkPolicy",
    "Policy",
    "PolicyStep",
    "ResidualPolicy",
    "Sampling",
    "TablePolicy",
    "TokenEvaluation",
    "load_policy",
    "make_policy",
]
