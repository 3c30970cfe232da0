"""Loading causal LMs from safetensors alone, and models that cannot be taken apart."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.decoder import Decoder, choose_device, load_causal_lm

BuildLM = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, build_lm: BuildLM) -> Path:
    """Returns a folder that holds a tiny Llama whose head has weights of its own."""
    build_lm("Llama", tie_word_embeddings=False).save_pretrained(tmp_path)
    return tmp_path


def test_weights_are_loaded_in_float32(tmp_path: Path, build_lm: BuildLM) -> None:
    build_lm("Llama").to(torch.bfloat16).save_pretrained(tmp_path)
    model = load_causal_lm(str(tmp_path))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_folder_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="There is no folder /no/such/folder"):
        load_causal_lm("/no/such/folder")


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"has no config\.json: it is not a Transformers"):
        load_causal_lm(str(tmp_path))


def test_pickled_weights_are_refused_unread(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    message = r"no safetensors weights; it has pytorch_model\.bin, which is pickled"
    with pytest.raises(InvalidInputError, match=message):
        load_causal_lm(str(folder))


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InvalidInputError, match=r"has no safetensors weights\. Save it again"):
        load_causal_lm(str(folder))


def test_a_config_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(InvalidInputError, match="Cannot load a causal LM from"):
        load_causal_lm(str(folder))


def test_a_config_of_an_unknown_kind_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "nothing-known"}')
    with pytest.raises(InvalidInputError, match=r"Cannot load a causal LM from .*nothing-known"):
        load_causal_lm(str(folder))


def test_weights_that_are_cut_off_are_refused(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(InvalidInputError, match="Cannot load a causal LM from"):
        load_causal_lm(str(folder))


def test_weights_of_another_shape_than_the_config_says_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 16}))
    with pytest.raises(InvalidInputError, match="Cannot load a causal LM from"):
        load_causal_lm(str(folder))


def test_a_trunk_without_its_head_is_refused(tmp_path: Path, build_lm: BuildLM) -> None:
    # Transformers would make a head at random, another one each time, and only log it.
    build_lm("Llama", tie_word_embeddings=False).base_model.save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="lm_head"):
        load_causal_lm(str(tmp_path))


def test_a_head_that_is_tied_to_the_embedding_is_no_missing_head(
    tmp_path: Path, build_lm: BuildLM
) -> None:
    model = build_lm("Llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    loaded = load_causal_lm(str(tmp_path))
    torch.testing.assert_close(loaded.lm_head.weight, model.lm_head.weight, rtol=0, atol=0)


def test_a_model_whose_head_is_more_than_a_layer_is_refused() -> None:
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        vocab_size=32,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        is_decoder=True,
    )
    with pytest.raises(InvalidInputError, match="logits of BertLMHeadModel are not its output"):
        Decoder.of(BertLMHeadModel(config))


def test_a_trunk_or_a_classifier_is_no_causal_lm(build_lm: BuildLM) -> None:
    from transformers import GPT2ForSequenceClassification

    config = build_lm("GPT2").config
    for model in (build_lm("GPT2").base_model, GPT2ForSequenceClassification(config)):
        with pytest.raises(InvalidInputError, match="is no causal LM with an output layer"):
            Decoder.of(model)


def test_taking_apart_leaves_the_mode_of_the_model(build_lm: BuildLM) -> None:
    model = build_lm("GPT2").train()
    Decoder.of(model, use_cache=False)
    assert model.training


def test_the_hidden_states_of_padded_texts_are_those_of_the_texts(build_lm: BuildLM) -> None:
    model = build_lm("Llama")
    decoder = Decoder.of(model)
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    with torch.no_grad():
        logits = decoder.head(decoder.hidden(ids))
        expected = model(input_ids=torch.tensor([[5, 6]])).logits
    torch.testing.assert_close(logits[1:, :2], expected, rtol=0, atol=1e-5)


def test_auto_finds_a_device_and_a_bad_name_is_refused() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(
        InvalidInputError, match=r"Device 'quantum' cannot be used \(.*\)\. Try 'cpu'"
    ):
        choose_device("quantum")
