"""What is timed. A contender is a function that does its work and returns how much it did."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from textrl_agents.policies import CausalLMPolicy
from textrl_envs.prompts import Prompt
from textrl_envs.rewards import response_length
from textrl_envs.text_env import TextEnv
from textrl_envs.vector_env import TextVectorEnv

__all__ = ["environment_contenders", "loop_contenders"]

Contenders = Mapping[str, Callable[[], int]]

NO_TOKEN = -1
"""An EOS that is never written."""

STEPS = 300
"""Steps of an environment in one turn."""


class _PlainTokenizer:
    """A vocabulary of numbers: prompts are given as ids, and no text is ever made."""

    pad_token_id = 0

    def __init__(self, size: int, eos_token_id: int) -> None:
        self._size = size
        self.eos_token_id = eos_token_id

    def __len__(self) -> int:
        return self._size

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> str:  # noqa: ANN401
        return " ".join(str(token) for token in token_ids)


def _parameters(
    vocabulary_size: int, prompt_tokens: int, new_tokens: int, *, eos_token_id: int
) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    ids = rng.integers(1, vocabulary_size, size=(64, prompt_tokens))
    return {
        "tokenizer": _PlainTokenizer(vocabulary_size, eos_token_id),
        "prompts": [Prompt(token_ids=tuple(row)) for row in ids.tolist()],
        "reward": response_length,
        "max_new_tokens": new_tokens,
    }


def environment_contenders(rows: Sequence[int]) -> Iterator[tuple[str, Contenders]]:
    """Yields a case for each number of rows: SyncVectorEnv of TextEnv against TextVectorEnv.

    Prompts of 16 tokens, 64 new tokens, V = 5,000, random tokens, EOS among them.
    """
    parameters = _parameters(5_000, 16, 64, eos_token_id=0)
    for count in rows:
        actions = np.random.default_rng(1).integers(5_000, size=(STEPS, count))
        scalar = gym.vector.SyncVectorEnv([lambda: TextEnv("text_bandit", **parameters)] * count)
        native = TextVectorEnv("text_bandit", num_envs=count, **parameters)
        yield (
            f"environment, {count} rows",
            {
                "SyncVectorEnv of TextEnv": _steps(scalar, actions[:60]),
                "TextVectorEnv": _steps(native, actions),
            },
        )


def _steps(envs: Any, actions: NDArray[np.int64]) -> Callable[[], int]:  # noqa: ANN401
    def run() -> int:
        envs.reset(seed=0)
        for row in actions:
            envs.step(row)
        return int(actions.size)

    return run


LOOP_CASES = (
    # layers, width, heads, vocabulary, batch
    (2, 128, 4, 512, 64),
    (2, 128, 4, 8_192, 64),
    (4, 256, 4, 8_192, 16),
    (4, 256, 4, 8_192, 64),
)


def loop_contenders() -> Iterator[tuple[str, Contenders]]:
    """Yields a case for each model: `generate` against obs -> policy -> action -> env.step.

    GPT-2 from a config with random weights, prompts of 32 tokens, 64 new tokens. No row ends early:
    `generate` is told so, and the environment's EOS is a token that the model does not have.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    for layers, width, heads, vocabulary, batch in LOOP_CASES:
        config = GPT2Config(
            vocab_size=vocabulary, n_positions=128, n_layer=layers, n_embd=width, n_head=heads,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = GPT2LMHeadModel(config)
        model.train(False)
        yield (
            f"loop, GPT-2 {layers}x{width}, V={vocabulary:,}, batch {batch}",
            {
                "model.generate": _generate(model, vocabulary, batch),
                "Gymnasium loop": _gymnasium_loop(model, vocabulary, batch),
            },
        )


def _generate(model: Any, vocabulary: int, batch: int) -> Callable[[], int]:  # noqa: ANN401
    ids = torch.from_numpy(np.random.default_rng(0).integers(1, vocabulary, size=(batch, 32)))

    def run() -> int:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            text = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0,
                min_new_tokens=64, max_new_tokens=64, pad_token_id=0,
            )  # fmt: skip
        return int(text.shape[0] * (text.shape[1] - 32))

    return run


def _gymnasium_loop(model: Any, vocabulary: int, batch: int) -> Callable[[], int]:  # noqa: ANN401
    parameters = _parameters(vocabulary, 32, 64, eos_token_id=NO_TOKEN)
    envs = TextVectorEnv("text_bandit", num_envs=batch, **parameters)
    policy = CausalLMPolicy(model, device="cpu")

    def run() -> int:
        rng = np.random.default_rng(0)
        obs, _ = envs.reset(seed=0)
        for _ in range(64):
            obs, *_ = envs.step(policy.step(obs, rng).actions)
        return batch * 64

    return run
