import dataclasses

import numpy as np
import pytest

from tests.agents.tiny import EOS, Response, episodes_of, residual, tiny_task
from textrl_agents.episodes import Episodes

PLAYED: list[tuple[int, Response]] = [(1, (2, EOS)), (0, (3, 1, 2)), (1, (EOS,))]
"""Prompt 0 is "a", prompt 1 "b a c": ids (1,) and (2, 1, 3)."""


@pytest.fixture(scope="module")
def episodes() -> Episodes:
    task = tiny_task()
    return episodes_of(task, residual(task, away=0.5), PLAYED)


def test_prompts_and_responses_are_read_back_apart(episodes: Episodes) -> None:
    np.testing.assert_array_equal(episodes.prompt_ids, [[2, 1, 3], [1, 0, 0], [2, 1, 3]])
    np.testing.assert_array_equal(episodes.response_ids, [[2, EOS, 0], [3, 1, 2], [EOS, 0, 0]])


def test_eos_belongs_to_the_response_even_where_it_is_the_padding_too(episodes: Episodes) -> None:
    np.testing.assert_array_equal(episodes.lengths, [2, 3, 1])
    assert episodes.num_tokens == 6
    assert len(episodes) == 3


def test_response_places_point_at_the_response_tokens_row_by_row(episodes: Episodes) -> None:
    rows, columns = episodes.response_places()
    np.testing.assert_array_equal(rows, [0, 0, 1, 1, 1, 2])
    np.testing.assert_array_equal(columns, [3, 4, 1, 2, 3, 3])
    np.testing.assert_array_equal(episodes.input_ids[rows, columns], [2, EOS, 3, 1, 2, EOS])


def test_return_is_score_minus_priced_kl(episodes: Episodes) -> None:
    assert episodes.ref_log_probs is not None
    for row, length in enumerate(episodes.lengths):
        kl = sum(episodes.log_probs[row, t] - episodes.ref_log_probs[row, t] for t in range(length))
        assert episodes.kl[row] == pytest.approx(kl)
        assert episodes.returns[row] == pytest.approx(episodes.scores[row] - 0.3 * kl)
        assert episodes.scores[row] == episodes.task_rewards[row, length - 1]


def test_kl_without_a_reference_is_not_a_number(episodes: Episodes) -> None:
    found = dataclasses.replace(episodes, ref_log_probs=None).kl
    assert found.shape == (3,)
    assert np.isnan(found).all()


def test_select_keeps_the_order_asked_for_and_drops_columns_that_are_all_padding(
    episodes: Episodes,
) -> None:
    part = episodes.select(np.array([2, 0]))
    assert part.input_ids.shape == (2, 5)
    assert part.log_probs.shape == (2, 2)
    np.testing.assert_array_equal(part.response_ids, [[EOS, 0], [2, EOS]])
    np.testing.assert_array_equal(part.log_probs, episodes.log_probs[[2, 0], :2])
    np.testing.assert_array_equal(part.returns, episodes.returns[[2, 0]])
    np.testing.assert_array_equal(part.prompt_index, [1, 1])


def test_select_of_one_short_episode_has_no_padding(episodes: Episodes) -> None:
    part = episodes.select(np.array([2]))
    assert part.attention_mask.all()
    assert part.response_mask.all()
    np.testing.assert_array_equal(part.input_ids, [[2, 1, 3, EOS]])
    assert part.num_tokens == 1


def test_select_without_a_reference_has_none(episodes: Episodes) -> None:
    bare = dataclasses.replace(episodes, ref_log_probs=None)
    assert bare.select(np.array([0])).ref_log_probs is None


def test_episodes_cannot_be_changed_by_assignment(episodes: Episodes) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field"):
        episodes.rewards = np.zeros((3, 3))  # type: ignore[misc]
