"""Judge: what an environment says of responses that it did not see being written.

The tokens are put into the core again, one by one: it finds out where each text ends and why, and
its reward scores it, without noise. The reference is read once, for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_agents.collector import Collector
from textrl_agents.policies import PolicyStep
from textrl_benchmarks.leaderboard.cell import Cell
from textrl_benchmarks.leaderboard.fingerprint import fingerprint
from textrl_benchmarks.leaderboard.result import Sample
from textrl_benchmarks.leaderboard.running.contestants import make_contestant
from textrl_benchmarks.leaderboard.running.run_cell import EVALUATION, anchors_of, make_envs
from textrl_envs.core import FinishReason, TextCore
from textrl_envs.optimum import optimum

__all__ = ["Judge", "Verdict"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the environment says of B responses; T tokens at most."""

    ends: NDArray[np.int64]
    """Tokens after which each text ended, (B,); 0 where it did not."""
    reasons: list[str]
    """Why, (B,)."""
    scores: Floats
    """Without noise, (B,); NaN where the text did not end with its last token."""
    gold: Floats | None
    """(B,), as the scores; None where the reward reports none."""
    ref_log_probs: list[Floats]
    """log π_ref of each token, in nats, B arrays."""


class Judge:
    """An environment, made anew for a cell.

    Args:
        cell: says which.

    Raises:
        InvalidInputError: it cannot be made, or has no exact optimum.
    """

    def __init__(self, cell: Cell) -> None:
        self.envs: Any = make_envs(cell)
        self.task = self.envs.unwrapped.task
        self.anchors = anchors_of(self.envs, cell.env_id)
        self.fingerprint = fingerprint(self.envs)
        self.values: Floats = optimum(self.envs).values
        """V* of each prompt, (P,)."""
        self.words = [
            str(self.task.tokenizer.decode([token])) for token in range(self.task.vocabulary_size)
        ]

    def prompt_order(self, cell: Cell) -> list[int]:
        """Returns the prompts that the seed decides, episode by episode.

        They do not depend on what is answered, so that the agent who says nothing is asked.
        """
        nobody = make_contestant("null_empty", self.envs)
        played = Collector(self.envs).collect(
            nobody.policy, cell.eval_episodes, seed=[cell.seed, EVALUATION], is_balanced=True
        )
        order: list[int] = played.prompt_index.tolist()
        return order

    def noisy_scores(self, cell: Cell, responses: Sequence[Sequence[int]]) -> Floats:
        """Returns what was paid, (B,): the seed decides the noise, too.

        Args:
            cell: whose evaluation it was.
            responses: of all its episodes; each must end with its last token.
        """
        again = _Again(responses, cell.num_envs)
        return (
            Collector(make_envs(cell))
            .collect(again, len(responses), seed=[cell.seed, EVALUATION], is_balanced=True)
            .scores
        )

    def text(self, response_ids: Sequence[int]) -> str:
        """Returns a response as text."""
        return str(self.task.tokenizer.decode(list(response_ids), skip_special_tokens=True))

    def judge(self, samples: Sequence[Sample]) -> Verdict:
        """Writes and scores responses again.

        Args:
            samples: whose prompts and tokens the environment has.
        """
        core = TextCore(replace(self.task, noise=None), len(samples), padding=0)
        core.start(np.arange(len(samples)), np.array([one.prompt_index for one in samples]))
        lengths = np.array([len(one.response_ids) for one in samples])
        ends = _write(core, samples, lengths)
        scores, gold = np.full(len(samples), np.nan), None
        whole = np.flatnonzero(ends == lengths)
        if whole.size:
            found, extras = core.score(whole)
            scores[whole] = found
            if "gold" in extras:
                gold = np.full(len(samples), np.nan)
                gold[whole] = extras["gold"]
        return Verdict(
            ends=ends,
            reasons=[FinishReason(int(reason)).name.lower() for reason in core.finish_reason],
            scores=scores,
            gold=gold,
            ref_log_probs=self._reference_log_probs(core),
        )

    def _reference_log_probs(self, core: TextCore) -> list[Floats]:
        reference = self.envs.unwrapped.reference
        reference.forget()
        found = reference.score(core.input_ids, core.attention_mask)
        return [
            found[row, core.prompt_lengths[row] : core.lengths[row]].astype(np.float64)
            for row in range(core.num_rows)
        ]


def _write(
    core: TextCore, samples: Sequence[Sample], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Appends the tokens until each text ends; returns after how many, (B,), 0 if it did not."""
    ends = np.zeros(len(samples), np.int64)
    for t in range(core.task.max_new_tokens):
        rows = np.flatnonzero((lengths > t) & (ends == 0))
        if not rows.size:
            break
        tokens = [samples[row].response_ids[t] for row in rows.tolist()]
        ended = core.append(np.array(tokens), rows)
        ends[ended] = t + 1
    return ends


class _Again:
    """A policy that says what was said, in the order in which the collector begins episodes."""

    def __init__(self, responses: Sequence[Sequence[int]], num_envs: int) -> None:
        self._responses = responses
        self._episode = list(range(num_envs))
        self._time = [0] * num_envs
        self._next = num_envs

    def step(self, obs: Any, rng: np.random.Generator, *, greedy: bool = False) -> PolicyStep:  # noqa: ANN401
        """Chooses the next token of each row's episode."""
        actions = [self._say(row) for row in range(len(self._episode))]
        nothing = np.zeros(len(actions))
        return PolicyStep(np.array(actions), nothing, nothing, nothing)

    def forget(self) -> None:
        """Does nothing."""

    def next_values(self, obs: Any) -> Floats:  # noqa: ANN401
        """Returns zeros, (B,)."""
        return np.zeros(len(self._episode))

    def _say(self, row: int) -> int:
        if self._episode[row] >= len(self._responses):
            return 0  # it waits for the last
        response = self._responses[self._episode[row]]
        token = response[self._time[row]]
        self._time[row] += 1
        if self._time[row] == len(response):
            self._episode[row], self._time[row] = self._next, 0
            self._next += 1
        return token
