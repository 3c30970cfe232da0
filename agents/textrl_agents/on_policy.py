"""What REINFORCE and PPO share: collect, update, log, save. The algorithm is in its own file."""

import json
import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from textrl_agents.agent import Progress, StopTraining, TrainingLog
from textrl_agents.collector import Collector
from textrl_agents.episodes import Episodes
from textrl_agents.policies.base import Policy
from textrl_agents.policies.loading import load_policy
from textrl_envs.errors import InvalidInputError
from textrl_envs.files import read_json
from textrl_envs.optimum import has_exact_optimum, optimum
from textrl_envs.wrappers.kl_charge import AdaptiveCoefficient, KLCharge
from textrl_envs.wrappers.vector import KLPenalty

__all__ = [
    "OnPolicyAgent",
    "OnPolicyConfig",
    "check_types",
    "kl_coefficient",
    "normalised_score",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnPolicyConfig:
    """What every on-policy agent is told.

    Raises:
        InvalidInputError: a number outside its range.
    """

    episodes_per_batch: int = 256
    """Episodes collected before each update."""
    learning_rate: float | None = None
    """Adam's, at the start; None takes the policy's own (`Policy.default_learning_rate`)."""
    anneal_learning_rate: bool = True
    """Lower the learning rate linearly to 0 over the budget."""
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    micro_batch_size: int = 128
    """Episodes in one forward; the gradient is that of all that belong to a step."""
    gradient_checkpointing: bool = False
    """Keep the inputs of the layers alone, and compute the rest again: less memory, but slower."""

    def __post_init__(self) -> None:
        check_types(self)
        self.check("episodes_per_batch", self.episodes_per_batch >= 1, "at least 1")
        rate = self.learning_rate
        self.check("learning_rate", rate is None or rate > 0, "positive or None")
        self.check("max_gradient_norm", self.max_gradient_norm > 0, "positive")
        self.check("entropy_coefficient", self.entropy_coefficient >= 0, "0 or more")
        self.check("micro_batch_size", self.micro_batch_size >= 1, "at least 1")

    def check(self, name: str, is_right: bool, expected: str) -> None:
        """Raises InvalidInputError unless the field is right."""
        if not is_right:
            raise InvalidInputError(f"{name} must be {expected}; got {getattr(self, name)!r}.")


class OnPolicyAgent(ABC):
    """Collects with its policy, updates it, and forgets the episodes.

    All randomness is a function of seed and iteration, so that weights, optimiser and counters are
    the whole state: an agent saved and loaded goes on as if it had never stopped.

    Args:
        policy: what is trained.
        config: of the algorithm.
        seed: decides prompts, sampling and minibatches.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[OnPolicyConfig]]
    group_size: int = 1
    """Episodes in a row that share a prompt."""

    def __init__(self, policy: Policy, *, config: Any = None, seed: int = 0) -> None:  # noqa: ANN401
        self.policy = policy
        self.config = config if config is not None else self.config_class()
        self.seed = seed
        self.learning_rate: float = self.config.learning_rate or policy.default_learning_rate
        self.iteration = 0
        self.tokens = 0
        self.log = TrainingLog()
        self.memory: dict[str, float] = {}
        """Numbers that an algorithm carries from batch to batch, saved with it."""
        self.optimizer = torch.optim.Adam(
            [p for p in policy.parameters() if p.requires_grad],
            lr=self.learning_rate,
            eps=1e-5,
            fused=True,  # one pass over the weights instead of ten
        )
        policy.is_checkpointed = self.config.gradient_checkpointing
        self._act_rng = np.random.default_rng([seed, 1])

    @abstractmethod
    def update(self, episodes: Episodes, rng: np.random.Generator) -> dict[str, float]:
        """Changes the policy by one batch; returns what is to be logged."""

    def act(self, obs: Any, *, greedy: bool = False) -> NDArray[np.int64]:  # noqa: ANN401
        """Returns a token id for each observation, (B,)."""
        return self.policy.step(obs, self._act_rng, greedy=greedy).actions

    def learn(
        self,
        envs: Any,  # noqa: ANN401 - a vector environment, wrapped or not
        *,
        total_tokens: int,
        progress: Progress | None = None,
    ) -> TrainingLog:
        """Trains until `total_tokens` response tokens were generated, counted from the beginning.

        The batch that reaches the budget is finished, so that the last episodes are whole.

        Args:
            envs: a native text vector environment; within `KLPenalty` for a KL penalty.
            total_tokens: the budget. A loaded agent goes on from what it has spent.
            progress: called after each iteration; may raise `StopTraining`.

        Returns:
            The log of all iterations, those before loading included.
        """
        collector = Collector(envs)
        _restore_coefficient(envs, self.memory)
        while self.tokens < total_tokens:
            if self.config.anneal_learning_rate:
                rate = self.learning_rate * (1 - self.tokens / total_tokens)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
            row = self._iterate(collector)
            self.log.rows.append(row)
            try:
                if progress is not None:
                    progress(row)
            except StopTraining:
                break
        return self.log

    def _iterate(self, collector: Collector) -> dict[str, float]:
        coefficient = kl_coefficient(collector.envs)
        episodes = collector.collect(
            self.policy,
            self.config.episodes_per_batch,
            seed=[self.seed, 2, self.iteration],
            group_size=self.group_size,
        )
        rng = np.random.default_rng([self.seed, 3, self.iteration])
        stats = self.update(episodes, rng)
        self.iteration += 1
        self.tokens += episodes.num_tokens
        _keep_coefficient(collector.envs, self.memory)
        value = float(episodes.returns.mean())
        return {
            "iteration": self.iteration,
            "tokens": self.tokens,
            "reward": float(episodes.scores.mean()),
            "kl": float(episodes.kl.mean()),
            "return": value,
            **normalised_score(value, collector.envs),
            "kl_coefficient": coefficient,
            "entropy": float(episodes.entropies[episodes.response_mask].mean()),
            "length": float(episodes.lengths.mean()),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **stats,
        }

    def micro_batches(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Yields the episodes of a step in parts that fit into one forward."""
        size = self.config.micro_batch_size
        return (rows[start : start + size] for start in range(0, len(rows), size))

    def add_imitation_gradients(
        self, episodes: Episodes, rows: NDArray[np.int64], *, weight: float = 1.0
    ) -> float:
        """Adds those of weight times the mean of −log π over the tokens of some episodes.

        Returns:
            The mean, in nats a token.
        """
        count, total = int(episodes.response_mask[rows].sum()), 0.0
        for part in self.micro_batches(rows):
            found = self.policy.evaluate(episodes.select(part), with_entropies=False)
            loss = -found.log_probs.sum() / count
            (weight * loss).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def step_optimizer(self) -> float:
        """Clips the gradients, takes a step, and returns the norm before clipping."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_gradient_norm)
        if not torch.isfinite(norm):
            raise InvalidInputError(
                f"The gradient is not finite at iteration {self.iteration + 1}. "
                "Lower learning_rate, or look for extreme rewards."
            )
        self.optimizer.step()
        # The fused step writes unseen; what is remembered of the old weights must be dropped.
        torch.autograd.graph.increment_version(parameters)
        self.optimizer.zero_grad()
        return float(norm)

    def save(self, folder: Path) -> None:
        """Writes policy, optimiser, counters and log. The folder appears whole or not at all."""
        folder = Path(folder)
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        self.policy.save(partial / "policy")
        save_file(_flatten(self.optimizer.state_dict()["state"]), partial / "optimizer.safetensors")
        about = {
            "agent": self.name,
            "config": asdict(self.config),
            "seed": self.seed,
            "iteration": self.iteration,
            "tokens": self.tokens,
            "memory": self.memory,
            "log": self.log.rows,
        }
        (partial / "agent.json").write_text(json.dumps(about, indent=1) + "\n")
        self.save_memory(partial)
        # At no moment is there neither the old nor the new folder.
        old = _old(folder)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Reads what `save` wrote.

        Raises:
            InvalidInputError: the folder holds no agent of this kind.
        """
        folder = Path(folder)
        if not folder.exists() and _old(folder).exists():
            folder = _old(folder)  # a save was killed between its two renames
        if not (folder / "agent.json").is_file():
            raise InvalidInputError(f"{folder} holds no agent: there is no agent.json.")
        about = read_json(folder / "agent.json")
        if about["agent"] != cls.name:
            raise InvalidInputError(
                f"{folder} holds the agent {about['agent']!r}, not {cls.name!r}."
            )
        agent = cls(
            load_policy(folder / "policy", device=device),
            config=cls.config_class(**about["config"]),
            seed=about["seed"],
        )
        agent.iteration, agent.tokens = about["iteration"], about["tokens"]
        agent.memory, agent.log = about["memory"], TrainingLog(about["log"])
        state = _unflatten(load_file(folder / "optimizer.safetensors"))
        groups = agent.optimizer.state_dict()["param_groups"]
        agent.optimizer.load_state_dict({"state": state, "param_groups": groups})
        agent.load_memory(folder)
        return agent

    def save_memory(self, folder: Path) -> None:  # noqa: B027 - most agents have none
        """Writes what an algorithm remembers beside numbers; most remember nothing."""

    def load_memory(self, folder: Path) -> None:  # noqa: B027 - most agents have none
        """Reads what `save_memory` wrote."""

    @classmethod
    def make_config(cls, **settings: Any) -> OnPolicyConfig:  # noqa: ANN401 - fields of the config
        """Returns the config with these settings.

        Raises:
            InvalidInputError: an unknown setting, or a value outside its range.
        """
        from textrl_envs.errors import nearest

        known = [field.name for field in fields(cls.config_class)]
        for key in settings:
            if key not in known:
                raise InvalidInputError(f"{cls.name} has no setting {key!r}. {nearest(key, known)}")
        return cls.config_class(**settings)


def check_types(config: Any) -> None:  # noqa: ANN401 - a dataclass with `check`
    """Raises InvalidInputError for a field that is not of its type, or no finite number."""
    hints = get_type_hints(type(config))
    for field in fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        if get_origin(hint) is Literal or (value is None and NoneType in kinds):
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_right = (
            (bool in kinds and isinstance(value, bool))
            or (int in kinds and is_number and isinstance(value, int))
            or (float in kinds and is_number and math.isfinite(value))
        )
        names = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
        config.check(field.name, is_right, f"a finite {names}" if float in kinds else f"{names}")


def _old(folder: Path) -> Path:
    return folder.with_name(folder.name + ".old")


def _charge(envs: Any) -> KLCharge | None:  # noqa: ANN401 - any stack of wrappers
    """Returns the charge of the KL wrapper, wherever it is in the stack."""
    while not isinstance(envs, KLPenalty):
        if envs is envs.unwrapped:
            return None
        envs = envs.env
    return envs.charge


def kl_coefficient(envs: Any) -> float:  # noqa: ANN401 - any stack of wrappers
    """Returns β as the KL wrapper charges it now; NaN where there is none."""
    charge = _charge(envs)
    return float("nan") if charge is None else charge.coefficient


def normalised_score(value: float, envs: Any) -> dict[str, float]:  # noqa: ANN401
    """Returns how far a return is from the reference's, 0, to the optimum's, 1; empty if unknown.

    An adaptive coefficient has no single objective, and no score; nor has a KL from another
    reference than the environment's.
    """
    charge = _charge(envs)
    if charge is None or charge.adaptive is not None or not charge.coefficient > 0:
        return {}
    if not has_exact_optimum(envs) or charge.reference is not envs.unwrapped.reference:
        return {}
    best = optimum(envs, kl_coefficient=charge.coefficient)
    return {"normalised_score": best.normalise(value)}


def _adaptive(envs: Any) -> AdaptiveCoefficient | None:  # noqa: ANN401
    charge = _charge(envs)
    return None if charge is None else charge.adaptive


def _keep_coefficient(envs: Any, memory: dict[str, float]) -> None:  # noqa: ANN401
    if (adaptive := _adaptive(envs)) is not None:
        memory.update({f"kl_coefficient.{k}": v for k, v in adaptive.state().items()})


def _restore_coefficient(envs: Any, memory: dict[str, float]) -> None:  # noqa: ANN401
    if (adaptive := _adaptive(envs)) is not None:
        kept = {
            k.partition(".")[2]: v for k, v in memory.items() if k.startswith("kl_coefficient.")
        }
        if kept:
            adaptive.set_state(kept)


def _flatten(state: dict[int, dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {f"{i}.{key}": tensor for i, part in state.items() for key, tensor in part.items()}


def _unflatten(flat: dict[str, torch.Tensor]) -> dict[int, dict[str, torch.Tensor]]:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in flat.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    return state
