import math

import numpy as np
import pytest
from scipy import stats

from textrl_benchmarks.leaderboard.board.significance import (
    claim_test,
    holm,
    prediction_interval,
    ranks,
    satterthwaite,
    welch,
    welch_power,
)
from textrl_envs.errors import InvalidInputError

OURS, THEIRS = [3.0, 4.0, 1.0, 2.1, 5.0], [2.0, 2.5, 1.0]


def test_the_prediction_interval_by_the_tables() -> None:
    found = prediction_interval([0, 1, 2, 3, 4])
    half = 2.7764 * math.sqrt(2.5) * math.sqrt(1.2)  # t(0.975, 4), s, √(1 + 1/5)
    assert (found.value, found.low, found.high) == pytest.approx((2, 2 - half, 2 + half), abs=1e-3)


def test_one_run_predicts_nothing() -> None:
    found = prediction_interval([0.5])
    assert found.value == 0.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_satterthwaite_by_hand() -> None:
    assert satterthwaite([1, 1], [4, 4]) == pytest.approx(8)
    assert satterthwaite([1, 0], [4, 9]) == pytest.approx(4)
    assert satterthwaite([0, 0], [4, 4]) == math.inf


def test_welch_is_scipys() -> None:
    found = welch(OURS, THEIRS)
    expected = stats.ttest_ind(OURS, THEIRS, equal_var=False, alternative="greater")
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.degrees_of_freedom == pytest.approx(expected.df)
    both = stats.ttest_ind(OURS, THEIRS, equal_var=False).confidence_interval(0.95)
    interval = found.interval()
    assert (interval.low, interval.high) == pytest.approx((both.low, both.high))


def test_a_single_run_is_tested_by_the_spread_of_the_others() -> None:
    found = welch(OURS, [0.5])
    expected = stats.ttest_ind(OURS, [0.5], alternative="greater")  # pooled: one adds no spread
    assert found.p_value == pytest.approx(expected.pvalue)
    assert welch([0.5], OURS).p_value == pytest.approx(1 - found.p_value)


def test_power_without_an_effect_is_the_level() -> None:
    for counts in ((3, 1), (5, 5), (20, 3)):
        assert welch_power(*counts, 0.0, alpha=0.05) == pytest.approx(0.05, abs=1e-9)


def test_power_is_that_of_the_noncentral_t() -> None:
    limit = stats.t.ppf(0.95, 8)
    expected = stats.nct.sf(limit, 8, 1 / math.sqrt(2 / 5))
    assert welch_power(5, 5, 1.0) == pytest.approx(expected)
    assert welch_power(5, 1, 2.0) == pytest.approx(
        stats.nct.sf(stats.t.ppf(0.95, 4), 4, 2 / math.sqrt(1.2))
    )


def test_power_grows_with_effect_and_seeds() -> None:
    assert welch_power(5, 5, 1) < welch_power(5, 5, 2) < welch_power(10, 10, 2)


@pytest.mark.parametrize("counts", [(1, 1), (0, 5)])
def test_a_test_needs_a_spread(counts: tuple[int, int]) -> None:
    with pytest.raises(InvalidInputError, match="two seeds"):
        welch_power(*counts, 1.0)
    with pytest.raises(InvalidInputError):
        claim_test([1.0] * counts[0], [1.0] * counts[1])


# --- claims ---


def test_a_claim_far_above_fresh_runs_is_refuted_and_a_modest_one_is_not() -> None:
    fresh = [0.50, 0.52, 0.48, 0.51, 0.49]
    high = claim_test([0.60, 0.62, 0.58, 0.61, 0.59], fresh)
    assert high.is_refuted
    assert high.difference == pytest.approx(0.1)
    low = claim_test([0.40, 0.42, 0.38, 0.41, 0.39], fresh)
    assert not low.is_refuted  # one-sided: to claim too little is no offence
    assert low.p_value == pytest.approx(1 - high.p_value)
    assert high.power_for_one_sd == welch_power(5, 5, 1.0)
    assert high.power_for_two_sd == welch_power(5, 5, 2.0)


def test_the_level_decides() -> None:
    found = claim_test(OURS, THEIRS)
    assert claim_test(OURS, THEIRS, alpha=found.p_value * 1.01).is_refuted
    assert not claim_test(OURS, THEIRS, alpha=found.p_value * 0.99).is_refuted


def test_an_agent_without_chance_is_held_to_its_score_but_not_to_its_last_digits() -> None:
    assert not claim_test([0.5] * 5, [0.5] * 5).is_refuted
    assert not claim_test([0.5] * 5, [0.5 - 1e-9] * 5).is_refuted
    assert claim_test([0.5] * 5, [0.499] * 5).is_refuted


@pytest.mark.parametrize("wrong", [[], [math.nan, 1.0], [-math.inf, 0.0], [[1.0, 2.0]]])
def test_scores_that_are_no_numbers_are_refused(wrong: list[float]) -> None:
    with pytest.raises(InvalidInputError, match="finite"):
        claim_test(wrong, THEIRS)
    with pytest.raises(InvalidInputError, match="finite"):
        prediction_interval(wrong)


# --- Holm, ranks ---


def test_holm_by_hand() -> None:
    # 0.005 × 4, 0.01 × 3, 0.03 × 2; 0.04 × 1 would be less than the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert holm([]).tolist() == []


def test_agents_far_apart_have_a_place_each() -> None:
    assert ranks([0.1, 0.9, 0.5], [0.01] * 3, [8] * 3) == [(3, 3), (1, 1), (2, 2)]


def test_being_level_is_not_handed_on() -> None:
    # Errors of √½, so that a difference is in standard errors: 1.9 is too little, 3.8 is not.
    error = math.sqrt(0.5)
    assert ranks([3.8, 1.9, 0], [error] * 3, [1e6] * 3) == [(1, 2), (1, 3), (2, 3)]


def test_nobody_knows_beforehand_who_is_better_so_the_test_has_two_sides() -> None:
    error = math.sqrt(0.5)
    assert ranks([1.9, 0], [error] * 2, [1e9] * 2) == [(1, 2), (1, 2)]  # one-sided: p = 0.029
    # Few degrees of freedom, 2 + 2 here, need t(0.975, 4) = 2.776 instead of 1.96.
    assert ranks([2.7, 0], [error] * 2, [2] * 2) == [(1, 2), (1, 2)]
    assert ranks([2.8, 0], [error] * 2, [2] * 2) == [(1, 1), (2, 2)]


def test_holm_is_paid_for_by_every_pair() -> None:
    # 2.2 standard errors: p = 0.028, which suffices for one pair, and not for six.
    error = math.sqrt(0.5)
    assert ranks([2.2, 0], [error] * 2, [1e9] * 2) == [(1, 1), (2, 2)]
    crowd = ranks([2.2, 0, 1, 1.2], [error] * 4, [1e9] * 4)
    assert crowd == [(1, 4)] * 4


def test_an_agent_of_unknown_error_is_apart_from_nobody() -> None:
    found = ranks([1.0, 0.5, -1.0], [0.001, math.nan, 0.001], [8.0, math.nan, 8.0])
    assert found == [(1, 2), (1, 3), (2, 3)]


def test_agents_without_chance_are_apart_if_they_differ_and_level_if_not() -> None:
    assert ranks([1, 0.5, 0.5], [0] * 3, [4] * 3) == [(1, 1), (2, 3), (2, 3)]
    assert ranks([], [], []) == []
    assert ranks([0.3], [0.1], [4]) == [(1, 1)]


def test_the_order_of_agents_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    values, errors, freedoms = rng.normal(size=6), rng.uniform(0.05, 0.3, 6), rng.uniform(3, 9, 6)
    order = rng.permutation(6)
    found = ranks(values, errors, freedoms)
    assert ranks(values[order], errors[order], freedoms[order]) == [found[i] for i in order]
