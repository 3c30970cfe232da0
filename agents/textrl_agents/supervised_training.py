"""The updates of supervised fine-tuning: the loss, the learning rate, and the loop over batches.

    negative_log_likelihood  a batch -> its summed loss and number of targets
    perplexity               batches -> exp(mean loss a token)
    learning_rate_factor     update -> share of the highest learning rate
    Training                 the loop

Every mean is a sum over tokens divided by their number, never a mean of means over batches, which
would count a token of a short batch for more.
"""

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from textrl_agents.averaging import WeightAverage
from textrl_agents.regularisation import decay_groups, dropout, lowest_parameters
from textrl_agents.supervised_config import Decay, SupervisedConfig
from textrl_agents.supervised_data import Batch, TokenSequence, pad, plan_batches
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.decoder import Decoder

__all__ = [
    "Progress",
    "Training",
    "learning_rate_factor",
    "negative_log_likelihood",
    "perplexity",
]

Progress = Callable[[Mapping[str, float]], None]
"""Called with step, steps, loss, learning_rate, gradient_norm, tokens, seconds, tokens_per_second
and held_out_perplexity, the newest measured."""


# --- the loss ---


def negative_log_likelihood(decoder: Decoder, batch: Batch) -> tuple[Tensor, int]:
    """Adds up -log p(token | tokens before it) over the targets of a batch.

    Args:
        decoder: a causal language model, taken apart.
        batch: B padded sequences, on any device.

    Returns:
        The sum in nats, shape (), with gradient; and the number of targets.
    """
    input_ids = batch.input_ids.to(decoder.device)
    predicts_target = batch.is_target[:, 1:].to(decoder.device)  # (B, T-1)
    hidden = decoder.hidden(input_ids[:, :-1])  # (B, T-1, H)
    # The output layer is the largest, so it is spared where no target is predicted.
    logits = decoder.head(hidden[predicts_target])  # (N, V)
    targets = input_ids[:, 1:][predicts_target]  # (N,)
    loss = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
    return loss, len(targets)


@torch.no_grad()
def perplexity(decoder: Decoder, batches: Sequence[Batch]) -> float:
    """Returns exp(mean negative log-likelihood a target token) over all batches together."""
    sums, counts = zip(*(negative_log_likelihood(decoder, batch) for batch in batches), strict=True)
    mean_nats = math.fsum(s.item() for s in sums) / sum(counts)
    # Past 700 nats exp overflows: a diverged model is infinitely perplexed, which is no error.
    return math.exp(mean_nats) if mean_nats < 700 else math.inf


# --- the loop ---


class Training:
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
        self._model = model.eval()  # type: ignore[no-untyped-call]
        self._decoder = Decoder.of(model, use_cache=False)
        self._fill_id = int(model.config.pad_token_id == 0)
        for parameter in lowest_parameters(model.base_model, config.frozen_layers):
            parameter.requires_grad_(False)
        self._optimizer = _optimizer(model, config)
        # An average that forgets all of its past is a copy: of the best weights, with patience.
        self._best = WeightAverage(list(model.parameters()), decay=0.0)
        # Of its own: the batches must not depend on what is dropped.
        self._drops = torch.Generator(self._decoder.device).manual_seed(config.seed)
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
        with contextlib.suppress(KeyboardInterrupt):
            self._learn(progress)
        if self.perplexities[-1][0] != self.step:
            self._measure()
        is_interrupted = not self._is_over()
        if self._config.patience is not None:
            self._best.exchange()
            self._measure()
        return is_interrupted

    def _is_over(self) -> bool:
        """Tells whether all updates are made, or patience is over."""
        found, patience = [value for _, value in self.perplexities], self._config.patience
        since_best = len(found) - 1 - found.index(min(found))
        is_patient = patience is None or since_best < patience
        return self.step == len(self._plan) or not is_patient

    def _learn(self, progress: Progress | None) -> None:
        config = self._config
        loss_sum, targets = 0.0, 0  # since the last report
        for indices in self._plan:
            sequences = [self._learnt[i] for i in indices]
            batch_loss, batch_targets, gradient_norm = self._update(sequences)
            loss_sum, targets = loss_sum + batch_loss, targets + batch_targets
            if self.step % config.evaluate_every_steps == 0:
                self._measure()
            is_over = self._is_over()
            if self.step % config.log_every_steps == 0 or is_over:
                self._check_finite(loss_sum)
                if progress is not None:
                    progress(self._report(loss_sum / targets, gradient_norm))
                loss_sum, targets = 0.0, 0
            if is_over:
                break

    def _update(self, sequences: Sequence[TokenSequence]) -> tuple[float, int, float]:
        """Takes one step of AdamW; returns the summed loss, the targets and the gradient's norm."""
        batch = pad(sequences, fill_id=self._fill_id)
        with dropout(self._decoder.trunk, self._config.dropout, self._drops):
            loss, targets = negative_log_likelihood(self._decoder, batch)
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
        """Measures the held-out perplexity, and keeps the weights if it is the lowest."""
        found = perplexity(self._decoder, self._held_out)
        is_best = all(found < earlier for _, earlier in self.perplexities)
        if is_best and self._config.patience is not None:
            self._best.update()
        self.perplexities.append((self.step, found))

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


def learning_rate_factor(step: int, *, steps: int, warmup_steps: int, decay: Decay) -> float:
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
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        decay_groups(trained, weight_decay=config.weight_decay),
        lr=config.learning_rate,
        # The usual 0.999 remembers a thousand updates, longer than many of these trainings are.
        betas=(0.9, 0.95),
        fused=True,
    )
