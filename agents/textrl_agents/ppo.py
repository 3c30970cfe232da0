"""PPO (Schulman et al. 2017, arXiv:1707.06347), policy and value clipped, on whole episodes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from textrl_agents.advantages import generalised_advantages, standardise
from textrl_agents.agent import Progress, TrainingLog
from textrl_agents.demonstrations import Mix, demonstration_episodes, text_episodes
from textrl_agents.episodes import Episodes
from textrl_agents.kl import k3
from textrl_agents.losses import clipped_policy_loss, clipped_value_loss, entropy_loss
from textrl_agents.on_policy import OnPolicyAgent, OnPolicyConfig
from textrl_agents.policies.table import TablePolicy
from textrl_envs.errors import InvalidInputError

__all__ = ["PPO", "PPOConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOConfig(OnPolicyConfig):
    """Settings of PPO."""

    epochs: int = 4
    """Times that each batch is gone through."""
    minibatches: int = 4
    """Parts of a batch, an optimiser's step each."""
    clip: float = 0.2
    """ε: the ratio of new and old policy is followed within 1 ± ε."""
    value_clip: float = 0.2
    """ε of the value, in units of the score."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    gae_lambda: float = 1.0
    """λ of generalised advantage estimation; at 1 returns alone count, less the value."""
    standardise_advantages: bool = True
    """Shift and scale the advantages of a batch to mean 0 and deviation 1."""
    target_kl: float | None = None
    """Stop the epochs of a batch once KL(old ‖ new) exceeds this, in nats a token."""
    demonstration_coefficient: float = 0.0
    """Weight of the negative log-likelihood a token of the environment's demonstrations."""
    pretraining_coefficient: float = 0.0
    """Weight of the negative log-likelihood a token of `pretraining_text`."""
    pretraining_text: str | None = None
    """A text file, or a JSONL file of texts, that the policy shall not forget (PPO-ptx)."""

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        self.check("epochs", self.epochs >= 1, "at least 1")
        fits = 1 <= self.minibatches <= self.episodes_per_batch
        self.check("minibatches", fits, f"in 1..episodes_per_batch ({self.episodes_per_batch})")
        self.check("clip", self.clip > 0, "positive")
        self.check("value_clip", self.value_clip > 0, "positive")
        self.check("value_coefficient", self.value_coefficient >= 0, "0 or more")
        self.check("gae_lambda", 0 <= self.gae_lambda <= 1, "in [0, 1]")
        weight = self.demonstration_coefficient
        self.check("demonstration_coefficient", weight >= 0, "0 or more")
        weight, has_text = self.pretraining_coefficient, self.pretraining_text is not None
        self.check("pretraining_coefficient", weight >= 0, "0 or more")
        self.check("pretraining_text", has_text == (weight > 0), _NEEDS_BOTH)
        self.check("target_kl", self.target_kl is None or self.target_kl > 0, "positive or None")


_NEEDS_BOTH = "given where pretraining_coefficient is above 0, and nowhere else"


class PPO(OnPolicyAgent):
    """Goes through each batch several times, while the new policy stays near the old.

    Demonstrations and plain text may be mixed in: as many of each in a step as there are episodes.
    With plain text it is the PPO-ptx of InstructGPT (Ouyang et al. 2022, arXiv:2203.02155,
    equation 2), but for the unit of the coefficient. Ours weighs a token of text against a token of
    response; γ, 27.8 there, weighs a text against a response, and is ours times the mean length of
    a response over that of a text.

    Args:
        policy: what is trained.
        config: a `PPOConfig`.
        seed: decides prompts, sampling and minibatches.
    """

    name: ClassVar[str] = "ppo"
    config_class: ClassVar[type[OnPolicyConfig]] = PPOConfig
    config: PPOConfig

    _mixes: tuple[Mix, ...] = ()
    """What else is learnt from."""

    def learn(
        self,
        envs: Any,  # noqa: ANN401 - a vector environment, wrapped or not
        *,
        total_tokens: int,
        progress: Progress | None = None,
    ) -> TrainingLog:
        """Trains as the base class says, on demonstrations and plain text too if they weigh."""
        self._mixes = tuple(self._make_mixes(envs))
        return super().learn(envs, total_tokens=total_tokens, progress=progress)

    def _make_mixes(self, envs: Any) -> Iterator[Mix]:  # noqa: ANN401
        config = self.config
        if config.demonstration_coefficient:
            shown = demonstration_episodes(envs)
            yield Mix("demonstration", shown, config.demonstration_coefficient)
        if config.pretraining_text is not None:
            if isinstance(self.policy, TablePolicy):
                raise InvalidInputError(
                    "A TablePolicy reads the environment's own texts alone; give a policy that is "
                    "a network, or set pretraining_coefficient to 0."
                )
            texts = text_episodes(Path(config.pretraining_text), envs.unwrapped.task)
            yield Mix("pretraining", texts, config.pretraining_coefficient)

    def update(self, episodes: Episodes, rng: np.random.Generator) -> dict[str, float]:
        """Takes `epochs` x `minibatches` steps, or fewer where `target_kl` says so."""
        advantages = generalised_advantages(
            episodes.rewards,
            episodes.values,
            episodes.response_mask,
            bootstrap_values=episodes.bootstrap_values,
            smoothing=self.config.gae_lambda,
        )
        # Targets before scaling: the value is learnt in units of the score.
        targets = np.where(episodes.response_mask, advantages + episodes.values, 0.0)
        if self.config.standardise_advantages:
            advantages = standardise(advantages, episodes.response_mask)
        steps: list[dict[str, float]] = []
        for _ in range(self.config.epochs):
            order = rng.permutation(len(episodes))
            for rows in np.array_split(order, self.config.minibatches):
                steps.append(self._step(episodes, np.sort(rows), advantages, targets, rng))
            if self._is_far([step["update_kl"] for step in steps[-self.config.minibatches :]]):
                break
        stats = {key: float(np.mean([step[key] for step in steps])) for key in steps[0]}
        stats["first_ratio_error"] = steps[0]["ratio_error"]
        del stats["ratio_error"]
        return {
            **stats,
            "update_kl": steps[-1]["update_kl"],
            "optimizer_steps": len(steps),
            "explained_variance": _explained_variance(episodes, targets),
        }

    def _step(
        self,
        episodes: Episodes,
        rows: NDArray[np.int64],
        advantages: NDArray[np.float64],
        targets: NDArray[np.float64],
        rng: np.random.Generator,
    ) -> dict[str, float]:
        """Takes one optimiser's step on some of the episodes, and as many of each mix."""
        count = int(episodes.response_mask[rows].sum())
        parts = [
            self._add_gradients(episodes, part, advantages, targets, count)
            for part in self.micro_batches(rows)
        ]
        stats = {key: sum(part[key] for part in parts) for key in parts[0]}
        stats["ratio_error"] = max(part["ratio_error"] for part in parts)
        for mix in self._mixes:
            drawn = mix.draw(len(rows), rng)
            stats[f"{mix.name}_loss"] = self.add_imitation_gradients(
                mix.episodes, drawn, weight=mix.coefficient
            )
        return {**stats, "gradient_norm": self.step_optimizer()}

    def _add_gradients(
        self,
        episodes: Episodes,
        rows: NDArray[np.int64],
        advantages: NDArray[np.float64],
        targets: NDArray[np.float64],
        num_tokens: int,
    ) -> dict[str, float]:
        """Adds the gradients of some episodes to those of a step over `num_tokens` tokens."""
        config, mask = self.config, episodes.response_mask[rows]
        new = self.policy.evaluate(
            episodes.select(rows), with_entropies=config.entropy_coefficient > 0
        )

        def tokens(values: NDArray[np.float64]) -> torch.Tensor:
            return torch.from_numpy(values[rows][mask]).to(new.log_probs)

        old_log_probs = tokens(episodes.log_probs)
        policy = clipped_policy_loss(
            new.log_probs,
            old_log_probs,
            tokens(advantages),
            clip=config.clip,
            num_tokens=num_tokens,
        )
        value = clipped_value_loss(
            new.values,
            tokens(episodes.values),
            tokens(targets),
            clip=config.value_clip,
            num_tokens=num_tokens,
        )
        entropy = entropy_loss(new.entropies, num_tokens=num_tokens)
        loss = policy + config.value_coefficient * value + config.entropy_coefficient * entropy
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            log_ratio = new.log_probs - old_log_probs
            is_clipped = (log_ratio.exp() - 1).abs() > config.clip
        return {
            "policy_loss": float(policy.detach()),
            "value_loss": float(value.detach()),
            # The tokens are the old policy's, so this estimates KL(old ‖ new).
            "update_kl": float(k3(-log_ratio).sum()) / num_tokens,
            "clip_fraction": float(is_clipped.sum()) / num_tokens,
            "ratio_error": float((log_ratio.exp() - 1).abs().max()),
        }

    def _is_far(self, update_kl: list[float]) -> bool:
        limit = self.config.target_kl
        return limit is not None and float(np.mean(update_kl)) > limit


def _explained_variance(episodes: Episodes, targets: NDArray[np.float64]) -> float:
    """Share of the targets' variance that the value before the update explained; 1 is perfect."""
    wanted = targets[episodes.response_mask]
    errors = wanted - episodes.values[episodes.response_mask]
    return float(1 - errors.var() / wanted.var()) if wanted.var() > 0 else 0.0
