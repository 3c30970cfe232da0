"""GRPO (Shao et al. 2024, arXiv:2402.03300): PPO's clip, and the group in the place of a value."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from textrl_agents.advantages import group_advantages
from textrl_agents.collector import Collector
from textrl_agents.episodes import Episodes
from textrl_agents.kl import k3
from textrl_agents.losses import clipped_policy_loss, entropy_loss
from textrl_agents.objective import kl_coefficient
from textrl_agents.on_policy import OnPolicyAgent, OnPolicyConfig
from textrl_agents.policies.base import Policy

__all__ = ["GRPO", "GRPOConfig"]

Floats = NDArray[np.float64]
LengthNormalisation = Literal["sequence", "batch"]
KLUse = Literal["loss", "reward"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPOConfig(OnPolicyConfig):
    """Settings of GRPO. What the paper's choices bias is said in `GRPO`."""

    group_size: int = 8
    """Episodes a prompt in each batch, K; the paper's is 64."""
    epochs: int = 4
    """Times that each batch is gone through; the paper's is 1."""
    minibatches: int = 4
    """Parts of a batch, an optimiser's step each; the paper's is 1."""
    clip: float = 0.2
    """ε: the ratio of new and old policy is followed within 1 ± ε."""
    scale_by_deviation: bool = True
    """Divide the advantages of a group by the deviation of its returns."""
    length_normalisation: LengthNormalisation = "sequence"
    """sequence: a mean over the tokens of each response, then over responses, as in the paper;
    batch: one mean over all tokens, as in DAPO, or Dr. GRPO up to a factor."""
    kl: KLUse = "loss"
    """loss: β k3 of each token as a loss, and the score alone as the return, as in the paper;
    reward: β k1 in the return, as elsewhere."""

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        self.check("group_size", self.group_size >= 2, "at least 2")
        self.check("epochs", self.epochs >= 1, "at least 1")
        fits = 1 <= self.minibatches <= self.episodes_per_batch
        self.check("minibatches", fits, f"in 1..episodes_per_batch ({self.episodes_per_batch})")
        self.check("clip", self.clip > 0, "positive")
        known = get_args(LengthNormalisation)
        self.check("length_normalisation", self.length_normalisation in known, f"one of {known}")
        self.check("kl", self.kl in get_args(KLUse), f"one of {get_args(KLUse)}")


class GRPO(OnPolicyAgent):
    """Every token of a response has the advantage (R − mean of its group) / (deviation + 1e-4).

    A group is all episodes of one prompt in a batch. The last three settings are the paper's
    choices by default. They make the expected gradient another than that of J = E[R − β KL], and so
    does the mean:

    - The mean of a group of K holds the episode itself: (K − 1) / K of the gradient is left.
    - `scale_by_deviation` weighs a prompt by one over the deviation of its returns, so that those
      which nearly always or nearly never succeed count most (Liu et al. 2025, arXiv:2503.20783).
    - `length_normalisation="sequence"` weighs a response by one over its length: among right
      responses short ones are favoured, among wrong ones long ones.
    - `kl="loss"` draws towards the reference by the gradient of KL(π_ref ‖ π) of each next token,
      and does not see that a token leads to other texts. KL(π ‖ π_ref) is what J charges.

    With False, "batch" and "reward" the first step of a batch is off by the factor (K − 1) / K
    alone; later steps follow the ratio of each token within the clip, as those of PPO do.

    Args:
        policy: what is trained; a value head is not used.
        config: a `GRPOConfig`.
        seed: decides prompts, sampling and minibatches.
    """

    name: ClassVar[str] = "grpo"
    config_class: ClassVar[type[OnPolicyConfig]] = GRPOConfig
    config: GRPOConfig
    kl_coefficient: float = float("nan")
    """β that the newest batch was charged."""

    def __init__(self, policy: Policy, *, config: GRPOConfig | None = None, seed: int = 0) -> None:
        super().__init__(policy, config=config, seed=seed)
        self.group_size = self.config.group_size

    def collect(self, collector: Collector) -> Episodes:
        """Plays groups of episodes, and notes what a nat of KL costs."""
        self.kl_coefficient = kl_coefficient(collector.envs)
        return super().collect(collector)

    def update(self, episodes: Episodes, rng: np.random.Generator) -> dict[str, float]:
        """Takes `epochs` x `minibatches` steps."""
        advantages = group_advantages(
            episodes.scores if self.config.kl == "loss" else episodes.returns,
            episodes.prompt_index,
            scale_by_deviation=self.config.scale_by_deviation,
        )
        steps: list[dict[str, float]] = []
        for _ in range(self.config.epochs):
            order = rng.permutation(len(episodes))
            for rows in np.array_split(order, self.config.minibatches):
                steps.append(self._step(episodes, np.sort(rows), advantages))
        stats = {key: float(np.mean([step[key] for step in steps])) for key in steps[0]}
        return {**stats, "update_kl": steps[-1]["update_kl"], "optimizer_steps": len(steps)}

    def _step(
        self, episodes: Episodes, rows: NDArray[np.int64], advantages: Floats
    ) -> dict[str, float]:
        """Takes one optimiser's step on some of the episodes."""
        weights = self._token_weights(episodes.lengths[rows])
        parts = [
            self._add_gradients(episodes.select(rows[part]), advantages[rows[part]], weights[part])
            for part in self.micro_batches(np.arange(len(rows)))
        ]
        stats = {key: sum(part[key] for part in parts) for key in parts[0]}
        return {**stats, "gradient_norm": self.step_optimizer()}

    def _token_weights(self, lengths: NDArray[np.int64]) -> Floats:
        """Returns the weight of each token of an episode, (B,); over all tokens they sum to 1."""
        if self.config.length_normalisation == "sequence":
            return 1 / (lengths * len(lengths))
        return np.full(len(lengths), 1 / lengths.sum())

    def _add_gradients(
        self, episodes: Episodes, advantages: Floats, token_weights: Floats
    ) -> dict[str, float]:
        """Adds the gradients of some episodes, each token with the weight of its episode."""
        config, mask = self.config, episodes.response_mask
        new = self.policy.evaluate(episodes, with_entropies=config.entropy_coefficient > 0)

        def tokens(values: Floats) -> torch.Tensor:
            return torch.from_numpy(np.broadcast_to(values, mask.shape)[mask]).to(new.log_probs)

        old_log_probs, weights = tokens(episodes.log_probs), tokens(token_weights[:, None])
        # The weights stand for the division by the number of tokens.
        policy = clipped_policy_loss(
            new.log_probs,
            old_log_probs,
            weights * tokens(advantages[:, None]),
            clip=config.clip,
            num_tokens=1,
        )
        entropy = entropy_loss(weights * new.entropies, num_tokens=1)
        loss = policy + config.entropy_coefficient * entropy
        kl = torch.zeros(())
        if config.kl == "loss" and episodes.ref_log_probs is not None:
            kl = (weights * k3(new.log_probs - tokens(episodes.ref_log_probs))).sum()
            loss = loss + self.kl_coefficient * kl
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            log_ratio = new.log_probs - old_log_probs
            is_clipped = (log_ratio.exp() - 1).abs() > config.clip
        return {
            "policy_loss": float(policy.detach()),
            "kl_loss": float(kl.detach()),
            # The tokens are the old policy's, so this estimates KL(old ‖ new).
            "update_kl": float((weights * k3(-log_ratio)).sum()),
            "clip_fraction": float((weights * is_clipped).sum()),
        }
