"""What the KL penalty costs, charged at each step or for whole episodes afterwards."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from textrl_agents.collector import Collector
from textrl_agents.policies import CausalLMPolicy
from textrl_benchmarks.speed.bench import Case
from textrl_benchmarks.speed.loop import NEW, PROMPT
from textrl_benchmarks.speed.models import make_model, vector_env
from textrl_envs.language_models.causal import CausalLanguageModel
from textrl_envs.wrappers.vector import KLPenalty

__all__ = ["cases"]


def cases() -> Iterator[Case]:
    """Yields 64 episodes of 64 tokens from a 4x256 model, without and with a reference."""
    model = make_model(4, 256, 4, 8_192)
    policy = CausalLMPolicy(model, device="cpu")
    envs = vector_env(64, 8_192, PROMPT, NEW)
    reference = CausalLanguageModel(make_model(4, 256, 4, 8_192), device="cpu")
    charged = KLPenalty(envs, policy=policy, reference=reference, coefficient=0.05)
    yield Case(
        name="KL penalty, 4x256, V=8,192, batch 64",
        unit="tokens",
        contenders={
            "without": lambda: Collector(envs).collect(policy, 64, seed=[0]).num_tokens,
            "step by step": _steps(charged, policy),
            "whole episodes": lambda: Collector(charged).collect(policy, 64, seed=[0]).num_tokens,
        },
    )


def _steps(envs: Any, policy: CausalLMPolicy) -> Callable[[], int]:  # noqa: ANN401
    def run() -> int:
        policy.forget()
        rng = np.random.default_rng(0)
        obs, _ = envs.reset(seed=0)
        for _ in range(NEW):
            obs, *_ = envs.step(policy.step(obs, rng).actions)
        return 64 * NEW

    return run
