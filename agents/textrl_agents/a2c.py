"""A2C (Mnih et al. 2016, arXiv:1602.01783): one step a batch, with a critic's advantages."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from textrl_agents.advantages import generalised_advantages, standardise
from textrl_agents.episodes import Episodes
from textrl_agents.on_policy import OnPolicyAgent, OnPolicyConfig
from textrl_agents.policy_gradient import policy_gradient_step

__all__ = ["A2C", "A2CConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class A2CConfig(OnPolicyConfig):
    """Settings of A2C."""

    episodes_per_batch: int = 64
    """Episodes collected before each step: small, since a batch is used once."""
    gae_lambda: float = 0.95
    """λ of generalised advantage estimation: 1 waits for the score, 0 trusts the next value."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    standardise_advantages: bool = False
    """Shift and scale the advantages of a batch to mean 0 and deviation 1."""

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        self.check("gae_lambda", 0 <= self.gae_lambda <= 1, "in [0, 1]")
        self.check("value_coefficient", self.value_coefficient >= 0, "0 or more")


class A2C(OnPolicyAgent):
    """Advantage actor-critic: ∇J ≈ E Σ_t ∇log π(a_t|s_t) A_t, A_t made from the values of the text.

    REINFORCE with the value as its baseline waits for the score: A_t = G_t − V(s_t), λ = 1 here. A
    λ below 1 puts values of later text in the place of what was earned there. That has less
    variance, and is biased by whatever the values are wrong by. Mnih et al. sum rewards over a few
    steps and add the value behind them; λ mixes all such numbers of steps (Schulman et al. 2016).

    Args:
        policy: what is trained.
        config: an `A2CConfig`.
        seed: decides prompts and sampling.
    """

    name: ClassVar[str] = "a2c"
    config_class: ClassVar[type[OnPolicyConfig]] = A2CConfig
    config: A2CConfig
    learning_rate_scale: ClassVar[float] = 2.0

    def update(self, episodes: Episodes, rng: np.random.Generator) -> dict[str, float]:
        """Takes one step along the gradient of the whole batch."""
        advantages = generalised_advantages(
            episodes.rewards,
            episodes.values,
            episodes.response_mask,
            bootstrap_values=episodes.bootstrap_values,
            smoothing=self.config.gae_lambda,
        )
        # Targets before scaling: the value is learnt in units of the score.
        targets = advantages + episodes.values
        if self.config.standardise_advantages:
            advantages = standardise(advantages, episodes.response_mask)
        return policy_gradient_step(
            self,
            episodes,
            advantages=advantages,
            targets=targets,
            value_coefficient=self.config.value_coefficient,
        )
