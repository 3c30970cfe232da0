"""Rewards that a finite automaton computes from the token ids: those whose optimum is known."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError
from textrl_envs.rewards.base import RewardOutput

__all__ = ["Automaton", "AutomatonReward", "build_automaton", "ordered_keywords"]

State = TypeVar("State", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Automaton:
    """Reads a response token by token, EOS included.

    The score is that of the state it ends in, and what each token earned on the way.

    Args:
        transitions: next state by state and token, int64 (S, V). State 0 is the first.
        scores: score of ending in each state, float64 (S,).
        token_scores: what a token adds to the score, by the state before it, float64 (S, V); None
            for nothing.
        measures: further numbers of the state a response ends in, (S,) each, for the info.

    Raises:
        InvalidInputError: shapes that do not fit, or a state that does not exist.
    """

    transitions: NDArray[np.int64]
    scores: NDArray[np.float64]
    token_scores: NDArray[np.float64] | None = None
    measures: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        states = len(self.scores)
        if self.transitions.ndim != 2 or len(self.transitions) != states:
            raise InvalidInputError(
                f"Expected transitions of shape ({states}, V), a row for each of the {states} "
                f"scores; got {self.transitions.shape}."
            )
        if not ((self.transitions >= 0) & (self.transitions < states)).all():
            raise InvalidInputError(f"Transitions must lead to states 0..{states - 1}.")
        if self.token_scores is not None and self.token_scores.shape != self.transitions.shape:
            raise InvalidInputError(
                f"Expected token_scores of shape {self.transitions.shape}, as the transitions; "
                f"got {self.token_scores.shape}."
            )
        for name, values in self.measures.items():
            if values.shape != (states,):
                raise InvalidInputError(
                    f"Expected {states} values of the measure {name!r}; got {values.shape}."
                )

    def read(self, response_ids: NDArray[np.int64]) -> tuple[int, float]:
        """Returns the state that a response ends in, and its score."""
        state, earned = 0, 0.0
        for token in response_ids.tolist():
            if self.token_scores is not None:
                earned += float(self.token_scores[state, token])
            state = int(self.transitions[state, token])
        return state, earned + float(self.scores[state])

    def score(self, response_ids: NDArray[np.int64]) -> float:
        """Returns the score of one response."""
        return self.read(response_ids)[1]


class AutomatonReward:
    """Scores each response by the automaton of its prompt.

    Args:
        automata: one for each kind of prompt; the prompt's metadata says which:
            `{"automaton": 3}`. All have the same measures.
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
    ) -> RewardOutput:
        """Returns B scores, and B values of each measure if any; reads token ids alone."""
        automata = [self.automata[about["automaton"]] for about in metadata]
        read = [a.read(ids) for a, ids in zip(automata, response_ids, strict=True)]
        measures = {
            name: np.array(
                [a.measures[name][state] for a, (state, _) in zip(automata, read, strict=True)]
            )
            for name in self.automata[0].measures
        }
        scores = np.array([score for _, score in read])
        return (scores, measures) if measures else scores


def build_automaton(
    first: State,
    step: Callable[[State, int], State],
    score: Callable[[State], float],
    *,
    vocabulary_size: int,
    measures: Mapping[str, Callable[[State], float]] | None = None,
) -> Automaton:
    """Returns the automaton of a rule: states of any kind, and what a token does to them.

    Args:
        first: the state before any token.
        step: state and token -> next state. Few states may be reachable.
        score: state at the end -> score.
        vocabulary_size: V; tokens are 0..V-1.
        measures: name -> further number of a state at the end.

    >>> parity = build_automaton(0, lambda odd, token: odd ^ (token == 2), float, vocabulary_size=3)
    >>> parity.score(np.array([2, 1, 2, 2]))
    1.0
    """
    states, rows = {first: 0}, []
    waiting = [first]
    for state in waiting:  # grows while it is gone through
        row = []
        for token in range(vocabulary_size):
            following = step(state, token)
            if following not in states:
                states[following] = len(states)
                waiting.append(following)
            row.append(states[following])
        rows.append(row)
    return Automaton(
        np.array(rows),
        np.array([score(state) for state in waiting], np.float64),
        measures={
            name: np.array([measure(state) for state in waiting], np.float64)
            for name, measure in (measures or {}).items()
        },
    )


def ordered_keywords(
    keyword_ids: Sequence[int],
    *,
    vocabulary_size: int,
    eos_token_id: int,
    is_partial: bool = False,
) -> Automaton:
    """Returns the automaton of "these words, in this order, and then an end".

    States 0..K count the keywords met so far; state K+1+k is reached by EOS after k of them. Other
    words may stand between and behind the keywords. All of them and an end score 1; fewer score
    k/K if `is_partial`, else 0, and without an end the score is always 0.

    >>> automaton = ordered_keywords([5, 7], vocabulary_size=9, eos_token_id=1)
    >>> [automaton.score(np.array(ids)) for ids in ([5, 2, 7, 1], [7, 5, 1], [5, 7])]
    [1.0, 0.0, 0.0]
    """
    count = len(keyword_ids)
    states = np.arange(2 * count + 2)
    transitions = np.repeat(states[:, None], vocabulary_size, axis=1)
    for met, keyword in enumerate(keyword_ids):
        transitions[met, keyword] = met + 1
    transitions[: count + 1, eos_token_id] = states[count + 1 :]
    scores = np.zeros(len(states))
    scores[-1] = 1.0
    if is_partial:
        scores[count + 1 :] = np.arange(count + 1) / count
    return Automaton(transitions, scores)
