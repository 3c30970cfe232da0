"""Supervised fine-tuning: a causal language model learns to write the responses of a file.

    config = SupervisedConfig(data=Path("pairs.jsonl"), epochs=3)
    result = train_supervised(config, Path("runs/sft"))
    print(result.perplexity_before, result.perplexity_after)

The loss is the negative log-likelihood of the response's tokens and of the EOS behind it, given the
prompt. Every mean is a sum over tokens divided by their number, never a mean of means over batches,
which would count a token of a short batch for more.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from textrl_agents.supervised_config import SupervisedConfig
from textrl_agents.supervised_data import (
    Example,
    TokenSequence,
    cut_text,
    read_examples,
    read_text,
    split_indices,
    tokenise_examples,
    train_tokenizer,
)
from textrl_agents.supervised_model import (
    build_model,
    complete,
    load_model,
    prepare_destination,
    save_folder,
)
from textrl_agents.supervised_training import Progress, Training
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.decoder import choose_device

__all__ = [
    "Progress",
    "Sample",
    "SupervisedConfig",
    "SupervisedResult",
    "train_supervised",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A held-out example beside the model's own continuation."""

    prompt: str
    """A prompt as presented, or the start of a block of text."""
    response: str
    """How it goes on in the data."""
    completion: str
    """How the trained model goes on, taking the most likely token each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedResult:
    """What the training came to."""

    folder: Path
    """The saved model: a Transformers folder, and training.json, which holds these numbers."""
    parameters: int
    """Trained numbers; tied weights count once."""
    training_examples: int
    """Examples, or blocks of text, that were learnt."""
    held_out_examples: int
    """Those that perplexity was measured on."""
    dropped_examples: int
    """Those left out as longer than max_tokens."""
    steps: int
    """Updates made."""
    tokens: int
    """Tokens read in training, an epoch's repeats included, padding not."""
    perplexities: tuple[tuple[int, float], ...]
    """Held-out perplexities a token, as (step, perplexity), from the start to the end; with
    patience, the last is that of the best weights, put back."""
    is_interrupted: bool
    """Whether the training was stopped before its last update."""
    sample: Sample
    """One held-out example and what the trained model makes of it."""

    @property
    def perplexity_before(self) -> float:
        """Held-out perplexity before the first update."""
        return self.perplexities[0][1]

    @property
    def perplexity_after(self) -> float:
        """Held-out perplexity of the model as it is saved."""
        return self.perplexities[-1][1]


# --- the training ---


def train_supervised(
    config: SupervisedConfig,
    folder: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SupervisedResult:
    """Trains a model and saves it as a Transformers folder.

    Ctrl-C (KeyboardInterrupt) ends the training early; what was learnt by then is saved. The same
    config, data, machine and number of threads give the same bytes.

    Args:
        config: data, model and training.
        folder: where the model goes; it appears there only when it is complete.
        overwrite: whether an earlier result in `folder` may be replaced.
        progress: called every `log_every_steps` updates.

    Raises:
        InvalidInputError: the data, the model to continue from, the device or `folder` cannot be
            used; or the loss is no longer finite.
    """
    prepare_destination(folder, overwrite=overwrite)
    device = choose_device(config.device)
    data = _read(config)
    model, tokenizer = _model(config, data)
    sequences = _tokenise(config, data, tokenizer)
    fitting = _fitting(sequences, config)
    generator = torch.Generator().manual_seed(config.seed)
    learnt, held_out = split_indices(
        len(fitting), held_out_fraction=config.held_out_fraction, generator=generator
    )
    training = Training(
        config,
        model.to(device),  # type: ignore[arg-type]
        learnt=[fitting[i] for i in learnt],
        held_out=[fitting[i] for i in held_out],
        generator=generator,
    )
    is_interrupted = training.run(progress)
    result = SupervisedResult(
        folder=folder,
        parameters=sum(p.numel() for p in model.parameters()),
        training_examples=len(learnt),
        held_out_examples=len(held_out),
        dropped_examples=len(sequences) - len(fitting),
        steps=training.step,
        tokens=training.tokens,
        perplexities=tuple(training.perplexities),
        is_interrupted=is_interrupted,
        sample=_sample(model, tokenizer, fitting[held_out[0]], config.max_tokens),
    )
    save_folder(folder, model, tokenizer, record=_record(config, result))
    return result


def _read(config: SupervisedConfig) -> list[Example] | str:
    if config.data.suffix.lower() != ".jsonl":
        return read_text(config.data)
    return read_examples(
        config.data,
        prompt_field=config.prompt_field,
        response_field=config.response_field,
        template=config.template,
    )


def _model(
    config: SupervisedConfig, data: list[Example] | str
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    if config.model is not None:
        return load_model(config.model, max_tokens=config.max_tokens)
    texts = [data] if isinstance(data, str) else [t for e in data for t in (e.prompt, e.response)]
    tokenizer = train_tokenizer(
        texts, vocabulary_size=config.vocabulary_size, split_digits=config.split_digits
    )
    return build_model(config, tokenizer), tokenizer


def _tokenise(
    config: SupervisedConfig, data: list[Example] | str, tokenizer: PreTrainedTokenizerFast
) -> list[TokenSequence]:
    if isinstance(data, str):
        return cut_text(data, tokenizer, max_tokens=config.max_tokens)
    return tokenise_examples(data, tokenizer, train_on_prompt=config.train_on_prompt)


def _fitting(sequences: Sequence[TokenSequence], config: SupervisedConfig) -> list[TokenSequence]:
    fitting = [s for s in sequences if len(s.token_ids) <= config.max_tokens]
    if len(fitting) < 2:
        raise InvalidInputError(
            f"Expected at least 2 examples or blocks of up to {config.max_tokens} tokens in "
            f"{config.data}, one to learn and one to hold out; got {len(fitting)} of "
            f"{len(sequences)}. Add text, or change max_tokens."
        )
    return fitting


# --- the result ---


def _sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sequence: TokenSequence,
    max_tokens: int,
) -> Sample:
    token_ids, length = sequence.token_ids, sequence.prompt_length
    eos = tokenizer.eos_token_id
    assert isinstance(eos, int)
    completion = complete(model, token_ids[:length], max_new_tokens=max_tokens - length, eos=eos)
    return Sample(
        prompt=_text(tokenizer, token_ids[:length].tolist()),
        response=_text(tokenizer, token_ids[length:].tolist()),
        completion=_text(tokenizer, completion),
    )


def _text(tokenizer: PreTrainedTokenizerFast, token_ids: list[int]) -> str:
    text = tokenizer.decode(token_ids, skip_special_tokens=True)
    assert isinstance(text, str)
    return text


def _record(config: SupervisedConfig, result: SupervisedResult) -> dict[str, Any]:
    """Returns what training.json holds: nothing that differs between two equal trainings."""
    numbers = dataclasses.asdict(result)
    del numbers["folder"]
    settings = {
        name: value.as_posix() if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(config).items()
    }
    return {"config": settings, **numbers}
