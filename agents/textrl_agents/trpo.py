"""TRPO (Schulman et al. 2015, arXiv:1502.05477): the largest natural step within a trust region.

The policy takes one step a batch along F⁻¹ g, scaled so that the mean KL(π_old ‖ π) a token is δ to
second order, and shortened until it really is at most δ and the surrogate has risen. The value is
fitted apart. The KL to the reference is another matter, and in the rewards as everywhere.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from textrl_agents.advantages import generalised_advantages, standardise
from textrl_agents.episodes import Episodes
from textrl_agents.losses import entropy_loss, surrogate_loss
from textrl_agents.natural_gradient import conjugate_gradient, fisher_product, kl_divergence
from textrl_agents.on_policy import OnPolicyAgent, OnPolicyConfig
from textrl_agents.policies.base import response_tokens
from textrl_agents.policies.distribution import LOWEST
from textrl_agents.policies.logits import LogitsOfWeights
from textrl_envs.errors import InvalidInputError

__all__ = ["TRPO", "TRPOConfig"]

SHRINKAGE = 0.8
"""A step that goes too far is shortened to this part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TRPOConfig(OnPolicyConfig):
    """Settings of TRPO. Learning rate and gradient norm are those of the value alone."""

    max_kl: float = 0.01
    """δ: the mean KL(old ‖ new) of a step, in nats a token, at most."""
    damping: float = 0.1
    """Added to the diagonal of the Fisher matrix, so that directions it hardly sees stay short."""
    conjugate_gradient_steps: int = 10
    """Of solving F d = g, a Fisher product each."""
    fisher_fraction: float = 0.25
    """Part of a batch that Fisher products look at. KL and surrogate are those of the whole."""
    backtracks: int = 10
    """Times that a step is shortened to 0.8 of its length before the weights stay as they were."""
    gae_lambda: float = 0.95
    """λ of generalised advantage estimation."""
    standardise_advantages: bool = True
    """Shift and scale the advantages of a batch to mean 0 and deviation 1."""
    value_epochs: int = 4
    """Times that each batch is gone through to fit the value."""
    value_minibatches: int = 4
    """Parts of a batch, an optimiser's step of the value each."""

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        self.check("max_kl", self.max_kl > 0, "positive")
        self.check("damping", self.damping >= 0, "0 or more")
        steps = self.conjugate_gradient_steps
        self.check("conjugate_gradient_steps", steps >= 1, "at least 1")
        self.check("fisher_fraction", 0 < self.fisher_fraction <= 1, "in (0, 1]")
        self.check("backtracks", self.backtracks >= 0, "0 or more")
        self.check("gae_lambda", 0 <= self.gae_lambda <= 1, "in [0, 1]")
        self.check("value_epochs", self.value_epochs >= 1, "at least 1")
        fits = 1 <= self.value_minibatches <= self.episodes_per_batch
        expected = f"in 1..episodes_per_batch ({self.episodes_per_batch})"
        self.check("value_minibatches", fits, expected)


class TRPO(OnPolicyAgent):
    """Maximises E[π/π_old A] within E[KL(π_old ‖ π)] ≤ δ: equation 14, solved as in appendix C.

    The weights that the logits depend on take the natural step. What is left, the head of the value
    or a value model, is fitted by Adam. So policy and value may share a trunk: the policy moves it,
    and the head of the value follows.

    What a batch costs, in forward passes over it: three for the gradient; six for each of the
    `conjugate_gradient_steps` + 1 Fisher products, times `fisher_fraction`; two for each length of
    the step that is tried; and one for each of `value_epochs`. The defaults make some 28, where PPO
    takes 12. Eight vectors of the length of the policy's weights are held at once, and the logits
    of `micro_batch_size` episodes a few times over.

    Where top-k or top-p leave tokens out, a step that changes which is infinitely far, and is not
    taken.

    Args:
        policy: what is trained.
        config: a `TRPOConfig`.
        seed: decides prompts, sampling, what Fisher products look at, and the value's minibatches.
    """

    name: ClassVar[str] = "trpo"
    config_class: ClassVar[type[OnPolicyConfig]] = TRPOConfig
    config: TRPOConfig

    def update(self, episodes: Episodes, rng: np.random.Generator) -> dict[str, float]:
        """Takes a natural step, then fits the value."""
        advantages = generalised_advantages(
            episodes.rewards,
            episodes.values,
            episodes.response_mask,
            bootstrap_values=episodes.bootstrap_values,
            smoothing=self.config.gae_lambda,
        )
        targets = np.where(episodes.response_mask, advantages + episodes.values, 0.0)
        if self.config.standardise_advantages:
            advantages = standardise(advantages, episodes.response_mask)
        region = self.trust_region(episodes, advantages, rng)
        stats = region.take_step()
        return {**stats, "value_loss": self._fit_value(episodes, targets, region.moved, rng)}

    def trust_region(
        self, episodes: Episodes, advantages: NDArray[np.float64], rng: np.random.Generator
    ) -> "TrustRegion":
        """Returns the trust region around the present policy."""
        batch = []
        for rows in self.micro_batches(np.arange(len(episodes))):
            known = torch.from_numpy(advantages[rows][episodes.response_mask[rows]])
            batch.append((episodes.select(rows), known.to(self.policy.device)))
        count = math.ceil(self.config.fisher_fraction * len(episodes))
        some = np.sort(rng.choice(len(episodes), count, replace=False))
        return TrustRegion(
            LogitsOfWeights(self.policy, episodes.select(some[:1])),
            batch,
            [episodes.select(rows) for rows in self.micro_batches(some)],
            self.config,
        )

    def _fit_value(
        self,
        episodes: Episodes,
        targets: NDArray[np.float64],
        moved: list[nn.Parameter],
        rng: np.random.Generator,
    ) -> float:
        """Goes through the batch several times, the policy held still; returns the mean loss."""
        losses = []
        with _still(moved):
            for _ in range(self.config.value_epochs):
                order = rng.permutation(len(episodes))
                for rows in np.array_split(order, self.config.value_minibatches):
                    losses.append(self.add_value_gradients(episodes, np.sort(rows), targets))
                    self.step_optimizer()
        return float(np.mean(losses))


class TrustRegion:
    """The policies within E[KL(π_old ‖ π)] ≤ δ, and what the surrogate says of them.

    Args:
        logits: of the policy, as a function of its weights. Those it has are π_old's.
        batch: the episodes, a forward's at a time, with the advantages of their tokens, [M] each.
        some: the episodes that Fisher products look at, a forward's at a time.
        config: of TRPO.
    """

    def __init__(
        self,
        logits: LogitsOfWeights,
        batch: list[tuple[Episodes, Tensor]],
        some: list[Episodes],
        config: TRPOConfig,
    ) -> None:
        self._logits, self._batch, self._some, self._config = logits, batch, some, config
        self._old = logits.weights()
        self._num_tokens = sum(part.num_tokens for part, _ in batch)

    @property
    def moved(self) -> list[nn.Parameter]:
        """What a step moves: the weights that the logits depend on."""
        return self._logits.parameters

    def take_step(self) -> dict[str, float]:
        """Gives the policy better weights within the region, or leaves it; returns the figures."""
        before, gradient = self.surrogate_gradient()
        if not torch.isfinite(gradient).all():
            raise InvalidInputError(
                "The gradient of the surrogate is not finite. Look for extreme rewards."
            )
        step = self.natural_step(gradient)
        stats = {"gradient_norm": float(gradient.norm())}
        for backtrack in range(self._config.backtracks + 1):
            length = SHRINKAGE**backtrack
            weights = self._old + length * step
            surrogate, kl = self.measure(weights)
            if kl <= self._config.max_kl and surrogate > before:
                self._logits.write(weights)
                gain = surrogate - before
                return {**stats, "step_length": length, "surrogate_gain": gain, "update_kl": kl}
        return {**stats, "step_length": 0.0, "surrogate_gain": 0.0, "update_kl": 0.0}

    def surrogate_gradient(self) -> tuple[float, Tensor]:
        """Returns the surrogate at π_old, and its gradient g, [P]."""
        value, gradient = 0.0, torch.zeros_like(self._old)
        for part, advantages in self._batch:
            weights = self._old.clone().requires_grad_()
            logits = self._logits(weights, part)
            surrogate = self._surrogate(logits, logits.detach(), part, advantages)
            gradient += torch.autograd.grad(surrogate, weights)[0]
            value += float(surrogate.detach())
        return value, gradient

    def fisher(self, vector: Tensor) -> Tensor:
        """Returns F v, [P] -> [P]."""
        total = torch.zeros_like(vector)
        for part in self._some:
            logits = functools.partial(self._logits, episodes=part)
            total += fisher_product(logits, self._old, vector)
        return total / sum(part.num_tokens for part in self._some)

    def natural_step(self, gradient: Tensor) -> Tensor:
        """Returns √(2δ / dᵀFd) d, with (F + damping) d = g; its KL is δ to second order. [P]."""
        direction = conjugate_gradient(
            lambda vector: self.fisher(vector) + self._config.damping * vector,
            gradient,
            steps=self._config.conjugate_gradient_steps,
        )
        curvature = float(direction @ self.fisher(direction))
        if curvature <= 0:  # nothing to climb, or nothing that the policy would notice
            return torch.zeros_like(direction)
        return math.sqrt(2 * self._config.max_kl / curvature) * direction

    @torch.no_grad()
    def measure(self, weights: Tensor) -> tuple[float, float]:
        """Returns surrogate, and mean KL(π_old ‖ π) a token in nats, at some weights [P]."""
        value, kl = 0.0, 0.0
        for part, advantages in self._batch:
            old, new = self._logits(self._old, part), self._logits(weights, part)
            value += float(self._surrogate(new, old, part, advantages))
            kl += float(kl_divergence(old, new).sum()) / self._num_tokens
        return value, kl

    def _surrogate(
        self, logits: Tensor, old_logits: Tensor, part: Episodes, advantages: Tensor
    ) -> Tensor:
        """Returns what some episodes add to the mean of π/π_old A, and of the entropy bonus."""
        log_probs, old_log_probs = logits.log_softmax(-1), old_logits.log_softmax(-1)
        chosen = response_tokens(part, logits.device)[:, None]
        loss = surrogate_loss(
            log_probs.gather(1, chosen)[:, 0],
            old_log_probs.gather(1, chosen)[:, 0],
            advantages.to(logits),
            num_tokens=self._num_tokens,
        )
        if self._config.entropy_coefficient:
            possible = log_probs.clamp(min=LOWEST)  # 0 times −∞ is 0 here
            entropies = -torch.linalg.vecdot(log_probs.exp(), possible)
            bonus = entropy_loss(entropies, num_tokens=self._num_tokens)
            loss = loss + self._config.entropy_coefficient * bonus
        return -loss


@contextlib.contextmanager
def _still(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Lets no gradients be made for some parameters."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
