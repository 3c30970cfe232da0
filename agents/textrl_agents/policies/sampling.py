"""Sampling: what is drawn from, given a policy's logits: temperature, top-k, top-p, a mixture.

The choice is part of the policy. It is drawn from, and its log-probabilities, entropies and
gradients are meant, by whoever asks: the collector, the KL penalty, the loss and the leaderboard.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from textrl_agents.policies.distribution import LOWEST, blocks_of_rows
from textrl_envs.errors import InvalidInputError, nearest

__all__ = ["PLAIN", "Sampling", "read_sampling"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a distribution over V tokens is made of logits, in the order of the fields.

    Of equal logits, the token with the smaller id counts as the likelier.

    Args:
        temperature: divides the logits.
        top_k: only so many of the likeliest tokens are kept; None keeps all.
        top_p: of those, only the likeliest are kept, as few as together have this probability or
            more: the nucleus of Holtzman et al. 2020 (arXiv:1904.09751), equation 2.
        reference_share: ε of the mixture (1 − ε) π + ε π_ref, where π is what the others left. With
            it, whatever the reference can say stays possible.

    Raises:
        InvalidInputError: a setting outside its range.

    >>> Sampling(top_k=2).apply(torch.tensor([[1.0, 3.0, 2.0]])).softmax(-1)
    tensor([[0.0000, 0.7311, 0.2689]])
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    reference_share: float = 0.0

    def __post_init__(self) -> None:
        _check(
            _is_number(self.temperature) and 0 < self.temperature < math.inf,
            f"temperature must be a positive number; got {self.temperature!r}.",
        )
        _check(
            self.top_k is None
            or (isinstance(self.top_k, int) and _is_number(self.top_k) and self.top_k >= 1),
            f"top_k must be a whole number of at least 1, or None; got {self.top_k!r}.",
        )
        _check(
            _is_number(self.top_p) and 0 < self.top_p <= 1,
            f"top_p must be above 0, and at most 1; got {self.top_p!r}.",
        )
        _check(
            _is_number(self.reference_share) and 0 <= self.reference_share < 1,
            f"reference_share must be at least 0, and below 1; got {self.reference_share!r}.",
        )

    @classmethod
    def of(cls, settings: "Self | Mapping[str, Any] | None") -> Self:
        """Makes it of settings by name; None are the defaults.

        Raises:
            InvalidInputError: an unknown setting, or one outside its range.

        >>> Sampling.of({"top_k": 5}).top_k
        5
        """
        if isinstance(settings, cls):
            return settings
        if not isinstance(settings, Mapping | None):
            raise InvalidInputError(
                f"sampling must be a Sampling, or settings by name such as {{'top_k': 5}}; "
                f"got {settings!r}."
            )
        known = [field.name for field in fields(cls)]
        for name in settings or {}:
            _check(name in known, f"sampling has no setting {name!r}. {nearest(name, known)}")
        return cls(**(settings or {}))

    def check_reference(self, reference: object | None) -> None:
        """Raises InvalidInputError if the reference has a share, and there is none."""
        _check(
            not self.reference_share or reference is not None,
            f"reference_share={self.reference_share} mixes the reference into the policy, which "
            "knows none. Give the policy a reference, or leave reference_share 0.",
        )

    def apply(
        self, logits: Tensor, *, ref_log_probs: Tensor | None = None, tokens: Tensor | None = None
    ) -> Tensor:
        """Returns logits [B, V] whose softmax is what is drawn from.

        A token that cannot be drawn has the logit −∞, and no gradient.

        Given the tokens that were drawn, each is ranked before all others, unless the reference's
        share makes it possible anyway. That changes nothing where a token is in the set; where it
        is no longer, since weights moved or numbers were rounded otherwise, it is in the set again,
        so that its log-probability is finite and its ratio defined.

        Args:
            logits: [B, V].
            ref_log_probs: log π_ref, in nats, [B, V], needed where the reference has a share.
            tokens: those that were drawn, int64 [B], in training.
        """
        self.check_reference(ref_log_probs)
        if not self.reference_share:
            ref_log_probs = None
        if self.temperature != 1:
            logits = logits / self.temperature
        if self.top_k is not None or self.top_p < 1:
            kept = self._kept(logits.detach(), ref_log_probs, tokens)
            logits = logits.masked_fill(~kept, -math.inf)
        if ref_log_probs is not None:
            logits = _mixture(logits, ref_log_probs, self.reference_share)
        return logits

    def _kept(self, logits: Tensor, ref_log_probs: Tensor | None, tokens: Tensor | None) -> Tensor:
        """Returns which tokens are kept, bool [B, V]."""
        kept = torch.empty_like(logits, dtype=torch.bool)
        most = min(self.top_k or logits.shape[1], logits.shape[1])
        for rows in blocks_of_rows(logits):
            ranked = logits[rows]
            if tokens is not None:
                reference = None if ref_log_probs is None else ref_log_probs[rows]
                ranked = _with_first(ranked, tokens[rows], reference)
            likeliest, places = ranked.topk(most)
            counts = self._counts(logits[rows].gather(1, places))
            kept[rows] = _are_first(ranked, counts, likeliest.gather(1, counts - 1))
        return kept

    def _counts(self, likeliest: Tensor) -> Tensor:
        """Returns how many of the likeliest tokens [B, K] top_p keeps, int64 [B, 1]."""
        if self.top_p == 1:
            return likeliest.new_full((len(likeliest), 1), likeliest.shape[1], dtype=torch.int64)
        probabilities = likeliest.softmax(-1, dtype=torch.float64)
        before = probabilities.cumsum(-1) - probabilities
        return (before < self.top_p).sum(-1, keepdim=True)


def read_sampling(about: dict[str, Any]) -> Sampling:
    """Takes the sampling out of what policy.json says; a temperature may stand there alone."""
    alone = {"temperature": about.pop("temperature", 1.0)}
    return Sampling.of(about.pop("sampling", alone))


def _with_first(logits: Tensor, tokens: Tensor, ref_log_probs: Tensor | None) -> Tensor:
    """Returns the logits as an order: first the tokens [B], but those the reference can say."""
    places = tokens[:, None]
    first = torch.full_like(logits[:, :1], math.inf)
    if ref_log_probs is not None:
        is_possible = ref_log_probs.gather(1, places) > -math.inf
        first = torch.where(is_possible, logits.gather(1, places), first)
    return logits.scatter(1, places, first)


def _are_first(ranked: Tensor, counts: Tensor, last: Tensor) -> Tensor:
    """Returns which are the first of each row, those of smaller id of equal ones, bool [B, V].

    Args:
        ranked: what orders them, [B, V].
        counts: how many, int64 [B, 1].
        last: what the last of them has, [B, 1].
    """
    is_above, is_last = ranked > last, ranked == last
    room = counts - is_above.sum(-1, keepdim=True)
    return is_above | (is_last & (is_last.cumsum(-1) <= room))


def _mixture(logits: Tensor, ref_log_probs: Tensor, share: float) -> Tensor:
    """Returns log((1 − share) softmax(logits) + share π_ref), [B, V]."""
    # −∞ on both sides would have no gradient that is a number.
    own = logits.log_softmax(-1) + math.log1p(-share)
    other = ref_log_probs.clamp(min=LOWEST) + math.log(share)
    mixed = torch.logaddexp(own, other)
    return mixed.masked_fill(mixed < LOWEST / 2, -math.inf)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check(is_right: bool, message: str) -> None:
    if not is_right:
        raise InvalidInputError(message)


PLAIN = Sampling()
"""softmax(logits) as it is."""
