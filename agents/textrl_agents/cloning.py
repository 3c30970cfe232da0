"""Cloning: imitate the environment's demonstrations, and stop before they are known by heart.

Behavioural cloning (Pomerleau 1991); of a language model, supervised fine-tuning.

The loss is the negative log-likelihood a token. It sees neither score nor KL penalty, and generates
nothing: its tokens are those of demonstrations that it has read in training, each as often as it
was read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from textrl_agents.agent import Progress, StopTraining, TrainingLog
from textrl_agents.averaging import WeightAverage
from textrl_agents.collector import Collector
from textrl_agents.demonstrations import demonstration_episodes
from textrl_agents.episodes import Episodes
from textrl_agents.on_policy import OnPolicyAgent, OnPolicyConfig
from textrl_agents.policies.base import Policy
from textrl_agents.regularisation import decay_groups, dropout, frozen, lowest_parameters
from textrl_envs.errors import InvalidInputError

__all__ = ["Cloning", "CloningConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CloningConfig(OnPolicyConfig):
    """Settings of cloning."""

    episodes_per_batch: int = 256
    """Demonstrations read in each iteration; all, once, where there are fewer."""
    minibatches: int = 4
    """Parts of them, an optimiser's step each."""
    held_out_fraction: float = 0.1
    """Part of the demonstrations that is never learnt, but measured after each iteration; at most
    `episodes_per_batch` of them, and at least one."""
    patience: int | None = 10
    """Stop after so many iterations without a smaller held-out loss; None spends the budget. The
    best weights are kept either way."""
    dropout: float = 0.0
    """Share of the numbers that are dropped behind attention and feed-forward layers."""
    weight_decay: float = 0.01
    """Decoupled decay of the weight matrices."""
    frozen_layers: int = 0
    """Lowest blocks that stay as they are, and with them the embeddings; 0 trains everything."""

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        self.check("minibatches", self.minibatches >= 1, "at least 1")
        self.check("held_out_fraction", 0 < self.held_out_fraction < 1, "in (0, 1)")
        self.check("patience", self.patience is None or self.patience >= 1, "at least 1 or None")
        self.check("dropout", 0 <= self.dropout < 1, "in [0, 1)")
        self.check("weight_decay", self.weight_decay >= 0, "0 or more")
        self.check("frozen_layers", self.frozen_layers >= 0, "0 or more")
        self.check("entropy_coefficient", self.entropy_coefficient == 0, "0: nothing is explored")
        self.check("average_decay", self.average_decay is None, "None: the best weights are kept")
        can_drop = not (self.dropout and self.gradient_checkpointing)
        self.check("dropout", can_drop, "0 with gradient_checkpointing, which would drop anew")


class Cloning(OnPolicyAgent):
    """Raises the likelihood of demonstrations until held-out ones become less likely.

    Args:
        policy: what is trained.
        config: a `CloningConfig`.
        seed: decides which demonstrations are held out, the minibatches, and what is dropped.

    Raises:
        InvalidInputError: `frozen_layers` of a policy that has fewer.
    """

    name: ClassVar[str] = "supervised"
    config_class: ClassVar[type[OnPolicyConfig]] = CloningConfig
    config: CloningConfig

    learnt: Episodes
    """The demonstrations that are learnt, once `learn` has been called."""
    held_out: Episodes
    """Those that are measured."""

    def __init__(
        self, policy: Policy, *, config: CloningConfig | None = None, seed: int = 0
    ) -> None:
        layers = (config or CloningConfig()).frozen_layers
        self._frozen = lowest_parameters(_network(policy), layers)
        super().__init__(policy, config=config, seed=seed)
        # An average that forgets all of its past is a copy: it is updated when the weights are
        # the best so far, exchanged, saved and loaded as any average is.
        self.average = WeightAverage(list(policy.parameters()), decay=0.0)

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Returns AdamW over all that is not frozen."""
        is_frozen = {id(parameter) for parameter in self._frozen}
        trained = [p for p in parameters if id(p) not in is_frozen]
        groups = decay_groups(trained, weight_decay=self.config.weight_decay)
        return torch.optim.AdamW(groups, lr=self.learning_rate, eps=1e-5, fused=True)

    def learn(
        self,
        envs: Any,  # noqa: ANN401 - a vector environment, wrapped or not
        *,
        total_tokens: int,
        progress: Progress | None = None,
    ) -> TrainingLog:
        """Trains until `total_tokens` tokens of demonstrations were read, or patience is over.

        Args:
            envs: a native text vector environment with demonstrations.
            total_tokens: the budget; the learning rate falls over it.
            progress: called after each iteration; may raise `StopTraining`.

        Returns:
            The log of all iterations. What would need generated texts is NaN in it.

        Raises:
            InvalidInputError: fewer than two demonstrations.
        """
        self.learnt, self.held_out = self._split(demonstration_episodes(envs))

        def go_on(row: Mapping[str, float]) -> None:
            if progress is not None:
                progress(row)
            if self._is_over():
                raise StopTraining

        if self._is_over():
            return self.log
        with frozen(self._frozen):
            return super().learn(envs, total_tokens=total_tokens, progress=go_on)

    def _is_over(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.memory.get("iterations_since_best", 0) >= patience

    def _split(self, shown: Episodes) -> tuple[Episodes, Episodes]:
        """Returns the demonstrations that are learnt, and those that are held out."""
        if len(shown) < 2:
            raise InvalidInputError(
                "Cloning needs two demonstrations, one to learn and one to hold out; "
                f"got {len(shown)}."
            )
        order = np.random.default_rng([self.seed, 5]).permutation(len(shown))
        wanted = round(self.config.held_out_fraction * len(shown))
        count = min(max(1, wanted), self.config.episodes_per_batch, len(shown) - 1)
        return shown.select(np.sort(order[count:])), shown.select(np.sort(order[:count]))

    def _iterate(self, collector: Collector) -> dict[str, float]:
        """Reads some demonstrations and measures others; `collector` has nothing to do."""
        episodes = self._next_part()
        stats = self.update(episodes, np.random.default_rng([self.seed, 3, self.iteration]))
        self.iteration += 1
        self.tokens += episodes.num_tokens
        unknown = dict.fromkeys(("reward", "kl", "return", "kl_coefficient"), float("nan"))
        return {
            "iteration": self.iteration,
            "tokens": self.tokens,
            **unknown,
            "entropy": float("nan"),
            "length": float(episodes.lengths.mean()),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **stats,
            "held_out_loss": self._measure(),
        }

    def _next_part(self) -> Episodes:
        """Returns the demonstrations of this iteration: each once an epoch, in a new order."""
        total = len(self.learnt)
        parts = -(-total // self.config.episodes_per_batch)
        epoch, part = divmod(self.iteration, parts)
        order = np.random.default_rng([self.seed, 6, epoch]).permutation(total)
        return self.learnt.select(np.array_split(order, parts)[part])

    def update(self, episodes: Episodes, rng: np.random.Generator) -> dict[str, float]:
        """Takes `minibatches` steps, on the demonstrations in their order."""
        generator = torch.Generator(self.policy.device).manual_seed(int(rng.integers(2**63)))
        losses, norms = [], []
        with dropout(_network(self.policy), self.config.dropout, generator):
            count = min(self.config.minibatches, len(episodes))
            for rows in np.array_split(np.arange(len(episodes)), count):
                losses.append(self.add_imitation_gradients(episodes, rows))
                norms.append(self.step_optimizer())
        return {"loss": float(np.mean(losses)), "gradient_norm": float(np.mean(norms))}

    @torch.no_grad()
    def _measure(self) -> float:
        """Returns the held-out loss in nats a token, and keeps the weights if none was smaller."""
        parts = self.micro_batches(np.arange(len(self.held_out)))
        log_probs = [
            self.policy.evaluate(self.held_out.select(part), with_entropies=False).log_probs.sum()
            for part in parts
        ]
        loss = -float(torch.stack(log_probs).sum()) / self.held_out.num_tokens
        is_best = loss < self.memory.get("best_loss", np.inf)
        if is_best:
            assert self.average is not None
            self.average.update()
            self.memory["best_loss"] = loss
        since = 0 if is_best else self.memory["iterations_since_best"] + 1
        self.memory["iterations_since_best"] = since
        return loss


def _network(policy: Policy) -> nn.Module | None:
    """Returns a policy's trunk, if it is a Transformers network."""
    return getattr(policy, "trunk", None)
