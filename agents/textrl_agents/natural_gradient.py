"""The natural gradient: F⁻¹ g by conjugate gradients, without ever making F.

The Fisher information of a softmax policy at the M positions that were visited is

    F = 1/M Σ_m J_mᵀ (diag p_m − p_m p_mᵀ) J_m        J = ∂ logits / ∂ θ,  p = softmax(logits):

the expectation over all tokens at each position, and not over those that were drawn alone. It is
the second derivative of the mean KL(π_old ‖ π) at π = π_old. F v takes J v, a derivative forwards,
and Jᵀ u, one backwards; no gradient is differentiated again, which a fast kernel's could not be.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["conjugate_gradient", "fisher_product", "forward_derivative", "kl_divergence"]


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], vector: Tensor, *, steps: int, tolerance: float = 1e-10
) -> Tensor:
    """Solves A x = b for a symmetric positive definite A of which only products are known.

    Hestenes and Stiefel 1952, from x = 0. After k steps x is the best within the span of b, A b,
    ..., A^(k−1) b: exact, but for rounding, after as many steps as A has different eigenvalues.

    Args:
        product: v -> A v, [P] -> [P].
        vector: b, [P].
        steps: the most to take, a product each.
        tolerance: stop once |A x − b|² is at most this part of |b|².

    Returns:
        x, [P]; 0 where b is.

    >>> matrix = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    >>> conjugate_gradient(lambda v: matrix @ v, torch.tensor([2.0, 10.0]), steps=2)
    tensor([1., 2.])
    """
    solution, residual, search = torch.zeros_like(vector), vector, vector
    squared = vector @ vector
    enough = tolerance * squared
    for _ in range(steps):
        if squared <= enough:
            break
        image = product(search)
        length = squared / (search @ image)
        solution = solution + length * search
        residual = residual - length * image
        before, squared = squared, residual @ residual
        search = residual + squared / before * search
    return solution


def forward_derivative(
    function: Callable[[Tensor], Tensor], point: Tensor, vector: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns f(x) and its derivative J v along v, both without gradients.

    Args:
        function: f, of operations that have a derivative forwards.
        point: x, [P].
        vector: v, [P].

    >>> forward_derivative(lambda x: x**2, torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.5]))
    (tensor([ 9., 16.]), tensor([6., 4.]))
    """
    _load_forward_rules()
    # Without gradients, since few operations have a derivative forwards of that backwards.
    with torch.no_grad(), _kernels_with_forward_rules(), forward_ad.dual_level():
        dual = forward_ad.make_dual(point, vector)  # type: ignore[no-untyped-call]
        found = forward_ad.unpack_dual(function(dual))  # type: ignore[no-untyped-call]
        assert found.tangent is not None
        return found.primal, found.tangent


def fisher_product(logits: Callable[[Tensor], Tensor], weights: Tensor, vector: Tensor) -> Tensor:
    """Returns M F v, a sum over positions, so that parts of a batch add up; [P].

    It costs about six forward passes: three for J v, and three for Jᵀ u.

    Args:
        logits: θ -> z(θ), [P] -> [M, V].
        weights: θ, [P].
        vector: v, [P].
    """
    found, change = forward_derivative(logits, weights, vector)
    probabilities = found.softmax(-1)
    mean = torch.linalg.vecdot(probabilities, change)[:, None]
    leaf = weights.detach().requires_grad_()
    (result,) = torch.autograd.grad(logits(leaf), leaf, probabilities * (change - mean))
    return result


@contextlib.contextmanager
def _kernels_with_forward_rules() -> Iterator[None]:
    """Keeps to torch's own kernels of attention and LSTM: others have no derivative forwards."""
    backends: list[Any] = [torch.backends.mkldnn, torch.backends.cudnn]
    before = [backend.enabled for backend in backends]
    try:
        for backend in backends:
            backend.enabled = False
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for backend, was_enabled in zip(backends, before, strict=True):
            backend.enabled = was_enabled


@functools.cache
def _load_forward_rules() -> None:
    """Lets torch load rules of its own, by a function that it calls deprecated."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]


def kl_divergence(old_logits: Tensor, logits: Tensor) -> Tensor:
    """Returns KL(π_old ‖ π) over all tokens at each position, in nats, [M, V] twice -> [M].

    A token that the old policy cannot draw counts for nothing. One that the old can draw and the
    new cannot makes it infinite.
    """
    old, new = old_logits.log_softmax(-1), logits.log_softmax(-1)
    ratio = torch.where(old > -torch.inf, old - new, 0.0)
    total: Tensor = torch.linalg.vecdot(old.exp(), ratio)
    return total
