"""What both KL wrappers share: the log-ratio of a token, and the coefficient that prices it.

The objective is J(π) = E[r(x, y)] − β KL(π ‖ π_ref). Charging each sampled token
β (log π(a|s) − log π_ref(a|s)), the estimator called k1, gives it exactly, value and gradient. The
other common estimators do not when they are charged in the reward (docs/design.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.base import LanguageModel, TokenScorer

__all__ = ["AdaptiveCoefficient", "EpisodeBatch", "KLCharge"]

Floats = NDArray[np.float64]


class EpisodeBatch(Protocol):
    """Whole episodes, right-padded: B rows, L tokens of text, T tokens of response."""

    @property
    def input_ids(self) -> NDArray[np.int64]:
        """Prompt and response, int64 (B, L)."""

    @property
    def attention_mask(self) -> NDArray[np.int8]:
        """1 where there is text, int8 (B, L)."""

    @property
    def prompt_lengths(self) -> NDArray[np.int64]:
        """Tokens of each prompt, int64 (B,)."""

    @property
    def response_mask(self) -> NDArray[np.bool_]:
        """True where there is response, bool (B, T)."""

    @property
    def log_probs(self) -> Floats:
        """Log-probability of each response token when it was sampled, in nats, (B, T)."""


@dataclass(slots=True, kw_only=True)
class AdaptiveCoefficient:
    """β that steers the KL: β ← β (1 + e n / horizon), e = clip(KL / target − 1, −c, c).

    From Ziegler et al. 2019 (arXiv:1909.08593), section 2.2. KL is summed over the tokens of an
    episode, in nats; n is the number of episodes observed. An adaptive run has no single objective:
    compare it with a fixed β on the reward-KL frontier, not by its return.

    Args:
        value: β to begin with.
        target: the wanted KL of an episode, in nats.
        horizon: episodes over which an error of 1 would double β; more than clip · batch_size, so
            that β stays positive.
        clip: c, the bound of the relative error.
        batch_size: episodes to average before each change; few would let the clip bias it.

    Raises:
        InvalidInputError: a number that is not positive, or too short a horizon.

    >>> beta = AdaptiveCoefficient(value=0.1, target=6.0, horizon=1000, batch_size=4)
    >>> beta.observe(np.array([12.0, 12.0, 12.0, 12.0]))
    >>> round(beta.value, 6)
    0.10008
    """

    value: float
    target: float
    horizon: float = 10_000.0
    clip: float = 0.2
    batch_size: int = 64
    _pending_sum: float = 0.0
    _pending_count: int = 0

    def __post_init__(self) -> None:
        for name in ("value", "target", "horizon", "clip", "batch_size"):
            if not 0 < getattr(self, name) < np.inf:
                raise InvalidInputError(
                    f"{name} must be positive and finite; got {getattr(self, name)}."
                )
        largest = self.clip * self.batch_size
        if self.horizon <= largest:
            raise InvalidInputError(
                f"horizon must be more than clip · batch_size = {largest:g}, or one batch could "
                f"take β to 0 or below; got {self.horizon:g}. Raise it, or lower one of the two."
            )

    def observe(self, episode_kl: Floats) -> None:
        """Takes note of finished episodes, shape (n,), in nats; changes β with each full batch."""
        for kl in episode_kl.tolist():
            self._pending_sum += kl
            self._pending_count += 1
            if self._pending_count >= self.batch_size:
                self._change()

    def _change(self) -> None:
        mean = self._pending_sum / self._pending_count
        error = float(np.clip(mean / self.target - 1, -self.clip, self.clip))
        self.value *= 1 + error * self._pending_count / self.horizon
        self._pending_sum, self._pending_count = 0.0, 0

    def state(self) -> dict[str, float]:
        """Returns what `set_state` needs to go on."""
        return {"value": self.value, "sum": self._pending_sum, "count": self._pending_count}

    def set_state(self, state: Mapping[str, float]) -> None:
        """Goes on from a state."""
        self.value, self._pending_sum = state["value"], state["sum"]
        self._pending_count = int(state["count"])


class KLCharge:
    """Prices the departure of a policy from a frozen reference, token by token.

    Args:
        policy: whose actions are charged.
        reference: the frozen model; None takes the environment's own.
        coefficient: β, fixed or adaptive; None takes the environment's own.
        env: the environment that is wrapped.
        vocabulary_size: its number of actions.

    Raises:
        InvalidInputError: no reference, no coefficient, the policy as its own reference, or
            vocabularies that do not match.
    """

    def __init__(
        self,
        *,
        policy: TokenScorer,
        reference: LanguageModel | None,
        coefficient: float | AdaptiveCoefficient | None,
        env: Any,  # noqa: ANN401 - a scalar or a vector environment
        vocabulary_size: int,
    ) -> None:
        if reference is None:
            reference = getattr(env, "reference", None)
        if reference is None:
            raise InvalidInputError(
                "KLPenalty needs a reference and the environment carries none. "
                "Give reference=..., or make the environment with one."
            )
        if reference is policy:
            raise InvalidInputError(
                "The policy cannot be its own reference: their log-ratio is always 0. "
                "Give a frozen copy."
            )
        if coefficient is None:
            coefficient = getattr(env, "kl_coefficient", None)
        if coefficient is None:
            raise InvalidInputError("KLPenalty needs a coefficient; give coefficient=0.1, say.")
        if not isinstance(coefficient, AdaptiveCoefficient) and not 0 <= coefficient < np.inf:
            raise InvalidInputError(
                f"coefficient must be a finite number of 0 or more; got {coefficient}."
            )
        for name, scorer in (("policy", policy), ("reference", reference)):
            _check_vocabulary(name, scorer, vocabulary_size)
        self.policy = policy
        self.reference = reference
        self._coefficient = coefficient

    @property
    def coefficient(self) -> float:
        """β as it stands now."""
        if isinstance(self._coefficient, AdaptiveCoefficient):
            return self._coefficient.value
        return self._coefficient

    @property
    def adaptive(self) -> AdaptiveCoefficient | None:
        """The coefficient, if it adapts."""
        return self._coefficient if isinstance(self._coefficient, AdaptiveCoefficient) else None

    def observe(self, episode_kl: Floats) -> None:
        """Tells an adaptive coefficient the KL of finished episodes, shape (n,), in nats."""
        if isinstance(self._coefficient, AdaptiveCoefficient) and len(episode_kl):
            self._coefficient.observe(episode_kl)

    def log_ratio(
        self,
        obs: Any,  # noqa: ANN401 - either form of an observation
        actions: NDArray[Any],
        is_acting: NDArray[np.bool_] | None = None,
    ) -> Floats:
        """Returns log π(a|s) − log π_ref(a|s) of each row, in nats, (B,); 0 where it does not act.

        All rows are asked, since the models know a row by its place.
        """
        policy = np.asarray(self.policy.log_probs(obs, actions), np.float64)
        reference = np.asarray(self.reference.log_probs(obs, actions), np.float64)
        with np.errstate(invalid="ignore"):  # infinite less infinite: refused below, if it acts
            ratio = policy - reference
        return _checked(ratio if is_acting is None else np.where(is_acting, ratio, 0.0))

    def reference_log_probs(self, episodes: EpisodeBatch) -> Floats:
        """Scores the responses of whole episodes in one pass, (B, T), in nats, 0 on padding."""
        scores = self.reference.score(episodes.input_ids, episodes.attention_mask)
        mask = episodes.response_mask
        columns = episodes.prompt_lengths[:, None] + np.arange(mask.shape[1])
        columns = np.minimum(columns, scores.shape[1] - 1)
        found = np.take_along_axis(scores, columns, axis=1).astype(np.float64)
        return np.where(mask, found, 0.0)

    def penalties(self, episodes: EpisodeBatch) -> Floats:
        """Returns β (log π − log π_ref) of every response token, (B, T), 0 on padding.

        The same numbers as charging step by step, in one forward of the reference.
        """
        return self.coefficient * self.episode_log_ratio(episodes)

    def episode_log_ratio(self, episodes: EpisodeBatch) -> Floats:
        """Returns log π − log π_ref of every response token, in nats, (B, T), 0 on padding."""
        reference = self.reference_log_probs(episodes)
        return _checked(np.where(episodes.response_mask, episodes.log_probs - reference, 0.0))


def _check_vocabulary(name: str, scorer: Any, expected: int) -> None:  # noqa: ANN401
    size = getattr(scorer, "vocabulary_size", expected)
    if size != expected:
        raise InvalidInputError(
            f"The vocabularies do not match: the environment has {expected} tokens, the {name} "
            f"{size}. Use the tokenizer that belongs to the model."
        )


def _checked(log_ratio: Floats) -> Floats:
    if not np.isfinite(log_ratio).all():
        raise InvalidInputError(
            "The KL penalty is not finite: policy or reference gives a sampled token no "
            "probability, or NaN. Give the reference full support, or check the learning rate."
        )
    return log_ratio
