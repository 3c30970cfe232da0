"""ProxyReward: what a reward model likes, and what readers like."""

from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.envs.environments.responses import agree_with, measured
from textrl_envs.data import data_file
from textrl_envs.data.stories import ADJECTIVES, VOCABULARY
from textrl_envs.environments import build_task
from textrl_envs.environments.proxy_reward import gold_automaton
from textrl_envs.optimum import Optimum, optimum
from textrl_envs.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task("proxy_reward", {})


@pytest.fixture(scope="module")
def solved(task: Task) -> Optimum:
    return optimum(task)


def gold(words: list[str]) -> float:
    """Reads the rule as it is said: up to 1 with the third, down to 0 at the seventh."""
    if words[-1] != "<eos>":
        return 0.0
    count = sum(word in ADJECTIVES for word in words)
    return [0, 1 / 3, 2 / 3, 1, 3 / 4, 1 / 2, 1 / 4, *[0] * 20][count]


def weights() -> dict[tuple[str, str], float]:
    """Returns the weight of every pair of words; the first has nothing before it."""
    table = load_file(data_file("stories/proxy.safetensors"))["weights"]
    before = (*VOCABULARY, "")
    return {
        (one, other): float(table[i, j])
        for i, one in enumerate(before)
        for j, other in enumerate(VOCABULARY)
    }


@pytest.mark.parametrize("count", range(10))
def test_readers_like_three_adjectives_and_an_end(task: Task, count: int) -> None:
    text = " ".join(["the", *["tall"] * count, "sailor"])
    expected = [0, 1 / 3, 2 / 3, 1, 3 / 4, 1 / 2, 1 / 4, 0, 0, 0][count]
    assert measured(task, f"{text} <eos>")["gold"] == pytest.approx(expected)
    assert measured(task, text)["gold"] == 0
    assert gold_automaton().score(np.array(task.tokenizer.encode(f"{text} <eos>"))) == expected


def test_the_reward_is_the_sum_of_the_weights_of_pairs(task: Task) -> None:
    weight = weights()

    def rule(_: str, words: list[str]) -> dict[str, float]:
        pairs = pairwise(["", *words])
        return {"score": sum(weight[pair] for pair in pairs), "gold": gold(words)}

    agree_with(task, rule)


def test_nearly_all_stories_of_the_reference_score_in_the_unit_interval(solved: Optimum) -> None:
    outside = [law.probs[(law.scores < 0) | (law.scores > 1)].sum() for law in solved.laws()]
    assert np.mean(outside) == pytest.approx(0.002, abs=0.001)


def test_the_range_of_all_texts_is_that_of_the_docstring(task: Task) -> None:
    # The lowest and the highest sum, by going on from every last word.
    weight, limit = weights(), task.max_new_tokens
    extremes = []
    for best in (min, max):
        following = dict.fromkeys((*VOCABULARY, ""), 0.0)
        for _ in range(limit):
            following = {
                one: best(
                    weight[one, other] + (0.0 if other == "<eos>" else following[other])
                    for other in VOCABULARY
                )
                for one in (*VOCABULARY, "")
            }
        extremes.append(following[""])
    assert extremes == pytest.approx([-2.25, 2.6], abs=0.05)
    laws = optimum(task).laws()
    assert extremes == [min(law.scores[0] for law in laws), max(law.scores[-1] for law in laws)]


def test_gold_rises_with_the_proxy_and_then_falls(solved: Optimum) -> None:
    points = solved.frontier([3.0, 1.0, 0.3, 0.1, 0.06, 0.03, 0.015], measure="gold")
    golds = [point.measure for point in points]
    peak = int(np.argmax(golds))
    assert 0 < peak < len(golds) - 1
    assert np.all(np.diff([point.reward for point in points]) > 0)
    assert golds[peak] - golds[0] > 0.1
    assert golds[peak] - golds[-1] > 0.1
