"""TablePolicy: a number for every token at every node of an exactly solved environment.

It sees what matters of a text, and nothing has to be generalised: what an algorithm does by itself,
without a network. And it is evaluated exactly, without sampling.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from textrl_agents.episodes import Episodes
from textrl_agents.policies.base import Policy, TokenEvaluation, response_tokens
from textrl_agents.policies.distribution import TokenDistribution, token_log_probs
from textrl_agents.policies.sampling import PLAIN, Sampling, read_sampling
from textrl_envs.environments import build_task
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum.dynamic_programming import Expectations, expectations
from textrl_envs.optimum.solve import build_mdp
from textrl_envs.task import Task

__all__ = ["TablePolicy"]

MAX_NUMBERS = 20_000_000


class TablePolicy(Policy):
    """log π = log softmax(log π_ref + table[time, node]), the table being zero at first.

    Args:
        task: one whose optimum is exact; its nodes (`textrl_envs.optimum`) are the rows.
        source: name and parameters that `build_task` makes the task from, for `save`.
        sampling: how the distribution is made of the logits.

    Raises:
        InvalidInputError: a task without exact optimum, or with too many nodes.
    """

    default_learning_rate: ClassVar[float] = 0.05

    def __init__(
        self, task: Task, *, source: dict[str, Any] | None = None, sampling: Sampling = PLAIN
    ) -> None:
        super().__init__(vocabulary_size=task.vocabulary_size, sampling=sampling)
        self.mdp = build_mdp(task)
        self._source = source
        shape = (self.mdp.limit, *self.mdp.log_ref.shape)
        if np.prod(shape) > MAX_NUMBERS:
            raise InvalidInputError(
                f"A table of {shape[0]} times, {shape[1]} nodes, {shape[2]} tokens is too large. "
                "Lower max_new_tokens, or train a network."
            )
        self.table = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        self.values = nn.Parameter(torch.zeros(shape[:2], dtype=torch.float64))
        self._log_ref = torch.from_numpy(self.mdp.log_ref)

    @classmethod
    def of(cls, envs: Any, *, sampling: Sampling = PLAIN) -> Self:  # noqa: ANN401
        """Makes the table of an environment, wrapped or not."""
        base = envs.unwrapped
        return cls(base.task, source=base.source, sampling=sampling)

    def exact(self) -> Expectations:
        """Returns what the policy earns, pays in KL and measures, for each prompt, exactly."""
        with torch.no_grad():
            return expectations(self.mdp, lambda time: self._log_probs_at(time).numpy())

    def check_length(self, length: int) -> None:
        """Does nothing: the table has the environment's own length."""

    def forget(self) -> None:
        """Does nothing: nothing is remembered."""

    def save(self, folder: Path) -> None:
        """Writes the table and what its environment is made from.

        Raises:
            InvalidInputError: an environment without a name, which could not be made again.
        """
        if self._source is None:
            raise InvalidInputError(
                "A table can be saved with an environment that has a name alone, such as gym.make "
                "gives: its rows mean nothing without it."
            )
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "table.safetensors")
        self.write_about(folder, kind="table", **self._source)

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Reads what `save` wrote."""
        about = json.loads((folder / "policy.json").read_text())
        source = {"task": about["task"], "parameters": about["parameters"]}
        task = build_task(about["task"], about["parameters"])
        policy = cls(task, source=source, sampling=read_sampling(about))
        policy.load_state_dict(load_file(folder / "table.safetensors"))
        return policy

    def _log_probs_at(self, time: int) -> Tensor:
        return self._sampled(self._log_ref, self.table[time]).log_softmax(-1)

    def _sampled(self, log_ref: Tensor, table: Tensor, tokens: Tensor | None = None) -> Tensor:
        return self.sampling.apply(log_ref + table, ref_log_probs=log_ref, tokens=tokens)

    def _read(self, obs: Any) -> tuple[TokenDistribution, Tensor]:  # noqa: ANN401 - either form
        time, node, *_ = self.mdp.locate(obs)
        logits = self._sampled(self._log_ref[node], self.table[time, node])
        return TokenDistribution(logits), self.values[time, node]

    def evaluate(self, episodes: Episodes, *, with_entropies: bool = True) -> TokenEvaluation:
        """Returns log-prob, entropy and value of the M response tokens, with gradients."""
        nodes = self.mdp.walk(episodes.prompt_index, episodes.response_ids)
        mask = episodes.response_mask
        times = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
        place = times[mask], nodes[mask]
        tokens = response_tokens(episodes, self.device)
        logits = self._sampled(self._log_ref[nodes[mask]], self.table[place], tokens)
        return TokenEvaluation(*token_log_probs(logits, tokens), self.values[place])
