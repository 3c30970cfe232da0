"""Products by oneDNN: what float64 says, with gradients, whatever the strides; or torch's own."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

from textrl_envs.language_models.fast import linear as module
from textrl_envs.language_models.fast.linear import (
    LinearWeights,
    has_fast_linear,
    linear,
    round_rows,
)

WIDTH, OUT = 24, 40
ROWS = (1, 2, 3, 4, 5, 17, 70)

layouts = pytest.mark.parametrize("layout", ["contiguous", "transposed", "part of a larger one"])
with_and_without_bias = pytest.mark.parametrize("has_bias", [True, False])


@pytest.fixture(params=["fast", "plain"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs each test twice: with oneDNN's product, where it is here, and without it."""
    if request.param == "fast" and not has_fast_linear():
        pytest.skip("torch has no such operator here")
    if request.param == "plain":
        monkeypatch.setattr(module, "has_fast_linear", lambda: False)
    return str(request.param)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Lists the shapes of what oneDNN has multiplied."""
    seen: list[tuple[int, ...]] = []
    product = module._product

    def note(x: Tensor, *rest: Any) -> Tensor:
        seen.append(tuple(x.shape))
        return product(x, *rest)

    monkeypatch.setattr(module, "_product", note)
    return seen


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weight_of(layout: str, rows: int = OUT, columns: int = WIDTH) -> Tensor:
    if layout == "transposed":  # GPT-2 keeps its weights so
        return random(columns, rows, seed=1).T
    if layout == "contiguous":
        return random(rows, columns, seed=1)
    return random(rows + 3, columns + 5, seed=1)[2:-1, 4:-1]


def leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def exactly(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product = x.double() @ weight.double().T
    return product if bias is None else product + bias.double()


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    # Sums of some 30 products of size 1: relative to the largest.
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance * scale)


# --- linear ---


@with_and_without_bias
@layouts
@pytest.mark.parametrize("rows", ROWS)
def test_the_product_is_that_of_float64(rows: int, layout: str, has_bias: bool) -> None:
    x, weight = random(rows, WIDTH), weight_of(layout)
    bias = random(OUT, seed=2) if has_bias else None
    close(linear(x, weight, bias), exactly(x, weight, bias))


@pytest.mark.parametrize("shape", [(3, 5, WIDTH), (1, 4, WIDTH), (2, 1, 3, WIDTH), (WIDTH,)])
def test_leading_dimensions_are_kept(shape: tuple[int, ...]) -> None:
    x, weight, bias = random(*shape), weight_of("contiguous"), random(OUT, seed=2)
    close(linear(x, weight, bias), exactly(x, weight, bias))


def test_inputs_may_lie_in_any_order() -> None:
    weight = weight_of("contiguous")
    for x in (random(WIDTH, 9).T, random(9, 2 * WIDTH)[:, ::2], random(1, WIDTH).expand(9, -1)):
        close(linear(x, weight), exactly(x, weight, None))
    several = random(4, 6, WIDTH).transpose(0, 1)
    close(linear(several, weight), exactly(several, weight, None))


@with_and_without_bias
@layouts
@pytest.mark.parametrize("shape", [(1, WIDTH), (5, WIDTH), (70, WIDTH), (3, 6, WIDTH)])
def test_the_gradients_are_those_of_float64(
    shape: tuple[int, ...], layout: str, has_bias: bool
) -> None:
    inputs = [random(*shape), weight_of(layout)] + [random(OUT, seed=2)] * has_bias
    found, expected = ([leaf(x.to(t)) for x in inputs] for t in (torch.float32, torch.float64))
    factors = random(*shape[:-1], OUT, seed=3)
    bias = found[2] if has_bias else None
    (linear(found[0], found[1], bias) * factors).sum().backward()  # type: ignore[no-untyped-call]
    exact = exactly(expected[0], expected[1], expected[2] if has_bias else None)
    (exact * factors).sum().backward()  # type: ignore[no-untyped-call]
    for single, double in zip(found, expected, strict=True):
        assert single.grad is not None
        assert double.grad is not None
        close(single.grad, double.grad)


def test_a_gradient_that_is_one_number_seen_everywhere_is_right() -> None:
    """The gradient of a sum has strides of 0."""
    x, weight = leaf(random(6, WIDTH)), leaf(weight_of("transposed"))
    linear(x, weight).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert weight.grad is not None
    close(x.grad, weight.detach().double().sum(0).expand(6, -1))
    close(weight.grad, x.detach().double().sum(0).expand(OUT, -1))


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_a_gradient_may_be_wanted_of_one_of_the_three_alone(wanted: int) -> None:
    inputs = [random(6, WIDTH), weight_of("contiguous"), random(OUT, seed=2)]
    inputs[wanted].requires_grad_()
    linear(*inputs).square().sum().backward()  # type: ignore[no-untyped-call]
    exact = [leaf(x.double()) for x in inputs]
    F.linear(*exact).square().sum().backward()  # type: ignore[no-untyped-call]
    assert [x.grad is not None for x in inputs] == [i == wanted for i in range(3)]
    found, expected = inputs[wanted].grad, exact[wanted].grad
    assert found is not None
    assert expected is not None
    close(found, expected)


def test_the_gradient_of_a_transposed_weight_lies_as_the_weight_does() -> None:
    """GPT-2's gradients would otherwise be copied once more, in the order of its parameter."""
    parameter = leaf(random(WIDTH, OUT))
    linear(random(8, WIDTH), parameter.T).square().sum().backward()  # type: ignore[no-untyped-call]
    assert parameter.grad is not None
    assert parameter.grad.is_contiguous()


def test_a_second_derivative_is_right_or_refused() -> None:
    x, weight = leaf(random(6, WIDTH)), leaf(weight_of("contiguous"))
    (once,) = torch.autograd.grad(linear(x, weight).square().sum(), x, create_graph=True)
    try:
        (found,) = torch.autograd.grad(once.square().sum(), weight)
    except RuntimeError:
        return
    exact = [leaf(t.double()) for t in (x, weight)]
    (once,) = torch.autograd.grad(F.linear(*exact).square().sum(), exact[0], create_graph=True)
    (expected,) = torch.autograd.grad(once.square().sum(), exact[1])
    close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_are_left_to_torch(dtype: torch.dtype, products: list[Any]) -> None:
    x, weight, bias = (
        t.to(dtype) for t in (random(8, WIDTH), weight_of("contiguous"), random(OUT))
    )
    found = linear(x, weight, bias)
    assert found.dtype == dtype
    assert torch.equal(found, F.linear(x, weight, bias))
    assert products == []


def test_few_rows_are_left_to_torch_and_others_are_not(path: str, products: list[Any]) -> None:
    for rows in (1, module.FEWEST_ROWS - 1):
        linear(random(rows, WIDTH), weight_of("contiguous"))
    assert products == []
    linear(random(module.FEWEST_ROWS, WIDTH), weight_of("contiguous"))
    assert products == [(module.FEWEST_ROWS, WIDTH)] * (path == "fast")


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, NotImplementedError, None])
def test_an_operator_that_is_missing_or_wrong_is_not_used(
    error: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def product(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        if error is not None:
            raise error("no such operator")
        return x.new_zeros(len(x), len(weight))

    monkeypatch.setattr(module, "_product", product)
    assert not has_fast_linear.__wrapped__()


# --- LinearWeights ---

PARTS: dict[str, list[bool]] = {
    "one with a bias": [True],
    "one without": [False],
    "three with biases": [True] * 3,
    "three without": [False] * 3,
    "one of three without": [True, False, True],
}
ACTIVATIONS = {
    "none": lambda x: x,
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "gelu_tanh": lambda x: x / 2 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
}
parts = pytest.mark.parametrize("kind", PARTS)


def make(kind: str, layout: str = "contiguous") -> list[tuple[Tensor, Tensor | None]]:
    """Parameters of layers of different sizes."""
    return [
        (leaf(weight_of(layout, OUT + 8 * i)), leaf(random(OUT + 8 * i, seed=i)) if has else None)
        for i, has in enumerate(PARTS[kind])
    ]


def side_by_side(x: Tensor, layers: list[tuple[Tensor, Tensor | None]]) -> Tensor:
    return torch.cat([exactly(x, weight, bias) for weight, bias in layers], dim=1).detach()


@parts
@layouts
@pytest.mark.parametrize("usual", [1, 6])  # rows that the weights are packed for
@torch.no_grad()
def test_layers_side_by_side_are_each_their_own_product(kind: str, layout: str, usual: int) -> None:
    layers = make(kind, layout)
    weights = LinearWeights(layers, usual)
    for rows in ROWS:  # other numbers of rows than the usual come as well
        x = random(rows, WIDTH)
        close(weights(x), side_by_side(x, layers))


@parts
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rows", [1, 6])
@torch.no_grad()
def test_activations_are_their_formulas(kind: str, activation: str, rows: int) -> None:
    layers, x = make(kind), random(rows, WIDTH)
    expected = ACTIVATIONS[activation](side_by_side(x, layers))
    close(LinearWeights(layers, rows)(x, activation), expected)


@parts
@pytest.mark.parametrize("rows", [1, 6])
@torch.no_grad()
def test_a_residual_is_added_and_left_as_it_was(kind: str, rows: int) -> None:
    layers, x = make(kind), random(rows, WIDTH)
    expected = side_by_side(x, layers)
    residual = random(*expected.shape, seed=5)
    kept = residual.clone()
    close(LinearWeights(layers, rows).plus(x, residual), expected + kept.double())
    assert torch.equal(residual, kept)


@parts
@pytest.mark.parametrize("rows", [1, 6])
@torch.no_grad()
def test_weights_and_biases_written_in_place_are_noticed(kind: str, rows: int) -> None:
    layers, x = make(kind), random(rows, WIDTH)
    weights = LinearWeights(layers, rows)
    weights(x)
    for weight, bias in layers:
        for tensor in (weight, bias):
            if tensor is not None:
                tensor[0] += 1.0
                expected = side_by_side(x, layers)
                close(weights(x), expected)
                close(weights.plus(x, torch.zeros_like(expected).float()), expected)


@torch.no_grad()
def test_weights_in_half_precision_are_multiplied_as_they_are() -> None:
    layers = [(weight_of("contiguous").bfloat16(), random(OUT).bfloat16())]
    x = random(6, WIDTH).bfloat16()
    weights = LinearWeights(layers, 6)
    assert weights(x).dtype == torch.bfloat16
    torch.testing.assert_close(weights(x), F.linear(x, *layers[0]), rtol=0, atol=0)
    assert weights.plus(x, weights(x)).dtype == torch.bfloat16


def test_round_numbers_of_rows_are_few_and_near() -> None:
    counts = range(5000)
    rounded = [round_rows(count) for count in counts]
    assert all(n <= m <= n + n // 32 for n, m in zip(counts, rounded, strict=True))
    assert all(round_rows(m) == m for m in rounded)
    for first in (64, 128, 1024, 2048):
        assert len({round_rows(count) for count in range(first, 2 * first)}) == 33
