"""quantised(policy): the same policy with a trunk of 8-bit weights, to be served from a CPU."""

import copy

from torch import nn
from transformers.pytorch_utils import Conv1D

from textrl_agents.policies.base import Policy
from textrl_agents.policies.lora import LoraPolicy
from textrl_agents.policies.network import NetworkPolicy
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.fast.int8 import Int8Linear

__all__ = ["network_bytes", "quantised"]


def quantised(policy: Policy) -> NetworkPolicy:
    """Returns a copy whose trunk multiplies in 8 bits; the policy stays what it is.

    All linear layers of the trunk become `Int8Linear`. Embeddings, norms, and output layer and
    value head, whose errors nothing behind them evens out, keep their numbers. A reference is
    shared. The copy cannot be trained, nor saved: save the policy, and quantise what is loaded.

    Raises:
        InvalidInputError: a policy that is no network or not on the CPU, or a trunk without linear
            layers, as an LSTM's.
    """
    if isinstance(policy, LoraPolicy):
        policy = policy.merged()
    if not isinstance(policy, NetworkPolicy) or policy.device.type != "cpu":
        raise InvalidInputError(
            f"Expected a network on the CPU to quantise; got a {type(policy).__name__} on "
            f"{policy.device}."
        )
    served = copy.deepcopy(policy, {id(policy.reference): policy.reference})
    if not _quantise_layers(served.trunk):
        raise InvalidInputError(
            f"The trunk of a {type(policy).__name__} has no linear layer to quantise. "
            "Distil it into a smaller network instead."
        )
    served.requires_grad_(False)
    served.forget()
    return served


def _quantise_layers(module: nn.Module) -> int:
    """Replaces the linear layers below a module; returns how many."""
    count = 0
    for name, child in module.named_children():
        if isinstance(child, Conv1D | nn.Linear):
            # Conv1D keeps its weight as [in, out].
            weight = child.weight.T if isinstance(child, Conv1D) else child.weight
            setattr(module, name, Int8Linear(weight, child.bias))
            count += 1
        else:
            count += _quantise_layers(child)
    return count


def network_bytes(policy: Policy) -> int:
    """Returns the bytes of a policy's own weights; a reference's are not among them."""
    tensors = [*policy.parameters(), *policy.buffers()]
    return sum(tensor.nbytes for tensor in tensors)
