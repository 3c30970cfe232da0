"""Expert iteration: imitate the best responses of an expert made from the policy itself.

    collect   the expert plays: the policy by sampling, or a tree search with it as prior
    update    the best episodes so far are made likely

The search is Anthony et al. 2017 (arXiv:1705.08439), Algorithm 1, with the tokens that were played
as targets. Sampling is rejection-sampling fine-tuning: the expert is the policy's own luck. What
succeeded once is remembered and made likely, so that a rare success is not lost again, as it is in
an on-policy gradient. The update does not see the KL penalty; the search does.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from textrl_agents.collector import Collector, native_envs
from textrl_agents.episodes import Episodes
from textrl_agents.on_policy import OnPolicyAgent, OnPolicyConfig
from textrl_agents.search import MCTSPolicy

__all__ = ["ExpertIteration", "ExpertIterationConfig", "Teacher"]

Teacher = Literal["sampling", "mcts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertIterationConfig(OnPolicyConfig):
    """Settings of expert iteration."""

    kept: int = 256
    """Episodes remembered: the best so far, of equally good ones the newest."""
    epochs: int = 4
    """Times that the remembered episodes are gone through after each batch."""
    minibatches: int = 4
    """Parts of them, an optimiser's step each."""
    teacher: Teacher = "sampling"
    """Who plays the episodes: the policy, or a tree search with the policy as its prior."""
    simulations: int = 16
    """Of the search before each token, for mcts."""

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        self.check("teacher", self.teacher in get_args(Teacher), f"one of {get_args(Teacher)}")
        self.check("simulations", self.simulations >= 1, "at least 1")
        self.check("kept", self.kept >= 1, "at least 1")
        self.check("epochs", self.epochs >= 1, "at least 1")
        self.check("minibatches", self.minibatches >= 1, "at least 1")


class ExpertIteration(OnPolicyAgent):
    """Maximises the likelihood of the best responses so far.

    Best are those with the highest scores, but none with the lowest score ever seen: before the
    first success there is nothing to imitate, and the policy stays as it is. The log's reward, KL
    and score are those of the episodes collected, and so the teacher's.

    Args:
        policy: what is trained.
        config: an `ExpertIterationConfig`.
        seed: decides prompts, sampling and minibatches.
    """

    name: ClassVar[str] = "expert_iteration"
    config_class: ClassVar[type[OnPolicyConfig]] = ExpertIterationConfig
    config: ExpertIterationConfig
    best: Episodes | None = None
    """The episodes remembered."""

    def collect(self, collector: Collector) -> Episodes:
        """Lets the teacher play; the tokens of a search are paid for as well."""
        if self.config.teacher == "sampling":
            return OnPolicyAgent.collect(self, collector)
        envs = native_envs(collector.envs)
        teacher = MCTSPolicy(
            envs.task,
            self.policy,
            simulations=self.config.simulations,
            seed=(self.seed, 4, self.iteration),
        )
        episodes = collector.collect(
            teacher, self.config.episodes_per_batch, seed=[self.seed, 2, self.iteration]
        )
        envs.tokens_generated += teacher.simulator.tokens_generated
        return episodes

    def update(self, episodes: Episodes, rng: np.random.Generator) -> dict[str, float]:
        """Remembers the best of the batch, and goes through what is remembered."""
        self.memory["worst"] = min(self.memory.get("worst", np.inf), episodes.scores.min())
        pool = episodes if self.best is None else episodes.joined(self.best)
        rows = self._choose(pool.scores)
        if not rows.size:
            return {"kept": 0, "loss": 0.0, "gradient_norm": 0.0}
        self.best = pool.select(rows)
        losses, norms = [], []
        for _ in range(self.config.epochs):
            order = rng.permutation(len(self.best))
            for rows in np.array_split(order, min(self.config.minibatches, len(order))):
                losses.append(self.add_imitation_gradients(self.best, np.sort(rows)))
                norms.append(self.step_optimizer())
        return {
            "kept": len(self.best),
            "loss": float(np.mean(losses)),
            "gradient_norm": float(np.mean(norms)),
        }

    def _choose(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """Returns the rows of the best; the newest come first, and a stable sort keeps them so."""
        order = np.argsort(-scores, kind="stable")[: self.config.kept]
        return np.sort(order[scores[order] > self.memory["worst"]])

    def save_memory(self, folder: Path) -> None:
        """Writes the episodes remembered."""
        if self.best is not None:
            arrays = {name: np.ascontiguousarray(x) for name, x in self.best.arrays().items()}
            save_file(arrays, folder / "best.safetensors")

    def load_memory(self, folder: Path) -> None:
        """Reads what `save_memory` wrote."""
        path = folder / "best.safetensors"
        if path.exists():
            arrays: dict[str, Any] = {"ref_log_probs": None, **load_file(path)}
            self.best = Episodes(**arrays)
