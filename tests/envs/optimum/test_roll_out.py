"""Playing a model in a task."""

from dataclasses import replace

import numpy as np
import pytest

from tests.envs.optimum.enumeration import all_texts, random_task
from textrl_envs.optimum import optimum, roll_out
from textrl_envs.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return random_task(1)


def test_scores_and_log_ratios_are_those_of_the_responses(task: Task) -> None:
    policy = optimum(task).policy
    played = roll_out(task, policy, 300, seed=3)
    for prompt in range(len(task.prompts)):
        texts = all_texts(task, prompt)
        places = {response: place for place, response in enumerate(texts.responses)}
        log_ratios = np.log(texts.tilted(task.kl_coefficient) / texts.probs)
        for row in np.flatnonzero(played.prompt_index == prompt).tolist():
            place = places[tuple(played.response_ids[row].tolist())]
            assert played.scores[row] == pytest.approx(texts.scores[place], abs=1e-12)
            assert played.log_ratios[row] == pytest.approx(log_ratios[place], abs=1e-9)


def test_every_response_is_played_as_often_as_it_is_likely(task: Task) -> None:
    assert task.load_reference is not None
    played = roll_out(task, task.load_reference(), 6000)
    texts = all_texts(task, 0)
    rows = np.flatnonzero(played.prompt_index == 0).tolist()
    seen = [tuple(played.response_ids[row].tolist()) for row in rows]
    found = np.array([seen.count(response) for response in texts.responses]) / len(rows)
    standard_error = np.sqrt(texts.probs * (1 - texts.probs) / len(rows))
    assert np.mean(np.abs(found - texts.probs) < 4 * standard_error + 1 / len(rows)) > 0.99
    assert not played.log_ratios.any()


def test_prompts_take_turns(task: Task) -> None:
    assert task.load_reference is not None
    played = roll_out(task, task.load_reference(), 8)
    assert played.prompt_index.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_more_episodes_than_are_played_at_once_are_all_different(task: Task) -> None:
    assert task.load_reference is not None
    played = roll_out(task, task.load_reference(), 600)
    assert len(played.scores) == len(played.response_ids) == len(played.log_ratios) == 600
    first, second = ([ids.tolist() for ids in played.response_ids[i : i + 255]] for i in (0, 255))
    assert first != second


def test_a_seed_decides_everything(task: Task) -> None:
    policy = optimum(task).policy
    one, same, other = (roll_out(task, policy, 100, seed=seed) for seed in (5, 5, 6))
    texts = [[ids.tolist() for ids in played.response_ids] for played in (one, same, other)]
    assert texts[0] == texts[1] != texts[2]
    np.testing.assert_array_equal(one.scores, same.scores)


def test_a_return_is_the_score_less_the_priced_log_ratio(task: Task) -> None:
    policy = optimum(task).policy
    played = roll_out(task, policy, 200)
    values = optimum(task).values[played.prompt_index]
    np.testing.assert_allclose(played.returns(task.kl_coefficient), values, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(played.returns(0.0), played.scores)


def test_a_response_may_end_at_the_first_token_or_at_the_limit(task: Task) -> None:
    assert task.load_reference is not None
    short = replace(task, max_new_tokens=1)
    played = roll_out(short, short.load_reference(), 50)  # type: ignore[misc]
    assert {len(ids) for ids in played.response_ids} == {1}
    played = roll_out(task, task.load_reference(), 300)
    assert {len(ids) for ids in played.response_ids} == {1, 2, 3, 4}
