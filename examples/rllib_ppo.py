"""RLlib's PPO on a text environment, with a module that reads tokens and starts at the reference.

RLlib 2.60 needs gymnasium 1.2.2, so it has an environment of its own:

python -m venv .venv-rllib && .venv-rllib/bin/pip install "textrl-envs[rllib]"
.venv-rllib/bin/python examples/rllib_ppo.py          # a minute on one core
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import ray
import torch
import tyro
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.tune.registry import register_env
from torch import Tensor, nn

import textrl_envs  # noqa: F401 - registers the environments
from textrl_agents.policies import FixedPolicy
from textrl_benchmarks.evaluation import evaluate


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line may change."""

    env_id: str = "textrl/LengthHack-v0"
    """An environment with a reference and an exact optimum."""
    seed: int = 0
    """Of weights, prompts and sampling."""
    iterations: int = 16
    """Rollouts, each gone through four times."""
    num_envs: int = 32
    """Texts that are written at once."""
    tokens: int = 2048
    """Tokens of a rollout."""
    learning_rate: float = 3e-3
    """Adam's."""


class TokenNetwork(nn.Module):
    """A few numbers for each padded text [B, L]: of its newest token, its length and all tokens."""

    def __init__(self, vocabulary_size: int, length: int, outputs: int, *, width: int = 32) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary_size + 1, width, padding_idx=0)  # -1 + 1: padding
        self.lengths = nn.Embedding(length + 1, width)
        self.layers = nn.Sequential(nn.Linear(3 * width, 128), nn.Tanh(), nn.Linear(128, outputs))
        for parameter in self.layers[-1].parameters():  # 0 before training
            nn.init.zeros_(parameter)

    def forward(self, obs: Tensor) -> Tensor:
        """Returns [B, outputs] of texts [B, L], padded with -1."""
        texts, lengths = self.tokens(obs + 1), (obs >= 0).sum(1)
        newest = texts[torch.arange(len(obs)), lengths - 1]
        mean = texts.sum(1) / lengths[:, None]
        return self.layers(torch.cat([newest, self.lengths(lengths), mean], dim=1))


class ReferenceModule(TorchRLModule, ValueFunctionAPI):
    """Logits log π_ref + network, and a value; training begins at the frozen reference.

    `model_config["env_id"]` names the environment whose reference it is: a name can be sent to a
    worker. The module answers what a language model answers, so that it can be evaluated.
    """

    def setup(self) -> None:
        """Makes the networks."""
        self.vocabulary_size, (length,) = int(self.action_space.n), self.observation_space.shape
        self.reference = gym.make(self.model_config["env_id"]).unwrapped.reference
        self.policy = TokenNetwork(self.vocabulary_size, length, self.vocabulary_size)
        self.value = TokenNetwork(self.vocabulary_size, length, 1)

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Tensor]:  # noqa: ANN401
        return {Columns.ACTION_DIST_INPUTS: self.logits(batch[Columns.OBS])}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:  # noqa: ANN401
        """Returns the value of each text, [B]."""
        return self.value(batch[Columns.OBS].long())[:, 0]

    def logits(self, obs: Tensor) -> Tensor:
        """Returns the logits of the next token, [B, V]."""
        reference = torch.from_numpy(self.reference.next_log_probs(obs.long().numpy()))
        return reference.float() + self.policy(obs.long())

    @torch.no_grad()
    def next_log_probs(self, obs: np.ndarray) -> np.ndarray:
        """Returns the log-probabilities of all next tokens, (B, V)."""
        return self.logits(torch.from_numpy(obs)).log_softmax(-1).double().numpy()

    def log_probs(self, obs: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Returns the log-probability of each action, (B,)."""
        return self.next_log_probs(obs)[np.arange(len(actions)), actions]

    def forget(self) -> None:
        """Drops what the reference remembers."""
        self.reference.forget()


class ChargeKL(ConnectorV2):
    """Charges each token β (log π − log π_ref), before RLlib computes advantages.

    RLlib's own `kl_coeff` is another thing: a penalty for leaving the last rollout's policy.
    """

    def __init__(self, env_id: str) -> None:
        super().__init__()
        env: Any = gym.make(env_id).unwrapped
        self.reference, self.beta = env.reference, env.kl_coefficient

    def __call__(self, *, episodes: list[Any], batch: dict[str, Any], **_: Any) -> dict[str, Any]:  # noqa: ANN401
        """Adds the rewards of all episodes to the batch; RLlib leaves a column that is there."""
        for episode in self.single_agent_episode_iterator(episodes, agents_that_stepped_only=False):
            steps = slice(0, len(episode) - 1)  # RLlib appends a step to each, to hold its value
            obs, actions = episode.get_observations(steps), episode.get_actions(steps)
            ratio = episode.get_extra_model_outputs(Columns.ACTION_LOGP, steps)
            ratio = ratio - self.reference.log_probs(obs, actions)
            self.add_n_batch_items(
                batch,
                Columns.REWARDS,
                items_to_add=episode.get_rewards() - self.beta * np.append(ratio, 0.0),
                num_items=len(episode),
                single_agent_episode=episode,
            )
        return batch


def config_of(settings: Settings) -> PPOConfig:
    """Returns RLlib's configuration of PPO, in this process alone."""
    register_env("text", lambda _: gym.make(settings.env_id, obs="flat"))
    return (
        PPOConfig()
        .environment("text")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=settings.num_envs)
        .learners(num_learners=0, learner_connector=lambda *_: ChargeKL(settings.env_id))
        .rl_module(
            rl_module_spec=RLModuleSpec(
                module_class=ReferenceModule, model_config={"env_id": settings.env_id}
            )
        )
        .training(
            lr=settings.learning_rate,
            gamma=1.0,
            lambda_=0.95,
            clip_param=0.2,
            use_kl_loss=False,
            vf_loss_coeff=0.5,
            grad_clip=0.5,
            train_batch_size_per_learner=settings.tokens,
            minibatch_size=settings.tokens // 4,
            num_epochs=4,
        )
        .debugging(seed=settings.seed)
    )


def main(settings: Settings) -> None:
    """Trains, then prints the score against the optimum."""
    torch.set_num_threads(1)
    ray.init(num_cpus=1, include_dashboard=False)  # all runs in this process, and Ray stays small
    algorithm = config_of(settings).build_algo()
    for iteration in range(settings.iterations):
        found = algorithm.train()["env_runners"]
        print(f"iteration {iteration + 1} | reward {found['episode_return_mean']:.3f}")
    envs = gym.make_vec(settings.env_id, num_envs=64, obs="flat")
    policy: Any = FixedPolicy(algorithm.get_module())
    result = evaluate(policy, envs, episodes=2048, seed=settings.seed)
    print(f"reward {result.reward} | KL {result.kl} | normalised score {result.normalised_score}")
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    main(tyro.cli(Settings))
