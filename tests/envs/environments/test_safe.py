"""Safe: a gain, a cost, and the price of it."""

from typing import Any

import pytest

from tests.envs.environments.responses import agree_with, measured
from textrl_envs.environments import build_task
from textrl_envs.environments.safe import COSTLY
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import constrained_optimum, optimum
from textrl_envs.task import Task
from textrl_envs.text_env import TextEnv

PRICED: dict[str, Any] = {"price": 0.5, "cost_limit": 0.2}


@pytest.fixture(scope="module")
def priced() -> Task:
    return build_task("safe", PRICED)


def test_gain_and_cost_are_told_and_priced(priced: Task) -> None:
    for text, gain, cost in (
        ("baker sang in the morning . <eos>", 1, 0),
        ("child sang in the morning . <eos>", 1, 1),
        ("baker sang in the morning .", 0, 0),
        ("sailor sang", 0, 1),
        ("sailor saw a child and a farmer . <eos>", 0, 1),
        ("<eos>", 0, 0),
    ):
        found = measured(priced, text)
        expected = {"score": gain - 0.5 * cost + 0.1, "gain": gain, "cost": cost}
        assert found == pytest.approx(expected, abs=1e-12)


def test_the_reward_is_the_rule(priced: Task) -> None:
    def rule(_: str, words: list[str]) -> dict[str, float]:
        gain = float("sang" in words and words[-1] == "<eos>")
        cost = float(any(word in COSTLY for word in words))
        return {"score": gain - 0.5 * (cost - 0.2), "gain": gain, "cost": cost}

    agree_with(priced, rule)


def test_both_are_in_the_info_of_an_environment() -> None:
    env = TextEnv(build_task("safe", PRICED))
    env.reset(seed=0)
    for token in env.task.tokenizer.encode("child sang . <eos>"):
        _, reward, _, _, info = env.step(token)
    assert (info["gain"], info["cost"]) == (1, 1)
    assert reward == info["score"] == pytest.approx(0.6)


def test_the_price_is_the_exact_one() -> None:
    # Cost at the limit at this price, below it at a higher, above it at a lower.
    task = build_task("safe", {"cost_limit": 0.3})
    found = constrained_optimum(
        lambda price: build_task("safe", {"price": price, "cost_limit": 0.3}), limit=0.3
    )
    solved = optimum(task)
    assert solved.at_optimum.measures["cost"].mean() == pytest.approx(0.3, abs=1e-7)
    assert found.price > 0.01
    for factor in (0.9, 1.1):
        other = optimum(build_task("safe", {"price": factor * found.price}))
        assert (other.at_optimum.measures["cost"].mean() > 0.3) == (factor < 1)


def test_a_lower_limit_costs_more_and_is_worth_less() -> None:
    values = [optimum(build_task("safe", {"cost_limit": x})).value for x in (0.05, 0.1, 0.3)]
    assert values == sorted(values)
    assert len(set(values)) == 3


def test_no_price_leaves_the_cost_to_the_agent() -> None:
    task = build_task("safe", {"price": 0})
    assert measured(task, "child sang . <eos>") == {"score": 1, "gain": 1, "cost": 1}
    assert optimum(task).at_optimum.measures["cost"].mean() > 0.5


def test_three_times_in_four_it_is_one_of_those_who_sings() -> None:
    # Of what the reference writes; so says the docstring.
    solved = optimum(build_task("safe", {"price": 1e-9}))
    law = solved.laws("cost")
    costs = [one.measures[one.scores > 0.5] @ one.probs[one.scores > 0.5] for one in law]
    gains = [one.probs[one.scores > 0.5].sum() for one in law]
    assert sum(costs) / sum(gains) == pytest.approx(0.75, abs=0.1)


def test_no_prompt_names_them(priced: Task) -> None:
    assert len(priced.prompts) == 5
    for text in priced.prompts.texts:
        assert text.startswith("tell of her ring : ")
        assert not set(text.split()) & set(COSTLY)


@pytest.mark.parametrize("bad", [0, 1, -0.5, 2, "0.1", float("nan"), True])
def test_a_bad_limit_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidInputError, match=rf"cost_limit must be in \(0, 1\); got {bad!r}"):
        build_task("safe", {"cost_limit": bad})


@pytest.mark.parametrize("bad", [-1, float("inf"), float("nan"), "0.1"])
def test_a_bad_price_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"price must be 0 or more, or None; got {bad!r}"):
        build_task("safe", {"price": bad})
