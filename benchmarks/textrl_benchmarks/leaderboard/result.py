"""Sample and Result: the evaluation episodes of a cell, and what follows from them alone.

A result is computed from the samples as they are stored, so that anyone can compute it again.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError

__all__ = ["Anchors", "Result", "Sample", "summarise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One evaluation episode. Numbers per token have one entry a response token, EOS included.

    Log-probabilities are in nats. None stands for what is unknown: the log-probs of an agent that
    has none, the values of one without value function, the advantages of a response off the
    reference, the gold score of most environments. In `ref_log_probs` None stands for minus
    infinity: what the reference never says. `log_probs` has none: what was sampled had a chance.
    """

    prompt_index: int
    prompt: str
    response: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """The response's tokens as text, for reading."""
    finish_reason: str
    score: float
    gold: float | None = None
    log_probs: tuple[float, ...] | None = None
    ref_log_probs: tuple[float | None, ...] | None = None
    values: tuple[float, ...] | None = None
    advantages: tuple[float, ...] | None = None

    @property
    def kl(self) -> float:
        """Sum of log π − log π_ref, in nats: NaN if unknown, infinite off the reference."""
        if self.log_probs is None or self.ref_log_probs is None:
            return math.nan
        known = [one for one in self.ref_log_probs if one is not None]
        if len(known) < len(self.ref_log_probs):
            return math.inf
        return math.fsum(self.log_probs) - math.fsum(known)

    def as_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """Reads what `as_dict` gave, lists as tuples; raises TypeError for other fields."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in record.items()
        }
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """Where 0 and 1 are: J of the reference and J*, exact, at the environment's β."""

    reference: float
    optimum: float
    kl_coefficient: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a cell reached. Means over the samples; None where unknown or infinite."""

    episodes: int
    tokens: int
    """Generated in training."""
    score: float
    score_error: float
    """Standard error of the mean, as all errors here."""
    kl: float | None
    kl_error: float | None
    is_off_reference: bool
    """It says what the reference never says: its KL is infinite, its return minus infinity."""
    regularised_return: float | None
    normalised_score: float | None
    normalised_score_error: float | None
    gold: float | None
    length: float
    distinct: float
    """Share of different responses."""
    commonest: float
    """Share of the commonest response."""
    anchors: Anchors

    def as_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """Reads what `as_dict` gave."""
        return cls(**{**record, "anchors": Anchors(**record["anchors"])})


def summarise(samples: Sequence[Sample], anchors: Anchors, *, tokens: int) -> Result:
    """Returns the means of at least two samples, and where they are between the anchors.

    The normalised score is (J − J_ref) / (J* − J_ref) with J the mean of score − β KL.

    Args:
        samples: the evaluation episodes, as they are stored.
        anchors: where 0 and 1 are.
        tokens: generated in training.

    Raises:
        InvalidInputError: fewer than two samples, or an optimum that is no better than the
            reference.
    """
    if len(samples) < 2:
        raise InvalidInputError(f"A standard error needs at least 2 samples; got {len(samples)}.")
    width = anchors.optimum - anchors.reference
    if not width > 0:
        raise InvalidInputError(
            f"A normalised score needs an optimum above the reference; got J* = {anchors.optimum} "
            f"and J_ref = {anchors.reference}. There is nothing to learn here."
        )
    scores = np.array([sample.score for sample in samples])
    kls = np.array([sample.kl for sample in samples])
    responses = [sample.response_ids for sample in samples]
    golds = [sample.gold for sample in samples if sample.gold is not None]
    is_known, is_off = not np.isnan(kls).any(), bool(np.isinf(kls).any())
    is_scored = is_known and not is_off
    returns = scores - anchors.kl_coefficient * kls if is_scored else None
    return Result(
        episodes=len(samples),
        tokens=tokens,
        score=float(scores.mean()),
        score_error=_error(scores),
        kl=float(kls.mean()) if is_scored else None,
        kl_error=_error(kls) if is_scored else None,
        is_off_reference=is_off,
        regularised_return=None if returns is None else float(returns.mean()),
        normalised_score=None
        if returns is None
        else (float(returns.mean()) - anchors.reference) / width,
        normalised_score_error=None if returns is None else _error(returns) / width,
        gold=float(np.mean(golds)) if len(golds) == len(samples) else None,
        length=float(np.mean([len(ids) for ids in responses])),
        distinct=len(set(responses)) / len(samples),
        commonest=max(Counter(responses).values()) / len(samples),
        anchors=anchors,
    )


def _error(values: NDArray[np.float64]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))
