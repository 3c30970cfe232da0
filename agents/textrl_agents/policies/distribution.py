"""softmax(logits): draws, log-probabilities and entropies, and the gradients of the last two.

A log-softmax over the vocabulary is made only for those who ask for all of it, and none is kept
for the gradients.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from textrl_envs.language_models.fast.softmax import CompiledSoftmax

__all__ = ["LOWEST", "TokenDistribution", "blocks_of_rows", "sample", "token_log_probs"]

BLOCK = 128
"""Tokens that are summed before the place of a draw is looked for among them."""
BLOCK_ELEMENTS = 1 << 20
"""Numbers of a temporary matrix: 4 MiB in float32."""
ALMOST_1 = 1 - 2.0**-52
LOWEST = -1e30
"""Stands for the logit −∞: its exponential is 0 as well, and 0 times it is 0."""


class TokenDistribution:
    """A distribution over tokens in each of B rows, without gradients.

    Args:
        logits: [B, V], float32 or float64; −∞ is a token that cannot be.
    """

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits
        self._softmax = CompiledSoftmax.of(logits) or _Softmax(logits)

    def __len__(self) -> int:
        return len(self._logits)

    def sample(self, uniforms: Tensor) -> Tensor:
        """Draws a token a row; `uniforms` are float64 [B] in [0, 1). Returns int64 [B]."""
        return self._softmax.draw(uniforms)

    def argmax(self) -> Tensor:
        """Returns the likeliest token of each row, int64 [B]."""
        return self._logits.argmax(-1)

    def log_probs_of(self, tokens: Tensor) -> Tensor:
        """Returns the log-probability of a token a row, in nats, [B]."""
        return self._logits.gather(1, tokens[:, None])[:, 0] - self._softmax.log_totals

    def entropies(self) -> Tensor:
        """Returns −Σ p log p of each row, in nats, [B]."""
        return self._softmax.entropies

    def log_probs(self) -> Tensor:
        """Returns the log-probabilities of all tokens, in nats, [B, V]."""
        return self._logits - self._softmax.log_totals[:, None]


class _Softmax:
    """What `CompiledSoftmax` does, by torch, for any dtype on any device."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits
        # One fused pass; exp by itself is more exact than needed, and twice as slow.
        self._probabilities = logits.softmax(-1)
        # Of the likeliest token, z and p are at hand: log Z = z − log p.
        self.log_totals: Tensor = logits.amax(-1) - self._probabilities.amax(-1).log()  # [B]

    @property
    def entropies(self) -> Tensor:
        """The log of the normaliser, less Σ p z."""
        mean: Tensor = torch.linalg.vecdot(self._probabilities, self._logits)
        if mean.isnan().any():  # 0 times −∞, which is 0 here
            mean = torch.linalg.vecdot(self._probabilities, self._logits.clamp(min=LOWEST))
        return self.log_totals - mean

    def draw(self, uniforms: Tensor) -> Tensor:
        return sample(self._probabilities, uniforms)


def sample(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draws a token a row by inverting the cumulative distribution, block by block.

    One uniform number a row, made by the caller's generator and not by the device's; and far faster
    than `torch.multinomial`, since only sums of blocks and one block a row are accumulated.

    Args:
        weights: [B, V], 0 or more, of any sum but 0.
        uniforms: float64 [B], in [0, 1).

    Returns:
        int64 [B]. A token of weight 0 is never drawn.

    >>> sample(torch.tensor([[0.0, 2.0], [1.0, 3.0]]), torch.tensor([0.0, 0.2]).double())
    tensor([1, 0])
    """
    size = weights.shape[1]
    uniforms = uniforms.to(weights.device)[:, None].clamp(max=ALMOST_1)
    if size <= BLOCK:
        return _invert(weights, uniforms)[:, 0]
    whole = size // BLOCK * BLOCK
    sums = torch.unflatten(weights[:, :whole], 1, (-1, BLOCK)).sum(-1)  # [B, blocks]
    if whole < size:
        sums = torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], dim=1)
    cumulative = sums.cumsum(-1, dtype=torch.float64)
    targets = uniforms * cumulative[:, -1:]
    block = torch.searchsorted(cumulative, targets, right=True)  # [B, 1]
    inside = sums.gather(1, block)
    share = ((targets - cumulative.gather(1, block) + inside) / inside).clamp(0, ALMOST_1)
    columns = block * BLOCK + torch.arange(BLOCK, device=weights.device)  # [B, BLOCK]
    found = weights.gather(1, columns.clamp(max=size - 1))
    found = found.masked_fill(columns >= size, 0.0)
    return (block * BLOCK + _invert(found, share))[:, 0]


def _invert(weights: Tensor, shares: Tensor) -> Tensor:
    """Returns the first place [B, 1] where the cumulative weight passes a share of the whole."""
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    # Scaled by the sum, the number lies below the last step for certain.
    return torch.searchsorted(cumulative, shares * cumulative[:, -1:], right=True)


def token_log_probs(
    logits: Tensor, tokens: Tensor, *, with_entropies: bool = True
) -> tuple[Tensor, Tensor]:
    """Returns log-probability of a token, and entropy, of each of M rows, with gradients.

    Nothing of the size of the logits is made: the probabilities take their place, and in the
    backward pass, which can be run once, the gradient takes the probabilities'.

    Args:
        logits: [M, V]; −∞ is a token that cannot be. They are overwritten.
        tokens: int64 [M].
        with_entropies: False leaves them 0, and saves two passes.

    Returns:
        log p [M] and −Σ p log p [M], in nats.
    """
    log_probs, entropies = _TokenLogProbs.apply(  # type: ignore[no-untyped-call]
        logits, tokens, with_entropies
    )
    return log_probs, entropies


class _TokenLogProbs(torch.autograd.Function):
    """∂ log p_a / ∂ z_j = 1[j = a] − p_j and ∂ H / ∂ z_j = −p_j (log p_j + H)."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        logits: Tensor,
        tokens: Tensor,
        with_entropies: bool,
    ) -> tuple[Tensor, Tensor]:
        chosen, entropies = logits.new_empty(len(logits)), logits.new_zeros(len(logits))
        for rows in blocks_of_rows(logits):
            found, surprise = _become_probabilities(logits[rows], tokens[rows], with_entropies)
            chosen[rows] = found
            if surprise is not None:
                entropies[rows] = surprise
        ctx.set_materialize_grads(False)
        # Saved as tensors are, so that a checkpoint can drop them.
        ctx.save_for_backward(tokens, logits.detach(), entropies.clone())
        return chosen, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        for_log_prob, for_entropy = gradients
        tokens, found, entropies = ctx.saved_tensors
        if for_log_prob is None:
            for_log_prob = torch.zeros_like(entropies)
        if for_entropy is None or not for_entropy.any():
            found.mul_(-for_log_prob[:, None])
        else:
            for rows in blocks_of_rows(found):
                factor = found[rows].log().clamp_(min=LOWEST).add_(entropies[rows, None])
                factor.mul_(-for_entropy[rows, None]).sub_(for_log_prob[rows, None])
                found[rows] *= factor
        found.scatter_add_(1, tokens[:, None], for_log_prob[:, None])
        return found, None, None


def _become_probabilities(
    logits: Tensor, tokens: Tensor, with_entropies: bool
) -> tuple[Tensor, Tensor | None]:
    """Overwrites the logits; returns the log-probs of the tokens, and the entropies if wanted."""
    softmax = CompiledSoftmax.of(logits) if logits.is_contiguous() else None
    if softmax is not None:
        chosen = logits.gather(1, tokens[:, None])[:, 0] - softmax.log_totals
        softmax.overwrite()
        return chosen, softmax.entropies if with_entropies else None
    log_probs = logits.log_softmax(-1)
    chosen = log_probs.gather(1, tokens[:, None])[:, 0]
    probabilities = torch.exp(log_probs, out=logits)
    if not with_entropies:
        return chosen, None
    # 0 times −∞ is 0 here.
    surprise = log_probs.neg_().clamp_(max=-LOWEST)
    return chosen, torch.linalg.vecdot(probabilities, surprise)


def blocks_of_rows(matrix: Tensor) -> Iterator[slice]:
    """Yields parts of the rows that stay in the processor's cache, or nearly."""
    step = max(1, BLOCK_ELEMENTS // matrix.shape[1])
    return (slice(start, start + step) for start in range(0, len(matrix), step))
