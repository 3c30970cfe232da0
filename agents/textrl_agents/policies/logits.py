"""A policy's logits as a function of its weights, which can be differentiated either way.

`Policy.evaluate` is made for one gradient, and overwrites its logits with it. Here they are kept,
for who wants more of them: their derivative forwards, or what other weights would say.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from textrl_agents.episodes import Episodes
from textrl_agents.policies.base import Policy, response_tokens
from textrl_agents.policies.network import NetworkPolicy
from textrl_agents.policies.table import TablePolicy
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.fast.operations import fast_operations

__all__ = ["LogitsOfWeights", "response_logits"]


def response_logits(policy: Policy, episodes: Episodes, *, may_checkpoint: bool = True) -> Tensor:
    """Returns the logits whose softmax each of the M response tokens was drawn from, [M, V].

    Args:
        policy: a network or a table.
        episodes: B of them.
        may_checkpoint: False keeps all for the gradients, whatever `policy.is_checkpointed` says.

    Raises:
        InvalidInputError: a policy that is neither a network nor a table.
    """
    if isinstance(policy, NetworkPolicy):
        is_checkpointed = policy.is_checkpointed and may_checkpoint
        logits, ref_log_probs = _of_network(policy, episodes, is_checkpointed=is_checkpointed)
    elif isinstance(policy, TablePolicy):
        logits, ref_log_probs = _of_table(policy, episodes)
    else:
        raise InvalidInputError(
            f"The logits of a {type(policy).__name__} are not known. "
            "Give a NetworkPolicy or a TablePolicy."
        )
    tokens = response_tokens(episodes, policy.device)
    return policy.sampling.apply(logits, ref_log_probs=ref_log_probs, tokens=tokens)


def _of_network(
    policy: NetworkPolicy, episodes: Episodes, *, is_checkpointed: bool
) -> tuple[Tensor, Tensor | None]:
    rows, columns = episodes.response_places()
    # A token is predicted from the column before it.
    places = (rows, columns - 1)
    ids = torch.from_numpy(episodes.input_ids).to(policy.device)
    # Padding lies behind every token, so the causal mask alone keeps it out.
    with fast_operations(policy.trunk, is_checkpointed=is_checkpointed):
        hidden = policy.trunk(input_ids=ids, use_cache=False).last_hidden_state[places]
    logits = policy.episode_logits(hidden, episodes, places)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if not policy.sampling.reference_share:
        return logits, None
    assert policy.reference is not None
    found = policy.reference.log_probs_at(episodes.input_ids, episodes.attention_mask, places)
    return logits, torch.from_numpy(found).to(logits)


def _of_table(policy: TablePolicy, episodes: Episodes) -> tuple[Tensor, Tensor]:
    mask = episodes.response_mask
    _, times = mask.nonzero()
    nodes = policy.mdp.walk(episodes.prompt_index, episodes.response_ids)[mask]
    log_ref = torch.from_numpy(policy.mdp.log_ref[nodes])
    return log_ref + policy.table[times, nodes], log_ref


class LogitsOfWeights:
    """z(θ): logits of response tokens for any weights θ, which the policy need not have.

    Args:
        policy: whose.
        episodes: one or a few, by which it is found which trainable weights the logits depend on.
            Those are θ; all others, such as the head of the value, stay what they are.
    """

    def __init__(self, policy: Policy, episodes: Episodes) -> None:
        self._module = _Logits(policy)
        trained = [p for p in policy.parameters() if p.requires_grad]
        total = self._module(episodes).logsumexp(-1).sum()
        found = torch.autograd.grad(total, trained, allow_unused=True)
        self.parameters = [p for p, slope in zip(trained, found, strict=True) if slope is not None]
        """Those of θ, in its order."""
        # A tied weight has several names. A module has one here, though it may hang in two places,
        # as a trunk does: what is lent to it twice would not be given back.
        place = {id(p): i for i, p in enumerate(self.parameters)}
        self._places = {
            f"{module_name}.{name}": place[id(p)]
            for module_name, module in self._module.named_modules()
            for name, p in module.named_parameters(recurse=False)
            if id(p) in place
        }

    def weights(self) -> Tensor:
        """Returns a copy of θ as the policy has it, [P]."""
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    @torch.no_grad()
    def write(self, weights: Tensor) -> None:
        """Gives the policy these weights, [P]."""
        for parameter, part in zip(self.parameters, self._split(weights), strict=True):
            parameter.copy_(part)

    def __call__(self, weights: Tensor, episodes: Episodes) -> Tensor:
        """Returns z(θ) at the M response tokens, [P] -> [M, V].

        Layers are computed again for the gradients (`Policy.is_checkpointed`) at the policy's own
        weights alone: by then what was lent is given back, and other weights would get wrong ones.
        """
        parts = self._split(weights)
        lent = {name: parts[place] for name, place in self._places.items()}
        how = {"may_checkpoint": self._are_own(parts)}
        logits: Tensor = functional_call(self._module, lent, (episodes,), how, tie_weights=False)
        return logits

    def _are_own(self, parts: list[Tensor]) -> bool:
        return all(torch.equal(part, p) for part, p in zip(parts, self.parameters, strict=True))

    def _split(self, weights: Tensor) -> list[Tensor]:
        parts = torch.split(weights, [p.numel() for p in self.parameters])
        return [part.view_as(p).to(p) for part, p in zip(parts, self.parameters, strict=True)]


class _Logits(nn.Module):
    """Gives a policy the `forward` that `functional_call` asks for."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, episodes: Episodes, *, may_checkpoint: bool = True) -> Tensor:
        return response_logits(self.policy, episodes, may_checkpoint=may_checkpoint)
