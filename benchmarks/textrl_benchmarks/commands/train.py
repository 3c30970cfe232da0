"""`textrl train`: environment, agent, training, evaluation, and a folder with all of it."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from textrl_benchmarks.commands.environment_options import EnvironmentOptions
from textrl_envs.errors import InvalidInputError

__all__ = ["Train"]

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended, as shells have it: a script should not go on."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train an agent. Without any option: PPO on textrl/Keyword-v0, about a minute."""

    environment: Annotated[EnvironmentOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=EnvironmentOptions
    )
    agent: str = "ppo"
    """The algorithm: ppo, reinforce, an installed agent, or path/to/file.py:MyAgent."""
    policy: Literal["auto", "table", "lstm"] = "auto"
    """What is trained: auto is the model, or a small network over the reference; table is a number
    for each token at each node of an environment whose optimum is exact; lstm is a recurrent
    network over the reference."""
    agent_args: tuple[str, ...] = ()
    """Settings of the agent as NAME=VALUE, such as learning_rate=1e-3; docs/settings.md has all."""
    sampling_args: tuple[str, ...] = ()
    """How the policy samples, as NAME=VALUE: temperature, top_k, top_p, reference_share."""
    lora_args: tuple[str, ...] = ()
    """Train low-rank adapters of the model alone, as NAME=VALUE: rank, alpha. Needs peft."""
    total_tokens: int = 150_000
    """The budget, in generated tokens. The batch that reaches it is finished."""
    num_envs: int = 64
    """Rows that generate at once."""
    seed: int = 0
    """Decides everything random."""
    kl_target: float | None = None
    """Adapt β towards this KL, in nats an episode, beginning from the environment's β."""
    eval_episodes: int = 512
    """Episodes of the evaluation at the end, at least num-envs."""
    eval_prompts: str | None = None
    """Held-out prompts to evaluate on, a JSONL file, for textrl/TextBandit-v0."""
    out: Path | None = None
    """The run folder; runs/ENV-AGENT-SEED where none is given."""
    resume: Path | None = None
    """Go on with the run in this folder, with the options it was begun with."""
    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints."""
    threads: int = 1
    """Threads of torch: 1 suits small networks, all cores a large model. Runs are equal byte for
    byte only at equal threads."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""

    def run(self) -> int:
        """Trains, evaluates, and prints where the results are."""
        # Not above: it loads torch, and `textrl --help` shall not wait for that.
        from textrl_agents.memory import keep_freed_memory
        from textrl_benchmarks.training import resume, train

        keep_freed_memory()
        if self.resume is None:
            return 0 if train(self) else INTERRUPTED
        if replace(self, resume=None) != Train():
            raise InvalidInputError(
                "--resume goes on with the options that the run was begun with. Give it alone."
            )
        return 0 if resume(self.resume) else INTERRUPTED
