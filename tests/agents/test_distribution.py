"""softmax(logits), its draws and its gradients, against float64 and torch's own log_softmax.

The sampler over few tokens is tested in test_policies.py; here are vocabularies of several blocks.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from textrl_agents.policies import distribution as module
from textrl_agents.policies.distribution import (
    BLOCK,
    TokenDistribution,
    sample,
    token_log_probs,
)
from textrl_envs.language_models.fast.softmax import CompiledSoftmax

SIZES = (1, 2, 127, 128, 129, 300, 5000)
ALMOST_ONE = 1 - 2.0**-53
INF = math.inf

sizes = pytest.mark.parametrize("size", SIZES)


@pytest.fixture(autouse=True, params=["compiled", "torch"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs every test with the compiled loop, where there is a compiler, and without it."""
    if request.param == "torch":
        monkeypatch.setattr(CompiledSoftmax, "of", lambda _logits: None)


def make_logits(rows: int, size: int, *, impossible: float = 0.0, spread: float = 3.0) -> Tensor:
    """Random logits, a share of them −∞, though never all of a row."""
    rng = torch.Generator().manual_seed(size)
    logits = torch.randn(rows, size, generator=rng) * spread
    is_impossible = torch.rand(rows, size, generator=rng) < impossible
    is_impossible[torch.arange(rows), torch.arange(rows) % size] = False
    return logits.masked_fill(is_impossible, -INF)


def exact_log_probs(logits: Tensor) -> Tensor:
    return logits.double().log_softmax(-1)


def exact_entropies(logits: Tensor) -> Tensor:
    entropies: Tensor = torch.special.entr(exact_log_probs(logits).exp()).sum(-1)
    return entropies


# --- TokenDistribution ---


@sizes
@pytest.mark.parametrize("impossible", [0.0, 0.5, 1.0])  # 1: all but one token
@pytest.mark.parametrize("offset", [0.0, 200.0, -200.0])
def test_log_probs_and_entropies_are_those_of_float64(
    size: int, impossible: float, offset: float
) -> None:
    logits = make_logits(6, size, impossible=impossible) + offset
    kept = logits.clone()
    distribution, expected = TokenDistribution(logits), exact_log_probs(logits)
    assert len(distribution) == 6
    # float32 holds a logit of 200 to 1e-5.
    tolerance = 1e-5 if offset == 0 else 1e-4
    found = distribution.log_probs().double()
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    entropies = distribution.entropies().double()
    torch.testing.assert_close(entropies, exact_entropies(logits), rtol=0, atol=tolerance)
    tokens = torch.randint(size, (6,), generator=torch.Generator().manual_seed(0))
    chosen = distribution.log_probs_of(tokens).double()
    torch.testing.assert_close(chosen, expected[torch.arange(6), tokens], rtol=0, atol=tolerance)
    assert torch.equal(distribution.argmax(), expected.argmax(-1))
    assert torch.equal(logits, kept)


def test_in_float64_nothing_is_rounded_to_float32() -> None:
    logits = make_logits(6, 300, impossible=0.3).double()
    distribution = TokenDistribution(logits)
    expected = exact_log_probs(logits)
    torch.testing.assert_close(distribution.log_probs(), expected, rtol=0, atol=1e-12)
    found = distribution.entropies()
    torch.testing.assert_close(found, exact_entropies(logits), rtol=0, atol=1e-12)


def test_extreme_logits_give_no_nan() -> None:
    logits = torch.tensor([[0.0, 1e5, -1e5], [1e30, -1e30, 0.0], [-INF, -INF, 3.0]])
    distribution = TokenDistribution(logits)
    torch.testing.assert_close(distribution.entropies(), torch.zeros(3))
    tokens = torch.tensor([1, 0, 2])
    torch.testing.assert_close(distribution.log_probs_of(tokens), torch.zeros(3))
    assert distribution.sample(torch.full((3,), 0.5).double()).tolist() == [1, 0, 2]


# --- draws ---


@sizes
def test_a_draw_is_the_first_token_whose_cumulative_probability_exceeds_the_number(
    size: int,
) -> None:
    # Small whole numbers: their sums are exact in float32, and the places of the steps are too.
    rng = np.random.default_rng(size)
    weights = torch.from_numpy(rng.integers(0, 4, size=(40, size))).float()
    weights[:, size // 2] = 1.0
    cumulative = weights.double().cumsum(-1)
    totals = cumulative[:, -1]
    for _ in range(20):
        # Between two steps: on one, the last bit of a quotient would decide.
        steps = torch.from_numpy(rng.integers(0, totals.long().numpy())).double()
        for beside in (1e-6, 0.5, 1 - 1e-6):
            drawn = sample(weights, (steps + beside) / totals)
            expected = (cumulative > (steps + beside)[:, None]).int().argmax(-1)
            assert torch.equal(drawn, expected)


@pytest.mark.parametrize("size", [129, 300, 3 * BLOCK])
def test_over_several_blocks_tokens_are_drawn_as_often_as_they_should(size: int) -> None:
    probabilities = make_logits(1, size, impossible=0.2, spread=1.0).softmax(-1)
    number = 50_000
    uniforms = torch.from_numpy(np.random.default_rng(0).random(number))
    drawn = sample(probabilities.expand(number, size), uniforms)
    counts = torch.bincount(drawn, minlength=size).double()
    expected = probabilities[0].double() * number
    is_possible = expected > 0
    assert float(counts[~is_possible].sum()) == 0
    errors = (counts - expected)[is_possible].square() / expected[is_possible]
    freedom = int(is_possible.sum()) - 1
    assert float(errors.sum()) < freedom + 4 * math.sqrt(2 * freedom)
    # The last tokens, in a block that is not whole, by themselves.
    last = slice((size - 1) // BLOCK * BLOCK, size)
    mean = float(expected[last].sum())
    assert abs(float(counts[last].sum()) - mean) < 4 * math.sqrt(mean)


@pytest.mark.parametrize("size", [129, 300, 5000])
@pytest.mark.parametrize("uniform", [0.0, 5e-324, 1e-9, 0.5, 1 - 1e-9, ALMOST_ONE])
def test_tokens_and_blocks_of_probability_zero_are_never_drawn(size: int, uniform: float) -> None:
    """At the ends, too, where rounding would lead into the block beside."""
    logits = make_logits(200, size, impossible=0.5)
    blocks = torch.arange(size) // BLOCK
    empty = torch.rand(200, int(blocks[-1]) + 1, generator=torch.Generator().manual_seed(0)) < 0.5
    empty[torch.arange(200), torch.arange(200) % empty.shape[1]] = False
    logits = logits.masked_fill(empty[:, blocks], -INF)
    # One token at least is left in a block that is left.
    logits[torch.arange(200), (torch.arange(200) % empty.shape[1]) * BLOCK] = 0.0
    drawn = TokenDistribution(logits).sample(torch.full((200,), uniform).double())
    assert bool(torch.isfinite(logits.gather(1, drawn[:, None])).all())


@sizes
def test_the_extreme_numbers_draw_the_first_and_the_last_token_that_can_be(size: int) -> None:
    logits = make_logits(50, size, impossible=0.5, spread=1.0)
    distribution = TokenDistribution(logits)
    is_possible = logits > -INF
    first = is_possible.int().argmax(-1)
    last = size - 1 - is_possible.flip(-1).int().argmax(-1)
    assert torch.equal(distribution.sample(torch.zeros(50).double()), first)
    assert torch.equal(distribution.sample(torch.full((50,), ALMOST_ONE).double()), last)


@pytest.mark.parametrize("place", [0, 127, 128, 255, 256, 299])
def test_a_lone_possible_token_is_drawn_in_whatever_block(place: int) -> None:
    weights = torch.zeros(1, 300)
    weights[0, place] = 1e-30
    for uniform in (0.0, 0.3, ALMOST_ONE):
        assert sample(weights, torch.tensor([uniform]).double()).tolist() == [place]


# --- with gradients ---


def exact_gradient(
    logits: Tensor, tokens: Tensor, for_log_probs: Tensor, for_entropies: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Values and gradient by autograd in float64; 0 · −∞ is 0."""
    z = logits.double().requires_grad_()
    log_p = z.log_softmax(-1)
    chosen = log_p.gather(1, tokens[:, None])[:, 0]
    p = log_p.exp()
    entropies = -(p * torch.where(p > 0, log_p, 0.0)).sum(-1)
    number = (chosen * for_log_probs.double()).sum()
    if for_entropies is not None:
        number = number + (entropies * for_entropies.double()).sum()
    (gradient,) = torch.autograd.grad(number, z)
    # torch leaves NaN where a logit is −∞; the limit is 0.
    return chosen.detach(), entropies.detach(), gradient.nan_to_num(nan=0.0)


def run(
    logits: Tensor, tokens: Tensor, for_log_probs: Tensor, for_entropies: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    with_entropies = for_entropies is not None
    # `* 1` is a fresh tensor, which may be overwritten.
    found, entropies = token_log_probs(leaf * 1, tokens, with_entropies=with_entropies)
    number = (found * for_log_probs).sum()
    if for_entropies is not None:
        number = number + (entropies * for_entropies).sum()
    number.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return found.detach(), entropies.detach(), leaf.grad


@sizes
@pytest.mark.parametrize("with_entropies", [True, False])
@pytest.mark.parametrize("impossible", [0.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_autograd_in_float64(
    size: int, with_entropies: bool, impossible: float, dtype: torch.dtype
) -> None:
    rng = torch.Generator().manual_seed(0)
    logits = make_logits(7, size, impossible=impossible).to(dtype)
    tokens = torch.arange(7) % size  # these can be
    weights = torch.randn(2, 7, generator=rng).to(dtype)
    arguments = logits, tokens, weights[0], weights[1] if with_entropies else None
    found, expected = run(*arguments), exact_gradient(*arguments)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found[0].double(), expected[0], rtol=0, atol=tolerance)
    torch.testing.assert_close(found[2].double(), expected[2], rtol=0, atol=tolerance)
    if with_entropies:
        torch.testing.assert_close(found[1].double(), expected[1], rtol=0, atol=tolerance)
    else:
        assert found[1].tolist() == [0.0] * 7


def test_gradients_are_the_slopes_of_the_values() -> None:
    logits, tokens = make_logits(3, 9).double(), torch.tensor([3, 0, 8])
    weights = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).double()

    def value(z: Tensor) -> float:
        log_probs, entropies = token_log_probs(z.clone(), tokens)
        return float((log_probs * weights[0] + entropies * weights[1]).sum())

    _, _, gradient = run(logits, tokens, *weights)
    for row in range(3):
        for column in range(9):
            step = torch.zeros(3, 9).double()
            step[row, column] = 1e-5
            slope = (value(logits + step) - value(logits - step)) / 2e-5
            assert float(gradient[row, column]) == pytest.approx(slope, abs=1e-8)


def test_either_of_the_two_may_be_left_out_of_the_loss() -> None:
    logits, tokens = make_logits(5, 30), torch.arange(5)
    for index in (0, 1):
        leaf = logits.clone().requires_grad_()
        token_log_probs(leaf * 1, tokens)[index].sum().backward()  # type: ignore[no-untyped-call]
        ones, zeros = torch.ones(5), torch.zeros(5)
        weights = (ones, zeros) if index == 0 else (zeros, ones)
        _, _, expected = exact_gradient(logits, tokens, *weights)
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad.double(), expected, rtol=0, atol=1e-5)


def test_rows_may_be_gone_through_in_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    logits, tokens = make_logits(11, 40, impossible=0.3), torch.arange(11)
    weights = torch.randn(2, 11, generator=rng)
    together = run(logits, tokens, *weights)
    for elements in (1, 80, 40 * 11):  # a row at a time, two with one left over, all
        monkeypatch.setattr(module, "BLOCK_ELEMENTS", elements)
        for found, expected in zip(run(logits, tokens, *weights), together, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_logits_may_be_the_first_columns_of_a_larger_matrix() -> None:
    """As they are where a model has more rows than the environment has tokens."""
    wide, tokens = make_logits(5, 40), torch.arange(5)
    leaf = wide.clone().requires_grad_()
    found, entropies = token_log_probs((leaf * 1)[:, :30], tokens)
    (found.sum() + entropies.sum()).backward()  # type: ignore[no-untyped-call]
    ones = torch.ones(5)
    chosen, _, gradient = exact_gradient(wide[:, :30], tokens, ones, ones)
    torch.testing.assert_close(found.detach().double(), chosen, rtol=0, atol=1e-5)
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad[:, :30].double(), gradient, rtol=0, atol=1e-5)
    assert not leaf.grad[:, 30:].any()


@pytest.mark.parametrize("with_entropies", [True, False])
def test_impossible_tokens_give_no_nan_even_where_one_was_chosen(with_entropies: bool) -> None:
    logits = torch.tensor([[0.0, -INF, 1.0], [-INF, -INF, 2.0], [0.0, -1e4, 5.0]])
    tokens = torch.tensor([1, 2, 1])
    leaf = logits.clone().requires_grad_()
    found, entropies = token_log_probs(leaf * 1, tokens, with_entropies=with_entropies)
    assert found[0] == -INF
    assert found[1] == 0.0
    assert bool(torch.isfinite(entropies).all())
    (found[1:].sum() + entropies.sum()).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert bool(torch.isfinite(leaf.grad).all())


def test_a_second_backward_pass_is_refused() -> None:
    leaf = make_logits(3, 5).requires_grad_()
    found, _ = token_log_probs(leaf * 1, torch.arange(3))
    found.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.sum().backward()  # type: ignore[no-untyped-call]
