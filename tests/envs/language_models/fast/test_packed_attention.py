"""The compiled attention of packed texts against a softmax text by text in float64."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import forward_ad

from textrl_envs.language_models.fast import packed_attention as module
from textrl_envs.language_models.fast import packing
from textrl_envs.language_models.fast.packed_attention import attend_packed
from textrl_envs.language_models.fast.threads import in_threads

LENGTHS = {
    "ragged": [1, 2, 2, 5, 7, 12, 17, 31],
    "one text of one token": [1],
    "one token each": [1, 1, 1],
    "fours": [4, 8, 16, 32, 64],
    "one more than fours": [5, 9, 17, 33, 65],
    "one long": [3, 300],
}
HEADS = {"a key each": (3, 3), "two to a key": (4, 2), "one key for all": (3, 1)}
"""Heads of queries and of keys."""
LAYOUTS = ("one projection", "three projections", "heads first")
lengths_of_texts = pytest.mark.parametrize("kind", LENGTHS)


@pytest.fixture(autouse=True)
def compiler() -> None:
    if module._library() is None:
        pytest.skip("no C compiler here")


def bounds_of(lengths: list[int]) -> NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(lengths)))


def make(
    lengths: list[int],
    width: int = 16,
    heads: tuple[int, int] = (2, 2),
    layout: str = "one projection",
    size: float = 1.0,
) -> tuple[list[Tensor], Tensor]:
    """Returns query, key and value, [heads, N, d] each, and the gradient of the result."""
    count, (many, few) = sum(lengths), heads
    rng = torch.Generator().manual_seed(0)
    sizes = [many * width, few * width, few * width]
    whole = torch.randn(count, sum(sizes), generator=rng) * size
    parts = [x.view(count, -1, width).transpose(0, 1) for x in torch.split(whole, sizes, dim=1)]
    if layout == "three projections":
        parts = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in parts]
    elif layout == "heads first":
        parts = [x.contiguous() for x in parts]
    above = torch.randn(count, many, width, generator=rng)
    return [x.requires_grad_() for x in parts], above


def plain(arrays: list[Tensor], lengths: list[int], scaling: float | None = None) -> Tensor:
    """softmax(q k) v over each text so far, [heads, N, d] -> [N, heads, d]."""
    query, key, value = arrays
    groups = len(query) // len(key)
    key, value = (x.repeat_interleave(groups, 0) for x in (key, value))
    found = []
    parts = (torch.split(x, lengths, dim=1) for x in (query, key, value))
    for q, k, v in zip(*parts, strict=True):
        scores = q @ k.transpose(1, 2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
        hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        found.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v)
    return torch.cat(found, dim=1).transpose(0, 1)


def can_serve(arrays: Iterable[Tensor], lengths: list[int]) -> bool:
    query, key, value = arrays
    return attend_packed(query, key, value, bounds_of(lengths)) is not None


def attend(arrays: list[Tensor], lengths: list[int], scaling: float | None = None) -> Tensor:
    query, key, value = arrays
    found = attend_packed(query, key, value, bounds_of(lengths), scaling)
    assert found is not None
    return found


def with_gradients(found: Tensor, arrays: list[Tensor], above: Tensor) -> tuple[Tensor, ...]:
    return (found.detach(), *torch.autograd.grad(found, arrays, above))


def check(
    arrays: list[Tensor], above: Tensor, lengths: list[int], scaling: float | None = None
) -> None:
    """Compares results and gradients, to 1e-5 of the largest number of each."""
    found = with_gradients(attend(arrays, lengths, scaling), arrays, above)
    exact = [x.detach().double().requires_grad_() for x in arrays]
    expected = with_gradients(plain(exact, lengths, scaling), exact, above.double())
    for name, x, y in zip(("result", "query", "key", "value"), found, expected, strict=True):
        assert x.shape == y.shape
        # With one key alone its score matters nothing: rounding is all that is left.
        size = float(y.abs().max()) if name in ("result", "value") else float(above.abs().max())
        assert float((x - y).abs().max()) <= 1e-5 * size, name


@lengths_of_texts
@pytest.mark.parametrize("width", [16, 32, 64, 128])
def test_results_and_gradients_are_those_of_each_text_by_itself(kind: str, width: int) -> None:
    check(*make(LENGTHS[kind], width), LENGTHS[kind])


@lengths_of_texts
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_heads_may_share_keys_and_lie_anyhow(kind: str, heads: str, layout: str) -> None:
    check(*make(LENGTHS[kind], 48, HEADS[heads], layout), LENGTHS[kind])


def test_scores_may_be_scaled_otherwise() -> None:
    check(*make([3, 9]), [3, 9], scaling=0.7)


def test_texts_of_random_lengths() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        lengths = rng.integers(1, 80, size=rng.integers(1, 9)).tolist()
        check(*make(lengths, heads=(4, 2)), lengths)


def test_scores_far_apart_are_no_trouble() -> None:
    """A softmax that is almost all on one key, and exponentials that a float cannot hold."""
    arrays, _ = make([5, 40], size=30.0)
    found = attend(arrays, [5, 40])
    expected = plain([x.detach().double() for x in arrays], [5, 40])
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-2)
    assert all(x.isfinite().all() for x in torch.autograd.grad(found.sum(), arrays))


def test_neither_later_tokens_nor_other_texts_are_seen() -> None:
    lengths = [6, 37, 9]
    arrays, _ = make(lengths)
    changed = [x.detach().clone() for x in arrays]
    for x in changed:
        x[:, :6], x[:, 26:] = 1e3, -1e3
    before, after = attend(arrays, lengths), attend(changed, lengths)
    assert torch.equal(before[6:26], after[6:26])
    assert not torch.equal(before[26:43], after[26:43])


def test_what_is_no_number_stays_so() -> None:
    arrays, _ = make([3, 4])
    with torch.no_grad():
        arrays[1][0, 4] = torch.nan
    found = attend(arrays, [3, 4])
    assert found[4:, 0].isnan().all()
    assert found[:4].isfinite().all()
    assert found[:, 1].isfinite().all()


def test_a_run_repeated_gives_the_same_bytes() -> None:
    lengths = LENGTHS["ragged"]
    arrays, above = make(lengths)
    runs = [with_gradients(attend(arrays, lengths), arrays, above) for _ in range(2)]
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Returns a function that sets torch's threads; they are set back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("kind", ["ragged", "one text of one token", "one long"])
def test_several_threads_give_the_same_bytes_as_one(
    kind: str,
    heads: str,
    threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = LENGTHS[kind]
    arrays, above = make(lengths, heads=HEADS[heads])
    counts: list[int] = []

    def counted(work: Callable[[int], None], count: int) -> None:
        counts.append(count)
        in_threads(work, count)

    monkeypatch.setattr(module, "in_threads", counted)
    monkeypatch.setattr(module, "WORK_PER_THREAD", 1)
    runs = []
    for number in (1, 2, 5):
        threads(number)
        runs.append(with_gradients(attend(arrays, lengths), arrays, above))
    most = len(lengths) * HEADS[heads][1]
    assert counts == [min(number, most) for number in (1, 1, 2, 2, 5, 5)]
    for run in runs[1:]:
        assert all(torch.equal(x, y) for x, y in zip(runs[0], run, strict=True))


UNSUITABLE: dict[str, Callable[[Tensor], Tensor]] = {
    "float64": Tensor.double,
    "bfloat16": Tensor.bfloat16,
    "another device": lambda x: x.to("meta"),
    "heads of a width that is no multiple of 16": lambda x: x[..., :8],
    "numbers that do not lie side by side": lambda x: x[..., ::2].repeat(1, 1, 2)[..., ::2],
}


@pytest.mark.parametrize("why", UNSUITABLE)
def test_what_it_cannot_serve_it_leaves_to_torch(why: str) -> None:
    arrays, _ = make([3, 4], width=32)
    assert can_serve(arrays, [3, 4])
    for which in range(3):
        changed = [UNSUITABLE[why](x) if i == which else x for i, x in enumerate(arrays)]
        assert not can_serve(changed, [3, 4])
    assert not can_serve(map(UNSUITABLE[why], arrays), [3, 4])


def test_without_a_compiler_torchs_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, _ = make([3, 4])
    monkeypatch.setattr(module, "_library", lambda: None)
    assert not can_serve(arrays, [3, 4])


# torch loads rules of its own by a function that it calls deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_derivative_forwards_is_torchs_and_right() -> None:
    lengths = [3, 6]
    arrays, _ = make(lengths)
    packed = packing.Packing.of(np.array(lengths), torch.device("cpu"))
    tangents = [torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) for x in arrays]

    def through(duals: list[Tensor]) -> Tensor:
        query, key, value = (x[None] for x in duals)
        return packing._packed_attention(None, query, key, value, None, packing=packed)[0][0]

    def change(attend: Callable[[list[Tensor]], Tensor], dtype: torch.dtype) -> Tensor:
        make, take = (getattr(forward_ad, name) for name in ("make_dual", "unpack_dual"))
        with torch.no_grad(), forward_ad.dual_level():
            pairs = zip(arrays, tangents, strict=True)
            duals = [make(x.detach().to(dtype), t.to(dtype)) for x, t in pairs]
            found: Tensor = take(attend(duals)).tangent
        return found

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        found = change(through, torch.float32)
    expected = change(lambda duals: plain(duals, lengths), torch.float64)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_a_second_derivative_is_refused() -> None:
    arrays, _ = make([3, 4])
    found = attend(arrays, [3, 4])
    (gradient,) = torch.autograd.grad(found.square().sum(), arrays[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()  # type: ignore[no-untyped-call]
