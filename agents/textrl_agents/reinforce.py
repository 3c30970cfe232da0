"""REINFORCE (Williams 1992): one gradient step a batch, with a baseline of choice."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from textrl_agents.advantages import leave_one_out, returns_to_go, standardise
from textrl_agents.baselines import earlier_mean, earlier_prompt_means
from textrl_agents.collector import Collector
from textrl_agents.episodes import Episodes
from textrl_agents.importance import log_probs_now, recharged, truncated_ratios
from textrl_agents.objective import kl_coefficient
from textrl_agents.on_policy import OnPolicyAgent, OnPolicyConfig
from textrl_agents.policies.base import Policy
from textrl_agents.policy_gradient import policy_gradient_step

__all__ = ["REINFORCE", "REINFORCEConfig"]

Baseline = Literal["none", "running_mean", "prompt_mean", "leave_one_out", "greedy", "value"]


@dataclass(frozen=True, slots=True, kw_only=True)
class REINFORCEConfig(OnPolicyConfig):
    """Settings of REINFORCE."""

    episodes_per_batch: int = 64
    """Episodes collected before each step: small, since a batch is used once."""
    baseline: Baseline = "leave_one_out"
    """What is subtracted from the return: nothing, a mean over earlier batches, the same of the
    prompt alone, the mean of the prompt's other episodes (RLOO), the return of the prompt's
    likeliest response (self-critical), or the value head."""
    group_size: int = 4
    """Episodes a prompt in each batch, for leave_one_out. Many leave few prompts."""
    running_mean_decay: float = 0.9
    """Weight of the past in the running mean, for running_mean and prompt_mean."""
    value_coefficient: float = 0.5
    """Weight of the value loss, for value."""
    standardise_advantages: bool = False
    """Shift and scale the advantages of a batch to mean 0 and deviation 1."""
    reuse: int = 0
    """Earlier batches that are used again with each new one, by importance sampling."""
    max_ratio: float = 2.0
    """Largest weight of an earlier episode, for reuse."""

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        self.check("baseline", self.baseline in get_args(Baseline), f"one of {get_args(Baseline)}")
        self.check("group_size", self.group_size >= 1, "at least 1")
        self.check("running_mean_decay", 0 <= self.running_mean_decay < 1, "in [0, 1)")
        self.check("value_coefficient", self.value_coefficient >= 0, "0 or more")
        self.check("reuse", self.reuse >= 0, "0 or more")
        self.check("max_ratio", self.max_ratio > 0, "positive")


class REINFORCE(OnPolicyAgent):
    """∇J = E Σ_t ∇log π(a_t|s_t) (G_t − b), G_t the regularised return to go.

    A baseline b that does not depend on the action it multiplies leaves the gradient unbiased.
    `greedy` is self-critical training (Rennie et al. 2017, arXiv:1612.00563): to each prompt of the
    batch the likeliest response is played too, once, at the cost of its tokens.

    With `reuse`, earlier batches are used again: E_π[f(y)] = E_old[f(y) π(y) / π_old(y)]. The ratio
    is that of the whole response, since the score is paid at its end; it takes no part in the
    gradient, and is cut at `max_ratio`. The KL penalty is that of the policy now, the task reward
    stays, and an episode keeps the baseline that it had when it was new. For a given policy, the
    cut is the only bias. That the policy has learnt from these very episodes no ratio can undo.

    Args:
        policy: what is trained.
        config: a `REINFORCEConfig`.
        seed: decides prompts and sampling.
    """

    name: ClassVar[str] = "reinforce"
    config_class: ClassVar[type[OnPolicyConfig]] = REINFORCEConfig
    config: REINFORCEConfig
    learning_rate_scale: ClassVar[float] = 2.0
    kl_coefficient: float = float("nan")
    """β that the newest batch was charged."""
    greedy: Episodes | None = None
    """The likeliest response to each prompt of the newest batch, where it is the baseline."""
    earlier: Episodes | None = None
    """Episodes kept to be used again, the newest first; their `values` are their baselines."""

    def __init__(
        self, policy: Policy, *, config: REINFORCEConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(policy, config=config, seed=seed)
        if self.config.baseline == "leave_one_out":
            self.group_size = self.config.group_size

    def collect(self, collector: Collector) -> Episodes:
        """Plays a batch, and the likeliest response to each of its prompts if that is wanted."""
        self.kl_coefficient = kl_coefficient(collector.envs)
        episodes = super().collect(collector)
        if self.config.baseline == "greedy":
            prompts = np.unique(episodes.prompt_index)
            seed = [self.seed, 4, self.iteration]
            self.greedy = collector.collect_greedy(self.policy, prompts, seed=seed)
        return episodes

    def update(self, episodes: Episodes, rng: np.random.Generator) -> dict[str, float]:
        """Takes one step along the gradient of the whole batch, and of what is kept."""
        baseline = np.where(episodes.response_mask, self._baseline(episodes), 0.0)
        episodes, weights = self._with_earlier(replace(episodes, values=baseline))
        mask = episodes.response_mask
        returns = returns_to_go(episodes.rewards, bootstrap_values=episodes.bootstrap_values)
        advantages = np.where(mask, returns - episodes.values, 0.0)
        if self.config.standardise_advantages:
            advantages = standardise(advantages, mask)
        return policy_gradient_step(
            self,
            episodes,
            advantages=advantages,
            targets=returns if self.config.baseline == "value" else None,
            value_coefficient=self.config.value_coefficient,
            weights=weights,
        )

    def _baseline(self, episodes: Episodes) -> NDArray[np.float64]:
        """Returns b, broadcastable to (B, T)."""
        returns, prompts = episodes.returns, episodes.prompt_index
        decay = self.config.running_mean_decay
        match self.config.baseline:
            case "value":
                return episodes.values
            case "leave_one_out":
                return leave_one_out(returns, prompts)[:, None]
            case "greedy":
                assert self.greedy is not None
                place = np.searchsorted(self.greedy.prompt_index, prompts)
                return self.greedy.returns[place][:, None]
            case "prompt_mean":
                return earlier_prompt_means(self.memory, returns, prompts, decay=decay)[:, None]
            case "running_mean":
                newest = float(returns.mean())
                return np.full(
                    (1, 1), earlier_mean(self.memory, "running_mean", newest, decay=decay)
                )
            case _:
                return np.zeros((1, 1))

    def _with_earlier(self, episodes: Episodes) -> tuple[Episodes, NDArray[np.float64]]:
        """Returns these and the earlier episodes with their weights, (B,), and keeps the newest."""
        weights, pool = np.ones(len(episodes)), episodes
        if self.earlier is not None:
            parts = self.micro_batches(np.arange(len(self.earlier)))
            now = log_probs_now(self.policy, self.earlier, parts)
            ratios = truncated_ratios(now, self.earlier.log_probs, max_ratio=self.config.max_ratio)
            weights = np.concatenate([weights, ratios])
            old = recharged(self.earlier, now, kl_coefficient=self.kl_coefficient)
            pool = episodes.joined(old)
        if self.config.reuse:
            kept = min(len(pool), self.config.reuse * self.config.episodes_per_batch)
            self.earlier = pool.select(np.arange(kept))
        return pool, weights

    def save_memory(self, folder: Path) -> None:
        """Writes the episodes that are used again."""
        if self.earlier is not None:
            arrays = {name: np.ascontiguousarray(x) for name, x in self.earlier.arrays().items()}
            save_file(arrays, folder / "earlier.safetensors")

    def load_memory(self, folder: Path) -> None:
        """Reads what `save_memory` wrote."""
        path = folder / "earlier.safetensors"
        if path.exists():
            arrays: dict[str, Any] = {"ref_log_probs": None, **load_file(path)}
            self.earlier = Episodes(**arrays)
