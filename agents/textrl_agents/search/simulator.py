"""Simulator: a private copy of the environment, where a search tries texts.

What is tried there costs tokens as in the environment itself, and they are counted.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from textrl_envs.core import FinishReason, TextCore
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.sampling import draw_at
from textrl_envs.observations import observation_padding
from textrl_envs.optimum.mdp import find_prompts
from textrl_envs.task import Task

__all__ = ["BasePolicy", "RollOut", "Simulator"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class BasePolicy(Protocol):
    """What a search begins with: a reference, or any policy."""

    @property
    def vocabulary_size(self) -> int:
        """V."""

    def next_log_probs(self, obs: Any) -> NDArray[np.floating[Any]]:  # noqa: ANN401 - either form
        """Returns the log-probabilities of all next tokens, in nats, (B, V)."""

    def forget(self) -> None:
        """Drops what is remembered between calls."""


@dataclass(frozen=True, slots=True)
class RollOut:
    """What B texts became, (B,) each."""

    scores: Floats
    log_ratios: Floats
    """log π_base − log π_ref of the tokens that were drawn, summed, in nats."""
    tokens: Ints
    """How many were drawn."""


class Simulator:
    """Plays texts of a task on, by a base policy.

    Scores are the task's own, without its noise.

    Args:
        task: what is played.
        base: draws the tokens; None takes the task's reference.

    Raises:
        InvalidInputError: neither base policy nor reference, or another vocabulary.
    """

    def __init__(self, task: Task, base: BasePolicy | None = None) -> None:
        self.task = replace(task, noise=None)
        self.reference = None if task.load_reference is None else task.load_reference()
        chosen: BasePolicy | None = self.reference if base is None else base
        if chosen is None:
            raise InvalidInputError(
                "A search needs a policy to draw from, and the environment has no reference. "
                "Give base, the folder of a trained policy."
            )
        if chosen.vocabulary_size != task.vocabulary_size:
            raise InvalidInputError(
                f"The vocabularies do not match: the environment has {task.vocabulary_size} "
                f"tokens, the base policy {chosen.vocabulary_size}."
            )
        self.base: BasePolicy = chosen
        self.tokens_generated = 0
        """Tokens drawn or tried, since the simulator was made."""

    @property
    def is_reference(self) -> bool:
        """Whether the base policy is the reference."""
        return self.base is self.reference

    def place(self, ids: Ints, lengths: Ints) -> TextCore:
        """Returns rows that stand at the end of some texts; `finish_reason` tells which have ended.

        Args:
            ids: texts from column 0, prompts included, (B, L).
            lengths: tokens of each, (B,).

        Raises:
            InvalidInputError: a text that begins with no prompt of the task.
        """
        task, rows = self.task, np.arange(len(ids))
        core = TextCore(task, len(ids), padding=observation_padding(task.tokenizer, "dict"))
        core.start(rows, find_prompts(task, ids, lengths))
        written = np.flatnonzero(lengths > core.prompt_lengths)
        # All but the last token, which tells whether the text has ended.
        is_text = np.arange(task.max_tokens) < (lengths - 1)[:, None]
        width = min(ids.shape[1], task.max_tokens)
        texts = np.where(is_text[:, :width], ids[:, :width], core.input_ids[:, :width])
        core.input_ids[written, :width] = texts[written]
        core.attention_mask[written] = is_text[written]
        core.lengths[written] = lengths[written] - 1
        if written.size:
            core.append(ids[written, lengths[written] - 1], written)
        return core

    def distributions(self, core: TextCore) -> tuple[Floats, Floats]:
        """Returns log π_base and log π_ref of the next tokens of all rows, in nats, (B, V) both.

        The same twice where there is no reference.
        """
        obs = observation_of(core)
        log_probs = np.asarray(self.base.next_log_probs(obs), np.float64)
        if self.is_reference or self.reference is None:
            return log_probs, log_probs
        return log_probs, np.asarray(self.reference.next_log_probs(obs), np.float64)

    def next_values(self, core: TextCore) -> Floats:
        """Returns the base policy's value of all rows, (B,)."""
        found = self.base.next_values(observation_of(core))  # type: ignore[attr-defined]
        return np.array(found, np.float64)

    def roll_out(self, core: TextCore, uniforms: Floats) -> RollOut:
        """Plays all rows to their ends, and scores them.

        Args:
            core: rows that have ended are scored as they stand.
            uniforms: numbers in [0, 1) that decide the tokens, (B, T).
        """
        begun = core.lengths.copy()
        log_ratios = np.zeros(core.num_rows)
        running = np.flatnonzero(core.finish_reason == FinishReason.RUNNING)
        for column in uniforms.T:
            if not running.size:
                break
            log_probs, log_refs = (each[running] for each in self.distributions(core))
            tokens = draw_at(log_probs, column[running])
            chosen = np.arange(len(running)), tokens
            log_ratios[running] += log_probs[chosen] - log_refs[chosen]
            core.append(tokens, running)
            running = running[core.finish_reason[running] == FinishReason.RUNNING]
        drawn = core.lengths - begun
        self.tokens_generated += int(drawn.sum())
        scores, _ = core.score(np.arange(core.num_rows))
        return RollOut(scores, log_ratios, drawn)


def observation_of(core: TextCore) -> dict[str, NDArray[Any]]:
    """Returns the observation of all rows, not copied."""
    return {"input_ids": core.input_ids, "attention_mask": core.attention_mask}
