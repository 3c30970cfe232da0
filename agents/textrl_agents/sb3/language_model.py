"""Stable-Baselines3's PPO and A2C, unmodified, over a language model that reads each token once."""

from typing import Any, ClassVar

from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from textrl_agents.agent import Progress, TrainingLog
from textrl_agents.sb3.agent import SB3ActorCritic
from textrl_agents.sb3.algorithms import (
    SB3A2C,
    SB3PPO,
    a2c_settings,
    algorithm_settings,
    ppo_settings,
)
from textrl_agents.sb3.causal_lm import CausalLMPolicy, NetworkAtReference
from textrl_agents.sb3.config import (
    SB3Config,
    SB3LanguageModelA2CConfig,
    SB3LanguageModelConfig,
    SB3LanguageModelPPOConfig,
)
from textrl_agents.sb3.rollout_buffer import EpisodeRolloutBuffer
from textrl_agents.sb3.vec_env import SB3VecEnv
from textrl_envs.errors import InvalidInputError

__all__ = ["SB3LanguageModel", "SB3LanguageModelA2C", "SB3LanguageModelPPO"]


class SB3LanguageModel(SB3ActorCritic):
    """PPO and A2C over the network that the suite's own agents train in the same environment.

    It starts at the reference, reads a text on from where it stopped, and is updated by whole
    episodes: `CausalLMPolicy` and `EpisodeRolloutBuffer`.
    """

    learning_rate_scale: ClassVar[float] = 1.0
    """What the network's own learning rate is multiplied by, where none is given."""

    def learn(
        self,
        envs: Any,  # noqa: ANN401 - a vector environment, wrapped or not
        *,
        total_tokens: int,
        progress: Progress | None = None,
    ) -> TrainingLog:
        """Trains as the base class says, with nothing remembered of texts read before."""
        self.policy.forget()  # so that a loaded agent repeats this to the last bit
        return super().learn(envs, total_tokens=total_tokens, progress=progress)

    @classmethod
    def _language_model(
        cls, vec_env: SB3VecEnv, config: SB3LanguageModelConfig, seed: int
    ) -> dict[str, Any]:
        """Returns the settings that PPO and A2C share.

        Raises:
            InvalidInputError: an environment without reference.
        """
        task = vec_env.envs.unwrapped.task
        if task.load_reference is None:
            raise InvalidInputError(
                f"The environment has no reference, and {cls.name} begins at it. Give one, such as "
                "reference=FOLDER of TextBandit-v0."
            )
        network = NetworkAtReference(
            load_reference=task.load_reference,
            max_tokens=task.max_tokens,
            layers=config.layers,
            width=config.width,
            heads=config.heads,
            seed=seed,
        )
        rate = config.learning_rate or cls.learning_rate_scale * network.default_learning_rate
        return {
            "policy": CausalLMPolicy,
            "env": vec_env,
            "rollout_buffer_class": EpisodeRolloutBuffer,
            "policy_kwargs": {"load_network": network},
            **algorithm_settings(config, rate),
        }


class SB3LanguageModelPPO(SB3LanguageModel):
    """Stable-Baselines3's PPO over a language model."""

    name: ClassVar[str] = "sb3_ppo_lm"
    algorithm: ClassVar[type[BaseAlgorithm]] = PPO
    config_class: ClassVar[type[SB3Config]] = SB3LanguageModelPPOConfig
    stats: ClassVar[tuple[str, ...]] = SB3PPO.stats

    @classmethod
    def _make_model(
        cls,
        vec_env: SB3VecEnv,
        config: SB3LanguageModelPPOConfig,
        **settings: Any,  # noqa: ANN401
    ) -> BaseAlgorithm:
        return PPO(
            **cls._language_model(vec_env, config, settings["seed"]),
            **ppo_settings(vec_env, config),
            clip_range_vf=config.clip_range_vf,
            **settings,
        )


class SB3LanguageModelA2C(SB3LanguageModel):
    """Stable-Baselines3's A2C over a language model."""

    name: ClassVar[str] = "sb3_a2c_lm"
    algorithm: ClassVar[type[BaseAlgorithm]] = A2C
    config_class: ClassVar[type[SB3Config]] = SB3LanguageModelA2CConfig
    stats: ClassVar[tuple[str, ...]] = SB3A2C.stats
    learning_rate_scale: ClassVar[float] = 2.0

    @classmethod
    def _make_model(
        cls,
        vec_env: SB3VecEnv,
        config: SB3LanguageModelA2CConfig,
        **settings: Any,  # noqa: ANN401
    ) -> BaseAlgorithm:
        return A2C(
            **cls._language_model(vec_env, config, settings["seed"]),
            **a2c_settings(vec_env, config),
            **settings,
        )
