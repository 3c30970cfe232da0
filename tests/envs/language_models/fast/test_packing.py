"""Whole texts in one long row: what the model says of each text by itself, and its gradients."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from textrl_envs.language_models.decoder import Decoder
from textrl_envs.language_models.fast import packing as module
from textrl_envs.language_models.fast.linear import round_rows
from textrl_envs.language_models.fast.operations import fast_operations
from textrl_envs.language_models.fast.packing import Packing, packing_agrees, read_packed

BuildLM = Callable[..., Any]
CPU = torch.device("cpu")

FAMILIES = ("GPT2", "Llama", "Qwen3", "GPTNeoX", "Mistral")
LENGTHS = {
    "ragged": [7, 1, 12, 3, 12, 2, 5, 1],
    "all equal": [6, 6, 6],
    "one text": [9],
    "one text of one token": [1],
    "one token each": [1, 1, 1, 1],
    "rising": [1, 2, 3, 4, 6, 9, 13],
    "one far longer": [2, 30, 2, 3],
}
GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2}
"""With one key head for all, which of them a query looks at would not be seen."""
families = pytest.mark.parametrize("family", FAMILIES)
lengths_of_texts = pytest.mark.parametrize("kind", LENGTHS)


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def attention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs each test by both kinds of attention; returns which."""
    if request.param == "torch":
        monkeypatch.setattr(module, "attend_packed", lambda *_: None)
    kind: str = request.param
    return kind


def build(build_lm: BuildLM, family: str) -> Any:
    return build_lm(family, **(GROUPED if family in ("Llama", "Qwen3") else {}))


def make_ids(lengths: list[int]) -> Any:
    """Random ids, behind the texts too: they must not be looked at."""
    return np.random.default_rng(0).integers(32, size=(len(lengths), max(lengths)))


def padded_hidden(trunk: Any, ids: Any, lengths: list[int]) -> Tensor:
    """Reads the texts by Transformers' own forward: padding lies behind every token of text."""
    mask = torch.from_numpy(np.arange(ids.shape[1]) < np.array(lengths)[:, None])
    hidden: Tensor = trunk(
        input_ids=torch.from_numpy(ids), attention_mask=mask.long(), use_cache=False
    ).last_hidden_state
    return hidden


def gradients(trunk: nn.Module, number: Tensor) -> dict[str, Tensor]:
    trunk.zero_grad()
    number.backward()  # type: ignore[no-untyped-call]
    return {n: p.grad.clone() for n, p in trunk.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    # Zero but for rounding are some of them: of the keys' biases.
    scale = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        size = max(float(gradient.abs().max()), 1e-3 * scale)
        error = float((found[name] - gradient).abs().max())
        assert error < 1e-4 * size, name


def everywhere(packing: Packing) -> Tensor:
    return torch.arange(len(packing.rows))


@families
@lengths_of_texts
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_hidden_states_and_gradients_are_those_of_the_padded_forward(
    build_lm: BuildLM, attention: str, family: str, kind: str, is_checkpointed: bool
) -> None:
    trunk, lengths = build(build_lm, family).base_model, LENGTHS[kind]
    ids, packing = make_ids(lengths), Packing.of(np.array(lengths), CPU)
    found = read_packed(trunk, ids, packing, everywhere(packing), is_checkpointed=is_checkpointed)
    # Padded or not, torch's attention rounds alike; the compiled one is held to float64.
    exact = trunk if attention == "torch" else copy.deepcopy(trunk).double()
    expected = padded_hidden(exact, ids, lengths)[packing.rows, packing.columns]
    torch.testing.assert_close(found, expected.to(found), rtol=0, atol=1e-4)
    factors = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    assert_same_gradients(
        gradients(trunk, (found * factors).sum()), gradients(exact, (expected * factors).sum())
    )


@lengths_of_texts
def test_every_token_stands_once_in_the_long_row_and_texts_stay_whole(kind: str) -> None:
    lengths = LENGTHS[kind]
    packing = Packing.of(np.array(lengths), CPU)
    places = list(zip(packing.rows.tolist(), packing.columns.tolist(), strict=True))
    assert sorted(places) == [(row, i) for row, n in enumerate(lengths) for i in range(n)]
    for row, length in enumerate(lengths):
        start = packing.starts[row]
        assert places[start : start + length] == [(row, i) for i in range(length)]
    assert sum(b.num_tokens for b in packing.buckets) == len(places)
    assert sum(b.num_texts for b in packing.buckets) == len(lengths)
    # Texts side by side are of like length, so that little is computed in vain.
    for bucket in packing.buckets:
        assert bucket.num_texts * bucket.width <= module.LENGTH_RATIO * bucket.num_tokens


@families
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_many_tokens_are_filled_up_to_a_round_number_of_which_nothing_is_seen(
    build_lm: BuildLM, attention: str, family: str, is_checkpointed: bool
) -> None:
    trunk, lengths = build(build_lm, family).base_model, [30, 11, 47, 1, 52]
    ids, packing = make_ids(lengths), Packing.of(np.array(lengths), CPU)
    assert len(packing.rows) == packing.bounds[-1] == 144  # of 141
    places = torch.randperm(141, generator=torch.Generator().manual_seed(0))[:69]
    found = read_packed(trunk, ids, packing, places, is_checkpointed=is_checkpointed)
    exact = trunk if attention == "torch" else copy.deepcopy(trunk).double()
    at = packing.rows[places], packing.columns[places]
    expected = padded_hidden(exact, ids, lengths)[at]
    torch.testing.assert_close(found, expected.to(found), rtol=0, atol=1e-4)
    factors = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    assert_same_gradients(
        gradients(trunk, (found * factors).sum()), gradients(exact, (expected * factors).sum())
    )


GROUPS = {
    "four responses to each prompt": [(9, 4, 12), (5, 4, 7)],
    "the same text": [(8, 3, 0)],
    "a text alone, and a group": [(11, 1, 4), (3, 5, 9)],
    "many of one prompt": [(40, 6, 3)],
}
"""Tokens of a prompt, responses to it, the longest of them."""


def make_groups(kind: str) -> tuple[Any, list[int]]:
    """Returns ids, and lengths of the texts, in any order."""
    rng = np.random.default_rng(0)
    texts = []
    for size, count, longest in GROUPS[kind]:
        prompt = rng.integers(32, size=size)
        lengths = rng.integers(longest + 1, size=count)
        texts += [np.append(prompt, rng.integers(32, size=n)) for n in lengths]
    texts = [texts[i] for i in rng.permutation(len(texts))]
    ids = rng.integers(32, size=(len(texts), max(map(len, texts))))
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
    return ids, [len(text) for text in texts]


@families
@pytest.mark.usefixtures("shares_all")
@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_what_texts_share_is_read_once_with_the_gradients_of_them_all(
    build_lm: BuildLM, attention: str, family: str, kind: str, is_checkpointed: bool
) -> None:
    model = build(build_lm, family)
    decoder, (ids, lengths) = Decoder.of(model), make_groups(kind)
    distinct = {tuple(t[:i]) for t, n in zip(ids, lengths, strict=True) for i in range(1, n + 1)}
    packing = Packing.of(np.array(lengths), CPU, ids, 1)
    assert len(packing.rows) == round_rows(len(distinct)) < sum(lengths)
    # All tokens but the first, of shared ones too, in any order.
    rows, columns = np.nonzero(np.arange(ids.shape[1]) < np.array(lengths)[:, None])
    order = np.random.default_rng(1).permutation(np.flatnonzero(columns > 0))
    places = rows[order], columns[order]
    found = decoder.hidden_at(ids, places, is_checkpointed=is_checkpointed)
    trunk = decoder.trunk
    exact = trunk if attention == "torch" else copy.deepcopy(trunk).double()
    expected = padded_hidden(exact, ids, lengths)[places]
    torch.testing.assert_close(found, expected.to(found), rtol=0, atol=1e-4)
    factors = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    assert_same_gradients(
        gradients(trunk, (found * factors).sum()), gradients(exact, (expected * factors).sum())
    )


@families
def test_models_that_can_be_packed_are_known(build_lm: BuildLM, family: str) -> None:
    assert packing_agrees(build_lm(family).base_model, 32)


UNSUITABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "biases by distance": ("Bloom", {}),
    "a soft cap on the scores": ("Gemma2", {"head_dim": 16}),
    "an attention of its own": ("GPTNeo", {}),
    "eager attention": ("Llama", {"attn_implementation": "eager"}),
}


@pytest.mark.filterwarnings("ignore:.*every text is read afresh")
@pytest.mark.parametrize("why", UNSUITABLE)
def test_models_that_cannot_be_packed_are_found_out_and_read_rightly(
    build_lm: BuildLM, why: str
) -> None:
    family, changes = UNSUITABLE[why]
    model = build_lm(family, **changes)
    assert not packing_agrees(model.base_model, 32)
    check_hidden_at(model, packs=False)


@families
def test_the_hidden_states_at_places_are_those_of_the_model(build_lm: BuildLM, family: str) -> None:
    for is_checkpointed in (False, True):
        check_hidden_at(build(build_lm, family), packs=True, is_checkpointed=is_checkpointed)


def check_hidden_at(model: Any, *, packs: bool, is_checkpointed: bool = False) -> None:
    decoder = Decoder.of(model)
    assert decoder.packs == packs
    lengths = LENGTHS["ragged"]
    ids = make_ids(lengths)
    # Some tokens of each text in any order, but of one text none.
    places = [
        (r, c) for r, n in enumerate(lengths) for c in range(n) if r != 3 and (r + c) % 2 == 0
    ]
    order = np.random.default_rng(1).permutation(len(places))
    rows, columns = np.array(places)[order].T
    before = state_of(decoder.trunk)
    found = decoder.hidden_at(ids, (rows, columns), is_checkpointed=is_checkpointed)
    expected = padded_hidden(model.base_model, ids, lengths)[rows, columns]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    factors = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    trunk = decoder.trunk
    assert_same_gradients(
        gradients(trunk, (found * factors).sum()), gradients(trunk, (expected * factors).sum())
    )
    assert state_of(trunk) == before  # after the gradients too


@pytest.mark.filterwarnings("ignore:.*every text is read afresh")
def test_ids_that_are_no_tokens_may_stand_behind_the_texts(build_lm: BuildLM) -> None:
    for family in ("Llama", "Bloom"):
        decoder = Decoder.of(build_lm(family))
        ids = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
        places = np.array([0, 1]), np.array([3, 1])
        expected = decoder.hidden_at(ids, places)
        ids[1, 2:] = -1
        torch.testing.assert_close(decoder.hidden_at(ids, places), expected, rtol=0, atol=0)


def test_texts_longer_than_a_window_are_read_by_the_models_own_attention(
    build_lm: BuildLM,
) -> None:
    model = build_lm("Mistral", sliding_window=8)
    decoder = Decoder.of(model)
    for longest in (8, 20):
        lengths = [longest, 3, longest - 1]
        ids = make_ids(lengths)
        places = np.array([0, 1, 2, 2]), np.array([longest - 1, 2, longest - 2, 0])
        with torch.no_grad():
            expected = padded_hidden(model.base_model, ids, lengths)[places]
            found = decoder.hidden_at(ids, places)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_packed_too(build_lm: BuildLM, dtype: torch.dtype) -> None:
    trunk, lengths = build_lm("Llama").base_model.to(dtype), LENGTHS["ragged"]
    ids, packing = make_ids(lengths), Packing.of(np.array(lengths), CPU)
    with torch.no_grad():
        found = read_packed(trunk, ids, packing, everywhere(packing))
        expected = padded_hidden(trunk, ids, lengths)[packing.rows, packing.columns]
    assert found.dtype == dtype
    error = (found - expected).double().square().mean().sqrt()
    assert float(error) < (1e-10 if dtype == torch.float64 else 0.05)  # 8 bits, of numbers near 1


# --- what is put in the place of the model's own, and taken away again ---


def state_of(trunk: Any) -> tuple[Any, list[Any]]:
    own = [sub.__dict__.get("forward") for sub in trunk.modules()]
    return trunk.config._attn_implementation, own


@pytest.mark.parametrize("how", ["well", "token out of range", "error inside", "interrupted"])
def test_the_model_is_left_as_it_was(
    build_lm: BuildLM, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = build_lm("GPT2").base_model
    before = state_of(trunk)
    ids, packing = make_ids([3, 5]), Packing.of(np.array([3, 5]), CPU)
    error: type[BaseException] | None = None
    if how == "token out of range":
        ids, error = ids + 100, IndexError
    elif how != "well":
        error = ValueError if how == "error inside" else KeyboardInterrupt

        def fail(*args: Any) -> None:
            assert error is not None
            raise error

        monkeypatch.setattr(module, "attend_packed", fail)
    if error is None:
        read_packed(trunk, ids, packing, torch.tensor([7, 0]))
    else:
        with pytest.raises(error):
            read_packed(trunk, ids, packing, torch.tensor([7, 0]))
    assert state_of(trunk) == before


def test_the_models_own_forward_is_itself_again_to_the_last_bit(build_lm: BuildLM) -> None:
    model = build_lm("GPT2")
    ids = torch.from_numpy(make_ids([6, 6]))
    with torch.no_grad():
        before = model(input_ids=ids).logits
        Decoder.of(model).hidden_at(ids.numpy(), (np.array([0, 1]), np.array([5, 5])))
        assert torch.equal(model(input_ids=ids).logits, before)


@pytest.mark.parametrize("at", ["layers.0.mlp.down_proj", "layers.1.mlp", "layers.0"])
def test_a_forward_that_somebody_put_on_a_module_is_used_and_stays(
    build_lm: BuildLM, at: str
) -> None:
    """Offloading and quantising libraries set a forward on the module itself."""
    trunk = build_lm("Llama").base_model
    layer = trunk.get_submodule(at)
    usual = layer.forward

    def doubled(x: Tensor, **more: Any) -> Tensor:
        found: Tensor = 2 * usual(x, **more)
        return found

    layer.forward = doubled
    ids = make_ids([6, 6])
    packing = Packing.of(np.array([6, 6]), CPU)
    places = torch.tensor([3, 11])
    with torch.no_grad():
        expected = trunk(input_ids=torch.from_numpy(ids), use_cache=False).last_hidden_state
        for is_checkpointed in (False, True):
            with fast_operations(trunk, is_checkpointed=is_checkpointed):
                found = trunk(input_ids=torch.from_numpy(ids), use_cache=False).last_hidden_state
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
            found = read_packed(trunk, ids, packing, places, is_checkpointed=is_checkpointed)
            torch.testing.assert_close(found, expected[[0, 1], [3, 5]], rtol=0, atol=1e-4)
            assert layer.__dict__.get("forward") is doubled


def test_fast_operations_may_be_asked_for_twice(build_lm: BuildLM) -> None:
    trunk = build_lm("GPT2").base_model
    before = state_of(trunk)
    with fast_operations(trunk), fast_operations(trunk):
        trunk(input_ids=torch.tensor([[1, 2]]))
    assert state_of(trunk) == before
