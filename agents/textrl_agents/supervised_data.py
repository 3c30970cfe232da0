"""Text for supervised fine-tuning: read, tokenised, split, and cut into batches of similar length.

read_examples     a JSONL file of prompts and responses -> list of Example
train_tokenizer   texts -> a byte-level BPE tokenizer
tokenise_examples Examples -> TokenSequences with the tokens to be learnt marked
plan_batches      lengths -> which sequences go together
pad               TokenSequences -> one Batch
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from textrl_envs.errors import InvalidInputError, nearest

__all__ = [
    "EOS_TOKEN",
    "PAD_TOKEN",
    "Batch",
    "Example",
    "TokenSequence",
    "cut_text",
    "pad",
    "plan_batches",
    "read_examples",
    "read_text",
    "split_indices",
    "tokenise_examples",
    "train_tokenizer",
]

EOS_TOKEN = "<|endoftext|>"
PAD_TOKEN = "<|pad|>"
# Sequences are sorted by length within pools of about so many batches: enough for rows of nearly
# one length, few enough that which sequences meet in a batch still changes from epoch to epoch.
POOL_BATCHES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A prompt as presented, the response to learn, and where they were read."""

    prompt: str
    response: str
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """The tokens of one example or one block of text."""

    token_ids: Tensor
    """int64, shape (T,)."""
    is_target: Tensor
    """bool, shape (T,): whether the token is learnt. Never the first: nothing predicts it."""
    prompt_length: int
    """Tokens in front that are given, not written, when the model is sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Sequences side by side, padded on the right."""

    input_ids: Tensor
    """int64, shape (B, T)."""
    is_target: Tensor
    """bool, shape (B, T); False on padding."""


# --- reading ---


def read_examples(
    path: Path, *, prompt_field: str, response_field: str, template: str
) -> list[Example]:
    """Reads a JSONL file: every line an object that holds the two fields as text.

    Args:
        path: the file; blank lines are passed over.
        prompt_field: name of the prompt.
        response_field: name of the response.
        template: how a prompt is presented; `{prompt}` stands for its text.

    Raises:
        InvalidInputError: the file cannot be read or holds no example, a line is no JSON object, or
            a field is missing, empty or no text; the message names file and line.
    """
    examples = []
    # Not str.splitlines: it also cuts at characters that JSON strings may hold, such as U+2028.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            value = _parse_object(line, place)
            prompt = template.replace("{prompt}", _text_field(value, prompt_field, place))
            response = _text_field(value, response_field, place)
            examples.append(Example(prompt=prompt, response=response, place=place))
    return examples


def read_text(path: Path) -> str:
    """Reads a UTF-8 file.

    Raises:
        InvalidInputError: the file is missing, unreadable, not UTF-8, or blank.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(
            f"Cannot read training data {path}: {error.strerror}. "
            "Give a readable text or JSONL file."
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"Training data {path} is not UTF-8 at byte {error.start}. Save it as UTF-8."
        ) from error
    if not text.strip():
        raise InvalidInputError(f"Training data {path} is empty; expected text to learn from.")
    return text


def _parse_object(line: str, place: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidInputError(
            f"{place}: not valid JSON ({error.msg} at column {error.colno}); "
            "expected one object a line. Name a plain text file .txt."
        ) from error
    if not isinstance(value, dict):
        raise InvalidInputError(f"{place}: expected a JSON object; got {type(value).__name__}.")
    return value


def _text_field(value: Mapping[str, Any], field: str, place: str) -> str:
    if field not in value:
        raise InvalidInputError(
            f"{place}: no field {field!r}. {nearest(field, value)} "
            "Choose them with prompt_field and response_field."
        )
    text = value[field]
    if not isinstance(text, str) or not text.strip():
        raise InvalidInputError(f"{place}: {field!r} must be non-empty text; got {text!r:.80}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair, which no tokenizer takes.
        raise InvalidInputError(
            f"{place}: {field!r} holds the lone surrogate {text[error.start]!r}; expected Unicode "
            "text. Remove it."
        ) from error
    return text


# --- tokens ---


def train_tokenizer(
    texts: Sequence[str], *, vocabulary_size: int, split_digits: bool
) -> PreTrainedTokenizerFast:
    """Learns a byte-level BPE vocabulary; the same texts give the same vocabulary.

    Every text can be encoded, since all 256 bytes are tokens, and decodes to itself. No special
    token is added on encoding.

    Args:
        texts: what to learn from.
        vocabulary_size: tokens at most, EOS and padding included; fewer where the texts are short.
        split_digits: whether every digit stays a token of its own.
    """
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if split_digits else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[EOS_TOKEN, PAD_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        # Distinct from EOS: a model taught on padding that looks like EOS never learns to stop.
        pad_token=PAD_TOKEN,
        clean_up_tokenization_spaces=False,
    )


def tokenise_examples(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast, *, train_on_prompt: bool
) -> list[TokenSequence]:
    """Tokenises each example as prompt, response, EOS.

    Prompt and response are tokenised apart, as in the environment, where the prompt stands alone
    and the response follows token by token. Tokenised as one text, the two could share a token
    across their boundary, and the model would be taught a sequence it never meets.

    Raises:
        InvalidInputError: a response holds EOS or padding, or a prompt has no token.
    """
    prompts = _encode([e.prompt for e in examples], tokenizer, add_special_tokens=True)
    responses = _encode([e.response for e in examples], tokenizer, add_special_tokens=False)
    return [
        _join(example, _without_eos(prompt, tokenizer), response, tokenizer, train_on_prompt)
        for example, prompt, response in zip(examples, prompts, responses, strict=True)
    ]


def cut_text(
    text: str, tokenizer: PreTrainedTokenizerFast, *, max_tokens: int
) -> list[TokenSequence]:
    """Tokenises a text, EOS behind it, and cuts blocks of `max_tokens`, the last shorter."""
    (token_ids,) = _encode([text], tokenizer, add_special_tokens=False)
    token_ids.append(_eos(tokenizer))
    blocks = [token_ids[i : i + max_tokens] for i in range(0, len(token_ids), max_tokens)]
    # Of a block of one token nothing is predicted.
    return [
        _sequence(block, first_target=1, prompt_length=len(block) // 2)
        for block in blocks
        if len(block) > 1
    ]


def _encode(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, *, add_special_tokens: bool
) -> list[list[int]]:
    # verbose=False: no remark on texts longer than the model reads; those are dropped, and counted.
    encoded = tokenizer(list(texts), add_special_tokens=add_special_tokens, verbose=False)
    rows: list[list[int]] = encoded["input_ids"]
    return rows


def _join(
    example: Example,
    prompt: list[int],
    response: list[int],
    tokenizer: PreTrainedTokenizerFast,
    train_on_prompt: bool,
) -> TokenSequence:
    # An EOS within would teach the model to write on behind it, where the environment has ended.
    special = set(response) & {_eos(tokenizer), tokenizer.pad_token_id}
    if special:
        raise InvalidInputError(
            f"{example.place}: the response holds the special token "
            f"{tokenizer.decode([min(special)])!r}; expected plain text, EOS is added. Remove it."
        )
    if not prompt:
        raise InvalidInputError(f"{example.place}: the prompt has no token; a model needs one.")
    return _sequence(
        [*prompt, *response, _eos(tokenizer)],
        first_target=1 if train_on_prompt else len(prompt),
        prompt_length=len(prompt),
    )


def _without_eos(token_ids: list[int], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    # Some tokenizers end every text with EOS; behind a prompt the response follows instead.
    return token_ids[:-1] if token_ids[-1:] == [_eos(tokenizer)] else token_ids


def _eos(tokenizer: PreTrainedTokenizerFast) -> int:
    eos = tokenizer.eos_token_id
    assert isinstance(eos, int), "load_tokenizer and train_tokenizer give tokenizers with one EOS"
    return eos


def _sequence(token_ids: list[int], *, first_target: int, prompt_length: int) -> TokenSequence:
    return TokenSequence(
        token_ids=torch.tensor(token_ids),
        is_target=torch.arange(len(token_ids)) >= first_target,
        prompt_length=prompt_length,
    )


# --- batches ---


def split_indices(
    count: int, *, held_out_fraction: float, generator: torch.Generator
) -> tuple[list[int], list[int]]:
    """Splits 0..count-1 at random into a training and a held-out part, at least one in each."""
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    held_out = min(max(1, round(count * held_out_fraction)), count - 1)
    return sorted(order[held_out:]), sorted(order[:held_out])


def plan_batches(
    lengths: Sequence[int], *, batch_tokens: int, generator: torch.Generator
) -> list[list[int]]:
    """Groups sequences of similar length, in random order; each is in exactly one batch.

    Args:
        lengths: tokens of each sequence, none above `batch_tokens`.
        batch_tokens: tokens of a batch at most, padding included.
        generator: decides which sequences meet, and the order of the batches.

    Returns:
        Batches of indices into `lengths`.
    """
    order: list[int] = torch.randperm(len(lengths), generator=generator).tolist()
    mean_length = sum(lengths) / len(lengths)
    pool_size = max(1, round(POOL_BATCHES * batch_tokens / mean_length))
    batches = []
    for start in range(0, len(order), pool_size):
        pool = sorted(order[start : start + pool_size], key=lengths.__getitem__)
        batches += list(_fill(pool, lengths, batch_tokens))
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _fill(indices: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Cuts indices of rising length into batches that fill `batch_tokens` when padded."""
    batch: list[int] = []
    for index in indices:
        if batch and (len(batch) + 1) * lengths[index] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def pad(sequences: Sequence[TokenSequence], *, fill_id: int) -> Batch:
    """Puts sequences side by side, padded on the right with `fill_id`."""
    shape = (len(sequences), max(len(s.token_ids) for s in sequences))
    input_ids = torch.full(shape, fill_id, dtype=torch.int64)
    is_target = torch.zeros(shape, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence.token_ids)] = sequence.token_ids
        is_target[row, : len(sequence.is_target)] = sequence.is_target
    return Batch(input_ids=input_ids, is_target=is_target)
