"""Stable-Baselines3's PPO, A2C and DQN, unmodified, as agents of this suite."""

import contextlib
import json
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule

from textrl_agents.agent import Progress, StopTraining, TrainingLog
from textrl_agents.sb3.borrowed import autoreset_mode_kept, global_generators_kept
from textrl_agents.sb3.causal_lm import CausalLMPolicy
from textrl_agents.sb3.config import (
    SB3A2CConfig,
    SB3ActorCriticConfig,
    SB3Config,
    SB3DQNConfig,
    SB3ExtractorConfig,
    SB3LanguageModelConfig,
    SB3LanguageModelPPOConfig,
    SB3PPOConfig,
)
from textrl_agents.sb3.extractor import TokenEmbeddingExtractor
from textrl_agents.sb3.log import EpisodeLog
from textrl_agents.sb3.policy import ReferencePolicy, in_form_of
from textrl_agents.sb3.vec_env import SB3VecEnv
from textrl_envs.errors import InvalidInputError
from textrl_envs.files import read_json

__all__ = [
    "SB3A2C",
    "SB3DQN",
    "SB3PPO",
    "SB3ActorCritic",
    "SB3Agent",
    "algorithm_settings",
    "ppo_settings",
]


class SB3Agent(ABC):
    """An algorithm of Stable-Baselines3 that learns in native text vector environments.

    Stable-Baselines3 draws from the global generators of Python, NumPy and torch. They are lent to
    it and given back as they were, and every call of `learn` seeds them anew by the agent's seed
    and the tokens so far. So weights, optimiser and counters are the whole state, and two runs with
    one seed are equal.

    Args:
        model: the algorithm. Its settings, its weights and the count of tokens are in it.
        config: what it was made by.
        seed: decides the first weights, prompts and sampling.
    """

    name: ClassVar[str]
    algorithm: ClassVar[type[BaseAlgorithm]]
    config_class: ClassVar[type[SB3Config]]
    stats: ClassVar[tuple[str, ...]]
    """What the log takes over of Stable-Baselines3's own."""

    def __init__(self, model: Any, *, config: SB3Config, seed: int) -> None:  # noqa: ANN401
        self.model = model
        self.config = config
        self.seed = seed
        self.log = TrainingLog()
        self._act_rng = np.random.default_rng([seed, 1])

    @classmethod
    def make(
        cls,
        envs: Any,  # noqa: ANN401 - a vector environment, wrapped or not
        *,
        seed: int = 0,
        device: str = "auto",
        **settings: Any,  # noqa: ANN401 - fields of the config
    ) -> Self:
        """Makes an agent for an environment.

        Args:
            envs: a native text vector environment; gives spaces, number of rows and reference.
            seed: see above.
            device: "auto", "cpu", "cuda", ...
            settings: fields of the config, such as `learning_rate=1e-3`.

        Raises:
            InvalidInputError: an unknown setting, or one that cannot be used.
        """
        config = cls.config_class.read(cls.name, settings)
        with global_generators_kept():
            model = cls._make_model(SB3VecEnv(envs), config, seed=seed, device=device)
        return cls(model, config=config, seed=seed)

    @classmethod
    @abstractmethod
    def _make_model(
        cls,
        vec_env: SB3VecEnv,
        config: Any,  # noqa: ANN401 - of `config_class`
        **settings: Any,  # noqa: ANN401 - seed and device
    ) -> BaseAlgorithm:
        """Returns the algorithm."""

    @property
    def tokens(self) -> int:
        """Tokens that were generated in training."""
        return int(self.model.num_timesteps)

    @abstractmethod
    def act(self, obs: Any, *, greedy: bool = False) -> NDArray[np.int64]:  # noqa: ANN401
        """Returns a token id for each observation of either form, (B,)."""

    def learn(
        self,
        envs: Any,  # noqa: ANN401 - a vector environment, wrapped or not
        *,
        total_tokens: int,
        progress: Progress | None = None,
    ) -> TrainingLog:
        """Trains until `total_tokens` tokens were generated, counted from the beginning.

        The rollout that reaches the budget is finished.

        Args:
            envs: a native text vector environment with as many rows as the one it was made for;
                within `KLPenalty` for a KL penalty.
            total_tokens: the budget. A loaded agent goes on from what it has spent.
            progress: called after each update; may raise `StopTraining`.

        Returns:
            The log of all iterations, those before loading included.

        Raises:
            InvalidInputError: an environment that differs from the one the agent was made for.
        """
        vec_env = SB3VecEnv(envs)
        self._check(vec_env)
        log = EpisodeLog(self.log, vec_env, stats=self.stats, progress=progress)
        if self.tokens >= total_tokens:
            return self.log
        with global_generators_kept(), autoreset_mode_kept(envs.unwrapped):
            self.model.set_env(vec_env)
            rng = np.random.default_rng([self.seed, 2, self.tokens])
            self.model.set_random_seed(int(rng.integers(2**31)))
            self.model.set_logger(Logger(folder=None, output_formats=[]))
            # Raised after an update, so that all is in order.
            with contextlib.suppress(StopTraining):
                self.model.learn(
                    total_tokens - self.tokens, callback=log, reset_num_timesteps=False
                )
        return self.log

    def _check(self, vec_env: SB3VecEnv) -> None:
        model = self.model
        if vec_env.num_envs != model.n_envs:
            raise InvalidInputError(
                f"The agent was made for {model.n_envs} rows; the environment has "
                f"{vec_env.num_envs}. Make either anew."
            )
        for name in ("observation_space", "action_space"):
            if getattr(vec_env, name) != getattr(model, name):
                raise InvalidInputError(
                    f"The agent was made for the {name} {getattr(model, name)}; the environment "
                    f"has {getattr(vec_env, name)}."
                )

    def save(self, folder: Path) -> None:
        """Writes `model.zip`, which is Stable-Baselines3's own, and beside it seed and log."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save(folder / "model.zip")
        about = {
            "agent": self.name,
            "config": asdict(self.config),
            "seed": self.seed,
            "log": self.log.rows,
        }
        (folder / "agent.json").write_text(json.dumps(about, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Reads what `save` wrote.

        Raises:
            InvalidInputError: the folder holds no agent of this kind.
        """
        path = Path(folder) / "agent.json"
        if not path.is_file():
            raise InvalidInputError(f"{folder} holds no agent: there is no agent.json.")
        about = read_json(path)
        if about["agent"] != cls.name:
            raise InvalidInputError(
                f"{folder} holds the agent {about['agent']!r}, not {cls.name!r}."
            )
        with global_generators_kept():
            model = cls.algorithm.load(Path(folder) / "model.zip", device=device)
        config = cls.config_class(**about["config"])
        agent = cls(model, config=config, seed=about["seed"])
        agent.log = TrainingLog(about["log"])
        return agent


class SB3ActorCritic(SB3Agent):
    """PPO and A2C: their policy starts at the reference, and its KL is known."""

    @property
    def policy(self) -> ReferencePolicy | CausalLMPolicy:
        """What acts: the model's own policy."""
        policy: ReferencePolicy | CausalLMPolicy = self.model.policy
        return policy

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.policy.vocabulary_size

    def act(self, obs: Any, *, greedy: bool = False) -> NDArray[np.int64]:  # noqa: ANN401
        """Returns a token id for each observation of either form, (B,)."""
        return self.policy.step(obs, self._act_rng, greedy=greedy).actions

    def log_probs(self, obs: Any, actions: NDArray[np.integer[Any]]) -> NDArray[np.float64]:  # noqa: ANN401
        """Returns the log-probability of each action in each observation, in nats, (B,)."""
        return self.policy.log_probs(obs, actions)


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
            use_rms_prop=config.use_rms_prop,
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
