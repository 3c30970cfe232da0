"""What keeps a network from learning its examples by heart: dropout, decay, frozen layers.

blocks             the layers of a trunk, lowest first
dropout            within it, what the layers add is dropped at random
frozen             within it, the lowest layers take no gradients
decay_groups       weight matrices decay, and nothing else does

They act on any Transformers decoder, from outside: a model's own dropout differs from family to
family, draws from the global generator, and is off (`Policy.train`).
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from textrl_envs.errors import InvalidInputError

__all__ = [
    "blocks",
    "check_frozen_layers",
    "decay_groups",
    "dropout",
    "frozen",
    "lowest_parameters",
]

SUBLAYERS = ("attn", "self_attn", "attention", "mlp")
"""What Transformers' families call the two parts of a block."""


def blocks(network: nn.Module | None) -> Sequence[nn.Module]:
    """Returns the blocks of a Transformers decoder, lowest first; empty where there are none."""
    for name in ("h", "layers"):
        found = getattr(network, name, None)
        if isinstance(found, nn.ModuleList):
            return list(found)
    return []


# --- dropout ---


@contextlib.contextmanager
def dropout(network: nn.Module | None, rate: float, generator: torch.Generator) -> Iterator[None]:
    """Within it, some of what attention and feed-forward layers add to a text is dropped.

    Each number is 0 with probability `rate`, and divided by 1 − rate else: the residual dropout of
    Vaswani et al. 2017 (arXiv:1706.03762), section 5.4. No forward may be computed twice for its
    gradients, as in gradient checkpointing: the second would drop others.

    Args:
        network: a Transformers decoder, in evaluation mode.
        rate: in [0, 1); 0 does nothing.
        generator: of the device of the network.

    Raises:
        InvalidInputError: a rate above 0, and no layers that are known.
    """
    if not rate:
        yield
        return
    layers = [m for block in blocks(network) for n, m in block.named_children() if n in SUBLAYERS]
    if not layers:
        raise InvalidInputError(
            f"dropout needs a Transformers decoder; {_name(network)} has no layers to drop from. "
            "Set it to 0."
        )

    def drop(_module: nn.Module, _inputs: Any, output: Any) -> Any:  # noqa: ANN401
        if isinstance(output, tuple):  # attention gives its weights beside
            return (_dropped(output[0], rate, generator), *output[1:])
        return _dropped(output, rate, generator)

    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(drop).remove)
        yield


def _dropped(x: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    kept = torch.rand(x.shape, generator=generator, device=x.device) >= rate
    return x * kept / (1 - rate)


# --- frozen layers ---


def check_frozen_layers(network: nn.Module | None, layers: int) -> None:
    """Checks that a network has so many layers to freeze.

    Raises:
        InvalidInputError: fewer, or none at all.
    """
    known = len(blocks(network))
    if layers > known:
        raise InvalidInputError(
            f"frozen_layers must be at most {known}, the blocks of {_name(network)}; got {layers}."
        )


def lowest_parameters(network: nn.Module | None, layers: int) -> list[nn.Parameter]:
    """Returns the weights of a network's embeddings and of its lowest blocks; none for 0 layers.

    An output layer that is tied to the embedding is among them.
    """
    check_frozen_layers(network, layers)
    if not layers:
        return []
    assert network is not None
    embeddings = [module for module in network.modules() if isinstance(module, nn.Embedding)]
    lowest = [*embeddings, *blocks(network)[:layers]]
    return [parameter for module in lowest for parameter in module.parameters()]


@contextlib.contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within it, weights that are trained otherwise take no gradients."""
    stopped = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in stopped:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in stopped:
            parameter.requires_grad_(True)


# --- weight decay ---


def decay_groups(
    parameters: Sequence[nn.Parameter], *, weight_decay: float
) -> list[dict[str, Any]]:
    """Returns an optimiser's groups: matrices decay; biases and normalisation gains are left alone.

    Args:
        parameters: all that are trained.
        weight_decay: of AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101): each step takes this
            share, times the learning rate, off a weight.
    """
    matrices = [p for p in parameters if p.ndim >= 2]
    others = [p for p in parameters if p.ndim < 2]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _name(network: nn.Module | None) -> str:
    return "a policy without a network" if network is None else type(network).__name__
