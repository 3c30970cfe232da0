"""Stable-Baselines3 on text environments: its algorithms, unmodified, as agents of this suite.

SB3VecEnv                 the native vector environment, as a VecEnv
TokenEmbeddingExtractor   features from token ids
ReferencePolicy           an ActorCriticPolicy that starts at the environment's reference
CausalLMPolicy            an ActorCriticPolicy that is a language model, with a memory of each row
NetworkAtReference        makes its network, where it is to start at a reference
EpisodeRolloutBuffer      a rollout buffer that keeps each text once, and gives whole episodes
SB3PPO, SB3A2C, SB3DQN    the agents `sb3_ppo`, `sb3_a2c` and `sb3_dqn`
SB3LanguageModelPPO       the agent `sb3_ppo_lm`
SB3LanguageModelA2C       the agent `sb3_a2c_lm`
"""

from textrl_agents.sb3.agent import SB3Agent
from textrl_agents.sb3.algorithms import SB3A2C, SB3DQN, SB3PPO
from textrl_agents.sb3.causal_lm import CausalLMPolicy, NetworkAtReference
from textrl_agents.sb3.extractor import TokenEmbeddingExtractor
from textrl_agents.sb3.language_model import SB3LanguageModelA2C, SB3LanguageModelPPO
from textrl_agents.sb3.policy import ReferencePolicy
from textrl_agents.sb3.rollout_buffer import EpisodeRolloutBuffer
from textrl_agents.sb3.vec_env import SB3VecEnv

__all__ = [
    "SB3A2C",
    "SB3DQN",
    "SB3PPO",
    "CausalLMPolicy",
    "EpisodeRolloutBuffer",
    "NetworkAtReference",
    "ReferencePolicy",
    "SB3Agent",
    "SB3LanguageModelA2C",
    "SB3LanguageModelPPO",
    "SB3VecEnv",
    "TokenEmbeddingExtractor",
]
