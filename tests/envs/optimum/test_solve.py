"""The optimum, against sums over all responses, and of every id."""

import functools
import time
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.envs.optimum.enumeration import SMALL, Texts, all_texts, random_task
from tests.envs.optimum.exact import EXACT, task_of
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import RewardLaw, has_exact_optimum, optimum
from textrl_envs.task import Task

BETAS = (0.05, 0.3, 2.0)

KINDS: dict[str, dict[str, Any]] = {
    "end scores": {"has_token_scores": False},
    "token scores": {},
    "other token scores": {},
    "two tokens kept, end scores": {"has_token_scores": False, "keep": 2},
    "two tokens kept, token scores": {"keep": 2},
}

RANDOM: dict[str, dict[str, Any]] = {
    f"{order}-gram, {kind}": {"seed": 10 * order + seed, "order": order, **parameters}
    for order in (2, 3)
    for seed, (kind, parameters) in enumerate(KINDS.items())
}
"""Random tasks, by what is special about them."""


@functools.lru_cache(maxsize=2)
def enumerated(name: str) -> tuple[Task, list[Texts]]:
    """Returns a small task and all responses to each of its prompts."""
    parameters = RANDOM.get(name)
    task = SMALL[name]() if parameters is None else random_task(**parameters)
    return task, [all_texts(task, prompt) for prompt in range(len(task.prompts))]


def test_there_is_a_small_task_of_every_id() -> None:
    assert set(SMALL) == set(EXACT)


@pytest.mark.parametrize("name", [*SMALL, *RANDOM])
def test_the_optimum_is_what_summing_over_all_responses_gives(name: str) -> None:
    task, texts = enumerated(name)
    beta = task.kl_coefficient
    assert max(np.ptp(x.scores) for x in texts) > 0  # or this tests nothing
    solved = optimum(task)
    for prompt, x in enumerate(texts):
        assert x.probs.sum() == pytest.approx(1, abs=1e-9)
        best = x.tilted(beta)
        expected = {
            "value": beta * np.log(x.probs @ np.exp(x.scores / beta)),
            "reference": x.probs @ x.scores,
            "reward": best @ x.scores,
            "kl": x.kl(best),
        }
        found = {
            "value": solved.values[prompt],
            "reference": solved.at_reference.rewards[prompt],
            "reward": solved.at_optimum.rewards[prompt],
            "kl": solved.at_optimum.kls[prompt],
        }
        for measure, values in x.measures.items():
            expected |= {measure: best @ values, f"{measure} of reference": x.probs @ values}
            found |= {
                measure: solved.at_optimum.measures[measure][prompt],
                f"{measure} of reference": solved.at_reference.measures[measure][prompt],
            }
        assert found == pytest.approx(expected, abs=1e-9)
        assert solved.at_reference.kls[prompt] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", [*SMALL, *RANDOM])
def test_the_law_and_its_frontier_are_what_summing_over_all_responses_gives(name: str) -> None:
    task, texts = enumerated(name)
    solved = optimum(task)
    measure = next(iter(texts[0].measures), None)
    for x, law in zip(texts, solved.laws(measure), strict=True):
        levels = np.unique(np.round(x.scores, 9))
        np.testing.assert_allclose(law.scores, levels, rtol=0, atol=1e-9)
        places = [np.abs(x.scores - level) < 1e-8 for level in levels]
        probs = np.array([x.probs[place].sum() for place in places])
        np.testing.assert_allclose(law.probs, probs, rtol=1e-9, atol=0)
        if measure is None:
            assert np.isnan(law.measures).all()
        else:
            sums = [(x.probs * x.measures[measure])[place].sum() for place in places]
            np.testing.assert_allclose(law.measures, np.array(sums) / probs, rtol=1e-9, atol=1e-12)

    points = solved.frontier(BETAS, measure=measure)
    for beta, point in zip(BETAS, points, strict=True):
        check_point(point, texts, [x.tilted(beta) for x in texts], measure)
    if len(texts[0].probs) < 6000:
        one, two = solved.best_of([1, 2], measure=measure)
        check_point(one, texts, [x.probs for x in texts], measure)
        check_point(two, texts, [x.best_of_two() for x in texts], measure)


def check_point(point: Any, texts: list[Texts], chosen: list[Any], measure: str | None) -> None:
    """Compares a point with the mean over prompts of what the chosen responses give."""
    pairs = list(zip(texts, chosen, strict=True))
    assert point.reward == pytest.approx(np.mean([q @ x.scores for x, q in pairs]), abs=1e-9)
    assert point.kl == pytest.approx(np.mean([x.kl(q) for x, q in pairs]), abs=1e-9)
    if measure is None:
        assert np.isnan(point.measure)
    else:
        expected = np.mean([q @ x.measures[measure] for x, q in pairs])
        assert point.measure == pytest.approx(expected, abs=1e-9)


@dataclass(frozen=True)
class Solved:
    """What is kept of an optimum: the graphs themselves are large."""

    seconds: float
    value: float
    reference_value: float
    gaps: dict[str, float]
    laws: list[RewardLaw]


@pytest.fixture(scope="module")
def solved() -> dict[str, Solved]:
    return {name: solve(name) for name in EXACT}


def solve(name: str) -> Solved:
    task = task_of(name)
    begin = time.process_time()
    found = optimum(task)
    seconds = time.process_time() - begin
    laws, beta = found.laws(), found.kl_coefficient
    by_law = np.array([law.value(beta) for law in laws])
    mean_by_law = np.array([law.probs @ law.scores for law in laws])
    gaps = {
        "V* - law": found.values - by_law,
        "E r of reference - law": found.at_reference.rewards - mean_by_law,
        "V* - (E r - beta KL)": found.values - found.at_optimum.values(beta),
    }
    return Solved(
        seconds,
        found.value,
        found.reference_value,
        {key: float(np.abs(gap).max()) for key, gap in gaps.items()},
        laws,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_three_ways_to_compute_a_value_agree(solved: dict[str, Solved], name: str) -> None:
    assert max(solved[name].gaps.values()) < 1e-9, solved[name].gaps


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_every_optimum_is_worth_having(solved: dict[str, Solved], name: str) -> None:
    it = solved[name]
    low = min(law.scores[0] for law in it.laws)
    high = max(law.scores[-1] for law in it.laws)
    if name == "textrl/ProxyReward-v0":
        low, high = 0.0, 1.0  # where nearly all stories score: its docstring tells more
    assert it.value - it.reference_value >= 0.3 * (high - low)
    # And it is not given away: the best score is more than the optimum is worth.
    assert it.value < high


@pytest.mark.slow
def test_all_optima_are_solved_in_half_a_minute(solved: dict[str, Solved]) -> None:
    assert sum(it.seconds for it in solved.values()) < 30


def test_an_environment_of_any_form_may_be_asked() -> None:
    task = task_of("textrl/Keyword-v0")
    assert optimum(gym.make("textrl/Keyword-v0")) is optimum(task)
    assert optimum(gym.make("textrl/Keyword-v0", obs="flat").unwrapped) is optimum(task)
    envs: Any = gym.make_vec("textrl/Keyword-v0", num_envs=2)
    assert optimum(envs) is optimum(task)
    assert has_exact_optimum(envs)


def test_prompts_are_weighed_equally() -> None:
    solved = optimum(random_task(0))
    assert solved.value == solved.values.mean()
    assert solved.reward == solved.at_optimum.rewards.mean()
    assert solved.kl == solved.at_optimum.kls.mean()
    assert solved.reference_value == solved.at_reference.rewards.mean()


def test_the_reference_is_normalised_to_zero_and_the_optimum_to_one() -> None:
    solved = optimum(random_task(0))
    assert solved.normalise(solved.reference_value) == 0
    assert solved.normalise(solved.value) == 1
    middle = (solved.value + solved.reference_value) / 2
    assert solved.normalise(middle) == pytest.approx(0.5)
    assert solved.normalise(2 * solved.reference_value - solved.value) == pytest.approx(-1)


def test_another_coefficient_may_be_given() -> None:
    task = random_task(0)
    solved = optimum(task, kl_coefficient=0.7)
    assert solved.kl_coefficient == 0.7
    again = optimum(replace(task, kl_coefficient=0.7))
    np.testing.assert_array_equal(solved.values, again.values)
    assert optimum(task).kl_coefficient == task.kl_coefficient
    assert optimum(task, kl_coefficient=0.05).kl > solved.kl


def test_a_large_coefficient_leaves_the_reference_and_a_small_one_takes_the_best() -> None:
    task = random_task(1, has_token_scores=False)
    dear, cheap = (optimum(task, kl_coefficient=beta) for beta in (1e6, 1e-3))
    assert dear.value == pytest.approx(dear.reference_value, abs=1e-6)
    best = [law.scores[-1] for law in cheap.laws()]
    np.testing.assert_allclose(cheap.values, best, atol=0.02)


@pytest.mark.parametrize("beta", [0, -0.1, float("inf"), float("nan")])
def test_a_coefficient_that_is_not_positive_is_refused(beta: float) -> None:
    with pytest.raises(InvalidInputError, match=r"needs a positive kl_coefficient.*got"):
        optimum(random_task(0), kl_coefficient=beta)


def test_a_task_without_a_price_has_no_exact_optimum() -> None:
    task = replace(random_task(0), kl_coefficient=0.0)
    assert not has_exact_optimum(task)
    with pytest.raises(InvalidInputError, match=r"needs a positive kl_coefficient.*got 0"):
        optimum(task)


def test_a_task_without_a_reference_has_no_exact_optimum() -> None:
    task = replace(random_task(0), load_reference=None)
    assert not has_exact_optimum(task)
    with pytest.raises(InvalidInputError, match="Expected a task with a reference"):
        optimum(task)


def test_a_stop_text_takes_away_the_exact_optimum() -> None:
    assert has_exact_optimum(random_task(0))
    assert not has_exact_optimum(replace(random_task(0), stop=["a b"]))


def test_an_unknown_measure_is_refused_and_the_known_ones_are_named() -> None:
    solved = optimum(random_task(0))
    for ask in (
        lambda: solved.laws("three"),
        lambda: solved.frontier([0.1], measure="three"),
        lambda: solved.best_of([2], measure="three"),
    ):
        with pytest.raises(InvalidInputError, match=r"Unknown measure 'three'.*\['one', 'two'\]"):
            ask()


def test_the_frontier_rises_and_has_the_optimum_on_it() -> None:
    solved = optimum(task_of("textrl/Safe-v0", price=0.4))
    betas = [1.0, 0.3, 0.1, 0.03]
    points = solved.frontier(betas, measure="cost")
    assert np.all(np.diff([point.reward for point in points]) > 0)
    assert np.all(np.diff([point.kl for point in points]) > 0)
    assert points[2].reward == pytest.approx(solved.reward, abs=1e-9)
    assert points[2].kl == pytest.approx(solved.kl, abs=1e-9)
    cost = solved.at_optimum.measures["cost"].mean()
    assert points[2].measure == pytest.approx(cost, abs=1e-9)


def test_the_most_reward_for_a_kl_is_that_of_the_frontier() -> None:
    solved = optimum(task_of("textrl/ProxyReward-v0", max_new_tokens=4))
    for point in solved.frontier([1.0, 0.1, 0.03]):
        assert solved.most_reward(point.kl) == pytest.approx(point.reward, abs=1e-6)
    assert solved.most_reward(0.0) == pytest.approx(solved.reference_value, abs=1e-5)
    highest = np.mean([law.scores[-1] for law in solved.laws()])
    assert solved.most_reward(100.0) == pytest.approx(highest, abs=1e-9)


def test_no_best_of_n_has_more_reward_than_the_most_for_its_kl() -> None:
    solved = optimum(task_of("textrl/KeywordDense-v0"))
    for point in solved.best_of([1, 2, 4, 64, 4096]):
        assert point.reward <= solved.most_reward(point.kl) + 1e-6


@pytest.mark.parametrize("beta", [1e3, 1e6, 1e9, 1e12])
def test_a_large_coefficient_leaves_half_the_variance_over_beta_to_be_gained(beta: float) -> None:
    # β log E e^{r/β} = E r + Var r / 2β + ...: rounding times β must not swamp it.
    best = optimum(gym.make("textrl/Keyword-v0"), kl_coefficient=beta)
    success = best.at_reference.rewards
    expected = np.mean(success * (1 - success)) / 2
    gain = (best.value - best.reference_value) * beta
    assert gain == pytest.approx(expected, rel=1e-3)
    by_law = np.mean([law.value(beta) for law in best.laws()]) - best.reference_value
    assert by_law * beta == pytest.approx(expected, rel=1e-3)
    assert best.kl >= 0


def test_numbers_that_mean_nothing_are_refused() -> None:
    best = optimum(gym.make("textrl/Keyword-v0"))
    for betas in ([0.0], [-1.0], [float("nan")]):
        with pytest.raises(InvalidInputError, match="needs a positive kl_coefficient"):
            best.frontier(betas)
    for numbers in ([0], [-1]):
        with pytest.raises(InvalidInputError, match="Each of numbers must be an integer"):
            best.best_of(numbers)
    with pytest.raises(InvalidInputError, match="Expected a text environment such as"):
        optimum("textrl/Keyword-v0")


def test_a_task_that_cannot_be_done_has_no_normalised_score() -> None:
    best = optimum(gym.make("textrl/Brackets-v0", pairs=100))
    assert not best.is_worth_having
    assert np.isnan(best.normalise(0.0))


def test_a_graph_that_is_too_large_is_refused_before_it_is_solved() -> None:
    with pytest.raises(InvalidInputError, match="too much to be solved exactly"):
        optimum(gym.make("textrl/LongKeyword-v0", sentences_apart=100))
