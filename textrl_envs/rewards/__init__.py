"""Rewards: one signature, built-in rules and automata, and the way to name one by a string."""

from textrl_envs.rewards.automaton import (
    Automaton,
    AutomatonReward,
    build_automaton,
    ordered_keywords,
)
from textrl_envs.rewards.base import Reward, RewardOutput
from textrl_envs.rewards.loading import load_reward
from textrl_envs.rewards.rules import exact_answer, keywords, regex, response_length, valid_json

__all__ = [
    "Automaton",
    "AutomatonReward",
    "Reward",
    "RewardOutput",
    "build_automaton",
    "exact_answer",
    "keywords",
    "load_reward",
    "ordered_keywords",
    "regex",
    "response_length",
    "valid_json",
]
