"""A product with one row, by the compiled loop: that of float64, whatever its size."""

import pytest
import torch
from torch import Tensor

from textrl_envs.language_models.fast import linear, one_row
from textrl_envs.language_models.fast.linear import LinearWeights
from textrl_envs.language_models.fast.one_row import has_row_loop, multiply_row

needs_loop = pytest.mark.skipif(not has_row_loop(), reason="no C compiler here")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@needs_loop
@pytest.mark.parametrize("size", [1, 7, 16, 63, 64, 65, 130, 768])
@pytest.mark.parametrize("count", [1, 5, 300])
@pytest.mark.parametrize("has_bias", [False, True])
def test_the_product_is_that_of_float64(size: int, count: int, has_bias: bool) -> None:
    x, weight = random(1, size), random(count, size, seed=1)
    bias = random(count, seed=2) if has_bias else None
    expected = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    found = multiply_row(x, weight, bias)
    assert found.shape == (1, count)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6 * size**0.5 + 1e-6)


@needs_loop
@pytest.mark.parametrize("count", [1, 2, 3, 301])
def test_threads_share_the_rows_of_the_weight(
    count: int, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_row, "WORK_PER_THREAD", 1)
    x, weight, bias = random(1, 70), random(count, 70, seed=1), random(count, seed=2)
    found = multiply_row(x, weight, bias)
    torch.testing.assert_close(found, x @ weight.T + bias, rtol=0, atol=1e-4)


@needs_loop
def test_a_row_and_a_bias_may_lie_in_any_order() -> None:
    x, bias = random(70, 1).T, random(9, 2)[:, 0]
    weight = random(9, 70, seed=1)
    torch.testing.assert_close(multiply_row(x, weight, bias), x @ weight.T + bias)


@needs_loop
@pytest.mark.parametrize("part", ["x", "weight", "bias"])
def test_what_is_no_number_stays_none(part: str) -> None:
    given = {"x": random(1, 70), "weight": random(3, 70, seed=1), "bias": random(3, seed=2)}
    given[part].view(-1)[1] = torch.nan
    found = multiply_row(given["x"], given["weight"], given["bias"])
    expected = given["x"] @ given["weight"].T + given["bias"]
    assert torch.equal(found.isnan(), expected.isnan())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@torch.no_grad()
def test_other_types_are_torchs_to_refuse(dtype: torch.dtype) -> None:
    """The loop would write float32 over the end of what was made for them."""
    weights = LinearWeights([(random(64, 64), None)], 1)
    with pytest.raises(RuntimeError, match="dtype"):
        weights(random(1, 64).to(dtype))


@pytest.mark.parametrize("has_loop", [pytest.param(True, marks=needs_loop), False])
@pytest.mark.parametrize("layout", ["as a linear layer's", "as GPT-2's"])
@torch.no_grad()
def test_weights_of_one_row_use_it_where_it_is(
    has_loop: bool, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]

    def counted(*arguments: Tensor) -> Tensor:
        calls[0] += 1
        return multiply_row(*arguments)

    monkeypatch.setattr(linear, "has_row_loop", lambda: has_loop)
    monkeypatch.setattr(linear, "multiply_row", counted)
    weight = random(70, 90) if layout == "as a linear layer's" else random(90, 70).T
    bias = random(70, seed=1)
    weights = LinearWeights([(weight, bias)], 1)
    for rows in (1, 3, 1):
        x = random(rows, 90, seed=2)
        torch.testing.assert_close(weights(x), x @ weight.T + bias, rtol=0, atol=1e-4)
    assert calls == [2 if has_loop else 0]
