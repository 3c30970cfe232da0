"""What REINFORCE and PPO share: collect, update, log, save. The algorithm is in its own file."""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers.modeling_layers import GradientCheckpointingLayer

from textrl_agents.agent import Progress, StopTraining, TrainingLog
from textrl_agents.averaging import WeightAverage
from textrl_agents.collector import Collector, native_envs
from textrl_agents.config import OnPolicyConfig
from textrl_agents.episodes import Episodes
from textrl_agents.losses import value_loss
from textrl_agents.objective import (
    keep_coefficient,
    kl_coefficient,
    normalised_score,
    restore_coefficient,
)
from textrl_agents.policies.base import Policy
from textrl_agents.policies.loading import load_policy
from textrl_agents.schedules import learning_rate_factor
from textrl_envs.errors import InvalidInputError
from textrl_envs.files import read_json

__all__ = ["OnPolicyAgent", "OnPolicyConfig"]


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
    learning_rate_scale: ClassVar[float] = 1.0
    """Of the policy's own learning rate, where none is given: one step a batch may be larger."""

    def __init__(self, policy: Policy, *, config: Any = None, seed: int = 0) -> None:  # noqa: ANN401
        self.policy = policy
        self.config = config if config is not None else self.config_class()
        self.seed = seed
        own = self.learning_rate_scale * policy.default_learning_rate
        self.learning_rate: float = self.config.learning_rate or own
        self.iteration = 0
        self.tokens = 0
        self.log = TrainingLog()
        self.memory: dict[str, float] = {}
        """Numbers that an algorithm carries from batch to batch, saved with it."""
        trained = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = self.make_optimizer(trained)
        decay = self.config.average_decay
        self.average = None if decay is None else WeightAverage(trained, decay=decay)
        if self.config.gradient_checkpointing:
            _check_layers(policy)
        policy.is_checkpointed = self.config.gradient_checkpointing
        self._act_rng = np.random.default_rng([seed, 1])

    def make_optimizer(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Returns what takes the steps: Adam, unless an algorithm needs another."""
        # fused: one pass over the weights instead of ten
        return torch.optim.Adam(parameters, lr=self.learning_rate, eps=1e-5, fused=True)

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
        restore_coefficient(envs, self.memory)
        self._exchange_weights(are_averaged=False)
        while self.tokens < total_tokens:
            self._set_learning_rate(self.tokens / total_tokens)
            row = self._iterate(collector)
            self.log.rows.append(row)
            try:
                if progress is not None:
                    progress(row)
            except StopTraining:
                break
        self._exchange_weights(are_averaged=True)
        return self.log

    def _set_learning_rate(self, spent: float) -> None:
        factor = learning_rate_factor(
            self.config.learning_rate_schedule, spent, warmup_fraction=self.config.warmup_fraction
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * factor

    def _exchange_weights(self, *, are_averaged: bool) -> None:
        """Sees to it that the policy has the averaged weights, or those that are trained."""
        if self.average is not None and self.average.is_exchanged != are_averaged:
            self.average.exchange()
            torch.autograd.graph.increment_version(self.average.parameters)

    def collect(self, collector: Collector) -> Episodes:
        """Plays the episodes of an iteration; all that the environment generates is paid for."""
        return collector.collect(
            self.policy,
            self.config.episodes_per_batch,
            seed=[self.seed, 2, self.iteration],
            group_size=self.group_size,
        )

    def _iterate(self, collector: Collector) -> dict[str, float]:
        coefficient = kl_coefficient(collector.envs)
        base = native_envs(collector.envs)
        before = base.tokens_generated
        episodes = self.collect(collector)
        rng = np.random.default_rng([self.seed, 3, self.iteration])
        stats = self.update(episodes, rng)
        if self.average is not None:
            self.average.update()
        self.iteration += 1
        self.tokens += base.tokens_generated - before
        keep_coefficient(collector.envs, self.memory)
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

    def add_value_gradients(
        self,
        episodes: Episodes,
        rows: NDArray[np.int64],
        targets: NDArray[np.float64],
        *,
        weight: float = 1.0,
    ) -> float:
        """Adds those of weight times the mean of (V − target)² / 2 over tokens of some episodes.

        Args:
            episodes: B of them.
            rows: which of them.
            targets: what the value is to be, in units of the score, (B, T).
            weight: of the loss.

        Returns:
            The mean.
        """
        count, total = int(episodes.response_mask[rows].sum()), 0.0
        for part in self.micro_batches(rows):
            values = self.policy.evaluate(episodes.select(part), with_entropies=False).values
            wanted = torch.from_numpy(targets[part][episodes.response_mask[part]]).to(values)
            loss = value_loss(values, wanted, num_tokens=count)
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
        if self.average is not None:
            save_file(self.average.state(), partial / "average.safetensors")
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
        if agent.average is not None:
            agent.average.set_state(load_file(folder / "average.safetensors"))
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


def _check_layers(policy: Policy) -> None:
    """Raises InvalidInputError where nothing can be computed again, as in an LSTM or a table."""
    if not any(isinstance(part, GradientCheckpointingLayer) for part in policy.modules()):
        raise InvalidInputError(
            "gradient_checkpointing needs a policy with layers of Transformers, which are computed "
            f"again; got a {type(policy).__name__}. Leave it out."
        )


def _old(folder: Path) -> Path:
    return folder.with_name(folder.name + ".old")


def _flatten(state: dict[int, dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {f"{i}.{key}": tensor for i, part in state.items() for key, tensor in part.items()}


def _unflatten(flat: dict[str, torch.Tensor]) -> dict[int, dict[str, torch.Tensor]]:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in flat.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    return state
