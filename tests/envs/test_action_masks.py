"""Which tokens may be chosen, of scalar and vector environments."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from tests.agents.tiny import random_ngram, tiny_task, vector_env
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.language_models.top_k import TopKModel
from textrl_envs.observations import ObsMode
from textrl_envs.task import Task
from textrl_envs.text_env import TextEnv


@pytest.mark.parametrize("name", ["textrl/Keyword-v0", "textrl/Brackets-v0"])
def test_padding_may_not_be_chosen_and_eos_may(name: str) -> None:
    env: Any = gym.make(name)
    env.reset(seed=0)
    masks = env.get_wrapper_attr("action_masks")()
    tokenizer = env.unwrapped.task.tokenizer
    assert masks.dtype == np.bool_
    assert masks.shape == (env.action_space.n,)
    assert np.flatnonzero(~masks).tolist() == [tokenizer.pad_token_id]
    assert masks[tokenizer.eos_token_id]


@pytest.mark.parametrize("obs", ["dict", "flat"])
def test_of_a_cut_reference_the_tokens_that_it_keeps_may_be_chosen(obs: ObsMode) -> None:
    bigram = random_ngram(5)
    env = TextEnv(tiny_task(size=5, reference=TopKModel(bigram, k=2)), obs=obs)
    env.reset(seed=0, options={"prompt_index": 0})
    last, is_over = env.task.prompts.token_ids[0, 0], False
    while not is_over:
        kept = np.sort(np.argsort(-bigram.table[last])[:2])
        assert np.flatnonzero(env.action_masks()).tolist() == kept.tolist()
        last = int(kept[-1])
        _, _, is_over, _, _ = env.step(last)


def test_without_a_reference_all_but_special_tokens_may_be_chosen() -> None:
    task = tiny_task()
    plain = Task(
        tokenizer=task.tokenizer, prompts=task.prompts, reward=task.reward, max_new_tokens=3
    )
    env = TextEnv(plain)
    env.reset(seed=0)
    assert env.action_masks().all()  # EOS is the only special token there


def test_a_reference_that_says_special_tokens_alone_is_followed() -> None:
    """Something must be left to choose."""
    task = gym.make("textrl/Brackets-v0").unwrapped.task  # type: ignore[attr-defined]
    size, pad = task.vocabulary_size, task.tokenizer.pad_token_id
    table = np.full((size, size), -np.inf)
    table[:, pad] = 0.0
    env = TextEnv(
        Task(
            tokenizer=task.tokenizer,
            prompts=task.prompts,
            reward=task.reward,
            max_new_tokens=3,
            load_reference=lambda: NGramModel(table),
        )
    )
    env.reset(seed=0)
    assert np.flatnonzero(env.action_masks()).tolist() == [pad]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_each_row_has_the_mask_of_the_scalar_environment(mode: AutoresetMode) -> None:
    task = tiny_task(size=5, reference=TopKModel(random_ngram(5), k=2))
    envs = vector_env(task, 4, autoreset_mode=mode)
    obs: Any = envs.reset(seed=3)[0]
    scalar = TextEnv(task)
    ended = np.zeros(4, np.bool_)
    for _ in range(12):
        masks = envs.action_masks()
        assert masks.dtype == np.bool_
        assert masks.shape == (4, 5)
        for row in range(4):
            if ended[row]:
                assert masks[row].all()  # its action is ignored
                continue
            length = int(obs["attention_mask"][row].sum())
            ids = obs["input_ids"][row, :length]
            index = 0 if ids[0] == task.prompts.token_ids[0, 0] else 1
            scalar.reset(options={"prompt_index": index})
            for token in ids[task.prompts.lengths[index] :]:
                scalar.step(int(token))
            np.testing.assert_array_equal(masks[row], scalar.action_masks())
        obs, _, terminated, _, _ = envs.step(masks.argmax(axis=1))
        if mode == AutoresetMode.DISABLED:
            ended |= terminated
        elif mode == AutoresetMode.NEXT_STEP:
            ended = terminated
