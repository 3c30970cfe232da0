"""Rewards that a finite automaton computes from the token ids: those whose optimum is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError

__all__ = ["Automaton", "AutomatonReward", "ordered_keywords"]


@dataclass(frozen=True, slots=True)
class Automaton:
    """Reads a response token by token, EOS included; the state it ends in has the score.

    Args:
        transitions: next state by state and token, int64 (S, V). State 0 is the first.
        scores: score of ending in each state, float64 (S,).

    Raises:
        InvalidInputError: shapes that do not fit, or a state that does not exist.
    """

    transitions: NDArray[np.int64]
    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        states = len(self.scores)
        if self.transitions.ndim != 2 or len(self.transitions) != states:
            raise InvalidInputError(
                f"Expected transitions of shape ({states}, V), a row for each of the {states} "
                f"scores; got {self.transitions.shape}."
            )
        if not ((self.transitions >= 0) & (self.transitions < states)).all():
            raise InvalidInputError(f"Transitions must lead to states 0..{states - 1}.")

    def score(self, response_ids: NDArray[np.int64]) -> float:
        """Returns the score of one response."""
        state = 0
        for token in response_ids.tolist():
            state = self.transitions[state, token]
        return float(self.scores[state])


class AutomatonReward:
    """Scores each response by the automaton of its prompt.

    Args:
        automata: one for each prompt; the prompt's metadata says which: `{"automaton": 3}`.
    """

    def __init__(self, automata: Sequence[Automaton]) -> None:
        self.automata = tuple(automata)

    def __call__(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        prompt_ids: Sequence[NDArray[np.int64]],
        response_ids: Sequence[NDArray[np.int64]],
        metadata: Sequence[Mapping[str, Any]],
    ) -> NDArray[np.float64]:
        """Returns B scores; reads token ids alone."""
        return np.array(
            [
                self.automata[about["automaton"]].score(ids)
                for ids, about in zip(response_ids, metadata, strict=True)
            ]
        )


def ordered_keywords(
    keyword_ids: Sequence[int], *, vocabulary_size: int, eos_token_id: int
) -> Automaton:
    """Returns the automaton of "these words, in this order, and then an end".

    States 0..K count the keywords met so far; state K+1 is reached by EOS after all of them and
    scores 1, all others 0. Other words may stand between and behind the keywords.

    >>> automaton = ordered_keywords([5, 7], vocabulary_size=9, eos_token_id=1)
    >>> [automaton.score(np.array(ids)) for ids in ([5, 2, 7, 1], [7, 5, 1], [5, 7])]
    [1.0, 0.0, 0.0]
    """
    goal = len(keyword_ids) + 1
    transitions = np.repeat(np.arange(goal + 1)[:, None], vocabulary_size, axis=1)
    for met, keyword in enumerate(keyword_ids):
        transitions[met, keyword] = met + 1
    transitions[goal - 1, eos_token_id] = goal
    scores = np.zeros(goal + 1)
    scores[goal] = 1.0
    return Automaton(transitions, scores)
