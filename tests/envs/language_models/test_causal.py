"""CausalLanguageModel: the numbers of the Transformers model, whichever way they are asked for."""

import copy
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import textrl_envs.language_models.causal as causal
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.causal import CausalLanguageModel
from textrl_envs.language_models.decoder import load_causal_lm
from textrl_envs.language_models.fast.decode import LeanTrunk

BuildLM = Callable[..., Any]

families = pytest.mark.parametrize("family", ["GPT2", "Llama"])

FAMILIES: dict[str, dict[str, Any]] = {
    "GPT2": {},
    "Llama": {},
    "GPTNeoX": {},
    "Mistral": {"sliding_window": 8},
    "Qwen2": {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 0},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 4.0},
    "Gemma2": {"head_dim": 16, "sliding_window": 8, "final_logit_softcapping": 2.0},
    "GPTNeo": {"window_size": 8},
    "Bloom": {},
}
"""Families that treat their logits, windows or positions in ways of their own, as tiny models."""


def build(build_lm: BuildLM, family: str) -> Any:
    return build_lm(family, **FAMILIES[family])


def wrap(model: Any, **options: Any) -> CausalLanguageModel:
    """Makes the language model; that some family is read without a cache is no matter here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*key-value cache by slots")
        return CausalLanguageModel(model, **options)


@torch.no_grad()
def truth(model: Any, texts: list[list[int]], size: int = 32) -> Any:
    """Returns the log-probabilities after each text, by one plain forward for each alone."""
    batches = [torch.tensor([text], device=model.device) for text in texts]
    logits = [model(input_ids=batch, use_cache=False).logits[0, -1] for batch in batches]
    return torch.stack(logits)[:, :size].log_softmax(-1).cpu().numpy()


def flat(texts: list[list[int]], width: int) -> Any:
    return np.array([text + [-1] * (width - len(text)) for text in texts])


def padded(texts: list[list[int]], width: int) -> tuple[Any, Any]:
    ids = flat(texts, width)
    return np.where(ids < 0, 3, ids), (ids >= 0).astype(np.int8)


def random_texts(seed: int, rows: int, longest: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(32, size=n).tolist() for n in rng.integers(1, longest + 1, size=rows)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_agrees_with_its_own_logits_token_by_token(
    build_lm: BuildLM, family: str
) -> None:
    model = build(build_lm, family)
    lm = wrap(model)
    rng = np.random.default_rng(0)
    texts = random_texts(1, rows=3, longest=6)
    for step in range(20):  # past the windows of 8
        np.testing.assert_allclose(
            lm.next_log_probs(flat(texts, 30)), truth(model, texts), rtol=0, atol=2e-4
        )
        texts = [[*text, int(rng.integers(32))] for text in texts]
        if step == 10:
            texts[1] = [4, 5]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_scores_whole_texts_as_its_own_logits_do(
    build_lm: BuildLM, family: str
) -> None:
    model = build(build_lm, family)
    texts = random_texts(2, rows=4, longest=20)
    scores = wrap(model).score(*padded(texts, 22))
    expected = np.zeros((4, 22))
    for row, text in enumerate(texts):
        for end in range(1, len(text)):
            expected[row, end] = truth(model, [text[:end]])[0, text[end]]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("family", ["GPT2", "Llama", "GPTNeoX", "Cohere", "Granite"])
def test_the_common_families_are_read_a_token_at_a_time(
    build_lm: BuildLM, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(build_lm, family)
    lm = CausalLanguageModel(model)  # a warning that the cache does not agree would be an error
    counts: list[int] = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: counts.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    lean = LeanTrunk.read

    def note_lean(self: LeanTrunk, tokens: Any, *rest: Any) -> Any:
        counts.append(tokens.size)
        return lean(self, tokens, *rest)

    monkeypatch.setattr(LeanTrunk, "read", note_lean)
    lm.next_log_probs(flat([[1, 2, 3], [4, 5]], 8))
    counts.clear()
    lm.next_log_probs(flat([[1, 2, 3, 4], [4, 5, 6]], 8))
    lm.log_probs(flat([[1, 2, 3, 4], [4, 5, 6]], 8), np.array([1, 2]))
    assert counts == [2]


def test_a_model_that_the_cache_does_not_suit_is_read_afresh_with_a_warning(
    build_lm: BuildLM,
) -> None:
    with pytest.warns(UserWarning, match="BloomModel does not agree with its key-value cache"):
        CausalLanguageModel(build_lm("Bloom"))


@families
def test_log_probs_are_those_of_the_actions(build_lm: BuildLM, family: str) -> None:
    model = build_lm(family)
    texts, actions = random_texts(3, rows=5, longest=9), np.array([3, 0, 31, 7, 7])
    found = CausalLanguageModel(model).log_probs(flat(texts, 9), actions)
    np.testing.assert_allclose(found, truth(model, texts)[np.arange(5), actions], atol=1e-5)


@families
def test_a_score_is_the_sum_of_the_steps(build_lm: BuildLM, family: str) -> None:
    lm = CausalLanguageModel(build_lm(family))
    texts = [[*text, 9] for text in random_texts(4, rows=6, longest=20)]
    scores = lm.score(*padded(texts, 24))
    totals = np.zeros(6)
    for end in range(1, 21):
        obs = flat([text[:end] for text in texts], 24)
        actions = np.array([text[end] if end < len(text) else 0 for text in texts])
        is_step = np.array([end < len(text) for text in texts])
        totals += np.where(is_step, lm.log_probs(obs, actions), 0.0)
    np.testing.assert_allclose(scores.sum(axis=1), totals, rtol=1e-5)


@families
def test_a_score_is_zero_before_and_behind_and_knows_no_padding(
    build_lm: BuildLM, family: str
) -> None:
    lm = CausalLanguageModel(build_lm(family))
    texts = random_texts(5, rows=4, longest=8)
    narrow, wide = lm.score(*padded(texts, 8)), lm.score(*padded(texts, 30))
    np.testing.assert_allclose(wide[:, :8], narrow, rtol=0, atol=1e-5)
    assert not wide[:, 8:].any()
    assert not narrow[:, 0].any()
    for row, text in enumerate(texts):
        assert not narrow[row, len(text) :].any()
        assert (narrow[row, 1 : len(text)] < 0).all()


def test_scores_do_not_depend_on_the_size_of_the_chunks(
    build_lm: BuildLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = CausalLanguageModel(build_lm("GPT2"))
    texts = padded(random_texts(6, rows=5, longest=9), 9)
    whole = lm.score(*texts)
    for elements in (1, 2 * 32 * 8):
        monkeypatch.setattr(causal, "CHUNK_ELEMENTS", elements)
        np.testing.assert_allclose(lm.score(*texts), whole, rtol=0, atol=1e-5)


def test_texts_of_one_token_score_nothing(build_lm: BuildLM) -> None:
    lm = CausalLanguageModel(build_lm("GPT2"))
    assert lm.score(np.array([[4], [5]]), np.ones((2, 1), np.int8)).tolist() == [[0.0], [0.0]]


@families
def test_log_probs_at_places_equal_those_of_the_text_up_to_there(
    build_lm: BuildLM, family: str
) -> None:
    model = build_lm(family)
    texts = [[1, 2, 3, 4, 5], [6, 7]]
    rows, columns = np.array([0, 1, 0]), np.array([4, 0, 2])
    found = CausalLanguageModel(model).log_probs_at(*padded(texts, 7), (rows, columns))
    expected = truth(model, [[1, 2, 3, 4, 5], [6], [1, 2, 3]])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@families
def test_the_probabilities_of_all_responses_sum_to_one(build_lm: BuildLM, family: str) -> None:
    lm, eos, limit = CausalLanguageModel(build_lm(family, vocab_size=4)), 1, 4
    responses = [
        list(response)
        for length in range(1, limit + 1)
        for response in itertools.product(range(4), repeat=length)
        if eos not in response[:-1] and (response[-1] == eos or length == limit)
    ]
    scores = lm.score(*padded([[2, 3, *response] for response in responses], 6))
    assert float(np.exp(scores[:, 2:].sum(axis=1, dtype=np.float64)).sum()) == pytest.approx(
        1, 1e-5
    )


@families
def test_a_padded_embedding_is_left_out_and_the_rest_renormalised(
    build_lm: BuildLM, family: str
) -> None:
    model = build_lm(family, vocab_size=40)
    lm = CausalLanguageModel(model, vocabulary_size=32)
    texts = random_texts(7, rows=3, longest=6)
    expected = truth(model, texts, size=32)
    assert lm.vocabulary_size == 32
    found = lm.next_log_probs(flat(texts, 8))
    assert found.shape == (3, 32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-5)
    places = np.arange(3), np.array([len(text) - 1 for text in texts])
    at = lm.log_probs_at(*padded(texts, 8), places)
    np.testing.assert_allclose(at, expected, rtol=0, atol=1e-4)
    longer = [[*text, 11] for text in texts]
    scores = lm.score(*padded(longer, 8))[np.arange(3), places[1] + 1]
    np.testing.assert_allclose(scores, expected[:, 11], rtol=0, atol=1e-4)


def test_a_vocabulary_larger_than_the_models_is_refused(build_lm: BuildLM) -> None:
    message = "vocabularies do not match: the environment has 33 tokens, the model 32"
    with pytest.raises(InvalidInputError, match=message):
        CausalLanguageModel(build_lm("GPT2"), vocabulary_size=33)


def test_the_model_is_frozen_and_without_dropout(build_lm: BuildLM) -> None:
    model = build_lm("GPT2", resid_pdrop=0.5).train()
    lm = CausalLanguageModel(model)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    obs = flat([[1, 2, 3]], 5)
    first = lm.next_log_probs(obs)
    lm.forget()
    np.testing.assert_array_equal(first, lm.next_log_probs(obs))


@pytest.mark.parametrize("family", ["GPT2", "Llama", "Cohere", "Granite", "Gemma2"])
def test_new_weights_in_trunk_or_head_are_noticed(build_lm: BuildLM, family: str) -> None:
    model = build_lm(family, **FAMILIES[family], tie_word_embeddings=False)
    lm = wrap(model)
    texts = [[1, 2, 3], [4]]
    before = lm.next_log_probs(flat(texts, 5))
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        with torch.no_grad():
            layer.weight.copy_(layer.weight.flip(0))
        after = lm.next_log_probs(flat(texts, 5))
        assert np.abs(after - before).max() > 0.05  # or this tests nothing
        np.testing.assert_allclose(after, truth(model, texts), rtol=0, atol=2e-4)
        before = after


def test_a_soft_cap_is_kept_where_the_first_logits_are_too_small_to_show_it(
    build_lm: BuildLM,
) -> None:
    model = build_lm("Gemma2", head_dim=16, initializer_range=0.002, tie_word_embeddings=False)
    assert model.config.final_logit_softcapping == 30.0
    lm = wrap(model)
    with torch.no_grad():
        model.lm_head.weight.mul_(10_000)  # as training might
    np.testing.assert_allclose(
        lm.next_log_probs(flat([[1, 2, 3]], 5)), truth(model, [[1, 2, 3]]), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("family", ["GPT2", "Granite"])
def test_a_deep_copy_does_not_change_with_the_original(build_lm: BuildLM, family: str) -> None:
    model = build_lm(family, **FAMILIES[family], tie_word_embeddings=False)
    lm = CausalLanguageModel(model)
    copied = copy.deepcopy(lm)
    obs = flat([[1, 2, 3]], 5)
    before = copied.next_log_probs(obs)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(3)
    np.testing.assert_array_equal(copied.next_log_probs(obs), before)
    assert np.abs(lm.next_log_probs(obs) - before).max() > 0.01


@families
def test_whole_texts_longer_than_the_positions_are_refused(build_lm: BuildLM, family: str) -> None:
    lm = CausalLanguageModel(build_lm(family))
    ids = np.ones((2, 65), np.int64)
    with pytest.raises(InvalidInputError, match="65 tokens; the model has 64 positions"):
        lm.score(ids, np.ones((2, 65), np.int8))
    with pytest.raises(InvalidInputError, match="65 tokens; the model has 64 positions"):
        lm.log_probs_at(ids, np.ones((2, 65), np.int8), (np.array([0]), np.array([64])))


@families
def test_whole_texts_that_fit_may_be_padded_beyond_the_positions(
    build_lm: BuildLM, family: str
) -> None:
    lm = CausalLanguageModel(build_lm(family))
    texts = [[1, 2, 3, 4], [5, 6]]
    np.testing.assert_allclose(
        lm.score(*padded(texts, 70))[:, :4], lm.score(*padded(texts, 4)), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("mask", [[[0, 1, 1]], [[1, 0, 1]], [[0, 0, 0]]])
def test_whole_texts_must_be_right_padded(build_lm: BuildLM, mask: list[list[int]]) -> None:
    lm = CausalLanguageModel(build_lm("GPT2"))
    with pytest.raises(InvalidInputError, match="must be right-padded, with text in column 0"):
        lm.score(np.array([[1, 2, 3]]), np.array(mask))


def test_an_unknown_device_is_refused(build_lm: BuildLM) -> None:
    with pytest.raises(InvalidInputError, match="Device 'quantum' cannot be used"):
        CausalLanguageModel(build_lm("GPT2"), device="quantum")


def test_a_folder_is_loaded_once_a_process(gpt2_folder: Path) -> None:
    lm = CausalLanguageModel.load(str(gpt2_folder), vocabulary_size=32)
    assert CausalLanguageModel.load(str(gpt2_folder), vocabulary_size=32) is lm


def test_a_folder_that_has_changed_is_loaded_again(build_lm: BuildLM, tmp_path: Path) -> None:
    found = []
    for seed in (1, 2):
        model = build_lm("GPT2", seed=seed)
        model.save_pretrained(tmp_path)
        lm = CausalLanguageModel.load(str(tmp_path))
        np.testing.assert_allclose(
            lm.next_log_probs(flat([[1, 2, 3]], 5)), truth(model, [[1, 2, 3]]), rtol=0, atol=1e-5
        )
        found.append(lm)
    assert found[0] is not found[1]


def test_a_saved_model_is_an_ordinary_folder(build_lm: BuildLM, tmp_path: Path) -> None:
    lm = CausalLanguageModel(build_lm("Llama", seed=3))
    lm.save(tmp_path)
    again = CausalLanguageModel(load_causal_lm(str(tmp_path)))
    obs = flat([[1, 2, 3], [4, 5]], 5)
    np.testing.assert_allclose(again.next_log_probs(obs), lm.next_log_probs(obs), rtol=0, atol=1e-6)
