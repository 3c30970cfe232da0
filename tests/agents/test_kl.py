"""Against Schulman, "Approximating KL divergence" (2020), by numerical integration."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from textrl_agents.kl import k1, k2, k3

Estimator = Callable[[Tensor], Tensor]
GRID = torch.linspace(-15.0, 15.0, 300_001, dtype=torch.float64)


def integrate(density: Tensor, values: Tensor) -> float:
    return float(torch.trapezoid(density * values, GRID))


def moments(estimator: Estimator, mean: float) -> tuple[float, float, float]:
    """Returns KL, bias / KL and deviation / KL for samples of N(0, 1) against N(mean, 1)."""
    density = torch.exp(-GRID.square() / 2) / math.sqrt(2 * math.pi)
    log_ratio = ((GRID - mean).square() - GRID.square()) / 2  # log N(0,1) − log N(mean,1)
    kl = integrate(density, log_ratio)
    expected = integrate(density, estimator(log_ratio))
    variance = integrate(density, (estimator(log_ratio) - expected).square())
    return kl, (expected - kl) / kl, math.sqrt(variance) / kl


@pytest.mark.parametrize(
    ("estimator", "mean", "kl", "bias", "deviation"),
    [
        (k1, 0.1, 0.005, 0.0, 20.0),
        (k2, 0.1, 0.005, 0.002, 1.42),
        (k3, 0.1, 0.005, 0.0, 1.42),
        (k1, 1.0, 0.5, 0.0, 2.0),
        (k2, 1.0, 0.5, 0.25, 1.73),
        (k3, 1.0, 0.5, 0.0, 1.7),
    ],
)
def test_bias_and_deviation_are_those_of_schulmans_table(
    estimator: Estimator, mean: float, kl: float, bias: float, deviation: float
) -> None:
    found_kl, found_bias, found_deviation = moments(estimator, mean)
    assert found_kl == pytest.approx(kl, rel=1e-9)
    # His table has two or three digits; the bias of k2 is μ²/4 exactly.
    assert found_bias == pytest.approx(bias, abs=6e-4)
    assert found_deviation == pytest.approx(deviation, rel=4e-3)


@pytest.mark.parametrize("mean", [0.1, 1.0])
def test_moments_equal_their_closed_forms(mean: float) -> None:
    """With ℓ = μ²/2 − μx: sd ℓ = μ, E ℓ²/2 = μ²/2 + μ⁴/8, Var k3 = e^{μ²} − 1 − μ²."""
    kl = mean**2 / 2
    assert moments(k1, mean)[2] == pytest.approx(mean / kl, rel=1e-8)
    assert moments(k2, mean)[1] == pytest.approx(mean**2 / 4, rel=1e-8)
    assert moments(k2, mean)[2] == pytest.approx(math.sqrt(mean**4 / 2 + mean**6 / 4) / kl)
    variance = math.exp(mean**2) - 1 - mean**2
    assert moments(k3, mean)[1] == pytest.approx(0.0, abs=1e-9)
    assert moments(k3, mean)[2] == pytest.approx(math.sqrt(variance) / kl, rel=1e-7)


def test_k1_and_k3_are_unbiased_over_a_discrete_distribution_and_k2_is_not() -> None:
    p = torch.tensor([0.3, 0.7], dtype=torch.float64)
    q = torch.tensor([0.1, 0.9], dtype=torch.float64)
    exact = 0.3 * math.log(3) + 0.7 * math.log(7 / 9)
    log_ratio = p.log() - q.log()
    assert float((p * k1(log_ratio)).sum()) == pytest.approx(exact, abs=1e-15)
    assert float((p * k3(log_ratio)).sum()) == pytest.approx(exact, abs=1e-15)
    assert abs(float((p * k2(log_ratio)).sum()) - exact) > 0.01


def test_k2_and_k3_are_never_negative_and_zero_only_at_zero() -> None:
    log_ratio = torch.arange(-500, 501, dtype=torch.float64) / 100
    for estimator in (k2, k3):
        values = estimator(log_ratio)
        assert bool((values >= 0).all())
        assert bool((values == 0).equal(log_ratio == 0))


def test_k3_keeps_its_digits_where_policies_almost_agree() -> None:
    """k3 is ℓ²/2 near 0; e^{−ℓ} − 1 + ℓ written plainly would be rounded away in float32."""
    log_ratio = torch.tensor([1e-3, -1e-3])
    expected = log_ratio.double().square() / 2 - log_ratio.double() ** 3 / 6
    torch.testing.assert_close(k3(log_ratio).double(), expected, rtol=2e-4, atol=0.0)
