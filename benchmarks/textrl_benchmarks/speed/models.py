"""The models and environments that are timed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from textrl_benchmarks.speed.job import Job, make_policy
from textrl_envs.prompts import Prompt
from textrl_envs.rewards import response_length
from textrl_envs.vector_env import TextVectorEnv

__all__ = ["NO_TOKEN", "make_model", "parameters", "vector_env"]

NO_TOKEN = -1
"""An EOS that is never written."""


class _PlainTokenizer:
    """A vocabulary of numbers: prompts are given as ids, and no text is ever made."""

    pad_token_id = 1

    def __init__(self, size: int, eos_token_id: int) -> None:
        self._size = size
        self.eos_token_id = eos_token_id

    def __len__(self) -> int:
        return self._size

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return " ".join(str(token) for token in token_ids)


def make_model(
    layers: int, width: int, heads: int, vocabulary: int, *, ends: bool = False, tokens: int = 128
) -> Any:  # noqa: ANN401 - Transformers' own
    """Returns GPT-2 with random weights; one that `ends` writes EOS with probability 1/24."""
    from transformers import GPT2Config, GPT2LMHeadModel

    if ends:
        return make_policy(
            Job(
                lengths="varied", layers=layers, width=width, heads=heads,
                vocabulary_size=vocabulary, batch=64,
            )
        )  # fmt: skip
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=tokens, n_layer=layers, n_embd=width, n_head=heads,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).train(False)


def parameters(
    vocabulary: int, prompt_tokens: int, new_tokens: int, *, eos_token_id: int = NO_TOKEN
) -> dict[str, Any]:
    """Returns the parameters of a text bandit of random prompts."""
    rng = np.random.default_rng(0)
    # So many that hardly two rows have the same: the fast path would read it once, `generate` not.
    ids = rng.integers(3, vocabulary, size=(4_096, prompt_tokens))
    return {
        "tokenizer": _PlainTokenizer(vocabulary, eos_token_id),
        "prompts": [Prompt(token_ids=tuple(row)) for row in ids.tolist()],
        "reward": response_length,
        "max_new_tokens": new_tokens,
    }


def vector_env(
    num_envs: int,
    vocabulary: int,
    prompt_tokens: int,
    new_tokens: int,
    **more: Any,  # noqa: ANN401
) -> TextVectorEnv:
    """Returns the text bandit, its episodes `new_tokens` long where no EOS is given."""
    eos = more.pop("eos_token_id", NO_TOKEN)
    given = parameters(vocabulary, prompt_tokens, new_tokens, eos_token_id=eos)
    return TextVectorEnv("text_bandit", num_envs=num_envs, **given, **more)
