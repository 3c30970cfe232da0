"""TinyGPT: any reward over a Transformers reference, and its optimum exactly."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from textrl_envs.data import data_folder
from textrl_envs.environments import build_task
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import Optimum, optimum, roll_out
from textrl_envs.rewards.base import score_responses
from textrl_envs.task import Task
from textrl_envs.wrappers import KLPenalty
from textrl_envs.wrappers.vector import KLPenalty as VectorKLPenalty

BOAT = """
def tells_of_boat(prompts, responses, *, prompt_ids, response_ids, metadata):
    return [float("boat" in response) for response in responses]
"""


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("tiny_gpt", {})


@pytest.fixture(scope="module")
def best(task: Task) -> Optimum:
    return optimum(task)


def score(task: Task, response: str) -> float:
    ids = np.array(task.tokenizer.encode(response))
    text = task.tokenizer.decode(ids, skip_special_tokens=True)
    scores, _ = score_responses(
        task.reward, [": the sailor"], [text], prompt_ids=[ids], response_ids=[ids], metadata=[{}]
    )
    return float(scores[0])


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("found a lantern near the harbour . <eos>", 1.0),
        ("lost her lantern . <eos>", 1.0),
        ("found the lantern near the harbour . <eos>", 0.0),  # "the" twice
        ("found a letter near the harbour . <eos>", 0.0),
        ("found a lantern near the harbour .", 0.0),
        ("found a lantern near the harbour <eos>", 0.0),
        ("lost her lantern . a child . <eos>", 0.0),
        ("<eos>", 0.0),
    ],
)
def test_a_finished_sentence_with_a_lantern_and_no_word_twice_is_wanted(
    task: Task, response: str, expected: float
) -> None:
    assert score(task, response) == expected


def test_the_reference_succeeds_sometimes_and_learning_is_worthwhile(best: Optimum) -> None:
    assert (best.at_reference.rewards > 0.02).all()
    assert (best.at_reference.rewards < 0.2).all()
    assert best.value - best.reference_value > 0.3
    assert 1 < best.kl < 4


def test_responses_are_few_enough_to_read_all_in_seconds(best: Optimum) -> None:
    assert len(best.mdp.log_ref) < 20_000
    assert (np.isfinite(best.mdp.log_ref).sum(axis=1) == 3).all()


def test_the_reference_tells_stories(task: Task) -> None:
    assert task.load_reference is not None
    sentence = r"(saw|found|carried|painted|lost) (the|a|his|her) \w+( \w+ (the|a) \w+)? \."
    played = roll_out(task, task.load_reference(), 300, seed=0)
    texts = [task.tokenizer.decode(ids) for ids in played.response_ids]
    ended = [text for text in texts if text.endswith("<eos>")]
    assert len(ended) > 60
    assert np.mean([bool(re.fullmatch(f"{sentence} <eos>", text)) for text in ended]) > 0.95


def test_the_optimal_policy_returns_its_value_in_every_episode(task: Task, best: Optimum) -> None:
    envs = VectorKLPenalty(
        gym.make_vec("textrl/TinyGPT-v0", num_envs=64, autoreset_mode="Disabled"),
        policy=best.policy,
    )
    rng = np.random.default_rng(0)
    for prompt in range(len(task.prompts)):
        obs, _ = envs.reset(seed=prompt, options={"prompt_index": prompt})
        returns = np.zeros(64)
        for _ in range(task.max_new_tokens):
            obs, rewards, _, _, _ = envs.step(best.policy.act(obs, rng))
            returns += rewards
        assert returns.std() < 1e-9
        np.testing.assert_allclose(returns, best.values[prompt], rtol=0, atol=1e-9)


def all_responses(model: Any, prompt: list[int], limit: int) -> Iterator[tuple[list[int], float]]:
    """Yields every response of a model's three likeliest tokens at each step, and its chance."""
    import torch

    def grow(response: list[int], chance: float) -> Iterator[tuple[list[int], float]]:
        if len(response) == limit or (response and response[-1] == 1):
            yield response, chance
            return
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + response])).logits[0, -1]
        top = logits.topk(3)
        for token, share in zip(top.indices.tolist(), top.values.softmax(0).tolist(), strict=True):
            yield from grow([*response, token], chance * share)

    yield from grow([], 1.0)


def by_length(prompts: Any, responses: Any, *, response_ids: Any, **_: Any) -> list[float]:
    return [len(text) / 40 - 0.2 * (ids[-1] == 1) for text, ids in zip(responses, response_ids)]  # noqa: B905


def test_the_value_is_that_of_a_direct_enumeration() -> None:
    from transformers import AutoModelForCausalLM

    small = build_task("tiny_gpt", {"max_new_tokens": 3, "reward": by_length})
    best = optimum(small, kl_coefficient=0.3)
    model = AutoModelForCausalLM.from_pretrained(data_folder("tiny_gpt")).double()
    for prompt, text in enumerate(small.prompts.texts):
        found = list(all_responses(model, small.tokenizer.encode(text), 3))
        texts = [small.tokenizer.decode(ids, skip_special_tokens=True) for ids, _ in found]
        scores = by_length(None, texts, response_ids=[ids for ids, _ in found])
        chances = [chance for _, chance in found]
        assert math.isclose(sum(chances), 1, abs_tol=1e-12)
        total = sum(p * math.exp(r / 0.3) for p, r in zip(chances, scores, strict=True))
        assert best.values[prompt] == pytest.approx(0.3 * math.log(total), abs=1e-9)
        mean = sum(p * r for p, r in zip(chances, scores, strict=True))
        assert best.at_reference.rewards[prompt] == pytest.approx(mean, abs=1e-9)


def test_another_reward_has_another_optimum(tmp_path: Path) -> None:
    (tmp_path / "boat.py").write_text(BOAT)
    reward = f"{tmp_path}/boat.py:tells_of_boat"
    boat = build_task("tiny_gpt", {"reward": reward, "max_new_tokens": 6})
    best = optimum(boat)
    chances = best.at_reference.rewards  # of a score of 1, else it is 0
    expected = 0.1 * np.log(1 - chances + chances * np.exp(1 / 0.1))
    np.testing.assert_allclose(best.values, expected, rtol=0, atol=1e-9)
    played = roll_out(boat, best.policy, 60, seed=0)
    texts = [boat.tokenizer.decode(ids) for ids in played.response_ids]
    assert np.mean(["boat" in text for text in texts]) > 0.95


def test_a_reward_may_be_a_function() -> None:
    env = gym.make("textrl/TinyGPT-v0", reward=by_length, max_new_tokens=1)
    env.reset(seed=0)
    _, reward, terminated, _, _ = env.step(20)
    assert terminated
    assert reward == pytest.approx(len("sailor") / 40)


def test_a_token_that_the_reference_does_not_keep_is_refused(best: Optimum) -> None:
    class Uniform:
        vocabulary_size = 68

        def log_probs(self, obs: Any, actions: Any) -> Any:
            return np.full(len(actions), -np.log(68))

    env = KLPenalty(gym.make("textrl/TinyGPT-v0"), policy=Uniform())
    env.reset(seed=0, options={"prompt_index": 0})
    reference = best.mdp.log_ref[0]
    env.step(int(reference.argmax()))
    env.reset(seed=0, options={"prompt_index": 0})
    with pytest.raises(InvalidInputError, match="gives a sampled token no probability"):
        env.step(int(reference.argmin()))


def test_more_tokens_kept_are_more_responses() -> None:
    sizes = [
        len(optimum(build_task("tiny_gpt", {"top_k": k, "max_new_tokens": 4})).mdp.log_ref)
        for k in (1, 2, 3)
    ]
    assert sizes[0] <= 6 * 4
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("top_k", [0, 69, 2.5])
def test_a_number_of_tokens_out_of_range_is_refused(top_k: Any) -> None:
    with pytest.raises(InvalidInputError, match="top_k must be an integer from 1 to 68"):
        build_task("tiny_gpt", {"top_k": top_k})


def test_a_reward_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'module:name'"):
        build_task("tiny_gpt", {"reward": "lantern"})


def test_prompts_begin_stories_and_none_begins_another(task: Task) -> None:
    texts = task.prompts.texts
    assert len(texts) == 6
    for text, ids, length in zip(texts, task.prompts.token_ids, task.prompts.lengths, strict=True):
        assert task.tokenizer.decode(ids[:length]) == text
        assert 0 not in ids[:length]  # no unknown word
    assert not any(a is not b and b.startswith(a) for a in texts for b in texts)
