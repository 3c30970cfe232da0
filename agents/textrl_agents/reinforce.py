"""REINFORCE (Williams 1992): one gradient step a batch, with a baseline of choice."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from textrl_agents.advantages import leave_one_out, returns_to_go, standardise
from textrl_agents.episodes import Episodes
from textrl_agents.losses import entropy_loss, policy_gradient_loss, value_loss
from textrl_agents.on_policy import OnPolicyAgent, OnPolicyConfig
from textrl_agents.policies.base import Policy

__all__ = ["REINFORCE", "REINFORCEConfig"]

Baseline = Literal["none", "running_mean", "leave_one_out", "value"]


@dataclass(frozen=True, slots=True, kw_only=True)
class REINFORCEConfig(OnPolicyConfig):
    """Settings of REINFORCE."""

    episodes_per_batch: int = 64
    """Episodes collected before each step: small, since a batch is used once."""
    baseline: Baseline = "leave_one_out"
    """What is subtracted from the return: nothing, a mean over earlier batches, the mean of the
    prompt's other episodes (RLOO), or the value head."""
    group_size: int = 8
    """Episodes a prompt in each batch, for leave_one_out."""
    running_mean_decay: float = 0.9
    """Weight of the past in the running mean."""
    value_coefficient: float = 0.5
    """Weight of the value loss, for value."""
    standardise_advantages: bool = False
    """Shift and scale the advantages of a batch to mean 0 and deviation 1."""

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        self.check("baseline", self.baseline in get_args(Baseline), f"one of {get_args(Baseline)}")
        self.check("group_size", self.group_size >= 1, "at least 1")
        self.check("running_mean_decay", 0 <= self.running_mean_decay < 1, "in [0, 1)")
        self.check("value_coefficient", self.value_coefficient >= 0, "0 or more")


class REINFORCE(OnPolicyAgent):
    """∇J = E Σ_t ∇log π(a_t|s_t) (G_t − b), G_t the regularised return to go.

    A baseline b that does not depend on the action it multiplies leaves the gradient unbiased.

    Args:
        policy: what is trained.
        config: a `REINFORCEConfig`.
        seed: decides prompts and sampling.
    """

    name: ClassVar[str] = "reinforce"
    config_class: ClassVar[type[OnPolicyConfig]] = REINFORCEConfig
    config: REINFORCEConfig

    def __init__(
        self, policy: Policy, *, config: REINFORCEConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(policy, config=config, seed=seed)
        if self.config.baseline == "leave_one_out":
            self.group_size = self.config.group_size

    def update(self, episodes: Episodes, rng: np.random.Generator) -> dict[str, float]:
        """Takes one step along the gradient of the whole batch."""
        returns = returns_to_go(episodes.rewards, bootstrap_values=episodes.bootstrap_values)
        advantages = np.where(episodes.response_mask, returns - self._baseline(episodes), 0.0)
        if self.config.standardise_advantages:
            advantages = standardise(advantages, episodes.response_mask)
        losses = {"policy_loss": 0.0, "value_loss": 0.0}
        for rows in self.micro_batches(np.arange(len(episodes))):
            for name, value in self._add_gradients(episodes, rows, advantages, returns).items():
                losses[name] += value
        return {**losses, "gradient_norm": self.step_optimizer()}

    def _add_gradients(
        self,
        episodes: Episodes,
        rows: NDArray[np.int64],
        advantages: NDArray[np.float64],
        returns: NDArray[np.float64],
    ) -> dict[str, float]:
        """Adds the gradients of some episodes to those of the batch."""
        part, count = episodes.select(rows), episodes.num_tokens
        mask = episodes.response_mask[rows]
        has_bonus = self.config.entropy_coefficient > 0
        new = self.policy.evaluate(part, with_entropies=has_bonus)
        policy = policy_gradient_loss(
            new.log_probs, _tensor(advantages[rows][mask], new.log_probs), num_tokens=count
        )
        loss = policy + self.config.entropy_coefficient * entropy_loss(
            new.entropies, num_tokens=count
        )
        value = torch.zeros(())
        if self.config.baseline == "value":
            value = value_loss(
                new.values, _tensor(returns[rows][mask], new.values), num_tokens=count
            )
            loss = loss + self.config.value_coefficient * value
        loss.backward()  # type: ignore[no-untyped-call]
        return {"policy_loss": float(policy.detach()), "value_loss": float(value.detach())}

    def _baseline(self, episodes: Episodes) -> NDArray[np.float64]:
        """Returns b, broadcastable to (B, T)."""
        if self.config.baseline == "value":
            return episodes.values
        if self.config.baseline == "leave_one_out":
            return leave_one_out(episodes.returns, episodes.prompt_index)[:, None]
        if self.config.baseline == "running_mean":
            return np.full((1, 1), self._running_mean(float(episodes.returns.mean())))
        return np.zeros((1, 1))

    def _running_mean(self, newest: float) -> float:
        """Returns the mean of earlier batches, then takes the newest in.

        The newest batch's own mean would hold its own actions, and bias the gradient; the first
        batch has nothing before it and gets 0.
        """
        past = self.memory.get("running_mean", 0.0)
        decay = self.config.running_mean_decay if "running_mean" in self.memory else 0.0
        self.memory["running_mean"] = decay * past + (1 - decay) * newest
        return past


def _tensor(values: NDArray[np.float64], like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(values).to(like)
