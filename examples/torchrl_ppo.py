"""TorchRL's PPO on a text environment: its wrapper, collector, GAE and clipped loss, unmodified.

pip install "textrl-envs[torchrl]"
python examples/torchrl_ppo.py                        # a quarter of a minute on one core
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import textrl_envs  # noqa: F401 - registers the environments
from textrl_agents.policies import FixedPolicy
from textrl_benchmarks.evaluation import evaluate
from textrl_envs.language_models.base import LanguageModel
from textrl_envs.wrappers.vector import KLPenalty


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line may change."""

    env_id: str = "textrl/LengthHack-v0"
    """An environment with a reference and an exact optimum."""
    seed: int = 0
    """Of weights, prompts and sampling."""
    total_tokens: int = 40_000
    """Tokens that are generated in training."""
    num_envs: int = 64
    """Texts that are written at once."""
    learning_rate: float = 3e-3
    """Adam's at the start; it falls linearly to 0."""


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
        """Returns [..., outputs] of texts [..., L], padded with -1."""
        texts, lengths = self.tokens(obs + 1), (obs >= 0).sum(-1)
        newest = texts.take_along_dim((lengths - 1)[..., None, None], dim=-2).squeeze(-2)
        mean = texts.sum(-2) / lengths[..., None]
        return self.layers(torch.cat([newest, self.lengths(lengths), mean], dim=-1))


class ReferencePolicy(nn.Module):
    """Logits log π_ref + network: training begins at the frozen reference.

    It answers what a language model answers, so that `KLPenalty` can charge it.
    """

    def __init__(self, reference: LanguageModel, network: nn.Module) -> None:
        super().__init__()
        self.reference, self.network = reference, network
        self.vocabulary_size = reference.vocabulary_size

    def forward(self, obs: Tensor) -> Tensor:
        """Returns the logits of the next token, [..., V]."""
        found = self.reference.next_log_probs(obs.reshape(-1, obs.shape[-1]).numpy())
        return torch.from_numpy(found).float().view(*obs.shape[:-1], -1) + self.network(obs)

    @torch.no_grad()
    def next_log_probs(self, obs: np.ndarray) -> np.ndarray:
        """Returns the log-probabilities of all next tokens, (B, V)."""
        return self(torch.from_numpy(obs)).log_softmax(-1).double().numpy()

    def log_probs(self, obs: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Returns the log-probability of each action, (B,)."""
        return self.next_log_probs(obs)[np.arange(len(actions)), actions]

    def forget(self) -> None:
        """Drops what the reference remembers."""
        self.reference.forget()


def train(policy: ReferencePolicy, value: nn.Module, env: Any, settings: Settings) -> None:  # noqa: ANN401
    """Trains by TorchRL's PPO."""
    actor = ProbabilisticActor(
        TensorDictModule(policy, in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        spec=env.action_spec,
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
    )
    critic = ValueOperator(value, in_keys=["observation"])
    advantages = GAE(gamma=1.0, lmbda=0.95, value_network=critic)
    ppo = ClipPPOLoss(
        actor, critic, clip_epsilon=0.2, entropy_bonus=False, normalize_advantage=True
    )
    optimizer = torch.optim.Adam(ppo.parameters(), lr=settings.learning_rate)
    batch_size = 32 * settings.num_envs
    iterations = max(settings.total_tokens // batch_size, 1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=iterations)
    collector = Collector(
        env,
        actor,
        frames_per_batch=batch_size,
        total_frames=iterations * batch_size,
        auto_register_policy_transforms=False,
    )
    for rollout in collector:  # [N, T]
        advantages(rollout)
        tokens = rollout.reshape(-1)
        for _ in range(4):
            for rows in torch.randperm(batch_size).chunk(4):
                losses = ppo(tokens[rows])
                optimizer.zero_grad()
                (losses["loss_objective"] + losses["loss_critic"]).backward()
                nn.utils.clip_grad_norm_(ppo.parameters(), 0.5)
                optimizer.step()
        schedule.step()
        episodes = rollout["next", "done"].sum().clamp(min=1)
        print(f"return {float(rollout['next', 'reward'].sum() / episodes):.3f}")
    collector.shutdown()


def main(settings: Settings) -> None:
    """Trains, then prints the score against the optimum."""
    torch.manual_seed(settings.seed)
    torch.set_num_threads(1)
    # A row that ends waits until TorchRL resets it by mask.
    envs = gym.make_vec(
        settings.env_id, num_envs=settings.num_envs, obs="flat", autoreset_mode="Disabled"
    )
    length, vocabulary_size = envs.single_observation_space.shape[0], envs.single_action_space.n
    policy = ReferencePolicy(
        envs.unwrapped.reference, TokenNetwork(vocabulary_size, length, vocabulary_size)
    )
    charged = KLPenalty(envs, policy=policy)
    env = GymWrapper(charged, categorical_action_encoding=True)
    env.set_seed(settings.seed)
    train(policy, TokenNetwork(vocabulary_size, length, 1), env, settings)
    result = evaluate(FixedPolicy(policy), envs, episodes=2048, seed=settings.seed)
    print(f"reward {result.reward} | KL {result.kl} | normalised score {result.normalised_score}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
