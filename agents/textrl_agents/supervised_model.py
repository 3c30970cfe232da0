"""Causal language models for supervised fine-tuning: built small, or taken from a folder; and saved.

build_model    a new model from a few numbers
load_model     a model and its tokenizer from a Transformers folder
complete       a prompt's most likely continuation
save_folder    both, and a record of the training, as one folder that appears whole or not at all
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from textrl_envs.errors import InvalidInputError
from textrl_envs.tokenizers import load_tokenizer

__all__ = [
    "RECORD_NAME",
    "Architecture",
    "build_model",
    "check_free",
    "complete",
    "load_model",
    "save_folder",
]

Architecture = Literal["gpt2", "llama"]
RECORD_NAME = "training.json"
"""The file that tells a folder written by `save_folder`."""


def build_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    architecture: Architecture,
    layers: int,
    width: int,
    heads: int,
    max_tokens: int,
    seed: int,
) -> PreTrainedModel:
    """Returns a new model in float32 on the CPU; the seed alone decides its weights."""
    sizes = (len(tokenizer), layers, width, heads, max_tokens)
    build = {"gpt2": _gpt2, "llama": _llama}[architecture]
    # Layers draw their weights from the global generator, so it is put back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(*sizes, tokenizer)
    return model


def _gpt2(
    vocabulary_size: int,
    layers: int,
    width: int,
    heads: int,
    max_tokens: int,
    tokenizer: PreTrainedTokenizerFast,
) -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=vocabulary_size,
        n_positions=max_tokens,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        # The same function as GPT-2's own "gelu_new", as one operation instead of eight.
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **_special_ids(tokenizer),
    )
    return GPT2LMHeadModel(config)


def _llama(
    vocabulary_size: int,
    layers: int,
    width: int,
    heads: int,
    max_tokens: int,
    tokenizer: PreTrainedTokenizerFast,
) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        max_position_embeddings=max_tokens,
        hidden_size=width,
        # Three matrices of 8/3 the width hold as many weights as GPT-2's two of 4.
        intermediate_size=-(-8 * width // 3 // 8) * 8,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        attention_dropout=0.0,
        tie_word_embeddings=True,
        **_special_ids(tokenizer),
    )
    return LlamaForCausalLM(config)


def _special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    eos = tokenizer.eos_token_id
    return {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": tokenizer.pad_token_id}


def load_model(folder: Path, *, max_tokens: int) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Reads a causal language model, in float32 on the CPU, and its fast tokenizer.

    Args:
        folder: as `save_pretrained` writes it.
        max_tokens: the longest sequence the model must be able to read.

    Raises:
        InvalidInputError: no such folder, no config.json, weights other than safetensors, weights or
            a tokenizer that do not fit the model, a tokenizer without EOS, or too short a context.
    """
    _check_files(folder)
    model = _read_weights(folder)
    tokenizer = load_tokenizer(str(folder))
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InvalidInputError(
            f"Expected a fast tokenizer in {folder}; got {type(tokenizer).__name__}. "
            "Save one with a tokenizer.json."
        )
    vocabulary_size = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > vocabulary_size:
        raise InvalidInputError(
            f"The tokenizer in {folder} has {len(tokenizer)} tokens, its model only "
            f"{vocabulary_size}. Call model.resize_token_embeddings and save the model again."
        )
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and max_tokens > context:
        raise InvalidInputError(
            f"max_tokens must be at most the {context} tokens that the model in {folder} reads; "
            f"got {max_tokens}. Lower max_tokens."
        )
    return model, tokenizer


def _check_files(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        got = "a folder without config.json" if folder.is_dir() else "no such folder"
        raise InvalidInputError(
            f"Expected a Transformers model folder at {folder}; got {got}. "
            "Give the folder that save_pretrained wrote."
        )
    if not any(folder.glob("*.safetensors")):
        names = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth"})
        got = f"only {', '.join(names)}" if names else "no weights"
        raise InvalidInputError(
            f"Expected safetensors weights in {folder}; got {got}. Pickled weights run code when "
            "read: convert them with model.save_pretrained, which writes model.safetensors."
        )


def _read_weights(folder: Path) -> PreTrainedModel:
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InvalidInputError(
            f"Cannot read a causal language model from {folder} ({reason}). "
            "Give the folder that save_pretrained wrote."
        ) from error
    # Transformers fills missing weights with noise and only remarks on it.
    if loading["missing_keys"]:
        raise InvalidInputError(
            f"Weights are missing in {folder}: {', '.join(sorted(loading['missing_keys'])[:3])}. "
            "Give the folder of a complete causal language model."
        )
    assert isinstance(model, PreTrainedModel)
    return model


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Checks that a result may be written to `folder`, before hours are spent on it.

    Raises:
        InvalidInputError: there is something, and it is no earlier result or may not be replaced.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    is_result = (folder / RECORD_NAME).is_file()
    if not is_result:
        raise InvalidInputError(
            f"Expected a new folder to save to; {folder} holds other files. Choose another."
        )
    if not overwrite:
        raise InvalidInputError(
            f"Expected a new folder to save to; {folder} holds an earlier result. "
            "Choose another, or overwrite it with overwrite=True (--overwrite)."
        )


def save_folder(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    record: Mapping[str, Any],
) -> None:
    """Writes model, tokenizer and record; a reader finds the whole folder or the one before.

    Args:
        folder: replaced if it exists, so ask `check_free` first.
        model: saved as safetensors with its config and generation config.
        tokenizer: saved beside it.
        record: JSON values, written to training.json.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Siblings: renaming is atomic only within one file system.
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    former = folder.with_name(f".{folder.name}.former-{os.getpid()}")
    try:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        text = json.dumps(record, indent=2, ensure_ascii=False)
        (partial / RECORD_NAME).write_text(text + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(former)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    # Only now: until here the earlier result is the only one there is.
    shutil.rmtree(former, ignore_errors=True)


def complete(
    model: PreTrainedModel, prompt_ids: Tensor, *, max_new_tokens: int, eos: int
) -> list[int]:
    """Returns the most likely continuation token by token, without the prompt, EOS included.

    Args:
        model: a causal language model.
        prompt_ids: int64, shape (T,).
        max_new_tokens: the longest continuation.
        eos: the token that ends it.
    """
    input_ids = prompt_ids[None].to(model.device)
    output = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        generation_config=GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=eos, pad_token_id=eos
        ),
    )
    continuation: list[int] = output[0, len(prompt_ids) :].tolist()
    return continuation
