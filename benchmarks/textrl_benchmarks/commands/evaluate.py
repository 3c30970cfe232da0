"""`textrl evaluate`: fresh episodes of a trained agent beside its reference."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from textrl_benchmarks.commands.environment_options import (
    EnvironmentOptions,
    check_numbers,
    make_environment,
)
from textrl_envs.errors import InvalidInputError

__all__ = ["Evaluate"]


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Evaluate the agent of a run folder, on its own environment or on other prompts."""

    run_folder: Annotated[Path, tyro.conf.Positional]
    """The folder that `textrl train` made."""
    episodes: int = 1024
    """Episodes to play."""
    prompts: str | None = None
    """Other prompts, a JSONL file, for textrl/TextBandit-v0."""
    seed: int = 1
    """Of prompts and sampling."""
    greedy: bool = False
    """Take the likeliest token each time."""
    num_envs: int = 64
    """Rows that generate at once."""
    threads: int = 1
    """Threads of torch."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    json: bool = False
    """Print one JSON object instead of tables."""

    def run(self) -> int:
        """Plays and prints."""
        # Not above: they load torch, and `textrl --help` shall not wait for that.
        import torch

        from textrl_agents.policies import FixedPolicy
        from textrl_agents.registry import agent_class
        from textrl_benchmarks.evaluation import evaluate
        from textrl_benchmarks.report import print_evaluations, print_samples
        from textrl_benchmarks.run_folder import RunFolder
        from textrl_envs.wrappers.vector import KLPenalty

        check_numbers(self, positive=("episodes", "num_envs", "threads"))
        if self.episodes < max(2, self.num_envs):
            raise InvalidInputError(
                f"--episodes must be at least --num-envs, {self.num_envs}, and 2; "
                f"got {self.episodes}."
            )
        torch.set_num_threads(self.threads)
        folder = RunFolder.open(self.run_folder)
        options = folder.options()
        plain = {**options["environment"], "env_args": tuple(options["environment"]["env_args"])}
        environment = EnvironmentOptions(**plain)
        if self.prompts is not None:
            environment = replace(environment, prompts=self.prompts)
        envs = make_environment(environment.env, environment.parameters(), self.num_envs)
        agent = agent_class(options["agent"]).load(folder.checkpoint(), device=self.device)
        policies = {"trained": agent.policy}
        if envs.unwrapped.reference is not None:
            policies = {"reference": FixedPolicy(envs.unwrapped.reference), **policies}
            envs = KLPenalty(envs, policy=agent.policy)
        found = {
            name: evaluate(policy, envs, episodes=self.episodes, seed=self.seed, greedy=self.greedy)
            for name, policy in policies.items()
        }
        if self.json:
            print(json.dumps({name: one.as_dict() for name, one in found.items()}))  # noqa: T201
            return 0
        console = Console()
        print_samples(console, found, count=4)
        console.print()
        print_evaluations(console, found)
        return 0
