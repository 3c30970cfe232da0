"""Expert iteration: imitate the best responses of an expert made from the policy itself.

    collect   the expert plays: the policy by sampling, or a tree search with it as prior
    update    the best episodes so far are made likely

The search is Anthony et al. 2017 (arXiv:1705.08439), Algorithm 1, with the tokens that were played
as targets. Sampling is rejection-sampling fine-tuning, ranked by the regularised return as in RAFT
(Dong et al. 2023, arXiv:2304.06767): the expert is the policy's own luck. What succeeded once is
remembered and made likely, so that a rare success is not lost again, as it is in an on-policy
gradient.
"""

from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from textrl_agents.advantages import returns_to_go
from textrl_agents.collector import Collector, native_envs
from textrl_agents.episodes import Episodes
from textrl_agents.importance import log_probs_now, recharged
from textrl_agents.objective import kl_charge, kl_coefficient
from textrl_agents.on_policy import OnPolicyAgent, OnPolicyConfig
from textrl_agents.search import MCTSPolicy
from textrl_agents.search.tree_search import Leaf
from textrl_envs.task import Task

__all__ = ["ExpertIteration", "ExpertIterationConfig", "Teacher"]

Teacher = Literal["sampling", "mcts"]

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertIterationConfig(OnPolicyConfig):
    """Settings of expert iteration."""

    kept: int = 256
    """Episodes remembered: the best under the policy as it is, of equally good ones the newest."""
    epochs: int = 4
    """Times that the remembered episodes are gone through after each batch."""
    minibatches: int = 4
    """Parts of them, an optimiser's step each."""
    teacher: Teacher = "sampling"
    """Who plays the episodes: the policy, or a tree search with the policy as its prior."""
    simulations: int = 16
    """Of the search before each token, for mcts."""
    leaf: Leaf = "roll_out"
    """What a new text is worth to the search: what one roll-out of the policy earns, or the
    policy's value, which is then learnt from all episodes."""
    value_coefficient: float = 0.5
    """Weight of the value loss, where the value is learnt."""

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        self.check("teacher", self.teacher in get_args(Teacher), f"one of {get_args(Teacher)}")
        self.check("simulations", self.simulations >= 1, "at least 1")
        self.check("leaf", self.leaf in get_args(Leaf), f"one of {get_args(Leaf)}")
        self.check("value_coefficient", self.value_coefficient >= 0, "0 or more")
        self.check("kept", self.kept >= 1, "at least 1")
        self.check("epochs", self.epochs >= 1, "at least 1")
        self.check("minibatches", self.minibatches >= 1, "at least 1")
        self.check("entropy_coefficient", self.entropy_coefficient == 0, "0: there is no bonus")

    @property
    def learns_value(self) -> bool:
        """Whether a search asks the policy for values."""
        return self.teacher == "mcts" and self.leaf == "value"


class ExpertIteration(OnPolicyAgent):
    """Maximises the likelihood of the best responses so far.

    Best are those with the highest regularised returns under the policy as it is, but none with the
    lowest score ever seen: before the first success there is nothing to imitate, and the policy
    stays as it is. At the optimum all responses return the same. The log's reward, KL
    and score are those of the episodes collected, and so the teacher's.

    A search is charged as the episodes are, by β and reference of the KL wrapper as they stand;
    where there is none, by the environment's own. Where KL costs nothing, it plays what it has
    visited most.

    With a value at the leaves of the search, the value is learnt as in AlphaZero (Silver et al.
    2017): from what the teacher's own episodes returned, whether they are imitated or not.

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
    kl_coefficient: float = float("nan")
    """β that the newest batch was charged."""

    def collect(self, collector: Collector) -> Episodes:
        """Lets the teacher play; the tokens of a search are paid for as well."""
        self.kl_coefficient = kl_coefficient(collector.envs)
        if self.config.teacher == "sampling":
            return OnPolicyAgent.collect(self, collector)
        envs, task = native_envs(collector.envs), _charged_task(collector.envs)
        is_charged = task.load_reference is not None and task.kl_coefficient > 0
        teacher = MCTSPolicy(
            task,
            self.policy,
            simulations=self.config.simulations,
            choice="soft" if is_charged else "visits",
            leaf=self.config.leaf,
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
        pool = self._recharged(episodes if self.best is None else episodes.joined(self.best))
        rows = self._choose(pool)
        self.best = pool.select(rows) if rows.size else None
        targets = returns_to_go(episodes.rewards, bootstrap_values=episodes.bootstrap_values)
        valued = episodes if self.config.learns_value else None
        steps = [
            self._step(episodes, targets, *parts)
            for _ in range(self.config.epochs)
            for parts in zip_longest(self._parts(self.best, rng), self._parts(valued, rng))
        ]
        names = ["loss", "gradient_norm", *(["value_loss"] if self.config.learns_value else [])]
        found = {name: [step[name] for step in steps if name in step] for name in names}
        means = {name: float(np.mean(values)) if values else 0.0 for name, values in found.items()}
        return {"kept": len(rows), **means}

    def _step(
        self,
        episodes: Episodes,
        targets: NDArray[np.float64],
        imitated: Rows | None,
        valued: Rows | None,
    ) -> dict[str, float]:
        """Takes one step on some of the best, and on the value of some of all episodes."""
        stats = {}
        if imitated is not None:
            assert self.best is not None
            stats["loss"] = self.add_imitation_gradients(self.best, imitated)
        if valued is not None:
            weight = self.config.value_coefficient
            stats["value_loss"] = self.add_value_gradients(episodes, valued, targets, weight=weight)
        return {**stats, "gradient_norm": self.step_optimizer()}

    def _parts(self, episodes: Episodes | None, rng: np.random.Generator) -> list[Rows]:
        """Returns the rows of each minibatch, in a new order; none of no episodes."""
        if episodes is None:
            return []
        order = rng.permutation(len(episodes))
        parts = np.array_split(order, min(self.config.minibatches, len(order)))
        return [np.sort(rows) for rows in parts]

    @torch.no_grad()
    def _recharged(self, pool: Episodes) -> Episodes:
        """Returns the episodes with the KL penalty of the policy as it is now.

        What is imitated already becomes worth less than what is as good and less likely, so that
        the policy does not end with a few texts by heart.
        """
        if pool.ref_log_probs is None:
            return pool
        now = log_probs_now(self.policy, pool, self.micro_batches(np.arange(len(pool))))
        return recharged(pool, now, kl_coefficient=self.kl_coefficient)

    def _choose(self, pool: Episodes) -> Rows:
        """Returns the rows of the best; the newest come first, and a stable sort keeps them so."""
        good = np.flatnonzero(pool.scores > self.memory["worst"])
        order = np.argsort(-pool.returns[good], kind="stable")[: self.config.kept]
        return np.sort(good[order])

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


def _charged_task(envs: Any) -> Task:  # noqa: ANN401 - any stack of vector wrappers
    """Returns what a search is to play: the task, with β and reference of the KL wrapper."""
    task, charge = native_envs(envs).task, kl_charge(envs)
    if charge is None:
        return task
    reference = charge.reference
    return replace(task, kl_coefficient=charge.coefficient, load_reference=lambda: reference)
