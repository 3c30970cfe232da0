import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import textrl_envs  # noqa: F401 - registers the ids
from tests.agents.tiny import EOS, ngram_of, tiny_task, vector_env
from textrl_agents import make
from textrl_agents.null_agents import Constant, Echo, Empty, NullAgent, Repeat, Uniform
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task

AGENTS: tuple[type[NullAgent], ...] = (Empty, Constant, Repeat, Echo, Uniform)
every_agent = pytest.mark.parametrize("kind", AGENTS, ids=lambda kind: kind.name)

PROMPTS = ("a", "b a c", "c a")


def words_task(**settings: Any) -> Task:
    return tiny_task(
        prompts=PROMPTS, reward=lambda prompts, responses, **_: [0.0] * len(responses), **settings
    )


def responses(agent: Any, envs: Any, prompts: list[int]) -> list[list[int]]:
    """Plays an episode a row, and reads the responses from the observations."""
    envs.autoreset_mode = AutoresetMode.DISABLED
    obs, _ = envs.reset(seed=0, options={"prompt_index": np.array(prompts)})
    is_playing = np.ones(len(prompts), np.bool_)
    while is_playing.any():
        obs, _, ended, _, _ = envs.step(agent.act(obs))
        is_playing &= ~ended
    starts, ends = envs.prompts.lengths[prompts], obs["attention_mask"].sum(axis=1)
    return [row[a:b].tolist() for row, a, b in zip(obs["input_ids"], starts, ends, strict=True)]


def said(agent: Any, task: Task) -> list[list[int]]:
    return responses(agent, vector_env(task, 3), [0, 1, 2])


@every_agent
def test_it_is_made_by_its_name(kind: type[NullAgent]) -> None:
    agent = make(kind.name, vector_env(words_task()), seed=3, device="cpu")
    assert type(agent) is kind
    assert agent.vocabulary_size == 4


def test_empty_says_eos_at_once() -> None:
    assert said(Empty(words_task()), words_task()) == [[EOS]] * 3


@pytest.mark.parametrize("seed", range(6))
def test_constant_says_to_all_what_the_reference_likes_best_after_the_first_prompt(
    seed: int,
) -> None:
    task = words_task(seed=seed, limit=5)
    table, text = ngram_of(task).table, [int(task.prompts.token_ids[0, 0])]
    while len(text) < 6 and (len(text) == 1 or text[-1] != EOS):
        text.append(int(table[text[-1]].argmax()))
    assert said(Constant(task), task) == [text[1:]] * 3


@pytest.mark.parametrize("seed", range(6))
def test_repeat_says_one_token_that_is_not_eos_until_the_limit(seed: int) -> None:
    task = words_task(seed=seed, limit=7)
    best = int(ngram_of(task).table[task.prompts.token_ids[0, 0], 1:].argmax()) + 1
    assert said(Repeat(task), task) == [[best] * 7] * 3


def test_echo_says_the_prompt_and_ends() -> None:
    a, b, c = 1, 2, 3
    wide = words_task(limit=8)
    assert said(Echo(wide), wide) == [[a, EOS], [b, a, c, EOS], [c, a, EOS]]
    narrow = words_task(limit=2)
    assert said(Echo(narrow), narrow) == [[a, EOS], [b, a], [c, a]]


def test_uniform_says_every_token_equally_often() -> None:
    task = words_task()
    obs, _ = vector_env(task, 4000).reset(seed=0)
    counts = np.bincount(Uniform(task, seed=1).act(obs), minlength=4)
    # Pearson's statistic with 3 degrees of freedom: above 16.3 once in a thousand.
    assert ((counts - 1000) ** 2 / 1000).sum() < 16.3


def test_the_seed_decides_what_uniform_says() -> None:
    task = words_task()
    obs, _ = vector_env(task, 64).reset(seed=0)
    first, same, other = (Uniform(task, seed=seed).act(obs) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


@every_agent
def test_its_log_probs_are_those_of_one_distribution_and_of_what_it_says(
    kind: type[NullAgent],
) -> None:
    task = words_task(limit=4)
    agent, envs = kind(task), vector_env(task, 6)
    obs, _ = envs.reset(seed=0)
    for _ in range(12):  # with rows that begin again among them
        columns = [agent.log_probs(obs, np.full(6, token)) for token in range(4)]
        np.testing.assert_allclose(np.exp(columns).sum(axis=0), 1, atol=1e-12)
        actions = agent.act(obs)
        assert np.isfinite(agent.log_probs(obs, actions)).all()
        obs, *_ = envs.step(actions)


@every_agent
def test_it_answers_for_both_forms_of_an_observation(kind: type[NullAgent]) -> None:
    task = words_task(limit=4)
    given = [vector_env(task, 5, obs=form).reset(seed=2)[0] for form in ("dict", "flat")]
    one, other = (kind(task, seed=1).act(obs) for obs in given)
    np.testing.assert_array_equal(one, other)
    assert one.dtype == np.int64


@every_agent
def test_it_learns_nothing_and_generates_nothing(kind: type[NullAgent]) -> None:
    task = words_task()
    envs = vector_env(task)
    assert kind(task).learn(envs, total_tokens=1000).rows == []
    assert envs.tokens_generated == 0


@pytest.mark.parametrize("kind", [Constant, Repeat])
def test_what_quotes_the_reference_needs_one(kind: type[NullAgent]) -> None:
    task = Task(
        tokenizer=words_task().tokenizer,
        prompts=words_task().prompts,
        reward=words_task().reward,
        max_new_tokens=3,
    )
    with pytest.raises(InvalidInputError, match="the environment has none"):
        kind(task)


def test_in_a_real_environment_echo_names_the_keywords() -> None:
    """The prompts of Keyword-v0 hold them, in order: its score is 1, and its KL is enormous."""
    envs = gym.make_vec("textrl/Keyword-v0", num_envs=8)
    agent: Any = make("null_echo", envs)
    obs, _ = envs.reset(seed=0)
    ends = []
    for _ in itertools.repeat(None, 40):
        obs, rewards, terminated, _, _ = envs.step(agent.act(obs))
        ends += rewards[terminated].tolist()
    assert len(ends) > 16
    assert set(ends) == {1.0}
