import math

import numpy as np
import pytest
from scipy import stats

from textrl_benchmarks.leaderboard.board.statistics import (
    Bootstrap,
    Scores,
    Statistic,
    improvement,
    iqm,
    mean,
    median,
    optimality_gap,
    profile,
)
from textrl_envs.errors import InvalidInputError


def value(statistic: Statistic, *environments: list[float]) -> float:
    scores = Scores.of(list(environments))
    return float(statistic(scores, scores.weights))


def drawn(*environments: list[float], seed: int = 0, replicates: int = 20_000) -> Bootstrap:
    rng = np.random.default_rng(seed)
    return Bootstrap.draw(Scores.of(list(environments)), rng, replicates)


# --- aggregates, by hand ---


def test_the_iqm_is_the_mean_of_the_middle_half_of_all_runs_pooled() -> None:
    # 0 1 | 2 3 4 5 | 6 100, whichever environment they are of
    assert value(iqm, [0, 100, 3, 4], [1, 2, 5, 6]) == pytest.approx(3.5, abs=1e-12)
    assert value(iqm, [0, 100, 3, 4, 1, 2, 5, 6]) == pytest.approx(3.5, abs=1e-12)


def test_at_the_edge_of_the_middle_half_a_run_counts_in_part() -> None:
    # Of five runs, a quarter is 1.25 runs: the second and the fourth count three quarters.
    assert value(iqm, [100, 1, 0, 4, 9]) == pytest.approx((0.75 * 1 + 4 + 0.75 * 9) / 2.5)
    # Of two, half of each remains; of one, all there is.
    assert value(iqm, [1, 4]) == pytest.approx(2.5)
    assert value(iqm, [7]) == pytest.approx(7)


def test_an_environment_weighs_the_same_however_many_seeds_it_has() -> None:
    # 0 fills the lower half of all weight, 1 and 2 a quarter each: the middle is half 0, half 1.
    assert value(iqm, [0], [1, 2]) == pytest.approx(0.5)
    assert value(mean, [0], [1, 2]) == pytest.approx(0.75)
    assert value(median, [0], [1, 2], [5, 7, 9]) == pytest.approx(1.5)


@pytest.mark.parametrize("sizes", [(4,), (3, 3), (5, 5, 5), (2, 3, 5), (1, 4, 6)])
def test_the_iqm_is_that_of_enough_copies_to_trim_whole_runs(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    environments = [rng.normal(size=n).tolist() for n in sizes]
    # n divides 60, so that every environment has 240 copies in all, and a quarter is whole runs.
    pooled = np.sort(np.concatenate([np.repeat(x, 240 // len(x)) for x in environments]))
    quarter = len(pooled) // 4
    assert value(iqm, *environments) == pytest.approx(pooled[quarter:-quarter].mean(), abs=1e-12)


def test_where_a_quarter_is_whole_runs_the_iqm_is_scipys_trimmed_mean() -> None:
    runs = np.random.default_rng(1).normal(size=(8, 5))
    expected = stats.trim_mean(runs, 0.25, axis=None)
    assert value(iqm, *runs.tolist()) == pytest.approx(expected, abs=1e-12)


def test_median_and_optimality_gap_by_hand() -> None:
    assert value(median, [0, 1], [4, 8], [1, 2]) == pytest.approx(1.5)
    # 1 − 0.5, 0 for 1.4 and for 1, 1 + 0.2: above the optimum nothing is gained
    assert value(optimality_gap, [0.5, 1.4], [1.0, -0.2]) == pytest.approx((0.5 + 1.2) / 4)


def test_the_profile_is_the_share_of_runs_above_each_threshold() -> None:
    scores = Scores.of([[0.0, 1.0], [0.5, 0.5, 2.0]])
    shares = profile([-1, 0, 0.5, 1, 2])(scores, scores.weights)
    np.testing.assert_allclose(shares, [1, 0.75, (1 / 2 + 1 / 3) / 2, 1 / 6, 0])


def test_the_area_under_the_profile_is_the_mean() -> None:
    runs = np.random.default_rng(2).random((3, 5)).tolist()
    scores, grid = Scores.of(runs), (np.arange(10_000) + 0.5) / 10_000
    area = profile(grid)(scores, scores.weights).mean()
    assert area == pytest.approx(value(mean, *runs), abs=1e-4)


@pytest.mark.parametrize("statistic", [iqm, mean, median], ids=["iqm", "mean", "median"])
def test_shifted_and_stretched_scores_have_a_shifted_and_stretched_value(
    statistic: Statistic,
) -> None:
    runs = np.random.default_rng(3).normal(size=(3, 5))
    expected = 2 * value(statistic, *runs.tolist()) - 7
    assert value(statistic, *(2 * runs - 7).tolist()) == pytest.approx(expected)


@pytest.mark.parametrize("environments", [[], [[]], [[1.0], []], [[1.0, math.nan]], [[-math.inf]]])
def test_scores_that_are_missing_or_not_finite_are_refused(environments: list[list[float]]) -> None:
    with pytest.raises(InvalidInputError):
        Scores.of(environments)


# --- probability of improvement ---


def test_the_probability_of_improvement_counts_pairs_and_ties_half() -> None:
    found = improvement(drawn([1, 2], [5, 5]), drawn([1, 3], [0, 0]))
    assert found.value == pytest.approx(((0.5 + 0 + 1 + 0) / 4 + 1) / 2)


def test_the_probability_of_improvement_is_the_mann_whitney_statistic() -> None:
    rng = np.random.default_rng(4)
    ours, theirs = rng.normal(size=7), rng.normal(size=5)
    u = stats.mannwhitneyu(ours, theirs).statistic
    found = improvement(drawn(ours.tolist()), drawn(theirs.tolist()))
    assert found.value == pytest.approx(u / 35)


def test_improvement_over_oneself_is_a_half_and_both_ways_add_up() -> None:
    a, b = drawn([1, 2, 3], [1, 5, 2]), drawn([2, 2, 9], [4, 4, 4])
    assert improvement(a, a).value == pytest.approx(0.5)
    one, other = improvement(a, b), improvement(b, a)
    assert one.value + other.value == pytest.approx(1)
    assert (one.low + other.high, one.high + other.low) == pytest.approx((1, 1))


def test_replicates_of_the_improvement_are_those_of_resampled_runs() -> None:
    a, b = drawn([1, 2, 3], [5, 6, 7], replicates=50), drawn([2, 2.5], [6.5, 0], replicates=50)
    replicates = []
    for ours, theirs in zip(a.counts, b.counts, strict=True):
        chances = []
        for x, n, y, m in (
            (a.scores.values[:3], ours[:3], b.scores.values[:2], theirs[:2]),
            (a.scores.values[3:], ours[3:], b.scores.values[2:], theirs[2:]),
        ):
            pairs = np.sign(np.subtract.outer(np.repeat(x, n), np.repeat(y, m)))
            chances.append((pairs + 1).mean() / 2)
        replicates.append(np.mean(chances))
    tail = min(a.tail(), b.tail())
    low, high = np.quantile(replicates, [tail, 1 - tail])
    found = improvement(a, b)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_improvement_needs_the_same_environments_and_replicates() -> None:
    with pytest.raises(InvalidInputError, match="environments"):
        improvement(drawn([1, 2]), drawn([1, 2], [1, 2]))
    with pytest.raises(InvalidInputError, match="20000 and 50"):
        improvement(drawn([1, 2]), drawn([1, 2], replicates=50))


# --- the bootstrap ---


def test_runs_are_drawn_within_their_environment_as_often_as_it_has_seeds() -> None:
    found = drawn([1, 2, 3], [4], [5, 6])
    assert (found.counts[:, :3].sum(1) == 3).all()
    assert (found.counts[:, 3] == 1).all()
    assert (found.counts[:, 4:].sum(1) == 2).all()
    np.testing.assert_allclose(found.counts.mean(0), 1, atol=0.03)
    np.testing.assert_allclose(found.scores.weigh(found.counts).sum(1), 1)


def test_all_draws_of_two_and_three_runs_are_equally_likely() -> None:
    # By enumeration, 27 draws of three runs: (3, 0, 0) by 1 of them, (2, 1, 0) by 3, (1, 1, 1) by 6
    counts = drawn([0, 0, 0]).counts
    for pattern, ways in (((3, 0, 0), 1), ((2, 1, 0), 3), ((0, 1, 2), 3), ((1, 1, 1), 6)):
        share = (counts == pattern).all(1).mean()
        assert share == pytest.approx(ways / 27, abs=0.01)


@pytest.mark.parametrize(
    "statistic", [iqm, mean, median, optimality_gap], ids=lambda one: one.__name__
)
def test_a_replicate_is_the_statistic_of_the_runs_it_drew(statistic: Statistic) -> None:
    environments = [[0.1, 0.5, 2.0], [0.3, -1.0], [0.7, 0.9, 0.4, 1.1]]
    found = drawn(*environments, replicates=30)
    replicates = found.replicates(statistic)
    for counts, replicate in zip(found.counts, replicates, strict=True):
        parts = np.split(np.repeat(found.scores.values, counts), [3, 5])
        assert replicate == pytest.approx(value(statistic, *(part.tolist() for part in parts)))


def test_chunks_change_nothing() -> None:
    found = drawn([0.1, 0.5, 2.0], [0.3, -1.0], replicates=4001)
    whole = iqm(found.scores, found.scores.weigh(found.counts))
    np.testing.assert_array_equal(found.replicates(iqm), whole)


def test_the_error_of_a_mean_is_that_of_independent_environments() -> None:
    environments = [[0.0, 1.0, 5.0], [2.0, 4.0, 3.0]]
    expected = math.sqrt(sum(np.var(x, ddof=1) / 3 for x in environments)) / 2
    assert drawn(*environments).error(mean) == pytest.approx(expected, rel=0.02)


def test_degrees_of_freedom_are_those_of_the_environments_that_vary() -> None:
    assert drawn([0, 1, 2], [0, 1, 2]).freedom() == pytest.approx(4)
    assert drawn([0, 1, 2], [5, 5, 5]).freedom() == pytest.approx(2, abs=1e-6)


def test_the_interval_of_a_normal_mean_is_students() -> None:
    runs = stats.norm.ppf((np.arange(20) + 0.5) / 20).tolist()
    found = drawn(runs, replicates=100_000).interval(mean)
    low, high = stats.t.interval(0.95, 19, np.mean(runs), stats.sem(runs))
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.03)


def test_the_tail_of_five_seeds_by_the_tables() -> None:
    # t(0.975, 4) = 2.776, and Φ(−2.776 √(5/4)) = Φ(−3.104) = 0.00095
    assert drawn([0, 1, 2, 3, 4]).tail() == pytest.approx(0.00095, abs=1e-5)


def test_the_interval_of_runs_that_are_all_equal_has_no_width() -> None:
    found = drawn([0.5] * 5, [0.25] * 5).interval(iqm)
    assert (found.low, found.high) == pytest.approx((found.value, found.value))


def test_a_single_seed_has_a_value_and_no_interval() -> None:
    found = drawn([0.5, 1.0], [0.25])
    assert math.isnan(found.interval(iqm).low)
    assert math.isnan(found.error(iqm))
    assert math.isnan(improvement(found, found).high)
    assert np.isnan(found.bounds(profile([0, 1]))[0]).all()
    assert found.interval(mean).value == pytest.approx(0.5)


def test_the_same_generator_gives_the_same_numbers() -> None:
    assert drawn([0, 1, 2], [1, 2, 4]).interval(iqm) == drawn([0, 1, 2], [1, 2, 4]).interval(iqm)
    assert (drawn([0, 1, 2]).counts != drawn([0, 1, 2], seed=1).counts).any()
