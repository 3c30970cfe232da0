"""An algorithm of Stable-Baselines3, unmodified, as an agent of this suite."""

import contextlib
import json
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger

from textrl_agents.agent import Progress, StopTraining, TrainingLog
from textrl_agents.objective import kl_charge, restore_coefficient
from textrl_agents.sb3.borrowed import autoreset_mode_kept, global_generators_kept
from textrl_agents.sb3.causal_lm import CausalLMPolicy
from textrl_agents.sb3.config import SB3Config
from textrl_agents.sb3.log import EpisodeLog
from textrl_agents.sb3.policy import ReferencePolicy
from textrl_agents.sb3.vec_env import SB3VecEnv
from textrl_envs.errors import InvalidInputError
from textrl_envs.files import read_json

__all__ = ["SB3ActorCritic", "SB3Agent"]


class SB3Agent(ABC):
    """An algorithm of Stable-Baselines3 that learns in native text vector environments.

    Stable-Baselines3 draws from the global generators of Python, NumPy and torch. They are lent to
    it and given back as they were, and every call of `learn` seeds them anew by the agent's seed
    and the tokens so far. So weights, optimiser, counters and an adaptive KL coefficient are the
    whole state, and two runs with one seed are equal.

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
        self.memory: dict[str, float] = {}
        """What an adaptive KL coefficient has come to."""
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
            InvalidInputError: an environment that differs from the one the agent was made for, a
                KL penalty of another policy, or a budget in which nothing would be learnt.
        """
        vec_env = SB3VecEnv(envs)
        self._check(vec_env)
        self._check_charge(envs)
        if self.tokens >= total_tokens:
            return self.log
        self._check_budget(total_tokens)
        restore_coefficient(envs, self.memory)
        log = EpisodeLog(self.log, vec_env, stats=self.stats, memory=self.memory, progress=progress)
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

    def _check_charge(self, envs: Any) -> None:  # noqa: ANN401
        charge = kl_charge(envs)
        if charge is not None and charge.policy not in (self, getattr(self, "policy", None)):
            raise InvalidInputError(
                f"The KL penalty charges {type(charge.policy).__name__}, and not the agent that "
                "learns. Give KLPenalty(envs, policy=agent)."
            )

    def _check_budget(self, total_tokens: int) -> None:
        """Refuses a budget of one rollout: SB3's linear schedule has reached 0 at its update."""
        rollout = getattr(self.model, "n_steps", 0) * self.model.n_envs
        is_linear = self.config.learning_rate_schedule == "linear"
        if is_linear and self.tokens == 0 and total_tokens <= rollout:
            raise InvalidInputError(
                f"total_tokens must be more than a rollout, {rollout} tokens, n_steps times the "
                f"rows; got {total_tokens}. Its update comes at the end of the linear schedule, "
                "and would have the learning rate 0. Give more, a smaller n_steps, or "
                "learning_rate_schedule='constant'."
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
            "memory": self.memory,
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
        agent.memory = about["memory"]
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
