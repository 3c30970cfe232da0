"""Dialogue: the answer is what was said, and the reward what the docstring says."""

import re
import time

import gymnasium as gym
import numpy as np
import pytest

from textrl_envs.environments import build_task
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import bounds, optimum, roll_out
from textrl_envs.prompts import Prompt
from textrl_envs.rewards.base import score_responses
from textrl_envs.task import Task

FACT = re.compile(
    r"the (?P<who>\w+) (?P<action>\w+) (?:a|his|her) (?P<what>\w+) (?P<near>\w+) the (?P<where>\w+)"
)


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("dialogue", {})


def read_answer(text: str) -> str:
    """Answers the follow-up question of a dialogue from its facts."""
    facts = [match.groupdict() for match in FACT.finditer(text.partition("?")[0])]
    question = text.rpartition(" and ")[2]
    for fact in facts:
        if question.startswith(f"who {fact['action']} the {fact['what']} ?"):
            return fact["who"]
        if question.startswith(f"what is {fact['near']} the {fact['where']} ?"):
            return fact["what"]
        if question.startswith(f"where is the {fact['what']} ?"):
            return fact["where"]
    raise AssertionError(text)


def test_every_answer_can_be_read_in_the_prompt(task: Task) -> None:
    for prompt, text in zip(task.prompts, task.prompts.texts, strict=True):
        assert prompt.answer == read_answer(text)


def test_prompts_are_dialogues_of_known_words(task: Task) -> None:
    table = task.prompts
    assert len(table) == 24
    for text, ids, length in zip(table.texts, table.token_ids, table.lengths, strict=True):
        assert re.fullmatch(r"user : .* \? assistant : .* \. user : thank .* \? assistant :", text)
        assert task.tokenizer.decode(ids[:length]) == text
        assert 0 not in ids[:length]  # no unknown word
    kinds = [text.rpartition(" and ")[2].split()[0] for text in table.texts]
    assert min(kinds.count(kind) for kind in ("who", "what", "where")) >= 3
    assert 6 <= sum(" and then " in text for text in table.texts) <= 18  # of two facts


def test_no_prompt_begins_another(task: Task) -> None:
    texts = task.prompts.texts
    assert len(set(texts)) == len(texts)
    assert not any(a != b and b.startswith(a) for a in texts for b in texts)


def score(task: Task, response: str, answer: str) -> tuple[float, float, float]:
    ids = np.array(task.tokenizer.encode(response))
    scores, extras = score_responses(
        task.reward,
        ["user :"],
        [task.tokenizer.decode(ids, skip_special_tokens=True)],
        prompt_ids=[ids],
        response_ids=[ids],
        metadata=[Prompt(text="user :", answer=answer).reward_metadata()],
    )
    return float(scores[0]), float(extras["right"][0]), float(extras["polite"][0])


@pytest.mark.parametrize(
    ("response", "answer", "expected"),
    [
        ("the sailor lost it . glad to help . <eos>", "sailor", (1.0, 1, 1)),
        ("the sailor lost it . <eos>", "sailor", (0.75, 1, 0)),
        ("it is near the tower . you are welcome . <eos>", "tower", (1.0, 1, 1)),
        ("the ring is there . any time . <eos>", "ring", (1.0, 1, 1)),
        ("the child lost it . any time . <eos>", "sailor", (0.25, 0, 1)),
        ("i do not know . <eos>", "sailor", (0.0, 0, 0)),
        ("any time . <eos>", "sailor", (0.25, 0, 1)),
        ("the sailor lost it . glad to help .", "sailor", (0.0, 1, 1)),  # no end
        ("glad to help . the sailor lost it . <eos>", "sailor", (0.75, 1, 0)),
        ("the sailor and the child lost it . any time . <eos>", "sailor", (0.25, 0, 1)),
        ("the sailor lost the ring . any time . <eos>", "sailor", (1.0, 1, 1)),
        ("<eos>", "sailor", (0.0, 0, 0)),
    ],
)
def test_right_answers_and_polite_closings_are_paid(
    task: Task, response: str, answer: str, expected: tuple[float, float, float]
) -> None:
    assert score(task, response, answer) == expected


def test_an_episode_reports_both_parts() -> None:
    env = gym.make("textrl/Dialogue-v0")
    _, info = env.reset(seed=0, options={"prompt_index": 0})
    core: Task = env.unwrapped.task  # type: ignore[attr-defined]
    reply = f"the {core.prompts[0].answer} . any time . <eos>"
    for token in core.tokenizer.encode(reply):
        _, reward, terminated, _, info = env.step(token)
    assert terminated
    assert (reward, info["right"], info["polite"]) == (1.0, 1.0, 1.0)


def test_the_reference_has_full_support_and_much_to_learn(task: Task) -> None:
    assert task.load_reference is not None
    reference = task.load_reference()
    assert np.isfinite(reference.next_log_probs(task.prompts.token_ids[:1, :20])).all()
    played = roll_out(task, reference, 480, seed=0)
    assert 0.2 < played.scores.mean() < 0.5
    assert 0.03 < (played.scores == 1).mean() < 0.2
    ends = [ids[-1] == task.tokenizer.eos_token_id for ids in played.response_ids]
    assert np.mean(ends) > 0.95


def test_there_is_no_exact_optimum_and_it_is_said_at_once(task: Task) -> None:
    started = time.process_time()
    with pytest.raises(InvalidInputError, match=r"too many to enumerate.*optimum\.bounds"):
        optimum(task)
    assert time.process_time() - started < 10  # 50,000 prefixes would take minutes


def test_bounds_leave_room_above_the_reference(task: Task) -> None:
    found = bounds(task, episodes=960, max_score=1.0)
    assert found.upper is not None
    assert found.reference.high + 0.2 < found.estimate.value < found.upper <= 1
