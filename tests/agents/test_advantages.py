import numpy as np
import pytest
from numpy.typing import NDArray

from textrl_agents.advantages import (
    generalised_advantages,
    leave_one_out,
    returns_to_go,
    standardise,
)

Floats = NDArray[np.float64]
LENGTHS = (5, 1, 3, 4)
CUT = np.array([0.0, 0.7, 0.0, -1.3])
"""Bootstrap values: the second and the last episode were cut off."""


def random_batch(seed: int = 0, width: int = 5) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    mask = np.arange(width) < np.array(LENGTHS)[:, None]
    rewards, values = rng.normal(size=(2, len(LENGTHS), width))
    return np.where(mask, rewards, 0.0), np.where(mask, values, 0.0), mask


def double_sum(rewards: Floats, values: Floats, end_value: float, smoothing: float) -> list[float]:
    """GAE of one episode as its definition: A_t = Σ_l λ^l δ_{t+l}."""
    following = [*values[1:], end_value]
    residuals = [r + after - v for r, after, v in zip(rewards, following, values, strict=True)]
    return [
        sum(smoothing**later * residuals[t + later] for later in range(len(residuals) - t))
        for t in range(len(residuals))
    ]


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 0.95, 1.0])
def test_advantages_equal_the_double_sum_of_residuals(smoothing: float) -> None:
    rewards, values, mask = random_batch()
    found = generalised_advantages(rewards, values, mask, bootstrap_values=CUT, smoothing=smoothing)
    for row, length in enumerate(LENGTHS):
        expected = double_sum(rewards[row, :length], values[row, :length], CUT[row], smoothing)
        np.testing.assert_allclose(found[row, :length], expected, rtol=0, atol=1e-14)


def test_advantages_with_lambda_one_are_return_minus_value() -> None:
    rewards, values, mask = random_batch()
    found = generalised_advantages(rewards, values, mask, bootstrap_values=CUT, smoothing=1.0)
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            total = sum(rewards[row, t:length]) + CUT[row]
            assert found[row, t] == pytest.approx(total - values[row, t], abs=1e-14)


def test_advantages_with_lambda_zero_are_one_step_residuals() -> None:
    found = generalised_advantages(
        np.array([[1.0, 2.0, 4.0]]),
        np.array([[0.5, 0.25, 8.0]]),
        np.ones((1, 3), np.bool_),
        bootstrap_values=np.zeros(1),
        smoothing=0.0,
    )
    np.testing.assert_array_equal(found, [[1 + 0.25 - 0.5, 2 + 8 - 0.25, 4 - 8]])


def test_advantages_of_a_constant_reward_have_a_closed_form() -> None:
    """With V = 0 and r = 1 the residuals are 1, so that A_t = (1 − λ^{T−t}) / (1 − λ)."""
    smoothing, length = 0.9, 12
    found = generalised_advantages(
        np.ones((1, length)),
        np.zeros((1, length)),
        np.ones((1, length), np.bool_),
        bootstrap_values=np.zeros(1),
        smoothing=smoothing,
    )
    left = length - np.arange(length)
    np.testing.assert_allclose(found[0], (1 - smoothing**left) / (1 - smoothing), rtol=1e-13)


def test_discounted_advantages_of_a_hand_computed_case() -> None:
    """γ = 1/2 and λ = 1/2, of an episode that was cut off where V = 8, and of one that ended."""
    found = generalised_advantages(
        np.array([[1.0, 2.0, 4.0], [1.0, 3.0, 0.0]]),
        np.array([[1.0, 2.0, 6.0], [2.0, 4.0, 0.0]]),
        np.array([[True, True, True], [True, True, False]]),
        bootstrap_values=np.array([8.0, 0.0]),
        smoothing=0.5,
        discount=0.5,
    )
    # Residuals: 1 + 2/2 - 1 = 1, 2 + 6/2 - 2 = 3, 4 + 8/2 - 6 = 2; and 1 + 4/2 - 2 = 1, 3 - 4 = -1.
    expected = [[1 + 3.5 / 4, 3 + 2 / 4, 2.0], [1 - 1 / 4, -1.0, 0.0]]
    np.testing.assert_array_equal(found, expected)


def test_discounted_advantages_of_a_constant_reward_have_a_closed_form() -> None:
    """With V = 0 and λ = 1 they are the discounted returns, (1 − γ^{T−t}) / (1 − γ)."""
    discount, length = 0.99, 12
    found = generalised_advantages(
        np.ones((1, length)),
        np.zeros((1, length)),
        np.ones((1, length), np.bool_),
        bootstrap_values=np.zeros(1),
        smoothing=1.0,
        discount=discount,
    )
    left = length - np.arange(length)
    np.testing.assert_allclose(found[0], (1 - discount**left) / (1 - discount), rtol=1e-13)


def test_the_default_discount_is_one_to_the_last_bit() -> None:
    rewards, values, mask = random_batch()
    settings = {"bootstrap_values": CUT, "smoothing": 0.95}
    np.testing.assert_array_equal(
        generalised_advantages(rewards, values, mask, **settings),  # type: ignore[arg-type]
        generalised_advantages(rewards, values, mask, discount=1.0, **settings),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 1.0])
def test_advantages_are_zero_where_the_value_is_exact(smoothing: float) -> None:
    """The constant-return test in small: V(s_t) = G_t makes every residual 0, whatever λ."""
    rewards, _, mask = random_batch()
    values = np.zeros_like(rewards)
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            values[row, t] = rewards[row, t:length].sum() + CUT[row]
    found = generalised_advantages(rewards, values, mask, bootstrap_values=CUT, smoothing=smoothing)
    np.testing.assert_allclose(found, 0.0, atol=1e-14)


def test_the_value_at_the_end_counts_only_where_the_episode_was_cut_off() -> None:
    rewards, values, mask = random_batch()
    with_cut, without = (
        generalised_advantages(rewards, values, mask, bootstrap_values=end, smoothing=1.0)
        for end in (CUT, np.zeros(4))
    )
    is_cut = CUT != 0
    np.testing.assert_array_equal(with_cut[~is_cut], without[~is_cut])
    difference = (with_cut - without)[is_cut]
    np.testing.assert_allclose(difference, np.where(mask, CUT[:, None], 0.0)[is_cut], atol=1e-14)


def test_advantages_do_not_depend_on_padding_or_on_what_stands_there() -> None:
    rewards, values, mask = random_batch()
    pad = ((0, 0), (0, 4))
    wide_mask = np.pad(mask, pad)
    # The value head says something at padding too, and some caller may leave it there.
    wide_values = np.where(wide_mask, np.pad(values, pad), 123.0)
    narrow, wide = (
        generalised_advantages(r, v, m, bootstrap_values=CUT, smoothing=0.95)
        for r, v, m in (
            (rewards, values, mask),
            (np.pad(rewards, pad), wide_values, wide_mask),
        )
    )
    np.testing.assert_array_equal(wide[:, :5], narrow)
    assert not wide[~wide_mask].any()


def test_returns_to_go_sum_the_rewards_from_each_token_on() -> None:
    rewards, _, _ = random_batch()
    found = returns_to_go(rewards, bootstrap_values=CUT)
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            expected = sum(rewards[row, t:length]) + CUT[row]
            assert found[row, t] == pytest.approx(expected, abs=1e-14)


def test_leave_one_out_is_the_mean_of_the_others_of_the_group() -> None:
    rng = np.random.default_rng(0)
    returns, groups = rng.normal(size=40), rng.integers(5, size=40) * 7
    found = leave_one_out(returns, groups)
    for i in range(40):
        others = [returns[j] for j in range(40) if groups[j] == groups[i] and j != i]
        assert found[i] == pytest.approx(np.mean(others), abs=1e-12)


def test_leave_one_out_ignores_the_order_of_the_episodes() -> None:
    rng = np.random.default_rng(1)
    returns, groups = rng.normal(size=12), np.repeat([3, 0, 8], 4)
    order = rng.permutation(12)
    np.testing.assert_allclose(
        leave_one_out(returns[order], groups[order]), leave_one_out(returns, groups)[order]
    )


def test_leave_one_out_of_an_episode_alone_is_the_mean_of_all_others() -> None:
    returns = np.array([1.0, 2.0, 6.0, 5.0, 10.0])
    found = leave_one_out(returns, np.array([0, 0, 0, 1, 2]))
    np.testing.assert_allclose(found, [4.0, 3.5, 1.5, (1 + 2 + 6 + 10) / 4, (1 + 2 + 6 + 5) / 4])


def test_leave_one_out_of_the_only_episode_is_zero() -> None:
    np.testing.assert_array_equal(leave_one_out(np.array([3.0]), np.array([7])), [0.0])


def test_an_episode_does_not_enter_its_own_leave_one_out_baseline() -> None:
    returns, groups = np.array([1.0, 2.0, 6.0, 5.0]), np.array([0, 0, 1, 2])
    for i in range(4):
        changed = returns.copy()
        changed[i] += 100.0
        before, after = leave_one_out(returns, groups)[i], leave_one_out(changed, groups)[i]
        assert after == pytest.approx(before, abs=1e-12)


def test_standardised_advantages_have_mean_zero_and_deviation_one_over_tokens() -> None:
    _, advantages, mask = random_batch(width=9)
    found = standardise(3.0 + 5.0 * advantages, mask)
    assert found[mask].mean() == pytest.approx(0.0, abs=1e-12)
    assert found[mask].std() == pytest.approx(1.0, abs=1e-6)
    assert not found[~mask].any()


def test_standardising_does_not_depend_on_padding_columns() -> None:
    _, advantages, mask = random_batch()
    pad = ((0, 0), (0, 6))
    wide = standardise(np.pad(advantages, pad, constant_values=50.0), np.pad(mask, pad))
    np.testing.assert_array_equal(wide[:, :5], standardise(advantages, mask))
    assert not wide[:, 5:].any()


def test_standardising_equal_advantages_gives_zero_and_not_infinity() -> None:
    mask = np.ones((2, 3), np.bool_)
    np.testing.assert_array_equal(standardise(np.full((2, 3), 0.25), mask), np.zeros((2, 3)))
