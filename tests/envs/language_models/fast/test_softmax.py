"""The compiled softmax: float64 is the measure; how TokenDistribution uses it, in tests/agents."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.fast import softmax as module
from textrl_envs.language_models.fast.compiled import compile_library
from textrl_envs.language_models.fast.softmax import BLOCK, CompiledSoftmax

SIZES = (1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 1000, 50_257)


def compiled(logits: Tensor) -> CompiledSoftmax:
    found = CompiledSoftmax.of(logits)
    if found is None:
        pytest.skip("no C compiler here")
    return found


def make_logits(rows: int, size: int, *, spread: float = 3.0) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(size)) * spread


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_normaliser_and_entropy_are_those_of_float64(size: int, spread: float) -> None:
    logits = make_logits(5, size, spread=spread)
    found, log_p = compiled(logits), logits.double().log_softmax(-1)
    expected = logits.double().logsumexp(-1)
    torch.testing.assert_close(found.log_totals.double(), expected, rtol=1e-6, atol=2e-6)
    entropies = torch.special.entr(log_p.exp()).sum(-1)
    torch.testing.assert_close(found.entropies.double(), entropies, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("size", [3, 300, 5000])
def test_a_draw_is_the_first_token_whose_cumulative_probability_exceeds_the_number(
    size: int,
) -> None:
    logits = make_logits(400, size, spread=2.0)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    uniforms = torch.from_numpy(np.random.default_rng(size).random(400))
    drawn = compiled(logits).draw(uniforms)[:, None]
    above = cumulative.gather(1, drawn)[:, 0]
    below = above - logits.double().softmax(-1).gather(1, drawn)[:, 0]
    # Where the number is beside a step, the last bits decide.
    assert bool(((below - 1e-6 <= uniforms) & (uniforms <= above + 1e-6)).all())
    assert float(((below <= uniforms) & (uniforms < above)).double().mean()) > 0.98


def test_numbers_of_any_precision_draw_the_same_and_one_is_needed_for_each_row() -> None:
    found = compiled(make_logits(3, 300))
    uniforms = torch.tensor([0.25, 0.5, 0.875])  # the same in float32 and float64
    assert found.draw(uniforms).tolist() == found.draw(uniforms.double()).tolist()
    with pytest.raises(
        InvalidInputError, match=r"Expected 3 uniform numbers.*got the shape \(1,\)"
    ):
        found.draw(uniforms[:1])


def test_tokens_are_drawn_as_often_as_they_should() -> None:
    number, size = 50_000, 3 * BLOCK + 5
    logits = make_logits(1, size, spread=1.0)
    uniforms = torch.from_numpy(np.random.default_rng(0).random(number))
    drawn = compiled(logits.expand(number, size)).draw(uniforms)
    expected = logits[0].double().softmax(-1) * number
    counts = torch.bincount(drawn, minlength=size).double()
    freedom = size - 1
    errors = float(((counts - expected).square() / expected).sum())
    assert abs(errors - freedom) < 4 * math.sqrt(2 * freedom)


def test_a_token_that_cannot_be_has_weight_zero_and_is_never_drawn() -> None:
    logits = make_logits(64, 1000)
    logits[:, 1:999:2] = -math.inf
    logits[:, :BLOCK] = -math.inf  # the first block, whole
    logits[:, 7 * BLOCK :] = -math.inf  # and the last
    softmax = compiled(logits)
    for uniform in (0.0, 1e-300, 0.5, 1 - 2.0**-53):
        drawn = softmax.draw(torch.full((64,), uniform).double())
        assert bool(logits.gather(1, drawn[:, None]).isfinite().all())
    expected = torch.special.entr(logits.double().softmax(-1)).sum(-1)
    torch.testing.assert_close(softmax.entropies.double(), expected, rtol=2e-6, atol=2e-6)


def test_two_threads_give_the_same_bytes(
    two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, uniforms = make_logits(65, 300), torch.rand(65, dtype=torch.float64)
    alone = compiled(logits)
    monkeypatch.setattr(module, "WORK_PER_THREAD", 1)
    together = compiled(logits)
    assert torch.equal(alone.log_totals, together.log_totals)
    assert torch.equal(alone.entropies, together.entropies)
    assert torch.equal(alone.draw(uniforms), together.draw(uniforms))


def test_rows_that_are_not_side_by_side_are_read_right() -> None:
    wide = make_logits(6, 600)
    found = compiled(wide[:, ::2])
    expected = compiled(wide[:, ::2].clone())
    assert torch.equal(found.log_totals, expected.log_totals)


@pytest.mark.parametrize("logits", [torch.zeros(2, 3).double(), torch.zeros(0, 3)])
def test_what_it_cannot_serve_it_leaves(logits: Tensor) -> None:
    assert CompiledSoftmax.of(logits) is None


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CC", "/no/such/compiler")
    for cache in (compile_library, module._library):
        cache.cache_clear()
    yield
    for cache in (compile_library, module._library):
        cache.cache_clear()


def test_without_a_compiler_it_leaves_everything(no_compiler: None) -> None:
    assert CompiledSoftmax.of(torch.zeros(2, 3)) is None


@pytest.mark.parametrize("size", SIZES)
def test_the_probabilities_may_take_the_logits_place(size: int) -> None:
    logits = make_logits(5, size)
    logits[:, size // 2 :: 3] = -math.inf
    logits[:, 0] = 1.0
    expected = logits.double().softmax(-1)
    place = logits.clone()
    compiled(place).overwrite()
    torch.testing.assert_close(place.double(), expected, rtol=3e-6, atol=1e-30)
    assert bool((place[logits == -math.inf] == 0).all())
