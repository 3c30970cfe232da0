"""The compiled GELU and its slope against torch's in float64."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

from textrl_envs.language_models.fast import gelu as module
from textrl_envs.language_models.fast.gelu import gelu_tanh


def numbers() -> Tensor:
    """All magnitudes, zero and both signs; 1,007 of them, which is no multiple of a vector."""
    sizes = torch.logspace(-20, 3, 503)
    return torch.cat([-sizes, torch.zeros(1), sizes])


def exact(x: Tensor) -> tuple[Tensor, Tensor]:
    z = x.double().requires_grad_()
    result = F.gelu(z, approximate="tanh")
    (slope,) = torch.autograd.grad(result.sum(), z)
    return result.detach(), slope


def test_it_is_torchs_and_so_is_its_slope() -> None:
    x = numbers().requires_grad_()
    found = gelu_tanh(x)
    (slope,) = torch.autograd.grad(found.sum(), x)
    expected, expected_slope = exact(x.detach())
    torch.testing.assert_close(found.detach().double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(slope.double(), expected_slope, rtol=2e-6, atol=2e-6)


def test_without_gradients_it_gives_the_same_bytes() -> None:
    x = numbers()
    with_slope = gelu_tanh(x.clone().requires_grad_()).detach()
    assert torch.equal(gelu_tanh(x), with_slope)
    with torch.no_grad():
        assert torch.equal(gelu_tanh(x.clone().requires_grad_()), with_slope)


def test_the_gradient_that_comes_from_above_is_multiplied() -> None:
    x, above = numbers().requires_grad_(), torch.arange(1007.0)
    (found,) = torch.autograd.grad(gelu_tanh(x), x, above)
    expected = exact(x.detach())[1] * above.double()
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-3)


@pytest.mark.parametrize("shape", [(), (0,), (2, 3, 5)])
def test_any_shape_will_do(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = gelu_tanh(x)
    assert found.shape == shape
    torch.testing.assert_close(found, F.gelu(x, approximate="tanh"))


@pytest.mark.parametrize("x", [numbers().double(), numbers().bfloat16(), numbers()[::2]])
def test_what_it_cannot_serve_is_left_to_torch(x: Tensor) -> None:
    assert torch.equal(gelu_tanh(x), F.gelu(x, approximate="tanh"))


def test_without_a_compiler_torchs_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_library", lambda: None)
    assert torch.equal(gelu_tanh(numbers()), F.gelu(numbers(), approximate="tanh"))


def test_two_threads_give_the_same_bytes(
    two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = gelu_tanh(numbers())
    monkeypatch.setattr(module, "WORK_PER_THREAD", 1)
    assert torch.equal(gelu_tanh(numbers()), alone)
