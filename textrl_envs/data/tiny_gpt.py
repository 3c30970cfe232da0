"""Trains the tiny GPT-2 that is the reference of the environments with a Transformers model."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

from textrl_envs.data.dialogues import VOCABULARY, dialogues
from textrl_envs.data.stories import EOS, stories

__all__ = ["corpus", "train_tiny_gpt"]

STEPS = 3500
TEXTS_PER_STEP = 32
LEARNING_RATE = 4e-3


def train_tiny_gpt(seed: int = 0) -> GPT2LMHeadModel:
    """Returns a GPT-2 of 109 thousand weights, trained on one thread on texts drawn as it goes."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(_config())  # without dropout, so that no mode need be set
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(
        optimizer, start_factor=1.0, end_factor=0.0, total_iters=STEPS
    )
    texts = corpus(np.random.default_rng(seed))
    for _ in range(STEPS):
        _loss(model, list(itertools.islice(texts, TEXTS_PER_STEP))).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model


def corpus(rng: np.random.Generator) -> Iterator[list[str]]:
    """Yields a story and a dialogue in turn, without end, as lists of words."""
    while True:
        yield from stories(rng, 1)
        for dialogue in dialogues(rng, 1):
            yield [*dialogue.opening, *dialogue.reply]


def _config() -> GPT2Config:
    return GPT2Config(
        vocab_size=len(VOCABULARY),
        n_positions=64,
        n_layer=2,
        n_embd=64,
        n_head=4,
        activation_function="relu",  # a quarter quicker to read by than GPT-2's own
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        # Ten times the usual: with it, so narrow a model learns to copy nouns in minutes.
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=VOCABULARY.index(EOS),
        pad_token_id=None,  # Transformers warns of texts without a mask where there is one
    )


def _loss(model: GPT2LMHeadModel, texts: list[list[str]]) -> Tensor:
    """Returns the mean cross-entropy of a token given those before it, in nats."""
    word_ids = {word: index for index, word in enumerate(VOCABULARY)}
    rows = [torch.tensor([word_ids[word] for word in text]) for text in texts]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)  # [B, L]
    # Padding stands behind every text, so that no token looks at it; the loss leaves out -100.
    inputs = ids.clamp(min=0)
    logits = model(input_ids=inputs, attention_mask=torch.ones_like(ids)).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
