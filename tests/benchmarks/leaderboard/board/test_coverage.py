"""The simulation on a small scale: what docs/leaderboard-statistics.md states must hold."""

from itertools import islice

import numpy as np
import pytest

from textrl_benchmarks.leaderboard.board.coverage import (
    NOISES,
    Noise,
    claim_rates,
    claim_table,
    iqm_coverage,
    prediction_coverage,
    true_iqm,
)
from textrl_benchmarks.leaderboard.board.significance import welch_power

NORMAL, SKEWED = NOISES


@pytest.mark.parametrize("noise", NOISES, ids=lambda one: one.name)
def test_noise_has_mean_0_and_deviation_1(noise: Noise) -> None:
    values = noise.quantile((np.arange(200_000) + 0.5) / 200_000)
    assert values.mean() == pytest.approx(0, abs=1e-3)
    assert values.std() == pytest.approx(1, abs=2e-3)


def test_the_true_iqm_in_closed_form() -> None:
    assert true_iqm(NORMAL, 1) == pytest.approx(0, abs=1e-6)
    # 2 ∫ (1 + log u) du over 1/4..3/4 = [2 u log u] there
    expected = 1.5 * np.log(0.75) - 0.5 * np.log(0.25)
    assert true_iqm(SKEWED, 1) == pytest.approx(expected, abs=1e-4)
    assert true_iqm(NORMAL, 8) == pytest.approx(1.75, abs=1e-6)  # symmetric about the mean


def test_the_boards_interval_covers_where_plain_percentiles_do_not() -> None:
    found = iqm_coverage(NORMAL, 3, 8, np.random.default_rng(0), boards=60, replicates=500)
    assert found.expanded > 0.90
    assert found.expanded > found.percentile + 0.03
    assert found.false_ranks < 0.15


def test_a_fresh_run_is_in_the_prediction_interval_as_often_as_it_says() -> None:
    found = prediction_coverage(NORMAL, 3, np.random.default_rng(0), simulations=3000)
    assert found == pytest.approx(0.95, abs=0.015)


def test_claims_are_caught_at_the_rates_that_are_stated() -> None:
    honest, one, two = claim_rates(NORMAL, 5, 5, np.random.default_rng(0), simulations=2000)
    assert honest == pytest.approx(0.05, abs=0.015)
    assert one == pytest.approx(welch_power(5, 5, 1.0), abs=0.04)
    assert two == pytest.approx(welch_power(5, 5, 2.0), abs=0.03)
    assert two == pytest.approx(0.89, abs=0.03)  # what the design asks for


def test_a_line_of_the_table_has_all_its_columns() -> None:
    lines = list(islice(claim_table(np.random.default_rng(0)), 3))
    assert [line.count("|") for line in lines] == [8, 8, 8]
    assert lines[2].startswith("| normal | 3 | 1 | ")
