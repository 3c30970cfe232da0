"""LeanTrunk: the forward of GPT-2 and of Llama, Qwen2 and Qwen3 for few new tokens a row.

It reads the Transformers model's own weights and does what its trunk does, in inference alone:
keys and values lie in arrays that are taken once, every row writes at its own position, and rows
that take one token and rows that take a whole prompt share each matrix product.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from textrl_envs.language_models.fast.attention import (
    LONGEST_PROMPT,
    CompiledAppend,
    CompiledAttention,
    TorchAppend,
    TorchAttention,
    compile_kernel,
)
from textrl_envs.language_models.fast.cuda_graph import OneTokenAttention, StepGraphs
from textrl_envs.language_models.fast.int8 import Int8Linear
from textrl_envs.language_models.fast.linear import LinearWeights
from textrl_envs.language_models.fast.shared_prefix import SharedPrefix
from textrl_envs.language_models.fast.threads import threads_for

__all__ = ["LeanTrunk"]

Attention = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Queries [T, heads, d], a layer's caches of keys and of values, scaling -> [T, heads · d]."""
Append = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""New keys and values [T, kv heads, d], and the caches that they are written to."""


@dataclass(slots=True)
class _Layer:
    """One transformer block: attention and a feed-forward part, each behind a norm."""

    norm1: "_Norm"
    qkv: LinearWeights | Int8Linear
    out: LinearWeights | Int8Linear
    norm2: "_Norm"
    up: LinearWeights | Int8Linear
    down: LinearWeights | Int8Linear
    scaling: float
    query_norm: "_Norm | None" = None
    key_norm: "_Norm | None" = None


class _Norm:
    """LayerNorm, or RMSNorm where there is no bias."""

    def __init__(self, module: Any, eps: float) -> None:  # noqa: ANN401 - any norm of Transformers
        self._module, self._eps = module, eps
        self._has_bias = getattr(module, "bias", None) is not None

    def __call__(self, x: Tensor) -> Tensor:
        weight = self._module.weight
        if self._has_bias:
            return torch.layer_norm(x, weight.shape, weight, self._module.bias, self._eps)
        return F.rms_norm(x, weight.shape, weight, self._eps)


class LeanTrunk:
    """A trunk's forward over a cache with a slot a row.

    Args:
        trunk: a `GPT2Model`, `LlamaModel`, `Qwen2Model` or `Qwen3Model`.
        num_slots: rows of most calls.
    """

    def __init__(self, trunk: nn.Module, num_slots: int) -> None:
        self._trunk: Any = trunk
        config: Any = trunk.config
        self._is_gpt2 = config.model_type == "gpt2"
        self.num_heads: int = config.num_attention_heads
        self.num_kv_heads: int = getattr(config, "num_key_value_heads", None) or self.num_heads
        width = config.hidden_size // self.num_heads
        self.head_width: int = getattr(config, "head_dim", None) or width
        blocks: Any = self._trunk.h if self._is_gpt2 else self._trunk.layers
        self._layers = [
            _gpt2_layer(b, config, num_slots) if self._is_gpt2 else _llama_layer(b, num_slots)
            for b in blocks
        ]
        if self._is_gpt2:
            self._norm, self._activation = (
                _Norm(self._trunk.ln_f, config.layer_norm_epsilon),
                "gelu_tanh",
            )
        else:
            self._norm, self._activation = _Norm(self._trunk.norm, config.rms_norm_eps), "silu"
        self._product = 3 * config.hidden_size**2  # a layer has four products, some 12 H² a token
        self._multiplications = 4 * len(self._layers) * self._product
        parameter = next(trunk.parameters())
        self._dtype, self._device = parameter.dtype, parameter.device
        is_plain = parameter.dtype == torch.float32 and parameter.device.type == "cpu"
        self._kernel = compile_kernel(self.head_width) if is_plain else None

    def make_room(self, num_slots: int, num_columns: int) -> None:
        """Takes an empty cache for that many rows, of texts of that many tokens at most."""
        self._num_columns = num_columns
        size = (len(self._layers), 2, num_slots, num_columns, self.num_kv_heads, self.head_width)
        self._cache = torch.zeros(size, dtype=self._dtype, device=self._device)
        # [slots · columns, kv heads, d] of each layer, keys and values
        self._caches = [cache.flatten(1, 2).unbind() for cache in self._cache.unbind(1)]
        is_cuda = self._device.type == "cuda"
        self._graphs = StepGraphs(self._trunk, num_slots, num_columns) if is_cuda else None

    @staticmethod
    def supports(trunk: nn.Module) -> bool:
        """Tells whether the trunk is of a family and a shape that is known here, and unchanged."""
        config: Any = trunk.config
        if config.model_type == "gpt2":
            is_known = (
                config.activation_function in ("gelu_new", "gelu_pytorch_tanh")
                and not config.reorder_and_upcast_attn
                and not config.add_cross_attention
            )
        else:
            is_known = (
                config.model_type in ("llama", "qwen2", "qwen3")
                and config.hidden_act == "silu"
                and "dynamic" not in trunk.rotary_emb.rope_type  # type: ignore[operator, union-attr]
                and "longrope" not in trunk.rotary_emb.rope_type  # type: ignore[operator, union-attr]
            )
        return is_known and all(map(_is_unchanged, trunk.modules()))

    def read(
        self, tokens: NDArray[np.int64], rows: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> Tensor:
        """Writes the keys and values of T new tokens; returns the hidden states of some, [B, H].

        Args:
            tokens: token ids, (T,).
            rows: the slot of each, rising, (T,).
            positions: its place in its text, rising by one within a row, (T,).

        Returns:
            Hidden states after the last new token of each row.
        """
        if self._graphs is not None and self._graphs.takes(rows):
            hidden = self._graphs.read(self.step, tokens, positions)
            if hidden is not None:
                return hidden
        ends = np.append(np.flatnonzero(rows[1:] != rows[:-1]), len(rows) - 1)
        places = rows * self._num_columns + positions
        sources = last = None
        if len(ends) < len(rows):
            last_attention = self._attention(rows[ends], positions[ends])
            shared = SharedPrefix.of(tokens, rows, positions, self._multiplications)
            if shared is not None:
                tokens, rows, positions = (x[shared.readers] for x in (tokens, rows, positions))
                sources, ends = shared.source, shared.source[ends]
            last = self._tensor(ends), last_attention
        new, at = self._tensor(np.stack([tokens, positions]))
        append, attention = self._append(places, sources), self._attention(rows, positions)
        with threads_for(self._product * len(tokens)):
            return self._norm(self._forward(new, at, append, attention, last))

    def step(self, tokens: Tensor, positions: Tensor, num_seen: int) -> Tensor:
        """Reads one new token in every slot, on the device alone and in shapes that never change.

        Args:
            tokens: int64 [B], B being all slots.
            positions: its place in its text, int64 [B].
            num_seen: columns of the cache that are looked at, more than any position.

        Returns:
            Hidden states after the new tokens, [B, H].
        """
        slots = torch.arange(len(tokens), device=tokens.device)
        append = TorchAppend(slots * self._num_columns + positions)
        attention = OneTokenAttention(positions, self._num_columns, num_seen, self._dtype)
        return self._norm(self._forward(tokens, positions, append, attention))

    def _forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        append: Append,
        attention: Attention,
        last: tuple[Tensor, Attention] | None = None,
    ) -> Tensor:
        """Runs T new tokens through all layers, -> [T, H].

        The last layer is finished for the last of each row alone, since nobody looks at the others:
        `last` says which B these are, and has their attention. The result is then [B, H].
        """
        x, rotation = self._embed(tokens, positions)
        for layer, keys, values in zip(self._layers, *self._caches, strict=True):
            query, key, value = self._project(layer, x, rotation)
            append(key, value, keys, values)
            if last is not None and layer is self._layers[-1]:
                chosen, attention = last
                query, x = query.index_select(0, chosen), x.index_select(0, chosen)
            x = layer.out.plus(attention(query, keys, values, layer.scaling), x)
            x = layer.down.plus(self._feed(layer, x), x)
        return x

    def _append(
        self, places: NDArray[np.int64], sources: NDArray[np.int64] | None
    ) -> CompiledAppend | TorchAppend:
        if self._kernel is not None:
            return CompiledAppend(self._kernel, places, sources)
        return TorchAppend(self._tensor(places), None if sources is None else self._tensor(sources))

    def _attention(
        self, rows: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> CompiledAttention | TorchAttention:
        columns, num_rows = self._num_columns, 1 + int(np.count_nonzero(np.diff(rows)))
        if self._kernel is not None and len(rows) <= LONGEST_PROMPT * num_rows:
            return CompiledAttention(self._kernel, rows, positions, columns)
        return TorchAttention(rows, positions, columns, self._cache)

    def _tensor(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _embed(
        self, tokens: Tensor, positions: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        if self._is_gpt2:
            words, places = self._trunk.wte.weight, self._trunk.wpe.weight
            return words.index_select(0, tokens) + places.index_select(0, positions), None
        x = self._trunk.embed_tokens.weight.index_select(0, tokens)
        cos, sin = self._trunk.rotary_emb(x, positions[None])
        return x, (cos[0, :, None], sin[0, :, None])

    def _project(
        self, layer: _Layer, x: Tensor, rotation: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries [T, heads, d], keys and values [T, kv heads, d]."""
        heads = [self.num_heads, self.num_kv_heads, self.num_kv_heads]
        flat = layer.qkv(layer.norm1(x)).view(len(x), -1, self.head_width)
        query, key, value = torch.split(flat, heads, dim=1)
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = layer.query_norm(query), layer.key_norm(key)
        if rotation is not None:
            query, key = _rotate(query, *rotation), _rotate(key, *rotation)
        return query, key, value

    def _feed(self, layer: _Layer, x: Tensor) -> Tensor:
        """Returns what the feed-forward part multiplies last, [T, inner width]."""
        x = layer.norm2(x)
        if self._is_gpt2:
            return layer.up(x, self._activation)
        gate, up = layer.up(x).chunk(2, dim=1)
        return F.silu(gate) * up


def _is_unchanged(module: nn.Module) -> bool:
    """Tells whether a module computes what its class says: adapters and hooks change that."""
    is_ours = isinstance(module, Int8Linear) or type(module).__module__.startswith(
        ("torch.nn.modules.", "transformers.")
    )
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    return is_ours and not any(hooks) and "forward" not in vars(module)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _weights(modules: Sequence[Any], rows: int) -> LinearWeights | Int8Linear:
    """Returns linear layers as one product."""
    if all(isinstance(module, Int8Linear) for module in modules):
        return Int8Linear.side_by_side(modules)
    # Conv1D keeps its weight as [in, out].
    parts = [(m.weight.T if isinstance(m, Conv1D) else m.weight, m.bias) for m in modules]
    return LinearWeights(parts, rows)


def _gpt2_layer(block: Any, config: Any, rows: int) -> _Layer:  # noqa: ANN401
    eps = config.layer_norm_epsilon
    linears = (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
    qkv, out, up, down = (_weights([module], rows) for module in linears)
    scaling = block.attn.scaling
    return _Layer(_Norm(block.ln_1, eps), qkv, out, _Norm(block.ln_2, eps), up, down, scaling)


def _llama_layer(block: Any, rows: int) -> _Layer:  # noqa: ANN401
    attention, mlp = block.self_attn, block.mlp
    qkv, out, up, down = (
        _weights(modules, rows)
        for modules in (
            (attention.q_proj, attention.k_proj, attention.v_proj),
            (attention.o_proj,),
            (mlp.gate_proj, mlp.up_proj),
            (mlp.down_proj,),
        )
    )
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    query_norm, key_norm = (n and _Norm(n, n.variance_epsilon) for n in norms)
    eps1, eps2 = (
        n.variance_epsilon for n in (block.input_layernorm, block.post_attention_layernorm)
    )
    return _Layer(
        _Norm(block.input_layernorm, eps1), qkv, out,
        _Norm(block.post_attention_layernorm, eps2), up, down, attention.scaling,
        query_norm, key_norm,
    )  # fmt: skip
