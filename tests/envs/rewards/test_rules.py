"""Rewards by rule, on texts whose score is plain to see."""

from typing import Any

import numpy as np
import pytest

from textrl_envs.errors import InvalidInputError
from textrl_envs.rewards import exact_answer, keywords, regex, response_length, valid_json


def score(
    reward: Any, responses: list[str], answers: list[str | None] | None = None
) -> list[float]:
    ids = [np.arange(1 + len(response)) for response in responses]
    answers = answers or [None] * len(responses)
    output = reward(
        [""] * len(responses),
        responses,
        prompt_ids=ids,
        response_ids=ids,
        metadata=[{"category": None, "answer": answer} for answer in answers],
    )
    return [float(score) for score in output]


def test_response_length_counts_tokens_eos_included() -> None:
    assert score(response_length, ["", "abc"]) == [1.0, 4.0]


def test_an_exact_answer_may_have_white_space_around_it() -> None:
    assert score(exact_answer, [" 42\n", "42.", "4 2"], ["42", "42", "42 "]) == [1.0, 0.0, 0.0]


def test_an_exact_answer_needs_an_answer() -> None:
    with pytest.raises(InvalidInputError, match="needs an 'answer' with every prompt"):
        score(exact_answer, ["a", "b"], ["a", None])


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, null]}', "[]", ' "text" ', "-3e2", "true"])
def test_a_json_value_scores_one(text: str) -> None:
    assert score(valid_json, [text]) == [1.0]


@pytest.mark.parametrize(
    "text",
    ["", "{", "{'a': 1}", "[1,]", "1 2", "nul", "NaN", "-Infinity", '{"a": NaN}', "[" * 5000],
)
def test_what_is_no_json_value_scores_zero(text: str) -> None:
    assert score(valid_json, [text]) == [0.0]


def test_a_number_of_many_digits_is_scored_and_no_error() -> None:
    # Python refuses to read integers beyond 4300 digits, by an error other than JSON's own.
    assert score(valid_json, ["7" * 5000])[0] in (0.0, 1.0)


def test_a_regex_must_match_the_whole_stripped_response() -> None:
    reward = regex(r"[a-z]+: \d+;")
    assert score(reward, [" abc: 12;\n", "abc: 12; more", "x abc: 12;"]) == [1.0, 0.0, 0.0]


def test_keywords_score_their_share_as_whole_words_in_any_case() -> None:
    reward = keywords(["cat", "dog"])
    responses = ["The Cat saw a dog.", "cat", "category of dogs", ""]
    assert score(reward, responses) == [1.0, 0.5, 0.0, 0.0]


def test_a_keyword_is_no_pattern() -> None:
    assert score(keywords(["a.c"]), ["abc", "a.c"]) == [0.0, 1.0]


@pytest.mark.parametrize("word", ["C++", ".net", "#1"])
def test_a_keyword_may_begin_or_end_with_a_sign(word: str) -> None:
    assert score(keywords([word]), [f"I like {word} best", "nothing"]) == [1.0, 0.0]


@pytest.mark.parametrize("words", ["cat", [], ()])
def test_keywords_need_a_sequence_of_words(words: Any) -> None:
    with pytest.raises(InvalidInputError, match="keywords needs a sequence of words; got"):
        keywords(words)


def test_a_broken_pattern_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="pattern"):
        regex("(")
