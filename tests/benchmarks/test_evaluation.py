import io
import json
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from rich.console import Console

import textrl_agents
import textrl_envs  # noqa: F401 - registers the ids
from textrl_agents.policies import FixedPolicy, ResidualPolicy, TablePolicy
from textrl_benchmarks.evaluation import Estimate, Evaluation, evaluate
from textrl_benchmarks.report import print_evaluations
from textrl_envs.environments.symbol_tasks import bigram_of
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.base import LanguageModel
from textrl_envs.optimum import Optimum, has_exact_optimum, optimum
from textrl_envs.registration import IDS
from textrl_envs.wrappers.vector import AdaptiveCoefficient, KLPenalty

EXACT = (
    "textrl/Keyword-v0",
    "textrl/KeywordDense-v0",
    "textrl/Parity-v0",
    "textrl/SumVerify-v0",
    "textrl/KLTrade-v0",
    "textrl/Safe-v0",
    "textrl/Passcode-v0",
)


def parity(num_envs: int = 64, **parameters: Any) -> Any:
    return gym.make_vec("textrl/Parity-v0", num_envs=num_envs, **parameters)


def random_table(envs: Any) -> TablePolicy:
    policy = TablePolicy.of(envs)
    with torch.no_grad():
        policy.table.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    return policy


def optimal(best: Optimum) -> FixedPolicy:
    policy: Any = best.policy  # all of a language model that is asked for in acting
    return FixedPolicy(policy)


def other_reference(envs: Any) -> LanguageModel:
    """Returns a reference for Parity that writes more ones than its own."""
    words = tuple(envs.unwrapped.task.tokenizer.convert_ids_to_tokens(range(5)))
    bits = {"0": 3.0, "1": 9.0, "<eos>": 2.0}
    return bigram_of(words, {":": {"0": 1.0, "1": 1.0}, "0": bits, "1": bits})


def test_the_standard_error_is_that_of_independent_episodes() -> None:
    estimate = Estimate.of(np.array([0.0, 1.0, 1.0, 0.0]))
    assert estimate.mean == 0.5
    assert estimate.standard_error == pytest.approx(np.sqrt(1 / 3) / 2)


def test_the_reference_has_its_exact_reward_and_no_kl() -> None:
    envs = gym.make_vec("textrl/Keyword-v0", num_envs=64)
    found = evaluate(FixedPolicy(envs.unwrapped.reference), envs, episodes=4096)  # type: ignore[attr-defined]
    assert found.kl.mean == pytest.approx(0, abs=1e-12)
    # 0.022342 by backward recursion over time, last word and automaton state
    assert abs(found.reward.mean - 0.022342) < 4 * found.reward.standard_error
    assert found.regularised_return.mean == pytest.approx(found.reward.mean)


def test_an_adaptive_coefficient_is_left_as_it_is() -> None:
    envs = gym.make_vec("textrl/Keyword-v0", num_envs=8)
    policy = ResidualPolicy(envs.unwrapped.reference, max_tokens=40)  # type: ignore[attr-defined]
    coefficient = AdaptiveCoefficient(value=0.1, target=1.0, batch_size=1, horizon=10)
    wrapped = KLPenalty(envs, policy=policy, coefficient=coefficient)
    evaluate(policy, wrapped, episodes=16)
    assert coefficient.value == 0.1


def test_equal_seeds_give_equal_samples() -> None:
    envs = gym.make_vec("textrl/Keyword-v0", num_envs=8)
    policy = FixedPolicy(envs.unwrapped.reference)  # type: ignore[attr-defined]
    assert evaluate(policy, envs, episodes=16, seed=3) == evaluate(
        policy, envs, episodes=16, seed=3
    )


def test_one_episode_has_no_standard_error() -> None:
    envs = gym.make_vec("textrl/Keyword-v0", num_envs=1)
    with pytest.raises(InvalidInputError, match="at least 2 episodes; got 1"):
        evaluate(FixedPolicy(envs.unwrapped.reference), envs, episodes=1)  # type: ignore[attr-defined]


# --- the normalised score ---


def test_what_only_acts_is_played_and_has_no_kl() -> None:
    """As `sb3_dqn` does: its agent has neither a policy nor log-probabilities."""

    class AlwaysEnd:
        def act(self, obs: Any, *, greedy: bool = False) -> Any:
            return np.full(len(obs["input_ids"]), 1)  # EOS

    envs = parity(8)
    for given in (envs, KLPenalty(envs, policy=FixedPolicy(envs.unwrapped.reference))):
        result = evaluate(AlwaysEnd(), given, episodes=16)
        assert result.length == Estimate(1.0, 0.0)
        assert 0 <= result.reward.mean <= 1
        assert math.isnan(result.kl.mean)
        assert math.isnan(result.normalised_score.mean)


def test_what_cannot_play_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="with `act` or `step`; got object"):
        evaluate(object(), parity(8), episodes=16)


def test_the_interval_is_two_standard_errors_wide_on_either_side() -> None:
    low, high = Estimate(2.0, 0.5).interval
    assert low == pytest.approx(2.0 - 0.98)
    assert high == pytest.approx(2.0 + 0.98)


@pytest.mark.parametrize("name", EXACT)
def test_the_exact_values_of_reference_and_optimum_have_normalised_scores_0_and_1(
    name: str,
) -> None:
    best = optimum(gym.make(name))
    assert best.normalise(best.reference_value) == 0.0
    assert best.normalise(best.value) == 1.0
    middle = (best.value + best.reference_value) / 2
    assert best.normalise(middle) == pytest.approx(0.5)


@pytest.mark.parametrize("name", EXACT)
def test_the_optimal_policy_scores_1(name: str) -> None:
    """Every response to a prompt returns V* of the prompt; what is left to chance is the prompt."""
    envs = gym.make_vec(name, num_envs=48)
    prompts = len(envs.unwrapped.task.prompts)  # type: ignore[attr-defined]
    best = optimum(envs)
    episodes = prompts * -(-96 // prompts)  # every prompt as often as any other
    found = evaluate(optimal(best), envs, episodes=episodes)
    assert found.regularised_return.mean == pytest.approx(best.value, abs=1e-9)
    assert found.normalised_score.mean == pytest.approx(1.0, abs=1e-9)
    width = best.value - best.reference_value
    spread = np.std(np.tile(best.values, episodes // prompts), ddof=1) / np.sqrt(episodes)
    assert found.regularised_return.standard_error == pytest.approx(spread, abs=1e-9)
    assert found.normalised_score.standard_error == pytest.approx(spread / width, abs=1e-9)
    assert not found.is_exact


def test_of_one_prompt_the_optimum_scores_1_without_any_error() -> None:
    envs = gym.make_vec("textrl/Passcode-v0", num_envs=32)
    found = evaluate(optimal(optimum(envs)), envs, episodes=64)
    assert found.normalised_score.mean == pytest.approx(1.0, abs=1e-9)
    assert found.normalised_score.standard_error == pytest.approx(0.0, abs=1e-9)


def test_the_normalised_score_is_that_of_the_return_and_so_is_its_error() -> None:
    envs = parity()
    found = evaluate(FixedPolicy(envs.unwrapped.reference), envs, episodes=512)
    best = optimum(envs)
    expected = best.normalise(found.regularised_return.mean)
    assert found.normalised_score.mean == pytest.approx(expected, abs=1e-12)
    low, high = found.normalised_score.interval
    assert low < 0 < high
    ends = [best.normalise(end) for end in found.regularised_return.interval]
    assert (low, high) == pytest.approx(ends, abs=1e-12)


def test_another_beta_has_another_optimum() -> None:
    """Given by the wrapper, or by a parameter of the environment: the same numbers."""
    envs = parity()
    best = optimum(envs, kl_coefficient=0.4)
    assert best.value < optimum(envs).value - 0.2
    dearer = parity(kl_coefficient=0.4)
    for policy, wrapped in (
        (optimal(best), KLPenalty(envs, policy=best.policy, coefficient=0.4)),
        (optimal(best), dearer),
    ):
        found = evaluate(policy, wrapped, episodes=96)
        assert found.kl_coefficient == 0.4
        assert found.normalised_score.mean == pytest.approx(1.0, abs=1e-9)
    # At β = 0.1 the same policy is not the best.
    assert evaluate(optimal(best), envs, episodes=96).normalised_score.mean < 0.95


def test_an_adaptive_coefficient_is_scored_as_it_stands() -> None:
    envs = parity()
    best = optimum(envs, kl_coefficient=0.3)
    coefficient = AdaptiveCoefficient(value=0.3, target=1.0)
    wrapped = KLPenalty(envs, policy=best.policy, coefficient=coefficient)
    found = evaluate(optimal(best), wrapped, episodes=96)
    assert found.normalised_score.mean == pytest.approx(1.0, abs=1e-9)


def test_there_is_no_normalised_score_without_an_exact_optimum() -> None:
    envs = gym.make_vec("textrl/Dialogue-v0", num_envs=8)
    reference = FixedPolicy(envs.unwrapped.reference)  # type: ignore[attr-defined]
    found = evaluate(reference, envs, episodes=8)
    assert math.isnan(found.normalised_score.mean)
    assert math.isnan(found.normalised_score.standard_error)
    assert found.as_dict()["normalised_score"] == {"mean": None, "standard_error": None}
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["is_exact"] is False


def test_there_is_no_normalised_score_where_kl_costs_nothing() -> None:
    envs = parity()
    policy = FixedPolicy(envs.unwrapped.reference)
    table = TablePolicy.of(envs)
    free = KLPenalty(envs, policy=table, coefficient=0.0)
    for one in (policy, table):
        assert math.isnan(evaluate(one, free, episodes=64).normalised_score.mean)
    assert math.isnan(
        evaluate(policy, parity(kl_coefficient=0.0), episodes=64).normalised_score.mean
    )


def test_there_is_no_normalised_score_against_a_reference_of_ones_own() -> None:
    """The optimum is that of the environment's reference; KL from another is something else."""
    envs = parity()
    policy = random_table(envs)
    charged = KLPenalty(envs, policy=policy, reference=other_reference(envs))
    found = evaluate(policy, charged, episodes=64)
    assert math.isnan(found.normalised_score.mean)
    assert not found.is_exact
    assert abs(found.kl.mean - policy.exact().kls.mean()) > 0.1


def test_every_exact_environment_gives_the_same_reference_each_time_it_is_asked() -> None:
    """So that the environment's own reference can be told from another."""
    for name, (task, _) in IDS.items():
        if task != "text_bandit":
            made: Any = gym.make(name).unwrapped
            assert made.reference is made.reference


def test_greedy_play_has_no_kl_and_no_score_for_it() -> None:
    """The log-probs are those of sampling: with their KL this one would be above the optimum."""
    envs = gym.make_vec("textrl/Passcode-v0", num_envs=8, length=1, digits=3)
    policy = FixedPolicy(envs.unwrapped.reference)  # type: ignore[attr-defined]
    found = evaluate(policy, envs, episodes=16, greedy=True)
    assert found.reward.mean == 1.0 > optimum(envs).value
    for number in (found.kl, found.regularised_return, found.normalised_score):
        assert math.isnan(number.mean)


# --- tables ---


def test_a_table_is_evaluated_without_sampling() -> None:
    envs = parity()
    policy = random_table(envs)
    found = evaluate(policy, envs, episodes=64)
    exact, beta = policy.exact(), envs.unwrapped.kl_coefficient
    assert found.is_exact
    value = exact.rewards.mean() - beta * exact.kls.mean()
    for estimate, expected in (
        (found.reward, exact.rewards.mean()),
        (found.kl, exact.kls.mean()),
        (found.regularised_return, value),
        (found.normalised_score, optimum(envs).normalise(value)),
    ):
        assert estimate.mean == pytest.approx(expected, abs=1e-12)
        assert estimate.standard_error == 0
    assert found == evaluate(policy, KLPenalty(envs, policy=policy), episodes=64)
    assert found.length.standard_error > 0  # that is sampled all the same


def test_the_price_of_a_wrapper_is_that_of_the_exact_value_too() -> None:
    envs = parity()
    policy = random_table(envs)
    found = evaluate(policy, KLPenalty(envs, policy=policy, coefficient=0.7), episodes=64)
    exact = policy.exact()
    assert found.regularised_return.mean == pytest.approx(exact.values(0.7).mean())


def test_a_table_that_plays_greedily_or_elsewhere_is_sampled() -> None:
    envs, other = parity(), parity(max_new_tokens=15)
    policy = random_table(envs)
    assert not evaluate(policy, envs, episodes=64, greedy=True).is_exact
    assert not evaluate(policy, other, episodes=64).is_exact


# --- in the log of training ---


def log_of(envs: Any, coefficient: float | AdaptiveCoefficient | None) -> list[dict[str, float]]:
    agent = textrl_agents.make("reinforce", envs, policy="table", episodes_per_batch=64)
    charged = KLPenalty(envs, policy=agent.policy, coefficient=coefficient)
    rows: list[dict[str, float]] = agent.learn(charged, total_tokens=2000).rows
    return rows


@pytest.mark.parametrize("coefficient", [None, 0.4])
def test_every_row_of_the_log_has_the_normalised_score_of_its_return(
    coefficient: float | None,
) -> None:
    envs = parity()
    best = optimum(envs, kl_coefficient=coefficient)
    for row in log_of(envs, coefficient):
        assert row["normalised_score"] == pytest.approx(best.normalise(row["return"]))


def test_the_log_of_an_adaptive_coefficient_has_no_normalised_score() -> None:
    adaptive = AdaptiveCoefficient(value=0.1, target=1.0)
    assert all("normalised_score" not in row for row in log_of(parity(), adaptive))
    assert all("normalised_score" not in row for row in log_of(parity(), 0.0))


def test_the_log_against_a_reference_of_ones_own_has_no_normalised_score() -> None:
    envs = parity()
    agent = textrl_agents.make("reinforce", envs, policy="table", episodes_per_batch=64)
    charged = KLPenalty(envs, policy=agent.policy, reference=other_reference(envs))
    assert "normalised_score" not in agent.learn(charged, total_tokens=1).rows[0]


# --- printed ---


def some_evaluation(score: Estimate, **changes: Any) -> Evaluation:
    numbers: dict[str, Any] = {
        "episodes": 2048,
        "reward": Estimate(-0.123, 0.012),
        "kl": Estimate(12.345, 0.123),
        "regularised_return": Estimate(-0.456, 0.012),
        "length": Estimate(23.4, 0.1),
        "kl_coefficient": 0.1,
        "normalised_score": score,
    }
    return Evaluation(**{**numbers, **changes})


def printed(**evaluations: Evaluation) -> list[str]:
    file = io.StringIO()
    print_evaluations(Console(file=file, width=60), evaluations)
    return file.getvalue().splitlines()


NONE = Estimate(float("nan"), float("nan"))


def test_the_table_has_a_normalised_score_only_where_there_is_one() -> None:
    lines = printed(reference=some_evaluation(NONE), trained=some_evaluation(NONE))
    assert len(lines) == 3
    assert "normalised" not in lines[0]
    lines = printed(
        reference=some_evaluation(Estimate(0.0, 0.01)), trained=some_evaluation(Estimate(0.9, 0.01))
    )
    assert "normalised [95 %]" in lines[0]
    assert "0.900 [0.880, 0.920]" in lines[2]


def test_a_row_is_one_line_however_narrow_the_console() -> None:
    wide = Estimate(-1.234, 0.034)
    lines = printed(reference=some_evaluation(wide), trained=some_evaluation(wide, episodes=10**6))
    assert len(lines) == 3
    assert "-1.234 [-1.301, -1.167]" in lines[1]
    assert "1,000,000" in lines[2]


def test_an_exact_normalised_score_is_called_so_and_never_minus_0() -> None:
    lines = printed(table=some_evaluation(Estimate(-1e-17, 0.0), is_exact=True))
    assert " 0.000 (exact)" in lines[1]
    assert "-0.000" not in "".join(printed(one=some_evaluation(Estimate(-1e-5, 1e-6))))


@pytest.mark.parametrize("name", [n for n, (task, _) in IDS.items() if task == "dialogue"])
def test_bounds_are_no_exact_optimum(name: str) -> None:
    assert not has_exact_optimum(gym.make(name))
