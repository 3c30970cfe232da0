"""The loop obs -> policy -> action -> env.step beside `model.generate`, and what refill saves."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from textrl_agents.collector import Collector
from textrl_agents.policies import CausalLMPolicy
from textrl_benchmarks.speed.bench import Case
from textrl_benchmarks.speed.floor import loop_work
from textrl_benchmarks.speed.models import make_model, vector_env

__all__ = ["cases", "refill_cases", "scaling_cases"]

PROMPT, NEW = 32, 64
SHAPES = (
    # layers, width, heads, vocabulary, batch, dtype
    (2, 128, 4, 512, 64, torch.float32),
    (2, 128, 4, 8_192, 16, torch.float32),
    (2, 128, 4, 8_192, 64, torch.float32),
    (2, 128, 4, 8_192, 256, torch.float32),
    (4, 256, 4, 8_192, 1, torch.float32),
    (4, 256, 4, 8_192, 16, torch.float32),
    (4, 256, 4, 8_192, 64, torch.float32),
    (4, 256, 4, 8_192, 64, torch.bfloat16),
    (12, 768, 12, 50_257, 1, torch.float32),
    (12, 768, 12, 50_257, 16, torch.float32),
    (12, 768, 12, 50_257, 64, torch.float32),
)
REFILL_SHAPES = {
    # layers, width, heads, vocabulary, batch, episodes
    "small": (
        (2, 128, 4, 512, 64, 1_024),
        (2, 128, 4, 8_192, 64, 1_024),
        (4, 256, 4, 8_192, 64, 1_024),
    ),
    "gpt2": ((12, 768, 12, 50_257, 16, 256), (12, 768, 12, 50_257, 64, 256)),
}


def cases() -> Iterator[Case]:
    """Yields a case for each model: prompts of 32 tokens, 64 new ones, no row ends early."""
    for layers, width, heads, vocabulary, batch, dtype in SHAPES:
        model = make_model(layers, width, heads, vocabulary).to(dtype)
        suffix = "" if dtype == torch.float32 else ", bfloat16"
        yield _case(
            model, batch, f"loop, {layers}x{width}, V={vocabulary:,}, batch {batch}{suffix}"
        )


def scaling_cases() -> Iterator[Case]:
    """Yields points along four axes from one model: 4x256, V = 4,096, batch 32, 64 new tokens."""
    for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        yield _case(make_model(4, 256, 4, 4_096), batch, "scaling", axis="batch", at=batch)
    for new in (16, 64, 256, 480):
        model = make_model(4, 256, 4, 4_096, tokens=512)
        yield _case(model, 32, "scaling", new=new, axis="new tokens", at=new)
    for vocabulary in (64, 512, 4_096, 16_384, 50_257):
        model = make_model(4, 256, 4, vocabulary)
        yield _case(model, 32, "scaling", axis="vocabulary", at=vocabulary)
    for layers, width in ((1, 64), (2, 128), (4, 256), (6, 512), (12, 768)):
        model = make_model(layers, width, max(1, width // 64), 4_096)
        size = sum(p.numel() for p in model.parameters())
        yield _case(model, 32, "scaling", axis="parameters", at=size)


def _case(
    model: Any,  # noqa: ANN401 - Transformers' own
    batch: int,
    name: str,
    *,
    new: int = NEW,
    axis: str = "",
    at: float = 0.0,
) -> Case:
    return Case(
        name=f"{name}, {axis} {at:,.0f}" if axis else name,
        unit="tokens",
        contenders={
            "model.generate": generate(model, batch, new=new),
            "Gymnasium loop": gymnasium_loop(model, batch, new=new),
        },
        work=loop_work(model, batch=batch, prompt_tokens=PROMPT, new_tokens=new),
        plot=(axis, at) if axis else None,
    )


def generate(model: Any, batch: int, *, new: int = NEW) -> Callable[[], int]:  # noqa: ANN401
    """Returns `model.generate` on random prompts, sampling, told that no row may end."""
    vocabulary = model.config.vocab_size
    ids = torch.from_numpy(np.random.default_rng(0).integers(3, vocabulary, size=(batch, PROMPT)))

    def run() -> int:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            text = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0,
                min_new_tokens=new, max_new_tokens=new, pad_token_id=1,
            )  # fmt: skip
        return int(text.shape[0] * (text.shape[1] - PROMPT))

    return run


def gymnasium_loop(model: Any, batch: int, *, new: int = NEW) -> Callable[[], int]:  # noqa: ANN401
    """Returns the plain loop over the environment."""
    envs = vector_env(batch, model.config.vocab_size, PROMPT, new)
    policy, seeds = CausalLMPolicy(model, device="cpu"), itertools.count()

    def run() -> int:
        rng = np.random.default_rng(0)
        obs, _ = envs.reset(seed=next(seeds))  # the prompts of the last time would be remembered
        for _ in range(new):
            obs, *_ = envs.step(policy.step(obs, rng).actions)
        return batch * new

    return run


def refill_cases(size: str) -> Iterator[Case]:
    """Yields several batches of episodes, lengths geometric of mean 24 and at most 64 tokens."""
    for layers, width, heads, vocabulary, batch, count in REFILL_SHAPES[size]:
        model = make_model(layers, width, heads, vocabulary, ends=True)
        envs = vector_env(batch, vocabulary, PROMPT, NEW, eos_token_id=2)
        policy = CausalLMPolicy(model, device="cpu")
        batches = count // batch
        yield Case(
            name=f"refill, {layers}x{width}, V={vocabulary:,}, batch {batch}, {count:,} episodes",
            unit="episodes",
            contenders={
                "model.generate, batch by batch": _generate_batches(model, batch, batches),
                "Gymnasium loop, batch by batch": _wait(envs, policy, batches),
                "Gymnasium loop, finished rows refilled": _refill(envs, policy, batches),
            },
        )


def _generate_batches(model: Any, batch: int, batches: int) -> Callable[[], int]:  # noqa: ANN401
    ids = torch.from_numpy(
        np.random.default_rng(0).integers(3, model.config.vocab_size, (batch, PROMPT))
    )

    def run() -> int:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for _ in range(batches):
                model.generate(
                    ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0,
                    max_new_tokens=NEW, pad_token_id=1, eos_token_id=2,
                )  # fmt: skip
        return batches * batch

    return run


def _wait(envs: Any, policy: CausalLMPolicy, batches: int) -> Callable[[], int]:  # noqa: ANN401
    seeds = itertools.count()

    def run() -> int:
        rng = np.random.default_rng(0)
        envs.autoreset_mode = AutoresetMode.DISABLED
        for _ in range(batches):
            obs, _ = envs.reset(seed=next(seeds))
            is_running = np.ones(envs.num_envs, np.bool_)
            while is_running.any():
                obs, _, terminated, _, _ = envs.step(policy.step(obs, rng).actions)
                is_running &= ~terminated
        return batches * int(envs.num_envs)

    return run


def _refill(envs: Any, policy: CausalLMPolicy, batches: int) -> Callable[[], int]:  # noqa: ANN401
    def run() -> int:
        return len(Collector(envs).collect(policy, batches * envs.num_envs, seed=[0]))

    return run
