"""Causal language models for supervised fine-tuning: built small or taken from a folder; saved.

build_model    a new model from a few numbers
load_model     a model and its tokenizer from a Transformers folder
complete       a prompt's most likely continuation
save_folder    model, tokenizer and record, as one folder that appears whole or not at all
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from textrl_agents.supervised_config import SupervisedConfig
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.decoder import load_causal_lm
from textrl_envs.tokenizers import load_tokenizer

__all__ = [
    "RECORD_NAME",
    "build_model",
    "complete",
    "load_model",
    "prepare_destination",
    "save_folder",
]

RECORD_NAME = "training.json"
"""The file that tells a folder written by `save_folder`."""


def build_model(config: SupervisedConfig, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Returns a new model in float32 on the CPU; the seed alone decides its weights."""
    build = {"gpt2": _gpt2, "llama": _llama}[config.architecture]
    # Layers draw their weights from the global generator, so it is put back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build(config, tokenizer)


def _gpt2(config: SupervisedConfig, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=config.max_tokens,
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
            # The same function as GPT-2's own "gelu_new", as one operation instead of eight.
            activation_function="gelu_pytorch_tanh",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **_special_ids(tokenizer),
        )
    )


def _llama(config: SupervisedConfig, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=config.max_tokens,
            hidden_size=config.width,
            # Three matrices of 8/3 the width hold as many weights as GPT-2's two of 4.
            intermediate_size=round(config.width / 3) * 8,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            attention_dropout=0.0,
            tie_word_embeddings=True,
            **_special_ids(tokenizer),
        )
    )


def _special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    eos = tokenizer.eos_token_id
    return {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": tokenizer.pad_token_id}


def load_model(folder: Path, *, max_tokens: int) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Reads a causal language model, in float32 on the CPU, and its fast tokenizer.

    Args:
        folder: as `save_pretrained` writes it.
        max_tokens: the longest sequence the model must be able to read.

    Raises:
        InvalidInputError: no such folder, no config.json, weights other than safetensors, a
            tokenizer that does not fit the model or has no EOS, or too short a context.
    """
    if not folder.is_dir():
        raise InvalidInputError(
            f"Expected a Transformers model folder; there is none at {folder}. "
            "Give the folder that save_pretrained wrote."
        )
    with _no_progress_bars():
        model = load_causal_lm(str(folder))
    tokenizer = load_tokenizer(str(folder))
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InvalidInputError(
            f"Expected a fast tokenizer in {folder}; got {type(tokenizer).__name__}. "
            "Save one with a tokenizer.json."
        )
    _check_sizes(model, tokenizer, folder, max_tokens)
    return model, tokenizer


def _check_sizes(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, max_tokens: int
) -> None:
    embedding: Any = model.get_input_embeddings()
    vocabulary_size = embedding.weight.shape[0]
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


def prepare_destination(folder: Path, *, overwrite: bool) -> None:
    """Makes sure that a result can be written to `folder`, before hours are spent on it.

    Raises:
        InvalidInputError: there is something, and it is no earlier result or may not be replaced;
            or the folder around it cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    except OSError as error:
        raise InvalidInputError(
            f"Cannot save to {folder}: {error.strerror}. Choose another folder."
        ) from error
    if is_free:
        return
    if not (folder / RECORD_NAME).is_file():
        raise InvalidInputError(
            f"Expected a new folder to save to; {folder} holds other files. Choose another."
        )
    if not overwrite:
        raise InvalidInputError(
            f"Expected a new folder to save to; {folder} holds an earlier result. "
            "Choose another, or replace it with overwrite=True (--overwrite)."
        )


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    # Transformers draws a bar for each file of weights, in the middle of our own.
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def save_folder(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    record: Mapping[str, Any],
) -> None:
    """Writes model, tokenizer and record; a reader finds the whole folder or the one before.

    Args:
        folder: replaced if it exists, so ask `prepare_destination` first.
        model: saved as safetensors with its config and generation config.
        tokenizer: saved beside it.
        record: JSON values, written to training.json.
    """
    # Siblings: renaming is atomic only within one file system.
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    former = folder.with_name(f".{folder.name}.former-{os.getpid()}")
    try:
        with _no_progress_bars():
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
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=eos, pad_token_id=eos
    )
    output = model.generate(  # type: ignore[operator]
        input_ids, attention_mask=torch.ones_like(input_ids), generation_config=settings
    )
    continuation: list[int] = output[0, len(prompt_ids) :].tolist()
    return continuation
