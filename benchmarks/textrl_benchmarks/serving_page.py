"""Writes the tables of docs/serving.md: what a smaller policy costs in score, and saves.

    python -m textrl_benchmarks.serving_page

It trains a policy by PPO in each environment, quantises it, distils it, and trains the student's
network by PPO itself as well. All play the same prompts with the same random numbers, so that their
returns are compared episode by episode.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import textrl_agents
from textrl_agents.collector import Collector
from textrl_agents.episodes import Episodes
from textrl_agents.policies import CausalLMPolicy, LSTMPolicy, Policy
from textrl_agents.policies.logits import response_logits
from textrl_agents.serving import distil, network_bytes, quantised
from textrl_agents.serving.distillation import token_divergence
from textrl_benchmarks.marked_page import replaced, table
from textrl_envs.language_models.fast.int8 import Int8Linear
from textrl_envs.language_models.fast.linear import LinearWeights
from textrl_envs.optimum import optimum
from textrl_envs.wrappers.vector import KLPenalty

__all__ = ["Measured", "main", "measure", "policies"]

PAGE = Path("docs/serving.md")
ENVIRONMENTS = ("textrl/Keyword-v0", "textrl/TinyGPT-v0")
TOKENS = 100_000
EPISODES = 4096
STUDENT_WIDTH = 16
STUDENT_LEARNING_RATE = 1e-2
SHAPES = ((64, 256), (768, 3072), (2048, 8192))
"""Inputs and outputs of a layer; the first is of the policies above, the second of GPT-2 small."""
ROWS = (1, 8, 64)
ROUNDS = 5


def policies(envs: Any, *, total_tokens: int) -> Iterator[tuple[str, Policy]]:  # noqa: ANN401
    """Yields a policy that PPO has trained, and smaller ones; the first is the others' teacher."""
    teacher = _trained(envs, None, total_tokens)
    yield "PPO", teacher
    yield "in 8 bits", quantised(teacher)
    student = _student(envs)
    distil(teacher, student, envs, total_tokens=total_tokens, learning_rate=STUDENT_LEARNING_RATE)
    yield f"distilled into an LSTM of width {STUDENT_WIDTH}", student
    alone = _trained(envs, _student(envs), total_tokens, learning_rate=STUDENT_LEARNING_RATE)
    yield "that LSTM, trained by PPO", alone


def _trained(
    envs: Any,  # noqa: ANN401
    policy: Policy | None,
    total_tokens: int,
    **settings: Any,  # noqa: ANN401
) -> Policy:
    agent = textrl_agents.make("ppo", envs, policy=policy, device="cpu", **settings)
    agent.learn(KLPenalty(envs, policy=agent.policy), total_tokens=total_tokens)
    trained: Policy = agent.policy
    return trained


def _student(envs: Any) -> Policy:  # noqa: ANN401
    reference = envs.unwrapped.reference
    return LSTMPolicy(
        vocabulary_size=reference.vocabulary_size,
        reference=reference,
        width=STUDENT_WIDTH,
        device="cpu",
    )


# --- what a policy is worth ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one policy showed, beside its teacher."""

    name: str
    score: float
    """Normalised."""
    standard_error: float
    loss: float
    """Of normalised score, against the teacher: a mean of paired differences."""
    loss_error: float
    divergence: float
    """KL(teacher ‖ policy) a token, in nats, on the teacher's own responses."""
    num_bytes: int
    tokens_per_second: float
    """A second of CPU time."""


def measure(name: str, *, total_tokens: int, episodes: int) -> Iterator[Measured]:
    """Yields what each policy of an environment is worth.

    Args:
        name: an environment with a known optimum.
        total_tokens: budget of each training.
        episodes: played by each policy.
    """
    envs = gym.make_vec(name, num_envs=64)
    best = optimum(envs)
    width = best.value - best.reference_value
    first: tuple[Policy, Episodes] | None = None
    for title, policy in policies(envs, total_tokens=total_tokens):
        played = _play(name, policy, episodes)
        if first is None:
            first = policy, played
        teacher, shown = first
        loss = (shown.returns - played.returns) / width
        yield Measured(
            name=title,
            score=best.normalise(float(played.returns.mean())),
            standard_error=_error(played.returns) / width,
            loss=float(loss.mean()),
            loss_error=_error(loss),
            divergence=_divergence(teacher, policy, shown),
            num_bytes=network_bytes(policy),
            tokens_per_second=_tokens_per_second(envs, policy),
        )


def _play(name: str, policy: Policy, episodes: int) -> Episodes:
    # A row an episode: prompts and random numbers are the same whoever plays.
    charged = KLPenalty(gym.make_vec(name, num_envs=episodes), policy=policy)
    return Collector(charged).collect(policy, episodes, seed=[0, 4], is_balanced=True)


def _error(numbers: NDArray[np.float64]) -> float:
    return float(numbers.std(ddof=1) / math.sqrt(len(numbers)))


@torch.no_grad()
def _divergence(teacher: Policy, policy: Policy, shown: Episodes) -> float:
    some = shown.select(np.arange(min(512, len(shown))))
    taught, learnt = (response_logits(one, some) for one in (teacher, policy))
    return float(token_divergence(taught, learnt, "forward").mean())


def _tokens_per_second(envs: Any, policy: Policy) -> float:  # noqa: ANN401
    collector, rates = Collector(envs), []
    for turn in range(ROUNDS):
        start = time.process_time()
        played = collector.collect(policy, 4 * envs.num_envs, seed=[1, turn])
        rates.append(played.num_tokens / (time.process_time() - start))
    return float(np.median(rates))


# --- how fast 8 bits are ---


def products() -> Iterator[list[str]]:
    """Yields the time of one layer, in floats and in 8 bits."""
    generator = torch.Generator().manual_seed(0)
    for width, outputs in SHAPES:
        weight = torch.randn(outputs, width, generator=generator)
        bias = torch.randn(outputs, generator=generator)
        for rows in ROWS:
            x = torch.randn(rows, width, generator=generator)
            layers: list[Callable[[Tensor], Tensor]] = [
                LinearWeights([(weight, bias)], rows),
                Int8Linear(weight, bias),
            ]
            turns = min(300, max(3, round(3e8 / (rows * width * outputs))))
            plain, small = _seconds(layers, x, turns)
            yield [
                f"{width} → {outputs}", str(rows), f"{1e6 * plain:,.0f}", f"{1e6 * small:,.0f}",
                f"{plain / small:.2f}",
            ]  # fmt: skip


def whole_models() -> Iterator[list[str]]:
    """Yields tokens a second of a model of GPT-2 small's shape, with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = CausalLMPolicy(GPT2LMHeadModel(GPT2Config()), device="cpu")
    served = quantised(policy)
    sizes = [network_bytes(one) / 1e6 for one in (policy, served)]
    for rows in (1, 8):
        plain, small = (_decoding(one, rows) for one in (policy, served))
        yield [
            str(rows), f"{sizes[0]:.0f}", f"{sizes[1]:.0f}", f"{plain:.1f}", f"{small:.1f}",
            f"{small / plain:.2f}",
        ]  # fmt: skip


def _decoding(policy: Policy, rows: int, *, prompt: int = 16, steps: int = 24) -> float:
    ids = np.full((rows, prompt + steps + 1), -1)
    rng = np.random.default_rng(0)
    ids[:, :prompt] = rng.integers(policy.vocabulary_size, size=(rows, prompt))
    start = 0.0
    for step in range(steps + 1):
        if step == 1:  # the prompt has been read, and weights are packed
            start = time.process_time()
        ids[:, prompt + step] = policy.step(ids, rng).actions
    return rows * steps / (time.process_time() - start)


def _seconds(layers: Sequence[Callable[[Tensor], Tensor]], x: Tensor, turns: int) -> list[float]:
    """Returns the CPU time of each layer, the median of some rounds in which they take turns."""
    found: list[list[float]] = [[] for _ in layers]
    for _ in range(ROUNDS):
        for layer, times in zip(layers, found, strict=True):
            layer(x)
            start = time.process_time()
            for _ in range(turns):
                layer(x)
            times.append((time.process_time() - start) / turns)
    return [float(np.median(times)) for times in found]


# --- the page ---


def _row(environment: str, found: Measured) -> list[str]:
    return [
        f"`{environment.rpartition('/')[2]}`",
        found.name,
        f"{found.score:.3f} ± {found.standard_error:.3f}",
        "" if found.name == "PPO" else f"{found.loss:+.4f} ± {found.loss_error:.4f}",
        "" if found.name == "PPO" else f"{found.divergence:.5f}",
        f"{found.num_bytes / 1000:,.1f}",
        f"{found.tokens_per_second:,.0f}",
    ]


def main() -> None:
    """Measures all, and writes the tables."""
    torch.set_num_threads(1)
    rows = [
        _row(name, found)
        for name in ENVIRONMENTS
        for found in measure(name, total_tokens=TOKENS, episodes=EPISODES)
    ]
    heads = ["id", "policy", "score", "loss of score", "KL a token", "kB", "tokens/s"]
    text = replaced(PAGE.read_text(), "policies", list(table(heads, rows)))
    heads = ["layer", "rows", "float µs", "8 bits µs", "times as fast"]
    text = replaced(text, "products", list(table(heads, products())))
    heads = ["rows", "float MB", "8 bits MB", "float tokens/s", "8 bits tokens/s", "times as fast"]
    text = replaced(text, "models", list(table(heads, whole_models())))
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
