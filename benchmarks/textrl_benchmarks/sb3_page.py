"""Writes the table of docs/sb3.md: PPO of Stable-Baselines3 and the suite's own, on equal terms.

    python -m textrl_benchmarks.sb3_page

Both train the same network from the same first weights with the same budget and settings.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import textrl_agents
from textrl_benchmarks.evaluation import evaluate
from textrl_benchmarks.marked_page import replaced, table
from textrl_envs.wrappers.vector import KLPenalty

__all__ = ["CONTENDERS", "Trained", "main", "train"]

PAGE = Path("docs/sb3.md")
ENVIRONMENT = "textrl/Keyword-v0"
ROWS = 64
TOKENS = 150_000
SEEDS = (0, 1, 2)
EPISODES = 2048

SHARED = {"learning_rate": 1e-3, "gae_lambda": 1.0, "minibatches": 4}
CONTENDERS: Mapping[str, dict[str, Any]] = {
    # 256 episodes of the reference have 3,500 tokens.
    "ppo": {
        **SHARED,
        "episodes_per_batch": 256,
        "epochs": 4,
        "clip": 0.2,
        "value_clip": 0.2,
        "value_coefficient": 0.5,
        "max_gradient_norm": 1.0,
    },
    "sb3_ppo_lm": {
        **SHARED,
        "n_steps": 56,
        "n_epochs": 4,
        "clip_range": 0.2,
        "clip_range_vf": 0.2,
        # Its loss is the squared error, and ours half of it.
        "vf_coef": 0.25,
        "max_grad_norm": 1.0,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What one run has come to."""

    agent: str
    seed: int
    score: float
    """Normalised."""
    reward: float
    kl: float
    """Of a response, in nats."""
    tokens: int
    cpu_seconds: float
    """Of the training."""


def train(name: str, seed: int, *, total_tokens: int, episodes: int) -> Trained:
    """Trains one of `CONTENDERS`, and plays `episodes` episodes."""
    envs = gym.make_vec(ENVIRONMENT, num_envs=ROWS)
    agent = textrl_agents.make(name, envs, seed=seed, device="cpu", **CONTENDERS[name])
    charged = KLPenalty(envs, policy=agent.policy)
    start = time.process_time()
    agent.learn(charged, total_tokens=total_tokens)
    spent = time.process_time() - start
    found = evaluate(agent, charged, episodes=episodes, seed=0)
    assert found.normalised_score is not None
    return Trained(
        agent=agent.name,
        seed=seed,
        score=found.normalised_score.mean,
        reward=found.reward.mean,
        kl=found.kl.mean,
        tokens=agent.tokens,
        cpu_seconds=spent,
    )


def _rows(found: list[Trained]) -> Iterator[list[str]]:
    """Yields a line an agent: its seeds one by one, and their means."""
    for name in dict.fromkeys(one.agent for one in found):
        mine = [one for one in found if one.agent == name]
        scores = [one.score for one in mine]
        yield [
            f"`{name}`",
            ", ".join(f"{score:.3f}" for score in scores),
            f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}",
            f"{np.mean([one.reward for one in mine]):.3f}",
            f"{np.mean([one.kl for one in mine]):.2f}",
            f"{np.mean([one.tokens / one.cpu_seconds for one in mine]):,.0f}",
        ]


def main() -> None:
    """Trains all, and writes the table."""
    torch.set_num_threads(1)
    found = [
        train(name, seed, total_tokens=TOKENS, episodes=EPISODES)
        for seed in SEEDS
        for name in CONTENDERS
    ]
    found.sort(key=lambda one: one.agent)
    seeds = ", ".join(str(seed) for seed in SEEDS)
    heads = ["agent", f"seeds {seeds}", "mean ± deviation", "reward", "KL", "tokens/CPU-s"]
    PAGE.write_text(replaced(PAGE.read_text(), "scores", list(table(heads, _rows(found)))))


if __name__ == "__main__":
    main()
