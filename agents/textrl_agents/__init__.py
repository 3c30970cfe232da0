"""Agents for text environments: policies, algorithms, supervised training."""

from textrl_agents.agent import Agent, StopTraining, TrainingLog
from textrl_agents.registry import agent_class, agent_names, make

__all__ = ["Agent", "StopTraining", "TrainingLog", "agent_class", "agent_names", "make"]
