"""CompiledSoftmax: draws, normalisers and entropies of softmax(logits), which is not written.

A loop of C (softmax.c) for float32 on the CPU, where there is a compiler. Reading the logits while
they are in the cache, it takes a fraction of the time of a softmax and what is then done with it.
"""

import ctypes
import functools
from typing import Self

import torch
from torch import Tensor

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.fast.compiled import compile_library
from textrl_envs.language_models.fast.threads import in_threads

__all__ = ["CompiledSoftmax"]

BLOCK = 128
"""As in softmax.c."""
WORK_PER_THREAD = 1 << 19
"""Logits that are worth a thread."""


class CompiledSoftmax:
    """What sampling needs to know of a batch of distributions.

    Args:
        logits: float32 [B, V] on the CPU, contiguous; −∞ is a token that cannot be.
    """

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits
        count, size = logits.shape
        self._tops, self.log_totals, self.entropies = logits.new_empty(3, count)
        """log Σ exp(logits) and −Σ p log p of each row, in nats, [B]."""
        self._sums = logits.new_empty(count, -(-size // BLOCK))
        self._run("summarise", self._tops, self.log_totals, self.entropies, self._sums)

    @classmethod
    def of(cls, logits: Tensor) -> Self | None:
        """Returns it, or None where it cannot serve."""
        is_plain = logits.dtype == torch.float32 and logits.device.type == "cpu" and logits.numel()
        return cls(logits.contiguous()) if is_plain and _library() is not None else None

    def draw(self, uniforms: Tensor) -> Tensor:
        """Draws a token a row by inverting the cumulative distribution.

        Args:
            uniforms: [B] in [0, 1).

        Returns:
            int64 [B]. A token of probability 0 is never drawn.

        Raises:
            InvalidInputError: another number of uniforms than of distributions.
        """
        count = len(self._logits)
        if uniforms.shape != (count,):
            raise InvalidInputError(
                f"Expected {count} uniform numbers, one a distribution; got the shape "
                f"{tuple(uniforms.shape)}."
            )
        tokens = torch.empty(count, dtype=torch.int64)
        shares = uniforms.to("cpu", torch.float64).contiguous()
        self._run("draw", self._tops, self._sums, shares, tokens)
        return tokens

    def overwrite(self) -> None:
        """Writes the probabilities to where the logits were; ends the use of this object."""
        self._run("normalise", self._tops, self.log_totals)

    def _run(self, name: str, *arrays: Tensor) -> None:
        function = getattr(_library(), name)
        count, size = self._logits.shape
        threads = min(torch.get_num_threads(), 1 + self._logits.numel() // WORK_PER_THREAD, count)
        addresses = [array.data_ptr() for array in (self._logits, *arrays)]

        def run(part: int) -> None:
            first, last = count * part // threads, count * (part + 1) // threads
            function(*addresses, first, last, size)

        in_threads(run, threads)


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = compile_library("softmax")
    if library is not None:
        for name, arrays in (("summarise", 5), ("draw", 5), ("normalise", 3)):
            function = getattr(library, name)
            function.argtypes = [ctypes.c_void_p] * arrays + [ctypes.c_long] * 3
            function.restype = None
    return library
