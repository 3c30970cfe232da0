import math

import pytest
import torch
from torch import Tensor

from textrl_agents.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    entropy_loss,
    policy_gradient_loss,
    surrogate_loss,
    value_loss,
)


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def fixed(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gradient(loss: Tensor, of: Tensor) -> list[float]:
    (found,) = torch.autograd.grad(loss, of)
    return [float(x) for x in found]


def test_policy_gradient_loss_is_minus_the_weighted_sum_over_all_tokens_of_the_batch() -> None:
    log_probs = leaf(-1.0, -2.0, -0.5)
    loss = policy_gradient_loss(log_probs, fixed(2.0, -1.0, 4.0), num_tokens=10)
    assert loss.item() == pytest.approx(-(-2.0 + 2.0 - 2.0) / 10)
    assert gradient(loss, log_probs) == pytest.approx([-0.2, 0.1, -0.4])


def test_the_surrogate_follows_the_ratio_however_far_it_is() -> None:
    log_probs = leaf(*(math.log(r) for r in (1.5, 0.5, 4.0)))
    loss = surrogate_loss(log_probs, torch.zeros(3), fixed(2.0, -2.0, 3.0), num_tokens=10)
    assert loss.item() == pytest.approx(-(3.0 - 1.0 + 12.0) / 10)
    # d(ρA)/d log π = ρA
    assert gradient(loss, log_probs) == pytest.approx([-0.3, 0.1, -1.2])


def test_clipped_policy_loss_of_a_small_batch_equals_the_sum_by_hand() -> None:
    """Ratios 1.5, 1.5, 0.5, 0.5, 1.1 with ε = 0.2 and advantages of either sign."""
    log_probs = leaf(*(math.log(r) for r in (1.5, 1.5, 0.5, 0.5, 1.1)))
    advantages = fixed(2.0, -2.0, 2.0, -2.0, 3.0)
    loss = clipped_policy_loss(log_probs, torch.zeros(5), advantages, clip=0.2, num_tokens=5)
    terms = [1.2 * 2, -1.5 * 2, 0.5 * 2, -0.8 * 2, 1.1 * 3]
    assert loss.item() == pytest.approx(-sum(terms) / 5)


def test_the_ratio_pushes_no_further_once_it_has_left_the_clip_in_the_wanted_direction() -> None:
    """A > 0 and ρ > 1 + ε, or A < 0 and ρ < 1 − ε: no gradient. On the other side, all of it."""
    ratios = (1.5, 0.5, 1.5, 0.5)
    advantages = fixed(1.0, -1.0, -1.0, 1.0)
    log_probs = leaf(*(math.log(r) for r in ratios))
    loss = clipped_policy_loss(log_probs, torch.zeros(4), advantages, clip=0.2, num_tokens=1)
    # d(ρA)/d log π = ρA
    assert gradient(loss, log_probs) == pytest.approx([0.0, 0.0, 1.5, -0.5])


@pytest.mark.parametrize("advantage", [1.7, -0.6])
def test_clipped_policy_loss_has_the_gradient_of_finite_differences(advantage: float) -> None:
    step = 1e-6
    for ratio in (0.4, 0.79, 0.81, 1.0, 1.19, 1.21, 2.5):
        old = fixed(-1.3)
        low, middle, high = (leaf(-1.3 + math.log(ratio) + shift) for shift in (-step, 0.0, step))
        losses = [
            clipped_policy_loss(x, old, fixed(advantage), clip=0.2, num_tokens=3)
            for x in (low, middle, high)
        ]
        slope = (losses[2].item() - losses[0].item()) / (2 * step)
        assert gradient(losses[1], middle)[0] == pytest.approx(slope, abs=1e-7)


def test_at_ratio_one_the_gradient_is_that_of_actor_critic() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20, dtype=torch.float64, generator=generator)
    advantages = torch.randn(20, dtype=torch.float64, generator=generator)
    new = values.clone().requires_grad_()
    clipped = clipped_policy_loss(new, values, advantages, clip=0.2, num_tokens=20)
    plain = policy_gradient_loss(new, advantages, num_tokens=20)
    assert gradient(clipped, new) == pytest.approx(gradient(plain, new), abs=1e-15)


def test_no_gradient_flows_into_the_old_policy_or_the_advantages() -> None:
    old, advantages = leaf(-1.0), leaf(2.0)
    new = leaf(-1.0)
    loss = clipped_policy_loss(new, old.detach(), advantages.detach(), clip=0.2, num_tokens=1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert old.grad is None
    assert advantages.grad is None
    assert new.grad is not None


def test_value_loss_is_half_the_squared_error() -> None:
    values = leaf(1.0, -2.0)
    loss = value_loss(values, fixed(0.5, 1.0), num_tokens=4)
    assert loss.item() == pytest.approx((0.25 + 9.0) / 2 / 4)
    assert gradient(loss, values) == pytest.approx([0.5 / 4, -3.0 / 4])


def test_clipped_value_loss_of_a_small_batch_equals_the_sum_by_hand() -> None:
    """ε = 0.2 about an old value of 0: V is 0.1, 0.5 and 0.5, its target 1, 1 and 0."""
    loss = clipped_value_loss(
        leaf(0.1, 0.5, 0.5), torch.zeros(3), fixed(1.0, 1.0, 0.0), clip=0.2, num_tokens=3
    )
    # V_clip is 0.1, 0.2 and 0.2; the worse of both squares counts.
    assert loss.item() == pytest.approx((0.9**2 + 0.8**2 + 0.5**2) / 2 / 3)


def test_the_value_moves_no_further_once_it_has_left_the_clip_towards_its_target() -> None:
    values = leaf(0.5, 0.5, 0.1, -0.5)
    targets = fixed(1.0, 0.0, 1.0, -1.0)
    loss = clipped_value_loss(values, torch.zeros(4), targets, clip=0.2, num_tokens=1)
    # Inside the clip, or beyond it and away from the target, the slope is V − target.
    assert gradient(loss, values) == pytest.approx([0.0, 0.5, -0.9, 0.0])


def test_at_the_old_value_the_gradient_is_that_of_the_plain_value_loss() -> None:
    values = leaf(0.3, -0.7, 2.0)
    targets = fixed(1.0, -5.0, 2.5)
    clipped = clipped_value_loss(values, values.detach(), targets, clip=0.2, num_tokens=3)
    plain = value_loss(values, targets, num_tokens=3)
    assert gradient(clipped, values) == pytest.approx(gradient(plain, values))


def test_entropy_loss_falls_as_entropy_rises() -> None:
    entropies = leaf(0.5, 1.5)
    loss = entropy_loss(entropies, num_tokens=4)
    assert loss.item() == pytest.approx(-0.5)
    assert gradient(loss, entropies) == pytest.approx([-0.25, -0.25])


def test_losses_of_unequal_parts_add_up_to_that_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, c = torch.randn(3, 11, dtype=torch.float64, generator=generator)
    parts = [slice(0, 1), slice(1, 8), slice(8, 11)]

    def losses(at: slice) -> Tensor:
        return torch.stack(
            [
                policy_gradient_loss(a[at], b[at], num_tokens=11),
                clipped_policy_loss(a[at], b[at], c[at], clip=0.2, num_tokens=11),
                value_loss(a[at], b[at], num_tokens=11),
                clipped_value_loss(a[at], b[at], c[at], clip=0.2, num_tokens=11),
                entropy_loss(a[at], num_tokens=11),
            ]
        )

    torch.testing.assert_close(sum(losses(part) for part in parts), losses(slice(None)))
