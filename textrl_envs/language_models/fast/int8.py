"""Int8Linear: a linear layer of 8-bit weights, whose inputs are rounded to 8 bits as they come.

torch keeps such layers no longer: `torch.ao.quantization` is deprecated, and so are the quantised
tensors below it. What is left, `torch._int_mm`, is 10 to 40 times slower than a float product on a
processor without instructions for it.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.fast.compiled import compile_library
from textrl_envs.language_models.fast.linear import ACTIVATIONS
from textrl_envs.language_models.fast.threads import in_threads

__all__ = ["Int8Linear"]

LARGEST = 127
"""As far from 0 on either side, so that 0 stays 0."""
WORK_PER_THREAD = 1 << 19
"""Multiplications that are worth a thread."""


class Int8Linear(nn.Module):
    """y = x Wᵀ + b with W and x in 8 bits, without gradients.

    Each output has a scale of its own, largest |w| / 127, and each row of x another, found when it
    comes: no data is needed beforehand. Products are summed as whole numbers, and exactly.

    With ε = half a step of each rounding, |y − (x Wᵀ + b)| is at most
    Σ_k (|x_k| s_n + |w_nk| s_t) / 2 + K s_n s_t / 4, s_n and s_t being the two scales.

    Args:
        weight: [N, K].
        bias: [N], or None for 0.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        weight = weight.detach().float().contiguous()  # C reads it row by row
        scale = weight.abs().amax(1).clamp(min=1e-30) / LARGEST
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        found = torch.zeros_like(scale) if bias is None else bias.detach().float().clone()
        self.register_buffer("bias", found)

    @classmethod
    def side_by_side(cls, layers: Sequence["Int8Linear"]) -> "Int8Linear":
        """Returns the layer whose outputs are those of several, one behind the other."""
        if len(layers) == 1:
            return layers[0]
        joined = cls.__new__(cls)
        nn.Module.__init__(joined)
        for name in ("weight", "scale", "bias"):
            joined.register_buffer(name, torch.cat([getattr(layer, name) for layer in layers]))
        return joined

    @torch.no_grad()
    def forward(self, x: Tensor, activation: str = "none") -> Tensor:
        """Returns act(x Wᵀ + b), [..., K] -> [..., N]. Activations: none, silu, gelu_tanh."""
        flat = x.reshape(-1, x.shape[-1]).float().contiguous()
        product = _compiled if flat.device.type == "cpu" and _library() is not None else _plain
        result = ACTIVATIONS[activation](product(flat, self.weight, self.scale, self.bias))
        return result.view(*x.shape[:-1], -1).to(x.dtype)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """Returns x Wᵀ + b + residual, [T, K] and [T, N] -> [T, N]."""
        found: Tensor = self(x)
        return found + residual

    def _save_to_state_dict(self, *args: Any) -> NoReturn:  # noqa: ANN401
        raise InvalidInputError(
            "A policy of 8 bits is not saved. Save the one that it was made of, and quantise again "
            "what is loaded."
        )


def _plain(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
    """The same by torch. Whole numbers stand in floats, and are summed to rounding."""
    scale = x.abs().amax(1, keepdim=True).clamp(min=1e-30) / LARGEST
    return (x / scale).round() @ weight.T.to(x) * (scale * weight_scale) + bias


def _compiled(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
    library = _library()
    assert library is not None
    (rows, width), outputs = x.shape, len(weight)
    rounded = torch.empty(rows, width, dtype=torch.int16)
    scales, result = torch.empty(rows), torch.empty(rows, outputs)
    library.quantise(x.data_ptr(), rounded.data_ptr(), scales.data_ptr(), rows, width)
    tensors = (rounded, scales, weight, weight_scale, bias, result)
    addresses = [tensor.data_ptr() for tensor in tensors]
    threads = min(torch.get_num_threads(), 1 + rows * width * outputs // WORK_PER_THREAD)

    def run(part: int) -> None:
        places = outputs * part // threads, outputs * (part + 1) // threads
        library.product(*addresses, rows, width, outputs, *places)

    in_threads(run, threads)
    return result


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = compile_library("int8")
    if library is not None:
        pointer, long = ctypes.c_void_p, ctypes.c_long
        library.quantise.argtypes = [*[pointer] * 3, long, long]
        library.product.argtypes = [*[pointer] * 6, *[long] * 5]
        library.quantise.restype = library.product.restype = None
    return library
