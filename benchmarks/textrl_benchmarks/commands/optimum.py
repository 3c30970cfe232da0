"""`textrl optimum`: the best that can be reached in an environment, exactly or within bounds."""

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from textrl_benchmarks.commands.environment_options import (
    EnvironmentOptions,
    check_numbers,
    make_environment,
)
from textrl_envs.errors import InvalidInputError

__all__ = ["Optimum"]


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """Print the exact optimum of an environment; where there is none, bounds from samples."""

    id: Annotated[str | None, tyro.conf.Positional] = None
    """The environment, as --env names it."""
    environment: Annotated[EnvironmentOptions, tyro.conf.OmitArgPrefixes] = field(
        default_factory=EnvironmentOptions
    )
    plot: Path | None = None
    """Draw the reward-KL frontier into this file, PNG or SVG."""
    run_folder: Path | None = None
    """For bounds: play the agent that `textrl train` left there; its value is the lower bound."""
    episodes: int = 4096
    """For bounds: episodes to play."""
    max_score: float | None = None
    """For bounds: the highest score there can be; without it there is no upper bound."""
    seed: int = 0
    """For bounds: of all sampling."""
    json: bool = False
    """Print one JSON object instead of tables."""

    def run(self) -> int:
        """Solves, or samples, and prints."""
        # Not above: reading the options shall not wait for torch.
        from textrl_envs.optimum import has_exact_optimum

        check_numbers(self, positive=("episodes",))
        if self.max_score is not None and math.isnan(self.max_score):
            raise InvalidInputError(f"--max-score must be a number; got {self.max_score}.")
        if self.plot is not None and self.plot.suffix.lower() not in (".png", ".svg"):
            raise InvalidInputError(f"--plot must end in .png or .svg; got {self.plot}.")
        options = self.environment
        if self.id is not None:
            if options.env not in (self.id, EnvironmentOptions().env):
                raise InvalidInputError("The environment was given twice: as ID and by --env.")
            options = replace(options, env=self.id)
        envs = make_environment(options.env, options.parameters(), 1)
        if has_exact_optimum(envs):
            if self.run_folder is not None or self.max_score is not None:
                raise InvalidInputError(
                    f"{options.env} is solved exactly; --run-folder and --max-score are for bounds."
                )
            self._print_exact(envs, options.env)
        else:
            self._print_bounds(envs, options.env)
        return 0

    def _print_exact(self, envs: Any, name: str) -> None:  # noqa: ANN401
        from textrl_envs.optimum import optimum

        best = optimum(envs)
        numbers: dict[str, Any] = {
            "id": name,
            "kl_coefficient": best.kl_coefficient,
            "reference_value": best.reference_value,
            "value": best.value,
            "reward": best.reward,
            "kl": best.kl,
            **{f"mean_{k}": float(v.mean()) for k, v in best.at_optimum.measures.items()},
        }
        if self.plot is not None:
            from textrl_benchmarks.frontier import plot_frontier

            plot_frontier(best, self.plot, title=f"{name}, exact")
            numbers["plot"] = str(self.plot)
        if self.json:
            values = best.values.tolist()
            print(json.dumps({**numbers, "values": values}))  # noqa: T201
            return
        console = Console()
        table = Table(box=None, pad_edge=False)
        for heading in ("policy", "reward", "KL (nats)", "reward − β KL", "normalised"):
            table.add_column(heading, justify="left" if heading == "policy" else "right")
        reference = best.reference_value
        table.add_row("reference", f"{reference:.6f}", "0", f"{reference:.6f}", "0")
        table.add_row("optimum", f"{best.reward:.6f}", f"{best.kl:.6f}", f"{best.value:.6f}", "1")
        console.print(f"{name}: exact, β = {best.kl_coefficient:g}", highlight=False)
        console.print(table)
        if not best.is_worth_having:
            console.print("nothing is to be gained: no policy is better than the reference")
        for measure in best.at_optimum.measures:
            means = [x.measures[measure].mean() for x in (best.at_reference, best.at_optimum)]
            console.print(
                f"mean {measure}: reference {means[0]:.6f}, optimum {means[1]:.6f}", highlight=False
            )
        if self.plot is not None:
            console.print(f"frontier in {self.plot}", highlight=False, soft_wrap=True)

    def _print_bounds(self, envs: Any, name: str) -> None:  # noqa: ANN401
        from textrl_envs.optimum import bounds

        if self.plot is not None:
            raise InvalidInputError(f"{name} has no exact frontier to plot; leave out --plot.")
        found = bounds(
            envs,
            policy=None if self.run_folder is None else self._policy(envs, name),
            episodes=self.episodes,
            seed=self.seed,
            max_score=self.max_score,
        )
        if self.json:
            from dataclasses import asdict

            print(json.dumps({"id": name, "bounds": asdict(found)}))  # noqa: T201
            return
        console = Console()
        upper = "unknown: give --max-score" if found.upper is None else f"{found.upper:.3f}"
        for line in (
            f"{name}: no exact optimum; bounds from {self.episodes:,} episodes, "
            f"β = {found.kl_coefficient:g}, intervals of 95 %",
            f"reference    {found.reference}",
            f"lower bound  {found.lower}",
            f"estimate     {found.estimate}",
            f"upper bound  {upper}",
        ):
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _policy(self, envs: Any, name: str) -> Any:  # noqa: ANN401
        assert self.run_folder is not None
        from textrl_agents.registry import agent_class
        from textrl_benchmarks.run_folder import RunFolder

        folder = RunFolder.open(self.run_folder)
        options = folder.options()
        if (trained_on := options["environment"]["env"]) != name:
            raise InvalidInputError(
                f"The agent in {self.run_folder} was trained on {trained_on}, not {name}."
            )
        policy = agent_class(options["agent"]).load(folder.checkpoint()).policy
        expected = envs.unwrapped.task.vocabulary_size
        if policy.vocabulary_size != expected:
            raise InvalidInputError(
                f"The vocabularies do not match: {name} has {expected} tokens, the agent in "
                f"{self.run_folder} {policy.vocabulary_size}."
            )
        return policy
