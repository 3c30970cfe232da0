"""Linear layers and GELU of a Transformers model by faster functions, within a context."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.activations import NewGELUActivation
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from textrl_envs.language_models.fast.gelu import gelu_tanh
from textrl_envs.language_models.fast.linear import linear

__all__ = ["changed_forward", "changed_forwards", "fast_operations"]


def fast_operations(
    trunk: nn.Module, *, is_checkpointed: bool = False
) -> contextlib.AbstractContextManager[None]:
    """Within it, linear layers and GELU are computed by faster functions; nothing else changes.

    Args:
        trunk: whose layers.
        is_checkpointed: its blocks keep their inputs alone, and compute the rest again for the
            gradients, by the same functions.
    """
    again = functools.partial(fast_operations, trunk) if is_checkpointed else None
    return changed_forwards(trunk, again)


@contextlib.contextmanager
def changed_forwards(trunk: nn.Module, again: Callable[[], Any] | None) -> Iterator[None]:
    """Lets layers be computed by faster functions within it.

    Args:
        trunk: whose layers.
        again: makes the context in which a checkpointed block is computed again, or None where all
            that gradients need is kept.
    """
    with contextlib.ExitStack() as stack:
        for module in trunk.modules():
            fast: Any = FASTER.get(type(module))
            # What somebody has put on a module himself stays.
            if fast is not None and "forward" not in vars(module):
                stack.enter_context(changed_forward(module, functools.partial(fast, module)))
            elif again is not None and isinstance(module, GradientCheckpointingLayer):
                forward = functools.partial(_checkpointed, module.forward, again)
                stack.enter_context(changed_forward(module, forward))
        yield


@contextlib.contextmanager
def changed_forward(module: Any, forward: Callable[..., Any]) -> Iterator[None]:  # noqa: ANN401
    """Puts another forward on a module within it, and what was there back afterwards."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _checkpointed(
    forward: Callable[..., Any],
    again: Callable[[], Any],
    *args: Any,  # noqa: ANN401
    **kwargs: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    return checkpoint(
        forward,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (contextlib.nullcontext(), again()),
        **kwargs,
    )


def _linear(module: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    return linear(x, module.weight, module.bias)


def _conv1d(module: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    return linear(x, module.weight.T, module.bias)


def _gelu_tanh(_: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    return gelu_tanh(x)


FASTER = {
    nn.Linear: _linear,
    Conv1D: _conv1d,  # GPT-2's linear layer, its weight [in, out]
    NewGELUActivation: _gelu_tanh,  # eight operations in Transformers
}
