"""PPO, A2C and DQN of Stable-Baselines3 over networks of its own; what PPO and A2C are told."""

from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule

from textrl_agents.sb3.agent import SB3ActorCritic, SB3Agent
from textrl_agents.sb3.config import (
    SB3A2CConfig,
    SB3ActorCriticConfig,
    SB3Config,
    SB3DQNConfig,
    SB3ExtractorConfig,
    SB3LanguageModelA2CConfig,
    SB3LanguageModelConfig,
    SB3LanguageModelPPOConfig,
    SB3PPOConfig,
)
from textrl_agents.sb3.extractor import TokenEmbeddingExtractor
from textrl_agents.sb3.policy import ReferencePolicy, in_form_of
from textrl_agents.sb3.vec_env import SB3VecEnv
from textrl_envs.errors import InvalidInputError

__all__ = [
    "SB3A2C",
    "SB3DQN",
    "SB3PPO",
    "a2c_settings",
    "algorithm_settings",
    "ppo_settings",
]


class SB3PPO(SB3ActorCritic):
    """Stable-Baselines3's PPO."""

    name: ClassVar[str] = "sb3_ppo"
    algorithm: ClassVar[type[BaseAlgorithm]] = PPO
    config_class: ClassVar[type[SB3Config]] = SB3PPOConfig
    stats: ClassVar[tuple[str, ...]] = (
        "learning_rate",
        "entropy_loss",
        "policy_gradient_loss",
        "value_loss",
        "approx_kl",
        "clip_fraction",
        "explained_variance",
    )

    @classmethod
    def _make_model(
        cls,
        vec_env: SB3VecEnv,
        config: SB3PPOConfig,
        **settings: Any,  # noqa: ANN401
    ) -> BaseAlgorithm:
        return PPO(
            **_at_reference(vec_env, config),
            **algorithm_settings(config, config.learning_rate),
            **ppo_settings(vec_env, config),
            **settings,
        )


class SB3A2C(SB3ActorCritic):
    """Stable-Baselines3's A2C."""

    name: ClassVar[str] = "sb3_a2c"
    algorithm: ClassVar[type[BaseAlgorithm]] = A2C
    config_class: ClassVar[type[SB3Config]] = SB3A2CConfig
    stats: ClassVar[tuple[str, ...]] = (
        "learning_rate",
        "entropy_loss",
        "policy_loss",
        "value_loss",
        "explained_variance",
    )

    @classmethod
    def _make_model(
        cls,
        vec_env: SB3VecEnv,
        config: SB3A2CConfig,
        **settings: Any,  # noqa: ANN401
    ) -> BaseAlgorithm:
        return A2C(
            **_at_reference(vec_env, config),
            **algorithm_settings(config, config.learning_rate),
            **a2c_settings(vec_env, config),
            **settings,
        )


class SB3DQN(SB3Agent):
    """Stable-Baselines3's DQN. It has values of tokens, and no distribution over them.

    So it has no log-probabilities and no KL that could be charged: it learns the score alone, from
    uniform exploration, and cannot start at the reference. It plays the token of the highest value,
    greedy or not. A loaded agent begins with an empty replay buffer, as Stable-Baselines3's do.
    """

    name: ClassVar[str] = "sb3_dqn"
    algorithm: ClassVar[type[BaseAlgorithm]] = DQN
    config_class: ClassVar[type[SB3Config]] = SB3DQNConfig
    stats: ClassVar[tuple[str, ...]] = ("learning_rate", "loss")

    def act(self, obs: Any, *, greedy: bool = False) -> NDArray[np.int64]:  # noqa: ANN401
        """Returns the token of the highest value for each observation of either form, (B,)."""
        obs = in_form_of(self.model.observation_space, obs)
        actions: NDArray[np.int64] = self.model.predict(obs, deterministic=True)[0]
        return actions

    @classmethod
    def _make_model(
        cls,
        vec_env: SB3VecEnv,
        config: SB3DQNConfig,
        **settings: Any,  # noqa: ANN401
    ) -> BaseAlgorithm:
        own = asdict(config)
        for name in ("learning_rate_schedule", "window", "heads", "embedding_dim", "width"):
            del own[name]
        own["learning_rate"] = _schedule(config, config.learning_rate)
        own["target_update_interval"] = max(config.target_update_interval, vec_env.num_envs)
        return DQN("MultiInputPolicy", vec_env, policy_kwargs=_network(config), **own, **settings)


def algorithm_settings(
    config: SB3ActorCriticConfig | SB3LanguageModelConfig, learning_rate: float
) -> dict[str, Any]:
    """Returns what PPO and A2C are both told, but for environment and policy."""
    return {
        "learning_rate": _schedule(config, learning_rate),
        "n_steps": config.n_steps,
        "gamma": config.gamma,
        "gae_lambda": config.gae_lambda,
        "normalize_advantage": config.normalize_advantage,
        "ent_coef": config.ent_coef,
        "vf_coef": config.vf_coef,
        "max_grad_norm": config.max_grad_norm,
    }


def ppo_settings(
    vec_env: SB3VecEnv, config: SB3PPOConfig | SB3LanguageModelPPOConfig
) -> dict[str, Any]:
    """Returns what PPO alone is told.

    Raises:
        InvalidInputError: a rollout that cannot be cut into so many minibatches.
    """
    rollout = config.n_steps * vec_env.num_envs
    if rollout % config.minibatches or rollout == config.minibatches:
        raise InvalidInputError(
            f"minibatches must divide a rollout of {rollout} tokens, n_steps times the rows, "
            f"into parts of 2 or more; got {config.minibatches}."
        )
    return {
        "n_epochs": config.n_epochs,
        "batch_size": rollout // config.minibatches,
        "clip_range": config.clip_range,
        "target_kl": config.target_kl,
    }


def a2c_settings(
    vec_env: SB3VecEnv, config: SB3A2CConfig | SB3LanguageModelA2CConfig
) -> dict[str, Any]:
    """Returns what A2C alone is told.

    Raises:
        InvalidInputError: a rollout of one token, whose advantage has no deviation to divide by.
    """
    if config.normalize_advantage and config.n_steps * vec_env.num_envs == 1:
        raise InvalidInputError(
            "A rollout, n_steps times the rows, must have 2 tokens or more where advantages are "
            "normalised; got 1. Raise n_steps, or set normalize_advantage=False."
        )
    return {"use_rms_prop": config.use_rms_prop}


def _at_reference(vec_env: SB3VecEnv, config: SB3ActorCriticConfig) -> dict[str, Any]:
    """Returns a `ReferencePolicy`, and the environment that it is for."""
    policy_settings = {
        **_network(config),
        # Orthogonal weights of gain √2 would make the extractor's attention too sharp.
        "ortho_init": False,
        "load_reference": vec_env.envs.unwrapped.task.load_reference,
    }
    return {"policy": ReferencePolicy, "env": vec_env, "policy_kwargs": policy_settings}


def _network(config: SB3ExtractorConfig) -> dict[str, Any]:
    return {
        "net_arch": [config.width, config.width],
        "features_extractor_class": TokenEmbeddingExtractor,
        "features_extractor_kwargs": {
            "window": config.window,
            "heads": config.heads,
            "embedding_dim": config.embedding_dim,
        },
    }


def _schedule(config: SB3Config, rate: float) -> ConstantSchedule | LinearSchedule:
    is_constant = config.learning_rate_schedule == "constant"
    return ConstantSchedule(rate) if is_constant else LinearSchedule(rate, 0.0, 1.0)
