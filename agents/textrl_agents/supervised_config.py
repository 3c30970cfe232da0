"""The configuration of supervised fine-tuning; read by the command line, so free of torch."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from textrl_envs.errors import InvalidInputError

__all__ = ["Architecture", "Decay", "SupervisedConfig"]

Architecture = Literal["gpt2", "llama"]
Decay = Literal["cosine", "linear"]
MIN_VOCABULARY = 258
"""256 bytes, EOS and padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedConfig:
    """What to learn from, which model learns it, and how."""

    data: Path
    """A JSONL file of prompts and responses (.jsonl), or a plain text file (any other suffix)."""
    prompt_field: str = "prompt"
    """Where a line of the JSONL file holds the prompt."""
    response_field: str = "response"
    """Where it holds the response."""
    template: str = "{prompt}"
    """How a prompt is presented; {prompt} stands for its text. Reinforcement learning on the result
    needs the same template. Ending it with a line break keeps words from crossing the boundary."""
    train_on_prompt: bool = False
    """Whether the prompt's own tokens are learnt too."""
    max_tokens: int = 256
    """Longest example in tokens, EOS included; a longer one is left out, and counted. Blocks of a
    plain text have this length, and a new model reads no further."""

    model: Path | None = None
    """A Transformers folder to continue from, with its tokenizer; None trains a new model. The six
    fields below describe a new model only."""
    architecture: Architecture = "gpt2"
    """Kind of the new model."""
    layers: int = 4
    """Its blocks."""
    width: int = 128
    """Its hidden size."""
    heads: int = 4
    """Its attention heads; they divide the width."""
    vocabulary_size: int = 2048
    """Tokens of its tokenizer at most, learnt from the same data; at least 258."""
    split_digits: bool = False
    """Whether every digit is a token of its own, rather than common numbers too."""

    epochs: int = 3
    """Passes over the training part."""
    max_steps: int | None = None
    """Ends the training earlier, after so many updates; None goes through all epochs."""
    batch_tokens: int = 4096
    """Tokens an update reads at most, padding included."""
    learning_rate: float = 1e-3
    """Highest learning rate. About 1e-3 suits a small new model, 1e-5 to 5e-5 a pretrained one."""
    warmup_fraction: float = 0.05
    """Part of the updates over which the learning rate rises from 0."""
    decay: Decay = "cosine"
    """How it falls to 0 after that."""
    weight_decay: float = 0.01
    """Decoupled decay of the weight matrices; biases and normalisation gains are left alone."""
    max_gradient_norm: float = 1.0
    """Longer gradients are scaled down to this norm."""
    dropout: float = 0.0
    """Share of the numbers that are dropped behind attention and feed-forward layers."""
    frozen_layers: int = 0
    """Lowest blocks that stay as they are, and the embeddings with them; 0 trains everything."""

    held_out_fraction: float = 0.05
    """Part of the examples, or blocks, that is never learnt and on which perplexity is measured."""
    evaluate_every_steps: int = 200
    """Updates from one held-out perplexity to the next."""
    patience: int | None = None
    """Ends the training after so many held-out perplexities that are no longer the lowest, and
    saves the weights of the lowest; None saves the last."""
    log_every_steps: int = 10
    """Updates from one progress report to the next."""
    seed: int = 0
    """Decides the new model's weights, the split and the batches."""
    device: str = "auto"
    """Where to train, as in "cpu" or "cuda:0"; "auto" takes CUDA where there is one."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            self._check(name, getattr(self, name) >= 1, "at least 1")
        self._check("max_steps", self.max_steps is None or self.max_steps >= 1, "at least 1")
        self._check("max_tokens", self.max_tokens >= 2, "at least 2")
        for name in ("learning_rate", "max_gradient_norm"):
            self._check(name, 0 < getattr(self, name) < math.inf, "above 0")
        self._check("patience", self.patience is None or self.patience >= 1, "at least 1")
        self._check("dropout", 0 <= self.dropout < 1, "at least 0 and below 1")
        self._check("frozen_layers", self.frozen_layers >= 0, "0 or above")
        self._check("weight_decay", 0 <= self.weight_decay < math.inf, "0 or above")
        self._check("warmup_fraction", 0 <= self.warmup_fraction <= 1, "in [0, 1]")
        self._check("held_out_fraction", 0 < self.held_out_fraction < 1, "above 0 and below 1")
        self._check(
            "vocabulary_size", self.vocabulary_size >= MIN_VOCABULARY, f"at least {MIN_VOCABULARY}"
        )
        self._check("template", "{prompt}" in self.template, "text that holds {prompt}")
        self._check_pairs()

    def _check(self, name: str, is_right: bool, expected: str) -> None:
        if not is_right:
            default = next(f.default for f in dataclasses.fields(self) if f.name == name)
            raise InvalidInputError(
                f"{name} must be {expected}; got {getattr(self, name)!r}. Try {default!r}."
            )

    def _check_pairs(self) -> None:
        if self.width % self.heads:
            raise InvalidInputError(
                f"heads must divide width={self.width}; got {self.heads}. "
                f"Try {math.gcd(self.width, self.heads)}."
            )
        if self.batch_tokens < self.max_tokens:
            raise InvalidInputError(
                f"batch_tokens must be at least max_tokens={self.max_tokens}; "
                f"got {self.batch_tokens}. Try {16 * self.max_tokens}."
            )


_COUNTS = ("layers", "width", "heads", "epochs", "evaluate_every_steps", "log_every_steps")
