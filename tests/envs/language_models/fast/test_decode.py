"""LeanTrunk: what Transformers' own forward says, for every setting it claims to know."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from textrl_envs.language_models.causal import CausalLanguageModel
from textrl_envs.language_models.decoder import Decoder
from textrl_envs.language_models.fast import decode
from textrl_envs.language_models.fast.decode import LeanTrunk
from textrl_envs.language_models.prefix_reader import PrefixReader

BuildLM = Callable[..., Any]
WIDTH = 48
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT2": ("GPT2", {}),
    "GPT2, untied": ("GPT2", {"tie_word_embeddings": False}),
    "Llama, grouped heads": ("Llama", {"num_attention_heads": 4, "num_key_value_heads": 2}),
    "Llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "Qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "Qwen3, heads wider than the model": ("Qwen3", {"head_dim": 24}),
    "Llama, heads narrower than the model": ("Llama", {"head_dim": 8}),
}
"""What is read for sixty steps, with everything that may happen to a row."""


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **more}}


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "scores by layer": ("GPT2", {"scale_attn_by_inverse_layer_idx": True}),
    "scores not scaled": ("GPT2", {"scale_attn_weights": False}),
    "scores not scaled, but by layer": (
        "GPT2",
        {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    ),
    "upcast attention": (
        "GPT2",
        {"reorder_and_upcast_attn": True, "attn_implementation": "eager"},
    ),
    "eager attention": ("GPT2", {"attn_implementation": "eager"}),
    "GPT-2's epsilon": ("GPT2", {"layer_norm_epsilon": 0.3}),
    "GPT-2's inner width": ("GPT2", {"n_inner": 24}),
    "gelu by its other name": ("GPT2", {"activation_function": "gelu_pytorch_tanh"}),
    "exact gelu": ("GPT2", {"activation_function": "gelu"}),
    "relu": ("GPT2", {"activation_function": "relu"}),
    "GPT-2, silu": ("GPT2", {"activation_function": "silu"}),
    "biases of attention": ("Llama", {"attention_bias": True}),
    "biases of the feed-forward part": ("Llama", {"mlp_bias": True}),
    "Llama's epsilon": ("Llama", {"rms_norm_eps": 0.3}),
    "Llama, gelu": ("Llama", {"hidden_act": "gelu"}),
    "Qwen2's epsilon": ("Qwen2", {"rms_norm_eps": 0.3}),
    "Qwen3's epsilon": ("Qwen3", {"rms_norm_eps": 0.3}),
    "Qwen3, biases of attention": ("Qwen3", {"attention_bias": True}),
    "a window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "a window that is not used": ("Qwen2", {"use_sliding_window": False, "sliding_window": 6}),
    "Qwen3, a window": (
        "Qwen3",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0},
    ),
    "another base": ("Llama", rope("default") | {"rope_parameters": {"rope_theta": 100.0}}),
    "linear rope": ("Llama", rope("linear", factor=4.0)),
    "llama3 rope": ("Llama", rope("llama3", original_max_position_embeddings=16, **LLAMA3)),
    "yarn rope": ("Qwen2", rope("yarn", factor=4.0, original_max_position_embeddings=16)),
    "dynamic rope": ("Llama", rope("dynamic", factor=2.0) | {"max_position_embeddings": 16}),
    "longrope": (
        "Llama",
        rope(
            "longrope",
            factor=4.0,
            original_max_position_embeddings=16,
            short_factor=[1.0] * 8,
            long_factor=[3.0] * 8,
        ),
    ),
    "another family": ("Mistral", {}),
}
"""Everything that changes what these families compute."""

NOT_CLAIMED = {
    "upcast attention",
    "exact gelu",
    "relu",
    "GPT-2, silu",
    "Llama, gelu",
    "dynamic rope",
    "longrope",
    "another family",
}


@torch.no_grad()
def randomise(model: Any) -> Any:
    """Moves norms and biases, which begin as 1 and 0, so that a forgotten one is seen."""
    rng = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter += 0.3 * torch.randn(parameter.shape, generator=rng)
    return model


def build(build_lm: BuildLM, family: str, changes: dict[str, Any]) -> Any:
    return randomise(build_lm(family, **changes))


@torch.no_grad()
def logits_of(model: Any, texts: list[list[int]]) -> Tensor:
    """Reads the texts by Transformers' own forward: padding lies behind what is looked at."""
    lengths = [len(text) for text in texts]
    ids = torch.from_numpy(np.maximum(flat(texts), 0))[:, : max(lengths)]
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits[torch.arange(len(texts)), torch.tensor(lengths) - 1]


def flat(texts: list[list[int]]) -> Any:
    return np.array([text + [-1] * (WIDTH - len(text)) for text in texts])


def play(rng: np.random.Generator, texts: list[list[int]], longest: int) -> None:
    """Lets every row grow by a token or several, begin anew, wait, or change in the middle."""
    for row, text in enumerate(texts):
        kind = rng.random()
        more = [int(t) for t in rng.integers(32, size=rng.integers(2, 6))]
        if kind < 0.06 or len(text) + len(more) > longest:
            texts[row] = more
        elif kind < 0.1:
            texts[row] = [*text, *more]
        elif kind < 0.14:
            text[int(rng.integers(len(text)))] ^= 1
        elif kind < 0.9:
            texts[row] = [*text, more[0]]


def check_steps(
    decoder: Decoder, model: Any, *, steps: int, longest: int = WIDTH, tolerance: float = 1e-4
) -> None:
    rng = np.random.default_rng(0)
    texts = [[int(t) for t in rng.integers(32, size=n)] for n in (3, 1, 7, 4, 2, 9)]
    for step in range(steps):
        play(rng, texts, longest)
        asked = texts[: 1 + step % 6] if step % 4 == 3 else texts
        found = decoder.next_logits(decoder.reader.read(flat(asked)))
        expected = logits_of(model, asked)
        error = float((found - expected).abs().max())
        assert error < tolerance * max(1.0, float(expected.abs().max())), f"step {step}: {error}"


def is_lean(reader: PrefixReader) -> bool:
    return reader._lean is not None


@pytest.mark.parametrize("name", MODELS)
def test_sixty_steps_of_all_that_may_happen_agree_with_transformers(
    build_lm: BuildLM, name: str
) -> None:
    model = build(build_lm, *MODELS[name])
    decoder = Decoder.of(model)
    check_steps(decoder, model, steps=60)
    assert is_lean(decoder.reader)


@pytest.mark.usefixtures("shares_all")
@pytest.mark.parametrize("attention", ["compiled", "torch", pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("name", MODELS)
def test_what_rows_share_is_read_once_and_each_row_goes_on_by_itself(
    build_lm: BuildLM, name: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if attention == "torch":
        monkeypatch.setattr(decode, "compile_kernel", lambda _: None)
    model, rng = build(build_lm, *MODELS[name]), np.random.default_rng(0)
    device = "cuda" if attention == "cuda" else "cpu"
    decoder, count = Decoder.of(copy.deepcopy(model).to(device)), count_tokens(monkeypatch)
    for width in (20, 30):  # the second time what is remembered must be given up
        prompts = [rng.integers(32, size=n).tolist() for n in (9, 4, 1)]
        prompts.append([*prompts[0][:5], 3, 3])
        texts = [list(prompts[i]) for i in (0, 1, 0, 2, 3, 0, 1, 3)]
        beginnings = {tuple(text[:n]) for text in texts for n in range(1, len(text) + 1)}
        count.clear()
        for step in range(width - 10):
            found = decoder.next_logits(decoder.reader.read(flat(texts)))
            torch.testing.assert_close(found.cpu(), logits_of(model, texts), rtol=0, atol=1e-4)
            if step == 0:
                assert count == [len(beginnings)]
            texts = [[*text, int(rng.integers(32))] for text in texts]


@pytest.mark.parametrize("rows", [1, 3])
def test_autocast_does_not_change_what_is_remembered(build_lm: BuildLM, rows: int) -> None:
    model = build(build_lm, "GPT2", {})
    texts, decoder = [[1, 2, 3], [4, 5], [6]][:rows], Decoder.of(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(3):
            found = decoder.reader.read(flat(texts))
            texts = [[*texts[0], 7], *texts[1:]]  # one row alone, the others wait
    with torch.no_grad():
        expected = PrefixReader(model.base_model, use_cache=False).read(
            flat([texts[0][:-1], *texts[1:]])
        )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_the_last_layer_is_finished_for_the_last_token_of_each_row_alone(
    build_lm: BuildLM, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks at what the others come to, but for their keys and values."""
    decoder, feed, fed = Decoder.of(build(build_lm, family, {})), LeanTrunk._feed, []

    def counted(self: LeanTrunk, layer: Any, x: Tensor) -> Tensor:
        fed.append(len(x))
        return feed(self, layer, x)

    monkeypatch.setattr(LeanTrunk, "_feed", counted)
    texts = [[1, 2, 3, 4, 5], [6, 7, 8], [9]]
    decoder.reader.read(flat(texts))
    num_layers = len(fed)
    assert fed == [9] * (num_layers - 1) + [3]
    decoder.reader.read(flat([[*text, 4] for text in texts]))
    assert fed[num_layers:] == [3] * num_layers


def count_tokens(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list that gains the number of tokens of each forward."""
    count: list[int] = []
    forward = LeanTrunk._forward

    def counted(self: LeanTrunk, tokens: Tensor, *more: Any) -> Tensor:
        count.append(len(tokens))
        return forward(self, tokens, *more)

    monkeypatch.setattr(LeanTrunk, "_forward", counted)
    return count


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_changes_the_arithmetic_agrees_or_is_not_claimed(
    build_lm: BuildLM, name: str
) -> None:
    family, changes = SETTINGS[name]
    model = build(build_lm, family, changes)
    assert LeanTrunk.supports(model.base_model) == (name not in NOT_CLAIMED)
    reader = PrefixReader(model.base_model)
    decoder = Decoder(model.base_model, model.lm_head, reader, 32)
    check_steps(decoder, model, steps=12, longest=14)
    if name not in NOT_CLAIMED and reader.window > WIDTH:
        assert is_lean(reader)


def test_the_settings_above_do_change_the_arithmetic(build_lm: BuildLM) -> None:
    """Or that they agree would say nothing."""
    same = {"eager attention", "gelu by its other name", "a window that is not used"}
    text = [[int(t) for t in np.random.default_rng(0).integers(32, size=14)]]
    for name, (family, changes) in SETTINGS.items():
        if name in same | NOT_CLAIMED:
            continue
        plain, changed = (build(build_lm, family, c) for c in ({}, changes))
        difference = logits_of(changed, text) - logits_of(plain, text)
        assert float(difference.abs().max()) > 1e-2, name


def test_the_slow_path_agrees_too_and_is_taken_where_it_is_asked_for(build_lm: BuildLM) -> None:
    model = build(build_lm, "Llama", {})
    reader = PrefixReader(model.base_model, use_fast_path=False)
    check_steps(Decoder(model.base_model, model.lm_head, reader, 32), model, steps=20)
    assert not is_lean(reader)


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_one_row_alone_is_read_by_weights_that_lie_otherwise(
    build_lm: BuildLM, family: str
) -> None:
    model, rng = build(build_lm, family, {}), np.random.default_rng(0)
    decoder = Decoder.of(model)
    text = [3]
    for _ in range(30):
        text = [*text, int(rng.integers(32))]
        found = decoder.next_logits(decoder.reader.read(np.array([text])))
        torch.testing.assert_close(found, logits_of(model, [text]), rtol=0, atol=1e-4)
    check_steps(decoder, model, steps=8)  # and more rows may come later


@pytest.mark.parametrize("family", ["GPT2", "Llama", "Qwen2", "Qwen3"])
def test_half_precision_is_as_near_to_float32_as_transformers_is(
    build_lm: BuildLM, family: str
) -> None:
    """Both round to 8 bits after every operation, in another order.

    Rounding by 2^-9 some ten times in a row, in logits of size 5 or so, leaves errors of 0.1; where
    one differs from the other, each is held to the same float32 truth, within a factor.
    """
    exact = build(build_lm, family, {"initializer_range": 0.1})
    half = copy.deepcopy(exact).to(torch.bfloat16)
    exact.load_state_dict(half.state_dict())  # the same weights, with more digits to compute in
    decoder = Decoder(half.base_model, half.lm_head, PrefixReader(half.base_model), 32)
    rng = np.random.default_rng(0)
    texts = [[int(t) for t in rng.integers(32, size=n)] for n in (3, 1, 7, 4, 2, 9)]
    ours, theirs = [], []
    for _ in range(20):
        play(rng, texts, 30)
        truth = logits_of(exact, texts)
        found = decoder.next_logits(decoder.reader.read(flat(texts)))
        assert found.dtype == torch.bfloat16
        ours.append((found.float() - truth).square().mean())
        theirs.append((logits_of(half, texts).float() - truth).square().mean())
    assert is_lean(decoder.reader)
    ours_rms, theirs_rms = (float(torch.stack(e).mean().sqrt()) for e in (ours, theirs))
    assert ours_rms < 2 * theirs_rms
    assert theirs_rms < 0.2  # or the bound above says nothing


# --- whose weights they are ---


@pytest.mark.parametrize("family", ["GPT2", "Llama", "Qwen3"])
def test_every_weight_is_noticed_when_an_optimiser_has_changed_it(
    build_lm: BuildLM, family: str
) -> None:
    model = build(build_lm, family, {})
    decoder = Decoder.of(model)
    texts = [[1, 2, 3, 4], [5, 6], [7, 8, 9]]
    decoder.next_logits(decoder.reader.read(flat(texts)))
    for parameter in model.parameters():
        before = logits_of(model, texts)
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        torch.optim.SGD([parameter], lr=0.3).step()
        expected = logits_of(model, texts)
        assert not torch.equal(expected, before)
        found = decoder.next_logits(decoder.reader.read(flat(texts)))
        scale = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * max(1.0, scale))


class LowRank(nn.Module):
    """A linear layer with an addition that is trained, as adapters are: it shows its base's weight.

    `peft` puts such modules in the place of a model's own.
    """

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(2, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, 2))

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.base(x) + x @ self.down.T @ self.up.T
        return found


@pytest.mark.parametrize("at", ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"])
def test_a_layer_that_was_put_in_the_place_of_another_is_what_is_computed(
    build_lm: BuildLM, at: str
) -> None:
    """It begins as the layer it stands for, so that no probe tells them apart."""
    model = build(build_lm, "Llama", {})
    parent, _, name = at.rpartition(".")
    for layer in model.model.layers:
        setattr(layer.get_submodule(parent), name, LowRank(layer.get_submodule(at)))
    decoder = Decoder.of(model)
    check_steps(decoder, model, steps=3)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.get_submodule(at).up.normal_(generator=torch.Generator().manual_seed(0))
    check_steps(decoder, model, steps=3)


def test_a_weight_that_is_computed_from_others_is_followed(build_lm: BuildLM) -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(()))

        def forward(self, weight: Tensor) -> Tensor:
            return weight * self.factor

    model = build(build_lm, "Llama", {})
    added = Doubled()
    nn.utils.parametrize.register_parametrization(
        model.model.layers[0].self_attn.q_proj, "weight", added
    )
    decoder = Decoder.of(model)
    check_steps(decoder, model, steps=2)
    with torch.no_grad():
        added.factor.fill_(3.0)
    check_steps(decoder, model, steps=2)


def test_a_copy_has_weights_of_its_own(build_lm: BuildLM) -> None:
    texts = [[1, 2, 3], [4, 5, 6, 7]]
    for kind in ("deepcopy", "pickle"):
        used = CausalLanguageModel(build(build_lm, "GPT2", {}), device="cpu")
        before = used.next_log_probs(flat(texts))
        copied = copy.deepcopy(used) if kind == "deepcopy" else pickle.loads(pickle.dumps(used))
        np.testing.assert_array_equal(copied.next_log_probs(flat(texts)), before)
        with torch.no_grad():
            copied.model.transformer.h[0].mlp.c_fc.weight.mul_(2.0)
            copied.model.lm_head.weight[0] += 1.0
        expected = logits_of(copied.model, texts).log_softmax(-1).numpy()
        found = copied.next_log_probs(flat(texts))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        assert np.abs(found - before).max() > 0.1
        used.forget()
        np.testing.assert_allclose(used.next_log_probs(flat(texts)), before, rtol=0, atol=1e-5)
