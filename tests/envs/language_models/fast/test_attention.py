"""Attention to the cache, by the compiled loop and by torch's own: a softmax over each row."""

import ctypes
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from textrl_envs.language_models.fast import attention as module
from textrl_envs.language_models.fast.attention import (
    CompiledAppend,
    CompiledAttention,
    TorchAppend,
    TorchAttention,
    compile_kernel,
)
from textrl_envs.language_models.fast.compiled import FLAGS, compile_library
from textrl_envs.language_models.prefix_reader import PrefixReader

BuildLM = Callable[..., Any]
Ints = NDArray[np.int64]
HEAD_WIDTHS = (8, 16, 32, 64, 80)

kinds = pytest.mark.parametrize("kind", ["compiled", "torch"])


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Returns a function that sets torch's threads; they are set back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class Cache:
    """Random keys and values of some slots, and new tokens in some of them.

    Args:
        new: of each new token its slot and its position.
    """

    def __init__(
        self,
        new: list[tuple[int, int]],
        *,
        slots: int = 6,
        columns: int = 20,
        kv_heads: int = 2,
        groups: int = 1,
        width: int = 16,
        scale: float = 1.0,
    ) -> None:
        rng = torch.Generator().manual_seed(0)
        self.rows, self.positions = np.array(new).T
        self.columns = columns
        # One layer; keys and values beside each other.
        self.cache = torch.randn(1, 2, slots, columns, kv_heads, width, generator=rng)
        self.query = torch.randn(len(new), kv_heads * groups, width, generator=rng) * scale

    def attend(self, kind: str) -> Tensor:
        keys, values = self.cache[0].flatten(1, 2)
        scaling = self.query.shape[-1] ** -0.5
        if kind == "torch":
            attention: Any = TorchAttention(self.rows, self.positions, self.columns, self.cache)
        else:
            kernel = compile_kernel(self.query.shape[-1])
            if kernel is None:
                pytest.skip("no C compiler here")
            attention = CompiledAttention(kernel, self.rows, self.positions, self.columns)
        found: Tensor = attention(self.query, keys, values, scaling)
        return found

    def expected(self) -> Tensor:
        """Token by token and head by head, in float64: softmax(q k) v over the text so far."""
        keys, values = self.cache[0].double()
        query = self.query.double()
        groups = query.shape[1] // keys.shape[2]
        found = torch.empty_like(query)
        for i, (row, position) in enumerate(zip(self.rows, self.positions, strict=True)):
            for head in range(query.shape[1]):
                seen = keys[row, : position + 1, head // groups]
                weights = (seen @ query[i, head] / query.shape[2] ** 0.5).softmax(0)
                found[i, head] = weights @ values[row, : position + 1, head // groups]
        return found.flatten(1)

    def check(self, kind: str, tolerance: float = 1e-5) -> None:
        found = self.attend(kind)
        torch.testing.assert_close(found.double(), self.expected(), rtol=0, atol=tolerance)


def texts(*new: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Returns slot and position of new tokens: of each slot, those from a position to another."""
    return [(slot, position) for slot, first, last in new for position in range(first, last + 1)]


ONE_TOKEN_EACH = texts(*((slot, at, at) for slot, at in enumerate((0, 19, 3, 7, 12, 1))))
NEW_TOKENS = {
    "one row alone": texts((3, 7, 7)),
    "the first token of a text": texts((0, 0, 0)),
    "one token in every row": ONE_TOKEN_EACH,
    "one token in most rows": [*ONE_TOKEN_EACH[:2], *ONE_TOKEN_EACH[3:]],
    "one token in few rows": texts((1, 4, 4), (5, 9, 9)),
    "whole texts in every row": texts(*((slot, 0, 3 * slot) for slot in range(6))),
    "several tokens of ragged rows": texts((0, 3, 9), (2, 0, 0), (3, 5, 6), (5, 0, 19)),
    "several in one row, one in the others": texts((0, 4, 4), (1, 0, 8), (2, 9, 9), (4, 2, 2)),
    "several tokens in one row alone": texts((4, 6, 11)),
    "as many in each of some rows": texts((1, 2, 4), (3, 9, 11)),
}


@kinds
@pytest.mark.parametrize("new", NEW_TOKENS)
@pytest.mark.parametrize("groups", [1, 3])
def test_each_token_sees_its_own_row_up_to_itself(kind: str, new: str, groups: int) -> None:
    Cache(NEW_TOKENS[new], groups=groups).check(kind)


@kinds
@pytest.mark.parametrize("width", HEAD_WIDTHS)
@pytest.mark.parametrize(("kv_heads", "groups"), [(1, 1), (3, 1), (1, 4), (2, 2)])
def test_heads_may_be_of_any_width_and_number(
    kind: str, width: int, kv_heads: int, groups: int
) -> None:
    new = NEW_TOKENS["several in one row, one in the others"]
    Cache(new, width=width, kv_heads=kv_heads, groups=groups).check(kind)


@kinds
def test_what_stands_behind_a_text_or_in_other_rows_is_not_seen(kind: str) -> None:
    new = NEW_TOKENS["several tokens of ragged rows"]
    clean, dirty = Cache(new), Cache(new)
    is_seen = torch.zeros(6, 20, dtype=torch.bool)
    for slot, position in new:
        is_seen[slot, : position + 1] = True
    dirty.cache[:, :, ~is_seen] = 1e6
    assert torch.equal(dirty.attend(kind), clean.attend(kind))


@kinds
@pytest.mark.parametrize("num_threads", [1, 2])
def test_long_texts_are_the_same_by_one_thread_and_by_two(
    kind: str, num_threads: int, threads: Callable[[int], None]
) -> None:
    threads(num_threads)
    ends = (1499, 3, 800, 1200, 1499)
    case = Cache(
        texts(*((slot, end, end) for slot, end in enumerate(ends))),
        slots=5,
        columns=1500,
        kv_heads=4,
        width=32,
    )
    # Worth more than a thread, or this tests nothing.
    assert 8 * sum(ends) * 4 * 32 > 2 * module.WORK_PER_THREAD
    case.check(kind)


def test_more_threads_than_tokens_are_no_harm(threads: Callable[[int], None]) -> None:
    threads(2)
    Cache(texts((0, 7999, 7999)), slots=1, columns=8000, kv_heads=4, width=32).check("compiled")


def test_threads_share_the_tokens_and_have_room_of_their_own(
    threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that write into the same room are seldom caught by their results."""
    calls: list[tuple[int, int, int]] = []

    def kernel(*arguments: Any) -> None:
        scores, first, last = arguments[7:10]
        calls.append((scores, first, last))

    monkeypatch.setattr(module, "WORK_PER_THREAD", 1)
    threads(2)
    case = Cache(NEW_TOKENS["several tokens of ragged rows"], kv_heads=2, groups=3)
    library = SimpleNamespace(attend=kernel)
    attention = CompiledAttention(library, case.rows, case.positions, case.columns)
    keys, values = case.cache[0].flatten(1, 2)
    attention(case.query, keys, values, 1.0)
    (one, begin, middle), (other, again, end) = sorted(calls, key=lambda call: call[1])
    assert (begin, middle, end) == (0, again, len(case.rows))
    assert abs(one - other) >= 4 * 6 * case.columns  # a float for each head and column


@kinds
@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_what_is_no_number_stays_none(kind: str, part: str) -> None:
    """A model that has gone astray must not look as if it had not."""
    case = Cache(ONE_TOKEN_EACH)
    if part == "query":
        case.query[1, 0, 3] = torch.nan
    else:
        case.cache[0, 0 if part == "key" else 1, 1, 5, 0, 3] = torch.nan
    found = case.attend(kind)
    assert bool(found[1].isnan().any())
    assert not bool(found[[0, 2, 3, 4, 5]].isnan().any())


@kinds
@pytest.mark.parametrize("scale", [0.0, 30.0, 1e4, 1e18])
def test_scores_of_any_size_neither_overflow_nor_lose_their_sum(kind: str, scale: float) -> None:
    case = Cache(NEW_TOKENS["several tokens of ragged rows"], scale=scale)
    found, expected = case.attend(kind).double(), case.expected()
    assert bool(torch.isfinite(found).all())
    # A score s is rounded by s · 6e-8; from 1e4 on the likeliest key alone is left.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, min(scale, 1e3)))
    ones = Cache(NEW_TOKENS["several tokens of ragged rows"], scale=scale)
    ones.cache[:, 1] = 1.0
    torch.testing.assert_close(ones.attend(kind), torch.ones_like(found).float())


@kinds
def test_scores_that_are_all_far_below_zero_are_as_good_as_others(kind: str) -> None:
    case = Cache(ONE_TOKEN_EACH)
    case.cache[:, 0] = case.cache[:, 0].abs() + 100.0
    case.query = -case.query.abs() - 10.0
    case.check(kind, tolerance=2e-3)  # scores of some −4000 are rounded by 2e-4


@kinds
def test_queries_may_be_a_part_of_a_larger_matrix(kind: str) -> None:
    """As they are, where queries, keys and values are made by one product."""
    case = Cache(ONE_TOKEN_EACH)
    expected = case.attend(kind)
    whole = torch.randn(len(case.query), 6, 16)
    whole[:, 1:3] = case.query
    case.query = whole[:, 1:3]
    torch.testing.assert_close(case.attend(kind), expected, rtol=0, atol=1e-6)


def test_random_new_tokens_agree_between_the_two(threads: Callable[[int], None]) -> None:
    threads(2)
    rng = np.random.default_rng(0)
    for _ in range(60):
        slots, columns = int(rng.integers(1, 9)), int(rng.integers(1, 40))
        chosen = np.flatnonzero(rng.random(slots) < 0.6)
        ends = rng.integers(columns, size=slots)
        starts = np.where(rng.random(slots) < 0.6, ends, rng.integers(ends + 1))
        new = texts(*((int(s), int(starts[s]), int(ends[s])) for s in chosen))
        if not new:
            continue
        kv_heads, groups = (int(n) for n in rng.integers(1, 4, size=2))
        width = int(rng.choice(HEAD_WIDTHS))
        case = Cache(
            new, slots=slots, columns=columns, kv_heads=kv_heads, groups=groups, width=width
        )
        torch.testing.assert_close(case.attend("compiled"), case.attend("torch"), rtol=0, atol=1e-5)


@kinds
@pytest.mark.parametrize("are_shared", [False, True])
@pytest.mark.parametrize("count", [1, 7, 60])
def test_new_keys_and_values_go_where_they_belong(kind: str, are_shared: bool, count: int) -> None:
    rng = np.random.default_rng(0)
    places = rng.permutation(120)[:count]  # in six slots of twenty columns
    sources = rng.integers(count, size=count) if are_shared else None
    before = torch.randn(2, 120, 2, 16, generator=torch.Generator().manual_seed(0))
    # Keys are a part of a larger matrix, values are not: as rotation leaves them.
    whole = torch.randn(count, 6, 16, generator=torch.Generator().manual_seed(1))
    new = whole[:, 2:4], whole[:, 4:].contiguous()
    caches = before.clone()
    if kind == "torch":
        shared = None if sources is None else torch.from_numpy(sources)
        append: Any = TorchAppend(torch.from_numpy(places), shared)
    else:
        kernel = compile_kernel(16)
        if kernel is None:
            pytest.skip("no C compiler here")
        append = CompiledAppend(kernel, places, sources)
    append(*new, *caches)
    for cache, old, tokens in zip(caches, before, new, strict=True):
        for place in range(120):
            (i,) = np.flatnonzero(places == place) if place in places else (None,)
            source = i if sources is None or i is None else sources[i]
            assert torch.equal(cache[place], old[place] if i is None else tokens[source])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_compiled_loops_refuse_other_types(dtype: torch.dtype) -> None:
    """They would read, and write, beyond the end of what is shorter than float32."""
    kernel = compile_kernel(16)
    if kernel is None:
        pytest.skip("no C compiler here")
    case = Cache(ONE_TOKEN_EACH)
    keys, values = case.cache[0].flatten(1, 2)
    new = torch.zeros(1, 2, 16)
    append = CompiledAppend(kernel, np.array([3]))
    with pytest.raises(TypeError, match="float32"):
        append(new, new.to(dtype), keys, values)
    attention = CompiledAttention(kernel, case.rows, case.positions, case.columns)
    with pytest.raises(TypeError, match="float32"):
        attention(case.query.to(dtype), keys, values, 1.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_have_torchs_attention(dtype: torch.dtype) -> None:
    case = Cache(NEW_TOKENS["several tokens of ragged rows"])
    case.cache, case.query = case.cache.to(dtype), case.query.to(dtype)
    found = case.attend("torch")
    assert found.dtype == dtype
    # 8 bits of mantissa: values of some 3, rounded by 2^-9 of themselves, a few times.
    tolerance = 1e-12 if dtype == torch.float64 else 0.05
    torch.testing.assert_close(found.double(), case.expected(), rtol=0, atol=tolerance)


# --- the compiler ---


@pytest.fixture
def fresh_kernels() -> Iterator[None]:
    """Lets kernels be compiled anew, in the test and after it."""
    compile_library.cache_clear()
    yield
    compile_library.cache_clear()


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false"])
def test_without_a_compiler_torchs_attention_takes_its_place(
    compiler: str, build_lm: BuildLM, monkeypatch: pytest.MonkeyPatch, fresh_kernels: None
) -> None:
    monkeypatch.setenv("CC", compiler)  # not there, or one that fails
    assert compile_kernel(16) is None
    check_a_reader(build_lm, expect_kernel=False)


def test_the_compiler_may_have_arguments(
    monkeypatch: pytest.MonkeyPatch, fresh_kernels: None
) -> None:
    if compile_kernel(16) is None:
        pytest.skip("no C compiler here")
    compile_library.cache_clear()
    monkeypatch.setenv("CC", "env gcc")
    assert compile_kernel(16) is not None


def test_where_there_is_no_compiler_at_all_none_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, fresh_kernels: None
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/no/such/folder")
    assert compile_kernel(16) is None


def test_a_kernel_is_compiled_once_for_heads_of_a_width(build_lm: BuildLM) -> None:
    if compile_kernel(16) is None:
        pytest.skip("no C compiler here")
    assert compile_library("attention", HEAD_WIDTH=16) is compile_library(
        "attention", HEAD_WIDTH=16
    )
    check_a_reader(build_lm, expect_kernel=True)


@torch.no_grad()
def check_a_reader(build_lm: BuildLM, *, expect_kernel: bool) -> None:
    trunk = build_lm("Llama").base_model
    reader = PrefixReader(trunk)
    ids = torch.randint(32, (3, 9), generator=torch.Generator().manual_seed(0))
    expected = trunk(input_ids=ids, use_cache=False).last_hidden_state
    for length in (4, 5, 9):
        found = reader.read(ids[:, :length].numpy())
        torch.testing.assert_close(found, expected[:, length - 1], rtol=0, atol=1e-4)
    assert reader._lean is not None
    assert (reader._lean._kernel is not None) == expect_kernel


def test_long_prompts_are_left_to_torch(build_lm: BuildLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("textrl_envs.language_models.fast.decode.LONGEST_PROMPT", 4)
    check_a_reader(build_lm, expect_kernel=compile_kernel(16) is not None)


# --- the processor ---


def test_numbers_below_the_smallest_normal_one_stay_what_they_are(fresh_kernels: None) -> None:
    """-ffast-math would link code that flushes them to 0 in the whole process when it is loaded."""
    if compile_kernel(24) is None:
        pytest.skip("no C compiler here")
    tiny = np.float32(1e-40)
    assert tiny * np.float32(0.5) > 0
    assert float((torch.tensor([1e-40]) * 0.5)[0]) > 0
    assert float((np.full(1000, tiny) * np.float32(0.5)).min()) > 0
    assert float((torch.full((1000,), 1e-40) * 0.5).min()) > 0
    assert ctypes.c_float(1e-40).value > 0


def test_flags_that_would_change_the_processors_mode_are_not_among_the_compilers() -> None:
    # gcc links that code for any of these.
    dangerous = {"-ffast-math", "-funsafe-math-optimizations", "-Ofast"}
    assert not dangerous & set(FLAGS)
