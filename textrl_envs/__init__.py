"""Gymnasium environments for reinforcement learning on text. Each token is an action.

>>> import gymnasium as gym, textrl_envs
>>> env = gym.make("textrl/Keyword-v0")
>>> obs, info = env.reset(seed=0)
>>> obs["input_ids"].dtype, env.action_space
(dtype('int64'), Discrete(46))
"""

from textrl_envs.errors import InvalidInputError, RewardError, TextRLError
from textrl_envs.registration import register_all

__all__ = ["InvalidInputError", "RewardError", "TextRLError", "__version__"]
__version__ = "0.1.0"

register_all()
