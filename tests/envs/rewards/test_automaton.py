"""Automata: a score computed from token ids, against a plain reading of the rule."""

import itertools
from typing import Any

import numpy as np
import pytest

from textrl_envs.errors import InvalidInputError
from textrl_envs.rewards import Automaton, AutomatonReward, ordered_keywords


def in_order_then_end(ids: tuple[int, ...], keywords: list[int], eos: int) -> float:
    """Reads the rule as it is said: the keywords occur in this order, and then an EOS."""
    wanted = iter(ids)
    return float(all(word in wanted for word in [*keywords, eos]))


@pytest.mark.parametrize("keywords", [[2], [2, 3], [3, 2, 3]])
def test_ordered_keywords_agree_with_the_rule_on_every_short_text(keywords: list[int]) -> None:
    automaton = ordered_keywords(keywords, vocabulary_size=5, eos_token_id=1)
    hits = 0
    for length in range(1, 6):
        for ids in itertools.product(range(5), repeat=length):
            if 1 in ids[:-1]:
                continue  # a text ends with its EOS token
            expected = in_order_then_end(ids, keywords, 1)
            assert automaton.score(np.array(ids)) == expected
            hits += int(expected)
    assert hits > 0


def test_the_same_keyword_twice_must_be_met_twice() -> None:
    automaton = ordered_keywords([2, 2], vocabulary_size=5, eos_token_id=1)
    assert automaton.score(np.array([2, 1])) == 0.0
    assert automaton.score(np.array([2, 4, 2, 1])) == 1.0


def test_each_prompt_is_scored_by_its_own_automaton() -> None:
    automata = [ordered_keywords([word], vocabulary_size=5, eos_token_id=1) for word in (2, 3)]
    reward = AutomatonReward(automata)
    ids = [np.array([2, 1])] * 2
    scores = reward(
        [""] * 2,
        [""] * 2,
        prompt_ids=ids,
        response_ids=ids,
        metadata=[{"automaton": 1}, {"automaton": 0}],
    )
    assert np.asarray(scores).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("transitions", "message"),
    [
        (np.zeros((3, 4), np.int64), r"Expected transitions of shape \(2, V\).*got \(3, 4\)"),
        (np.zeros(2, np.int64), r"Expected transitions of shape \(2, V\).*got \(2,\)"),
        (np.full((2, 4), 2), r"Transitions must lead to states 0\.\.1"),
        (np.full((2, 4), -1), r"Transitions must lead to states 0\.\.1"),
    ],
)
def test_an_automaton_whose_parts_do_not_fit_is_refused(transitions: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Automaton(transitions, np.zeros(2))
