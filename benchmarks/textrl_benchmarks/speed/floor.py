"""The floor: what work must cost on this machine, in multiplications and in bytes read.

Both are measured here, in the minute of the run: matrix products by the fastest function that torch
has, reading by a sum over an array that no cache holds.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from textrl_envs.language_models.fast.linear import linear

__all__ = ["Machine", "Work", "loop_work"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one unit needs at the least."""

    flops: float = 0.0
    num_bytes: float = 0.0


@dataclass(frozen=True)
class Machine:
    """What a core does in a second."""

    flops: float
    """Floating-point operations of a float32 matrix product."""
    bandwidth: float
    """Bytes read from memory."""

    @classmethod
    def measured(cls) -> "Machine":
        """Measures both, the best of some tries."""
        x, weight = torch.randn(1024, 768), torch.randn(3072, 768)
        array = torch.randn(32 * 1024 * 1024)
        flops = 2 * 1024 * 768 * 3072 / _best(lambda: linear(x, weight))
        return cls(flops, 4 * array.numel() / _best(lambda: array.sum()))

    def seconds(self, work: Work) -> float:
        """Returns the CPU-seconds of some work: multiplying and reading can overlap."""
        return max(work.flops / self.flops, work.num_bytes / self.bandwidth)

    def as_dict(self) -> dict[str, Any]:
        """Returns both figures by name."""
        return asdict(self)


def _best(run: Callable[[], object]) -> float:
    found = []
    with torch.no_grad():
        for _ in range(8):
            start = time.process_time()
            run()
            found.append(time.process_time() - start)
    return min(found)


def loop_work(
    model: Any,  # noqa: ANN401 - any Transformers causal LM
    *,
    batch: int,
    prompt_tokens: int,
    new_tokens: int,
) -> Work:
    """Returns what a token of a roll-out needs: every weight is multiplied for every token.

    The weights are read once a step, keys and values of what stands before at every step.
    """
    config = model.config
    embedded = model.get_input_embeddings().weight.numel()
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    positions = model.base_model.wpe.weight.numel() if hasattr(model.base_model, "wpe") else 0
    weights = sum(p.numel() for p in model.parameters()) - positions - (0 if is_tied else embedded)
    head = model.get_output_embeddings().weight.numel()
    flops = 2 * (weights + (weights - head) * prompt_tokens / new_tokens)
    size = next(model.parameters()).element_size()
    width = 2 * config.num_hidden_layers * config.hidden_size
    seen = prompt_tokens + new_tokens / 2
    return Work(flops=flops, num_bytes=size * (weights / batch + width * seen))
