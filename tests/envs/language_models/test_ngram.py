"""NGramModel: against counts by hand, and against the enumeration of all texts."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models import NGramModel


def random_model(vocabulary_size: int, order: int, seed: int = 0) -> NGramModel:
    rng = np.random.default_rng(seed)
    table = np.log(rng.dirichlet(np.ones(vocabulary_size), size=(vocabulary_size,) * (order - 1)))
    return NGramModel(table)


def test_a_bigram_fit_has_the_counted_frequencies() -> None:
    model = NGramModel.fit(
        [[0, 1, 1, 2], [0, 1, 2], [0, 2]], vocabulary_size=4, order=2, uniform_weight=0.2
    )
    # After 0: twice 1, once 2. After 1: once 1, twice 2. After 2 and 3: nothing was seen.
    expected = np.array([[0, 2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3, 0]]) * 0.8 + 0.2 / 4
    np.testing.assert_allclose(np.exp(model.table[:2]), expected, rtol=1e-12)
    np.testing.assert_allclose(np.exp(model.table[2:]), 1 / 4, rtol=1e-12)


def test_a_trigram_fit_has_the_counted_frequencies() -> None:
    model = NGramModel.fit(
        [[0, 1, 2], [0, 1, 2], [0, 1, 0]], vocabulary_size=3, order=3, uniform_weight=0.3
    )
    assert model.order == 3
    np.testing.assert_allclose(
        np.exp(model.table[0, 1]), np.array([1 / 3, 0, 2 / 3]) * 0.7 + 0.1, rtol=1e-12
    )
    np.testing.assert_allclose(np.exp(model.table[1, 0]), 1 / 3, rtol=1e-12)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_next_token_depends_on_the_last_ones_alone(order: int) -> None:
    model = random_model(4, order)
    obs = np.array([[3, 0, 2, 1, -1], [1, 1, 1, 3, 2]])
    context = order - 1
    expected = [model.table[tuple(text[-context:])] for text in ([3, 0, 2, 1], [1, 1, 1, 3, 2])]
    np.testing.assert_array_equal(model.next_log_probs(obs), expected)
    np.testing.assert_array_equal(
        model.log_probs(obs, np.array([2, 0])), [expected[0][2], expected[1][0]]
    )


def test_a_text_shorter_than_the_context_repeats_its_first_token() -> None:
    model = random_model(4, 3)
    np.testing.assert_array_equal(model.next_log_probs(np.array([[2, -1]])), [model.table[2, 2]])


@pytest.mark.parametrize("order", [2, 3])
def test_a_dict_a_flat_array_and_left_padding_give_the_same(order: int) -> None:
    model = random_model(5, order)
    flat = np.array([[1, 2, -1, -1], [3, 4, 0, 2]])
    left = np.array([[-1, -1, 1, 2], [3, 4, 0, 2]])
    as_dict = {"input_ids": np.where(flat < 0, 4, flat), "attention_mask": (flat >= 0) * 1}
    expected = model.next_log_probs(flat)
    np.testing.assert_array_equal(model.next_log_probs(left), expected)
    np.testing.assert_array_equal(model.next_log_probs(as_dict), expected)


@pytest.mark.parametrize("order", [2, 3])
def test_scores_of_whole_texts_equal_those_step_by_step(order: int) -> None:
    model = random_model(6, order)
    rng = np.random.default_rng(1)
    ids = rng.integers(6, size=(8, 7))
    lengths = rng.integers(1, 8, size=8)
    mask = (np.arange(7) < lengths[:, None]).astype(np.int8)
    scores = model.score(ids, mask)
    expected = np.zeros((8, 7))
    for row, column in itertools.product(range(8), range(1, 7)):
        if column < lengths[row]:
            expected[row, column] = model.log_probs(
                ids[row : row + 1, :column], ids[row, [column]]
            )[0]
    np.testing.assert_array_equal(scores, expected)


def test_log_probs_at_places_equal_those_of_the_text_up_to_there() -> None:
    model = random_model(5, 3)
    ids = np.random.default_rng(0).integers(5, size=(3, 6))
    rows, columns = np.array([0, 2, 2, 1]), np.array([5, 0, 3, 1])
    found = model.log_probs_at(ids, np.ones_like(ids), (rows, columns))
    expected = [
        model.next_log_probs(ids[[row], : column + 1])[0]
        for row, column in zip(rows, columns, strict=True)
    ]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("order", [2, 3])
def test_the_probabilities_of_all_responses_sum_to_one(order: int) -> None:
    model, eos, limit = random_model(4, order), 1, 4
    prompt = [2, 3]
    total = 0.0
    for length in range(1, limit + 1):
        for response in itertools.product(range(4), repeat=length):
            ends = response[-1] == eos or length == limit
            if eos in response[:-1] or not ends:
                continue
            ids = np.array([[*prompt, *response]])
            scores = model.score(ids, np.ones_like(ids))
            total += float(np.exp(scores[0, len(prompt) :].sum()))
    assert total == pytest.approx(1.0, abs=1e-12)


def test_what_is_returned_is_no_view_of_the_table() -> None:
    model = random_model(4, 2)
    before = model.table.copy()
    model.next_log_probs(np.array([[1]]))[:] = 0
    np.testing.assert_array_equal(model.table, before)


def test_a_model_survives_its_file(tmp_path: Path) -> None:
    model = random_model(4, 3)
    model.save(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(
        NGramModel.load(tmp_path / "model.safetensors").table, model.table
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros(3), r"Expected a table of shape \(V, V, ...\), one axis a token; got \(3,\)"),
        (np.zeros((2, 3)), r"Expected a table of shape .*; got \(2, 3\)"),
        (np.zeros((3, 3)), "must be a log-distribution summing to 1"),
        (np.full((2, 2), np.nan), "must be a log-distribution summing to 1"),
        (np.full((2, 2), 0.5), "must be a log-distribution summing to 1"),
    ],
)
def test_a_table_that_is_no_distribution_is_refused(table: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        NGramModel(table)


def test_a_row_without_text_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="a row without text"):
        random_model(3, 2).next_log_probs(np.array([[-1, -1]]))
