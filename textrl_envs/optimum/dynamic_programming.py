"""Exact values on a `TextMDP`, backwards in time.

soft_values    V_t(s) = β log Σ_a π_ref(a|s) exp((r(s,a) + V_{t+1}(s')) / β)
expectations   what any policy of (time, node) earns, pays in KL, and measures
reward_law     the distribution of the score under the reference

The first is soft value iteration: Ziebart 2010, "Modeling Purposeful Adaptive Behavior", with the
reference as prior, as in Levine 2018 (arXiv:1805.00909), section 4.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum.law import RewardLaw
from textrl_envs.optimum.mdp import TextMDP

__all__ = [
    "Expectations",
    "TabularPolicy",
    "expectations",
    "optimal_log_probs",
    "reward_law",
    "soft_values",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_LAW = 20_000_000
"""Numbers held at once for the law of the reward: 160 MB."""

TabularPolicy = Callable[[int], Floats]
"""Time -> log-probabilities of the next token at each node, (N, V), in nats."""


@dataclass(frozen=True, slots=True)
class Expectations:
    """What a policy is worth for each prompt, exactly. All have the shape (P,)."""

    rewards: Floats
    """E[score]."""
    kls: Floats
    """E[log π − log π_ref] of a response, in nats."""
    measures: dict[str, Floats]
    """E of each measure."""

    def values(self, kl_coefficient: float) -> Floats:
        """Returns E[score] − β KL."""
        return self.rewards - kl_coefficient * self.kls


def soft_values(mdp: TextMDP, kl_coefficient: float) -> Floats:
    """Returns V*_t of each node, (T + 1, N): the most that can be had from there on; 0 at T."""
    values = np.zeros((mdp.limit + 1, len(mdp.log_ref)))
    for time in reversed(range(mdp.limit)):
        payoff = mdp.payoff(time, values[time + 1], mdp.token_scores, mdp.end_scores)
        if np.ptp(payoff) < kl_coefficient / 2:
            values[time] = _soft_mean(mdp.log_ref, payoff, kl_coefficient)
            continue
        payoff /= kl_coefficient
        payoff += mdp.log_ref
        values[time] = kl_coefficient * _log_sum_exp(payoff)
    return values


def _soft_mean(log_ref: Floats, payoff: Floats, kl_coefficient: float) -> Floats:
    """Returns β log Σ π_ref e^{r/β} where β is large.

    Around the mean the logarithm is of 1 plus little; written out, its rounding times β would swamp
    what the policy can gain.
    """
    probs = np.exp(log_ref)
    means = (probs * payoff).sum(axis=-1) / probs.sum(axis=-1)
    little = (probs * np.expm1((payoff - means[:, None]) / kl_coefficient)).sum(axis=-1)
    found: Floats = means + kl_coefficient * np.log1p(little)
    return found


def optimal_log_probs(mdp: TextMDP, values: Floats, kl_coefficient: float) -> TabularPolicy:
    """Returns π*(a|s) = π_ref(a|s) exp((r(s,a) + V_{t+1}(s') − V_t(s)) / β), for `expectations`."""

    def at(time: int) -> Floats:
        payoff = mdp.payoff(time, values[time + 1], mdp.token_scores, mdp.end_scores)
        advantages: Floats = payoff - values[time][:, None]
        return mdp.log_ref + advantages / kl_coefficient

    return at


def expectations(mdp: TextMDP, policy: TabularPolicy) -> Expectations:
    """Evaluates a policy of (time, node) without sampling.

    Args:
        mdp: N nodes, V tokens.
        policy: what it does at each time.
    """
    count = len(mdp.log_ref)
    nothing = np.zeros_like(mdp.log_ref)
    names = list(mdp.end_measures)
    totals = [np.zeros(count) for _ in range(2 + len(names))]
    ends = [mdp.end_scores, nothing, *(mdp.end_measures[name] for name in names)]
    for time in reversed(range(mdp.limit)):
        log_probs = policy(time)
        probs = np.exp(log_probs)
        with np.errstate(invalid="ignore"):  # a token never taken costs nothing
            log_ratio = np.where(probs > 0, log_probs - mdp.log_ref, 0.0)
        earned = [mdp.token_scores, log_ratio, *(nothing for _ in names)]
        totals = [
            (probs * mdp.payoff(time, total, token, end)).sum(axis=1)
            for total, token, end in zip(totals, earned, ends, strict=True)
        ]
    rewards, kls, *measured = (total[mdp.starts] for total in totals)
    return Expectations(rewards, kls, dict(zip(names, measured, strict=True)))


def reward_law(mdp: TextMDP, measure: str | None = None) -> list[RewardLaw]:
    """Returns the distribution of the score under the reference, one a prompt.

    Args:
        mdp: its scores lie on a lattice: whole multiples of some number.
        measure: also give the mean of this measure at each score.

    Raises:
        InvalidInputError: scores on no such lattice, or too many different ones.
    """
    atoms, shifts, places = _lattice(mdp)
    count, width = len(mdp.log_ref), len(atoms)
    if count * width > MAX_LAW:
        raise InvalidInputError(
            f"The law of {width:,} different scores at {count:,} nodes is too large to compute. "
            "Round the scores, or ask for the optimum at single values of kl_coefficient."
        )
    ends = mdp.end_measures[measure] if measure else np.ones_like(mdp.log_ref)
    probs = np.exp(mdp.log_ref)
    eos = mdp.task.tokenizer.eos_token_id
    # [N, atoms]: chance of each total from here on, and the mean of the measure times it.
    chance, weight = np.zeros((2, count, width))
    rows = np.arange(count)
    for time in reversed(range(mdp.limit)):
        new = np.zeros((2, count, width))
        for token in range(probs.shape[1]):
            share = probs[:, token]
            if token == eos or time + 1 == mdp.limit:
                new[0, rows, places[:, token]] += share
                new[1, rows, places[:, token]] += share * ends[:, token]
                continue
            nodes = mdp.next_nodes[:, token]
            for old, target in ((chance, new[0]), (weight, new[1])):
                _add_shifted(target, share[:, None] * old[nodes], shifts[:, token])
        chance, weight = new
    return [
        RewardLaw.of(atoms, chance[node], weight[node] if measure else None) for node in mdp.starts
    ]


def _lattice(mdp: TextMDP) -> tuple[Floats, Ints, Ints]:
    """Puts all scores on levels.

    Returns:
        atoms: the score of each level, rising.
        shifts: levels that a token adds, (N, V).
        places: level of what is added by ending with a token, its own score included, (N, V).
    """
    if not mdp.token_scores.any():
        atoms, places = np.unique(mdp.end_scores, return_inverse=True)
        return atoms, np.zeros(mdp.log_ref.shape, np.int64), places.reshape(mdp.end_scores.shape)
    quantum = _quantum(np.concatenate([mdp.token_scores.ravel(), mdp.end_scores.ravel()]))
    shifts = np.rint(mdp.token_scores / quantum).astype(np.int64)
    ends = np.rint((mdp.token_scores + mdp.end_scores) / quantum).astype(np.int64)
    low = min(0, shifts.min()) * (mdp.limit - 1) + min(0, ends.min())
    high = max(0, shifts.max()) * (mdp.limit - 1) + max(0, ends.max())
    return np.arange(low, high + 1) * quantum, shifts, ends - low


def _quantum(scores: Floats) -> float:
    """Returns the largest number 1/n of which all scores are whole multiples."""
    for parts in range(1, 4097):
        if np.allclose(scores * parts, np.rint(scores * parts), rtol=0, atol=1e-9):
            return 1 / parts
    raise InvalidInputError(
        "The law of the reward is computed for scores that are whole multiples of some 1/n with "
        "n up to 4,096; these are not. Round the scores that tokens earn."
    )


def _add_shifted(target: Floats, values: Floats, shifts: Ints) -> None:
    """Adds each row of `values` to `target`, moved by as many columns as the row's shift."""
    if not shifts.any():
        target += values
        return
    for shift in np.unique(shifts).tolist():
        rows = np.flatnonzero(shifts == shift)
        moved = values[rows]
        if shift > 0:
            target[rows, shift:] += moved[:, :-shift]
        elif shift < 0:
            target[rows, :shift] += moved[:, -shift:]
        else:
            target[rows] += moved


def _log_sum_exp(exponents: Floats) -> Floats:
    """Returns log Σ exp over the last axis; overwrites its argument to spare memory."""
    top = exponents.max(axis=-1, keepdims=True)
    exponents -= top
    np.exp(exponents, out=exponents)
    total: Floats = np.log(exponents.sum(axis=-1)) + top[..., 0]
    return total
