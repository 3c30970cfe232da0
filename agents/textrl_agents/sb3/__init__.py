"""Stable-Baselines3 on text environments: its algorithms, unmodified, as agents of this suite.

SB3VecEnv                 the native vector environment, as a VecEnv
TokenEmbeddingExtractor   features from token ids
ReferencePolicy           an ActorCriticPolicy that starts at the environment's reference
SB3PPO, SB3A2C, SB3DQN    the agents `sb3_ppo`, `sb3_a2c` and `sb3_dqn`
"""

from textrl_agents.sb3.agent import SB3A2C, SB3DQN, SB3PPO, SB3Agent
from textrl_agents.sb3.extractor import TokenEmbeddingExtractor
from textrl_agents.sb3.policy import ReferencePolicy
from textrl_agents.sb3.vec_env import SB3VecEnv

__all__ = [
    "SB3A2C",
    "SB3DQN",
    "SB3PPO",
    "ReferencePolicy",
    "SB3Agent",
    "SB3VecEnv",
    "TokenEmbeddingExtractor",
]
