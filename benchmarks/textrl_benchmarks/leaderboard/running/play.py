"""Plays a contestant in fresh episodes and writes each down as a `Sample`.

There is one loop, the collector's. The reference is read once, for all episodes in one forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from textrl_agents.advantages import generalised_advantages
from textrl_agents.collector import Collector
from textrl_agents.episodes import Episodes
from textrl_benchmarks.leaderboard.result import Sample
from textrl_benchmarks.leaderboard.running.contestants import Contestant
from textrl_benchmarks.leaderboard.samples import rounded
from textrl_envs.core import FinishReason
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task
from textrl_envs.wrappers.vector import KLPenalty

__all__ = ["play"]

Floats = NDArray[np.float64]

ROUNDING = 1e-3
"""A log-probability may exceed 0 by so much: float32 sums a large vocabulary no better."""


def play(
    contestant: Contestant,
    envs: Any,  # noqa: ANN401 - a bare text vector environment
    *,
    episodes: int,
    seed: Sequence[int],
) -> list[Sample]:
    """Plays fresh episodes, every prompt once before any again, and returns them as stored.

    Args:
        contestant: plays, and learns nothing.
        envs: with a reference.
        episodes: at least the number of rows.
        seed: of prompts, environment and sampling.

    Raises:
        InvalidInputError: too few episodes, or log-probabilities that cannot be.
    """
    # Not in KLPenalty: it would refuse, and rightly in training, what the reference never says.
    played = Collector(envs).collect(contestant.policy, episodes, seed=seed, is_balanced=True)
    if contestant.scorer is not None:
        _check_log_probs(contestant.name, played)
        charge = KLPenalty(envs, policy=contestant.scorer).charge
        played = replace(played, ref_log_probs=charge.reference_log_probs(played))
    return [rounded(sample) for sample in _samples(played, envs.unwrapped.task)]


def _check_log_probs(name: str, played: Episodes) -> None:
    """Refuses what no policy can say of a token that it has just drawn."""
    found = played.log_probs[played.response_mask]
    wrong = ~(np.isfinite(found) & (found < ROUNDING))
    if wrong.any():
        raise InvalidInputError(
            f"{name} gives a token that it has just chosen the log-probability "
            f"{found[wrong][0]}; expected a finite number of at most 0, in nats. "
            "Its act and its log_probs must belong to one distribution."
        )


def _samples(played: Episodes, task: Task) -> list[Sample]:
    """Returns all episodes, in the order in which they were started."""
    table, tokenizer = task.prompts, task.tokenizer
    words = [str(tokenizer.decode([token])) for token in range(task.vocabulary_size)]
    responses, lengths = played.response_ids, played.lengths
    columns = _Columns.of(played, task.kl_coefficient)
    found = []
    for row, prompt in enumerate(played.prompt_index.tolist()):
        ids = responses[row, : lengths[row]].tolist()
        found.append(
            Sample(
                prompt_index=prompt,
                prompt=table.texts[prompt],
                response=str(tokenizer.decode(ids, skip_special_tokens=True)),
                prompt_ids=tuple(table.token_ids[prompt, : table.lengths[prompt]].tolist()),
                response_ids=tuple(ids),
                tokens=tuple(words[token] for token in ids),
                finish_reason=FinishReason(int(played.finish_reason[row])).name.lower(),
                score=float(played.scores[row]),
                gold=None if played.gold is None else float(played.gold[row]),
                **columns.of_row(row, len(ids)),
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class _Columns:
    """The numbers per token, (B, T); None where unknown."""

    log_probs: Floats | None
    ref_log_probs: Floats | None
    values: Floats | None
    advantages: Floats | None

    @classmethod
    def of(cls, played: Episodes, kl_coefficient: float) -> Self:
        # A value head that was not trained gives 0, and says nothing.
        values = played.values if played.values.any() else None
        if played.ref_log_probs is None:
            return cls(None, None, values, None)
        advantages = None if values is None else _advantages(played, kl_coefficient)
        return cls(played.log_probs, played.ref_log_probs, values, advantages)

    def of_row(self, row: int, length: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in ("log_probs", "ref_log_probs", "values", "advantages"):
            column = getattr(self, name)
            found[name] = None if column is None else tuple(column[row, :length].tolist())
        if found["ref_log_probs"] is not None and -np.inf in found["ref_log_probs"]:
            found["ref_log_probs"] = tuple(map(_finite, found["ref_log_probs"]))
            found["advantages"] = None  # of a return of minus infinity
        return found


def _advantages(played: Episodes, kl_coefficient: float) -> Floats:
    """Returns what was still to be paid less what was expected, G_t − V(s_t), (B, T).

    Rewards are charged β (log π − log π_ref), but where that is infinite.
    """
    assert played.ref_log_probs is not None
    is_on = np.isfinite(played.ref_log_probs)
    log_ratio = np.where(is_on, played.log_probs - played.ref_log_probs, 0.0)
    return generalised_advantages(
        played.task_rewards - kl_coefficient * log_ratio,
        played.values,
        played.response_mask,
        bootstrap_values=played.bootstrap_values,
        smoothing=1.0,
    )


def _finite(log_prob: float) -> float | None:
    return None if log_prob == -np.inf else log_prob
