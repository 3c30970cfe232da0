"""Supervised fine-tuning: a causal language model learns to write the responses of a file.

    config = SupervisedConfig(data=Path("pairs.jsonl"), epochs=3)
    result = train_supervised(config, Path("runs/sft"))
    print(result.perplexity_before, result.perplexity_after)

The loss is the negative log-likelihood of the response's tokens and of the EOS behind it, given the
prompt. Every mean is a sum over tokens divided by their number, never a mean of means over batches,
which would count a token of a short batch for more.
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from textrl_agents.supervised_data import (
    Batch,
    Example,
    TokenSequence,
    cut_text,
    pad,
    plan_batches,
    read_examples,
    read_text,
    split_indices,
    tokenise_examples,
    train_tokenizer,
)
from textrl_agents.supervised_model import (
    Architecture,
    build_model,
    check_free,
    complete,
    load_model,
    save_folder,
)
from textrl_envs.errors import InvalidInputError

__all__ = [
    "Progress",
    "Sample",
    "SupervisedConfig",
    "SupervisedResult",
    "learning_rate_factor",
    "negative_log_likelihood",
    "perplexity",
    "train_supervised",
]

Progress = Callable[[Mapping[str, float]], None]
"""Called with step, steps, loss, learning_rate, gradient_norm, tokens, seconds, tokens_per_second and
held_out_perplexity, the newest measured."""

MIN_VOCABULARY = 258
"""256 bytes, EOS and padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedConfig:
    """What to learn from, which model learns it, and how."""

    data: Path
    """A JSONL file of prompts and responses (.jsonl), or a plain text file (any other suffix)."""
    prompt_field: str = "prompt"
    """Where a line of the JSONL file holds the prompt."""
    response_field: str = "response"
    """Where it holds the response."""
    template: str = "{prompt}"
    """How a prompt is presented; {prompt} stands for its text. Reinforcement learning on the result
    needs the same template. Ending it with a line break keeps words from crossing the boundary."""
    train_on_prompt: bool = False
    """Whether the prompt's own tokens are learnt too."""
    max_tokens: int = 256
    """Longest example in tokens, EOS included; a longer one is left out, and counted. Blocks of a plain
    text have this length, and a new model reads no further."""

    model: Path | None = None
    """A Transformers folder to continue from, with its tokenizer; None trains a new model. The six
    fields below describe a new model only."""
    architecture: Architecture = "gpt2"
    """Kind of the new model."""
    layers: int = 4
    """Its blocks."""
    width: int = 128
    """Its hidden size."""
    heads: int = 4
    """Its attention heads; they divide the width."""
    vocabulary_size: int = 2048
    """Tokens of its tokenizer at most, learnt from the same data; at least 258."""
    split_digits: bool = False
    """Whether every digit is a token of its own, rather than common numbers too."""

    epochs: int = 3
    """Passes over the training part."""
    max_steps: int | None = None
    """Ends the training earlier, after so many updates; None goes through all epochs."""
    batch_tokens: int = 4096
    """Tokens an update reads at most, padding included."""
    learning_rate: float = 1e-3
    """Highest learning rate. About 1e-3 suits a small new model, 1e-5 to 5e-5 a pretrained one."""
    warmup_fraction: float = 0.05
    """Part of the updates over which the learning rate rises from 0."""
    decay: Literal["cosine", "linear"] = "cosine"
    """How it falls to 0 after that."""
    weight_decay: float = 0.01
    """Decoupled decay of the weight matrices; biases and normalisation gains are left alone."""
    max_gradient_norm: float = 1.0
    """Longer gradients are scaled down to this norm."""

    held_out_fraction: float = 0.05
    """Part of the examples, or blocks, that is never learnt and on which perplexity is measured."""
    evaluate_every_steps: int = 200
    """Updates from one held-out perplexity to the next."""
    log_every_steps: int = 10
    """Updates from one progress report to the next."""
    seed: int = 0
    """Decides the new model's weights, the split and the batches."""
    device: str = "auto"
    """Where to train, as in "cpu" or "cuda:0"; "auto" takes CUDA where there is one."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        _check(
            "max_steps", self.max_steps, self.max_steps is None or self.max_steps >= 1, "at least 1"
        )
        _check("max_tokens", self.max_tokens, self.max_tokens >= 2, "at least 2")
        for name in ("learning_rate", "max_gradient_norm"):
            value = getattr(self, name)
            _check(name, value, 0 < value < math.inf, "above 0")
        _check("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "0 or above")
        _check("warmup_fraction", self.warmup_fraction, 0 <= self.warmup_fraction <= 1, "in [0, 1]")
        is_part = 0 < self.held_out_fraction < 1
        _check("held_out_fraction", self.held_out_fraction, is_part, "above 0 and below 1")
        self._check_fits()
        if "{prompt}" not in self.template:
            raise InvalidInputError(
                f"template must hold {{prompt}}, where the prompt goes; got {self.template!r}."
            )

    def _check_fits(self) -> None:
        if self.vocabulary_size < MIN_VOCABULARY:
            raise InvalidInputError(
                f"vocabulary_size must be at least {MIN_VOCABULARY} (256 bytes and 2 special tokens); "
                f"got {self.vocabulary_size}. Try 2048."
            )
        if self.width % self.heads:
            raise InvalidInputError(
                f"heads must divide width={self.width}; got {self.heads}. "
                f"Try {math.gcd(self.width, self.heads)}."
            )
        if self.batch_tokens < self.max_tokens:
            raise InvalidInputError(
                f"batch_tokens must be at least max_tokens={self.max_tokens}; got {self.batch_tokens}. "
                f"Try {16 * self.max_tokens}."
            )


_COUNTS = ("layers", "width", "heads", "epochs", "evaluate_every_steps", "log_every_steps")


def _check(name: str, value: object, is_right: bool, expected: str) -> None:  # noqa: FBT001
    if not is_right:
        raise InvalidInputError(f"{name} must be {expected}; got {value!r}. Change {name}.")


@dataclass(frozen=True, slots=True)
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
    """Held-out perplexities a token, as (step, perplexity), from the start to the end."""
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
        """Held-out perplexity after the last update."""
        return self.perplexities[-1][1]


# --- the loss ---


def negative_log_likelihood(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, int]:
    """Adds up -log p(token | tokens before it) over the targets of a batch.

    Args:
        model: a causal language model.
        batch: B padded sequences, on any device.

    Returns:
        The sum in nats, shape (), with gradient; and the number of targets.
    """
    input_ids = batch.input_ids.to(model.device)
    is_next_target = batch.is_target[:, 1:].to(
        model.device
    )  # (B, T-1): whether position t predicts a target
    # Where no row has a target, as over the shortest prompt, the large output layer is spared.
    positions = is_next_target.any(dim=0).nonzero().squeeze(1)  # (K,)
    # No attention mask: with padding on the right, no token attends to padding, and without one the
    # faster causal kernel is taken. The padding's own outputs are no targets.
    logits = model(
        input_ids=input_ids[:, :-1], use_cache=False, logits_to_keep=positions
    ).logits  # (B, K, V)
    chosen = is_next_target[:, positions]  # (B, K)
    targets = input_ids[:, 1:][:, positions][chosen]  # (N,)
    loss = torch.nn.functional.cross_entropy(logits[chosen].float(), targets, reduction="sum")
    return loss, len(targets)


@torch.no_grad()
def perplexity(model: PreTrainedModel, batches: Sequence[Batch]) -> float:
    """Returns exp(mean negative log-likelihood a target token) over all batches together."""
    sums, counts = zip(*(negative_log_likelihood(model, batch) for batch in batches), strict=True)
    mean_nats = math.fsum(s.item() for s in sums) / sum(counts)
    # Past 700 nats exp overflows: a diverged model is infinitely perplexed, which is no error.
    return math.exp(mean_nats) if mean_nats < 700 else math.inf


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
    check_free(folder, overwrite=overwrite)
    device = _device(config.device)
    data = _read(config)
    model, tokenizer = _model(config, data)
    sequences = _tokenise(config, data, tokenizer)
    fitting = _fitting(sequences, config)
    generator = torch.Generator().manual_seed(config.seed)
    learnt, held_out = split_indices(
        len(fitting), held_out_fraction=config.held_out_fraction, generator=generator
    )
    training = _Training(
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


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # Not only the name: a device may be well-formed and absent.
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInputError(
            f"Expected a device of this machine; got {name!r} ({reason}). Try 'auto' or 'cpu'."
        ) from error


def _read(config: SupervisedConfig) -> list[Example] | str:
    if config.data.suffix != ".jsonl":
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
    model = build_model(
        tokenizer,
        architecture=config.architecture,
        layers=config.layers,
        width=config.width,
        heads=config.heads,
        max_tokens=config.max_tokens,
        seed=config.seed,
    )
    return model, tokenizer


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


class _Training:
    """The updates, and what is measured meanwhile.

    Args:
        config: how to train.
        model: changed in place.
        learnt: sequences to learn.
        held_out: sequences to measure perplexity on.
        generator: decides the batches.
    """

    def __init__(
        self,
        config: SupervisedConfig,
        model: PreTrainedModel,
        *,
        learnt: Sequence[TokenSequence],
        held_out: Sequence[TokenSequence],
        generator: torch.Generator,
    ) -> None:
        self._config = config
        # Evaluation mode throughout: a loaded model's dropout would draw from the global generator.
        self._model = model.eval()
        self._fill_id = int(model.config.pad_token_id == 0)
        self._optimizer = _optimizer(model, config)
        self._learnt = learnt
        self._plan = self._all_batches(generator)
        self._held_out = self._held_out_batches(held_out)
        self._started = time.monotonic()
        self.step = 0
        self.tokens = 0
        self.perplexities: list[tuple[int, float]] = []

    def run(self, progress: Progress | None) -> bool:
        """Makes the updates; returns whether Ctrl-C cut them short."""
        self._measure()
        is_interrupted = False
        try:
            self._learn(progress)
        except KeyboardInterrupt:
            is_interrupted = True
        if self.perplexities[-1][0] != self.step:
            self._measure()
        return is_interrupted

    def _learn(self, progress: Progress | None) -> None:
        config = self._config
        loss_sum, targets = 0.0, 0  # since the last report
        for indices in self._plan:
            sequences = [self._learnt[i] for i in indices]
            batch_loss, batch_targets, gradient_norm = self._update(sequences)
            loss_sum, targets = loss_sum + batch_loss, targets + batch_targets
            if self.step % config.evaluate_every_steps == 0:
                self._measure()
            if self.step % config.log_every_steps == 0 or self.step == len(self._plan):
                self._check_finite(loss_sum)
                if progress is not None:
                    progress(self._report(loss_sum / targets, gradient_norm))
                loss_sum, targets = 0.0, 0

    def _update(self, sequences: Sequence[TokenSequence]) -> tuple[float, int, float]:
        """Takes one step of AdamW; returns the summed loss, the targets and the gradient's norm."""
        batch = pad(sequences, fill_id=self._fill_id)
        loss, targets = negative_log_likelihood(self._model, batch)
        self._optimizer.zero_grad()
        (loss / targets).backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(
            self._model.parameters(), self._config.max_gradient_norm
        )
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self._optimizer.step()
        self.step += 1
        self.tokens += sum(len(s.token_ids) for s in sequences)
        return loss.item(), targets, norm.item()

    def _learning_rate(self) -> float:
        config, steps = self._config, len(self._plan)
        return config.learning_rate * learning_rate_factor(
            self.step,
            steps=steps,
            warmup_steps=round(config.warmup_fraction * steps),
            decay=config.decay,
        )

    def _measure(self) -> None:
        self.perplexities.append((self.step, perplexity(self._model, self._held_out)))

    def _check_finite(self, loss_sum: float) -> None:
        if not math.isfinite(loss_sum):
            raise InvalidInputError(
                f"Expected a finite loss; got {loss_sum} before step {self.step}. "
                f"Lower learning_rate={self._config.learning_rate}."
            )

    def _report(self, loss: float, gradient_norm: float) -> dict[str, float]:
        seconds = time.monotonic() - self._started
        return {
            "step": self.step,
            "steps": len(self._plan),
            "loss": loss,
            "learning_rate": self._optimizer.param_groups[0]["lr"],
            "gradient_norm": gradient_norm,
            "tokens": self.tokens,
            "seconds": seconds,
            "tokens_per_second": self.tokens / max(seconds, 1e-9),
            "held_out_perplexity": self.perplexities[-1][1],
        }

    def _all_batches(self, generator: torch.Generator) -> list[list[int]]:
        lengths = [len(s.token_ids) for s in self._learnt]
        epochs = (
            plan_batches(lengths, batch_tokens=self._config.batch_tokens, generator=generator)
            for _ in range(self._config.epochs)
        )
        # Planned ahead, since the learning rate depends on how many updates there will be.
        return list(itertools.islice(itertools.chain.from_iterable(epochs), self._config.max_steps))

    def _held_out_batches(self, held_out: Sequence[TokenSequence]) -> list[Batch]:
        plan = plan_batches(
            [len(s.token_ids) for s in held_out],
            batch_tokens=self._config.batch_tokens,
            # Of its own: the training batches must not depend on how perplexity is measured.
            generator=torch.Generator().manual_seed(0),
        )
        return [pad([held_out[i] for i in batch], fill_id=self._fill_id) for batch in plan]


def learning_rate_factor(
    step: int, *, steps: int, warmup_steps: int, decay: Literal["cosine", "linear"]
) -> float:
    """Returns the share of the highest learning rate that update `step` (from 0) takes.

    It rises to 1 with the last of `warmup_steps`, and would reach 0 with update `steps`.

    >>> [learning_rate_factor(s, steps=6, warmup_steps=2, decay="linear") for s in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    fallen = (step - warmup_steps) / (steps - warmup_steps)
    return 1 - fallen if decay == "linear" else 0.5 * (1 + math.cos(math.pi * fallen))


def _optimizer(model: PreTrainedModel, config: SupervisedConfig) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        # The usual 0.999 remembers a thousand updates, longer than many of these trainings are.
        betas=(0.9, 0.95),
        fused=True,
    )


# --- the result ---


def _sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sequence: TokenSequence,
    max_tokens: int,
) -> Sample:
    prompt, response = sequence.token_ids.split(
        [sequence.prompt_length, len(sequence.token_ids) - sequence.prompt_length]
    )
    eos = tokenizer.eos_token_id
    assert isinstance(eos, int)
    completion = complete(
        model, prompt, max_new_tokens=max_tokens - sequence.prompt_length, eos=eos
    )
    texts = (
        tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt, response, completion)
    )
    return Sample(*texts)


def _record(config: SupervisedConfig, result: SupervisedResult) -> dict[str, Any]:
    """Returns what training.json holds: nothing that differs between two equal trainings."""
    numbers = dataclasses.asdict(result)
    del numbers["folder"]
    settings = {
        name: value.as_posix() if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(config).items()
    }
    return {"config": settings, **numbers}
