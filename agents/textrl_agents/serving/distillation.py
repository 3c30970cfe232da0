"""Distillation: a student learns the distributions over tokens of a teacher.

Hinton et al. 2015 (arXiv:1503.02531), at every token of a response. With the student's own samples
it learns in the texts that it will meet, and not in the teacher's alone: on-policy distillation,
Agarwal et al. 2023 (arXiv:2306.13649).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from textrl_agents.agent import TrainingLog
from textrl_agents.collector import Collector
from textrl_agents.episodes import Episodes
from textrl_agents.on_policy import OnPolicyAgent, OnPolicyConfig
from textrl_agents.policies.base import Policy
from textrl_agents.policies.distribution import LOWEST
from textrl_agents.policies.loading import load_policy
from textrl_agents.policies.logits import response_logits
from textrl_envs.errors import InvalidInputError

__all__ = ["Distillation", "DistillationConfig", "distil", "token_divergence"]

Divergence = Literal["forward", "reverse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationConfig(OnPolicyConfig):
    """Settings of distillation."""

    samples: Literal["student", "teacher"] = "student"
    """Whose responses are learnt from."""
    divergence: Divergence = "forward"
    """forward is KL(teacher ‖ student), which covers all that the teacher says; reverse is
    KL(student ‖ teacher), which leaves out what it rarely says."""
    epochs: int = 2
    """Passes over the episodes of a batch."""
    minibatches: int = 4
    """Parts of a pass, an optimiser's step each."""

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        self.check("samples", self.samples in ("student", "teacher"), "student or teacher")
        self.check("divergence", self.divergence in ("forward", "reverse"), "forward or reverse")
        self.check("epochs", self.epochs >= 1, "at least 1")
        self.check("minibatches", self.minibatches >= 1, "at least 1")
        self.check("entropy_coefficient", self.entropy_coefficient == 0, "0: it has no place here")


class Distillation(OnPolicyAgent):
    """Brings a policy near another. It sees no score, and values are not learnt.

    Args:
        policy: the student.
        teacher: whose distributions are learnt; None until `load` has read it.
        config: a `DistillationConfig`.
        seed: decides prompts, sampling and minibatches.

    Raises:
        InvalidInputError: vocabularies of two sizes.
    """

    name: ClassVar[str] = "distillation"
    config_class: ClassVar[type[OnPolicyConfig]] = DistillationConfig
    config: DistillationConfig

    def __init__(
        self,
        policy: Policy,
        *,
        teacher: Policy | None = None,
        config: DistillationConfig | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(policy, config=config, seed=seed)
        self.teacher = teacher
        if teacher is not None and teacher.vocabulary_size != policy.vocabulary_size:
            raise InvalidInputError(
                f"The teacher has {teacher.vocabulary_size} tokens, the student "
                f"{policy.vocabulary_size}. They must have one vocabulary."
            )

    def collect(self, collector: Collector) -> Episodes:
        """Plays the episodes of an iteration, with the student or with the teacher."""
        return collector.collect(
            self.policy if self.config.samples == "student" else self._taught_by(),
            self.config.episodes_per_batch,
            seed=[self.seed, 2, self.iteration],
        )

    def update(self, episodes: Episodes, rng: np.random.Generator) -> dict[str, float]:
        """Takes `epochs` · `minibatches` steps down the divergence."""
        divergences, norms = [], []
        count = min(self.config.minibatches, len(episodes))
        for _ in range(self.config.epochs):
            for rows in np.array_split(rng.permutation(len(episodes)), count):
                divergences.append(self._add_gradients(episodes, rows))
                norms.append(self.step_optimizer())
        # Of the first pass: at each place but the first a little has been learnt of others.
        first = float(np.mean(divergences[:count]))
        return {"divergence": first, "gradient_norm": float(np.mean(norms))}

    def _add_gradients(
        self, episodes: Episodes, rows: np.ndarray[Any, np.dtype[np.int64]]
    ) -> float:
        """Adds those of the mean divergence over the tokens of some episodes; returns it."""
        count, total = int(episodes.response_mask[rows].sum()), 0.0
        for part in self.micro_batches(rows):
            some = episodes.select(part)
            with torch.no_grad():
                taught = response_logits(self._taught_by(), some)
            learnt = response_logits(self.policy, some)
            found = token_divergence(taught, learnt, self.config.divergence)
            loss = found.sum() / count
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def _taught_by(self) -> Policy:
        if self.teacher is None:
            raise InvalidInputError("Distillation needs a teacher: Distillation(teacher=...).")
        return self.teacher

    def save_memory(self, folder: Path) -> None:
        """Writes the teacher."""
        self._taught_by().save(folder / "teacher")

    def load_memory(self, folder: Path) -> None:
        """Reads the teacher."""
        self.teacher = load_policy(folder / "teacher", device=str(self.policy.device))


def distil(
    teacher: Policy,
    student: Policy,
    envs: Any,  # noqa: ANN401 - a vector environment, wrapped or not
    *,
    total_tokens: int,
    seed: int = 0,
    **settings: Any,  # noqa: ANN401
) -> TrainingLog:
    """Trains a student, in place, until `total_tokens` tokens were generated.

    Args:
        teacher: whose distributions are learnt.
        student: usually smaller. With the teacher's reference under it, it begins where the
            teacher began, and says nothing that the reference cannot.
        envs: where it is learnt; within `KLPenalty` the log has the regularised return too.
        total_tokens: the budget.
        seed: decides prompts, sampling and minibatches.
        settings: fields of `DistillationConfig`.

    Returns:
        The log; `divergence` is that of a token, in nats.

    Raises:
        InvalidInputError: vocabularies of two sizes, or a setting that is unknown or out of range.
    """
    config = Distillation.make_config(**settings)
    assert isinstance(config, DistillationConfig)
    agent = Distillation(student, teacher=teacher, config=config, seed=seed)
    return agent.learn(envs, total_tokens=total_tokens)


def token_divergence(teacher: Tensor, student: Tensor, kind: Divergence) -> Tensor:
    """Returns KL(teacher ‖ student) or KL(student ‖ teacher) of each row, in nats, [M].

    Args:
        teacher: logits [M, V]; −∞ is a token that cannot be.
        student: likewise, with gradients.
        kind: "forward" is the first, "reverse" the second.

    >>> certain, fair = torch.tensor([[0.0, -torch.inf]]), torch.zeros(1, 2)
    >>> token_divergence(certain, fair, "forward")
    tensor([0.6931])
    """
    # 0 times −∞ is 0 here, and so is its gradient.
    p, q = (logits.log_softmax(-1).clamp(min=LOWEST) for logits in (teacher, student))
    if kind == "reverse":
        p, q = q, p
    return (p.exp() * (p - q)).sum(-1)
