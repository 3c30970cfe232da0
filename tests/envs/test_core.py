"""The dynamics: how text grows, what ends it, and what the reward is shown."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from textrl_envs.core import FinishReason, TextCore
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task

MakeTask = Callable[..., Task]
EOS = 1


def start(task: Task, prompts: list[int], *, padding: int = 0) -> TextCore:
    core = TextCore(task, len(prompts), padding=padding)
    core.start(np.arange(len(prompts)), np.array(prompts))
    return core


def play(core: TextCore, tokens: list[int]) -> list[list[int]]:
    """Appends the same tokens to all rows; returns the rows that ended with each."""
    return [core.append(np.full(core.num_rows, token)).tolist() for token in tokens]


def append_until_end(core: TextCore, tokens: list[int]) -> int | None:
    """Returns after how many tokens the first row ended."""
    for count, token in enumerate(tokens, start=1):
        if core.append(np.array([token])).size:
            return count
    return None


def test_a_row_holds_prompt_then_response_then_padding(make_task: MakeTask) -> None:
    core = start(make_task(), [1, 0], padding=-1)
    play(core, [20, 21])
    expected = [[6, 7, 8, 20, 21, -1, -1, -1, -1], [5, 20, 21, -1, -1, -1, -1, -1, -1]]
    np.testing.assert_array_equal(core.input_ids, expected)
    np.testing.assert_array_equal(core.attention_mask, np.not_equal(expected, -1))
    assert [core.prompt_ids(row).tolist() for row in (0, 1)] == [[6, 7, 8], [5]]
    assert [core.response_ids(row).tolist() for row in (0, 1)] == [[20, 21], [20, 21]]


def test_nothing_of_the_last_episode_stays_when_a_row_begins_again(make_task: MakeTask) -> None:
    core = start(make_task(), [1, 1])
    play(core, [20, 21, 22, EOS])
    core.start(np.array([1]), np.array([0]))
    np.testing.assert_array_equal(core.input_ids[1], [5, 0, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(core.attention_mask[1], [1, 0, 0, 0, 0, 0, 0, 0, 0])
    assert core.finish_reason.tolist() == [FinishReason.STOP, FinishReason.RUNNING]


def test_eos_ends_a_response_as_stop(make_task: MakeTask) -> None:
    core = start(make_task(), [0])
    assert play(core, [20, EOS]) == [[], [0]]
    assert core.finish_reason.tolist() == [FinishReason.STOP]


def test_the_limit_counts_from_the_end_of_each_rows_own_prompt(make_task: MakeTask) -> None:
    core = start(make_task(max_new_tokens=3), [0, 1])
    assert play(core, [20, 21, 22]) == [[], [], [0, 1]]
    assert core.finish_reason.tolist() == [FinishReason.LENGTH, FinishReason.LENGTH]


def test_eos_exactly_at_the_limit_is_stop(make_task: MakeTask) -> None:
    core = start(make_task(max_new_tokens=3), [0])
    assert play(core, [20, 21, EOS]) == [[], [], [0]]
    assert core.finish_reason.tolist() == [FinishReason.STOP]


def test_an_eos_token_within_the_prompt_ends_nothing(make_task: MakeTask) -> None:
    core = start(make_task(prompts=["w5 <eos> w6"]), [0])
    assert core.prompt_ids(0).tolist() == [5, EOS, 6]
    assert play(core, [20]) == [[]]


def test_only_the_given_rows_grow(make_task: MakeTask) -> None:
    core = start(make_task(max_new_tokens=2), [0, 0, 0])
    assert core.append(np.array([20, 21]), np.array([0, 2])).tolist() == []
    assert core.append(np.array([22]), np.array([2])).tolist() == [2]
    assert [core.response_ids(row).tolist() for row in range(3)] == [[20], [], [21, 22]]


def test_a_stop_text_of_two_words_ends_the_response(make_task: MakeTask) -> None:
    core = start(make_task(stop=["w20 w21"]), [0])
    assert append_until_end(core, [21, 20, 20, 21, 22]) == 4
    assert core.finish_reason.tolist() == [FinishReason.STOP]


def test_eos_ends_a_response_where_there_are_stop_texts_too(make_task: MakeTask) -> None:
    core = start(make_task(stop=["w20", "w21 w22"]), [0])
    assert append_until_end(core, [21, 23, EOS, 22]) == 3
    assert core.finish_reason.tolist() == [FinishReason.STOP]


def test_any_of_several_stop_texts_ends_the_response(make_task: MakeTask) -> None:
    for tokens in ([24, 20], [24, 21, 22]):
        core = start(make_task(stop=["w20", "w21 w22"]), [0])
        assert append_until_end(core, [*tokens, 25]) == len(tokens)


def test_a_stop_text_is_sought_in_the_response_alone(make_task: MakeTask) -> None:
    task = make_task(prompts=["w20 w21 w20"], stop=["w20 w21"], max_new_tokens=4)
    core = start(task, [0])
    # Neither the one in the prompt counts, nor one that the prompt began.
    assert append_until_end(core, [21, 22, 20, 21]) == 4
    assert core.finish_reason.tolist() == [FinishReason.STOP]


def test_a_stop_text_exactly_at_the_limit_is_stop(make_task: MakeTask) -> None:
    core = start(make_task(stop=["w20"], max_new_tokens=2), [0])
    assert append_until_end(core, [22, 20]) == 2
    assert core.finish_reason.tolist() == [FinishReason.STOP]


@pytest.mark.parametrize("stop", ["END", "é", "€.", "\n\n"])
def test_a_stop_text_is_completed_across_several_byte_tokens(
    make_task: MakeTask, byte_tokenizer: Any, stop: str
) -> None:
    tokens = byte_tokenizer.encode(f"the cat{stop}")
    completing = len(tokens) - len(byte_tokenizer.encode("the cat"))
    assert completing > 1  # or this tests nothing
    task = make_task(prompts=["the"], tokenizer=byte_tokenizer, stop=[stop], max_new_tokens=40)
    core = start(task, [0])
    more = byte_tokenizer.encode(" sat")
    assert append_until_end(core, tokens + more) == len(tokens)
    assert byte_tokenizer.decode(core.response_ids(0)).endswith(stop)


def test_the_search_in_a_window_finds_what_a_search_in_the_whole_text_finds(
    make_task: MakeTask, byte_tokenizer: Any
) -> None:
    rng = np.random.default_rng(0)
    pieces = byte_tokenizer.encode("the cat sat on a mat. €é EN D\n")
    stops = ["at on", "€é", "é€", "EN D\n", "thecat"]
    task = make_task(prompts=["the"], tokenizer=byte_tokenizer, stop=stops, max_new_tokens=60)
    stopped = 0
    for _ in range(150):
        tokens = rng.choice(pieces, size=60).tolist()
        whole = (
            any(stop in byte_tokenizer.decode(tokens[:count]) for stop in stops)
            for count in range(1, 61)
        )
        expected = next((count for count, met in enumerate(whole, start=1) if met), 60)
        core = start(task, [0])
        assert append_until_end(core, tokens) == expected
        stopped += core.finish_reason[0] == FinishReason.STOP
    assert 20 < stopped < 130  # both kinds of end were met


def test_the_reward_is_called_once_with_all_rows_that_ended(make_task: MakeTask) -> None:
    calls: list[dict[str, Any]] = []

    def reward(prompts: Any, responses: Any, **more: Any) -> list[float]:
        calls.append({"prompts": list(prompts), "responses": list(responses), **more})
        return [float(len(row)) for row in more["response_ids"]]

    core = start(make_task(reward=reward), [1, 0, 2])
    play(core, [20])
    ended = core.append(np.array([EOS, 21, EOS]))
    scores, extras = core.score(ended)
    assert ended.tolist() == [0, 2]
    assert scores.tolist() == [2.0, 2.0]
    assert extras == {}
    (call,) = calls
    assert call["prompts"] == ["w6 w7 w8", "w9 w10"]
    assert call["responses"] == ["w20", "w20"]
    assert [row.tolist() for row in call["prompt_ids"]] == [[6, 7, 8], [9, 10]]
    assert [row.tolist() for row in call["response_ids"]] == [[20, EOS], [20, EOS]]
    assert call["metadata"] == [{"category": None, "answer": None}] * 2


def test_a_reward_cannot_reach_into_the_environment(make_task: MakeTask) -> None:
    def reward(prompts: Any, responses: Any, **more: Any) -> list[float]:
        for row in (*more["response_ids"], *more["prompt_ids"]):
            row[:] = 0
        return [0.0] * len(responses)

    core = start(make_task(reward=reward, max_new_tokens=1), [0])
    core.score(core.append(np.array([20])))
    assert core.input_ids[0].tolist()[:2] == [5, 20]


def test_an_eos_token_that_is_also_the_padding_is_seen_and_scored(
    make_task: MakeTask, byte_tokenizer: Any
) -> None:
    assert byte_tokenizer.pad_token_id == byte_tokenizer.eos_token_id == 0
    seen: list[list[int]] = []

    def reward(prompts: Any, responses: Any, **more: Any) -> list[float]:
        seen.extend(row.tolist() for row in more["response_ids"])
        return [0.0] * len(responses)

    task = make_task(prompts=["the"], tokenizer=byte_tokenizer, reward=reward, max_new_tokens=4)
    core = start(task, [0])
    assert append_until_end(core, [40, 0]) == 2
    core.score(np.array([0]))
    assert seen == [[40, 0]]
    assert int(core.attention_mask[0].sum()) == len(task.prompts.token_ids[0]) + 2


def test_rendering_shows_prompt_response_and_end(make_task: MakeTask) -> None:
    core = start(make_task(), [1])
    play(core, [20])
    assert core.render(0) == "[prompt] w6 w7 w8\n[response] w20\n[running]"
    play(core, [EOS])
    assert core.render(0) == "[prompt] w6 w7 w8\n[response] w20\n[stop]"


@pytest.mark.parametrize("index", [3, -1, 1.0, [0, 1, 2], "0", True, [[0, 1]]])
def test_a_prompt_index_of_the_wrong_form_is_refused(make_task: MakeTask, index: Any) -> None:
    core = TextCore(make_task(), 2, padding=0)
    message = r"'prompt_index'\] must be an integer, or 2 of them, in 0\.\.2; got"
    with pytest.raises(InvalidInputError, match=message):
        core.check_prompt_index(index, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be .*at least 1; got 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be .*; got 2.5"),
        ({"max_new_tokens": "6"}, "max_new_tokens must be .*; got '6'"),
        ({"stop": ["a", ""]}, "stop must be a sequence of non-empty texts"),
        ({"stop": "END"}, "stop must be a sequence of non-empty texts"),
        ({"kl_coefficient": -0.1}, "kl_coefficient must be a number of 0 or more; got -0.1"),
        ({"kl_coefficient": float("nan")}, "kl_coefficient must be a number of 0 or more; got nan"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(
    make_task: MakeTask, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make_task(**changes)
