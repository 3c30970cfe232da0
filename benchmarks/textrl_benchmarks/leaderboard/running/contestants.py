"""Contestants: the name of an agent -> something that learns and plays.

"ppo", "sb3_ppo", "my_agent.py:MyAgent"   an agent by its entry, see `textrl_agents.make`
"null_empty", ...                         a null agent, which has an entry as well
"reference", "optimum"                    where 0 and 1 are; they only play
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import textrl_agents
from textrl_agents.agent import Agent, TrainingLog
from textrl_agents.collector import ActingPolicy
from textrl_agents.on_policy import OnPolicyAgent
from textrl_agents.policies import FixedPolicy, PolicyStep
from textrl_benchmarks.agent_policy import AgentPolicy
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.base import TokenScorer
from textrl_envs.optimum import OptimalPolicy, optimum
from textrl_envs.wrappers.vector import KLPenalty

__all__ = ["BASELINES", "NULL_AGENTS", "Contestant", "Kind", "kind_of", "make_contestant"]

Kind = Literal["agent", "null", "reference", "optimum"]

NULL_AGENTS = ("null_empty", "null_constant", "null_repeat", "null_echo", "null_uniform")
BASELINES = (*NULL_AGENTS, "reference", "optimum")
"""The rows of every board."""


def kind_of(entry: str) -> Kind:
    """Returns what kind of row an entry makes.

    >>> kind_of("null_echo"), kind_of("ppo")
    ('null', 'agent')
    """
    if entry == "reference":
        return "reference"
    if entry == "optimum":
        return "optimum"
    return "null" if entry in NULL_AGENTS else "agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """What a cell trains and plays."""

    name: str
    policy: ActingPolicy
    """Chooses the tokens in evaluation."""
    scorer: TokenScorer | None
    """Says how likely they were; None where nobody can, and the KL is unknown."""
    agent: Agent | None = None
    """What learns; None for what only plays."""

    def learn(self, envs: Any, total_tokens: int) -> TrainingLog:  # noqa: ANN401
        """Trains on the return that it is judged by: the score less β times the KL, if known.

        Args:
            envs: a bare vector environment.
            total_tokens: the budget, in generated tokens.

        Raises:
            InvalidInputError: it cannot learn, or its `learn` returns no log.
        """
        if self.agent is None:
            raise InvalidInputError(f"{self.name} only plays; give it budget_tokens=0.")
        if self.scorer is not None:
            envs = KLPenalty(envs, policy=self.scorer)
        log = self.agent.learn(envs, total_tokens=total_tokens)
        if not isinstance(log, TrainingLog):
            raise InvalidInputError(
                f"{self.name}.learn must return a textrl_agents.TrainingLog; got {log!r:.100}."
            )
        return log


def make_contestant(
    entry: str,
    envs: Any,  # noqa: ANN401 - a vector environment
    *,
    policy: str = "auto",
    seed: int = 0,
    device: str = "cpu",
    settings: Mapping[str, Any] | None = None,
) -> Contestant:
    """Makes a contestant for an environment.

    Args:
        entry: "reference", "optimum", or what `textrl_agents.make` is asked for.
        envs: where it is to learn.
        policy: "auto", "table", "lstm" or a Transformers folder.
        seed: of weights and sampling.
        device: "cpu", "cuda", ...; the same numbers are promised on one device alone.
        settings: of the agent.

    Raises:
        InvalidInputError: an unknown agent or setting, or settings for what has none.
    """
    settings = dict(settings or {})
    if kind_of(entry) in ("reference", "optimum"):
        if settings or policy != "auto":
            raise InvalidInputError(
                f"{entry} has no settings and no policy to choose; got {settings}, {policy!r}."
            )
        return _fixed(entry, envs)
    agent = textrl_agents.make(
        entry,
        envs,
        policy=None if policy == "auto" else policy,
        seed=seed,
        device=device,
        **settings,
    )
    if isinstance(agent, OnPolicyAgent):
        return Contestant(name=entry, policy=agent.policy, scorer=agent.policy, agent=agent)
    played = AgentPolicy(entry, agent)
    return Contestant(name=entry, policy=played, scorer=played.scorer, agent=agent)


def _fixed(entry: str, envs: Any) -> Contestant:  # noqa: ANN401
    best = optimum(envs)
    played = (
        FixedPolicy(envs.unwrapped.reference)
        if entry == "reference"
        else _OptimumPolicy(best.policy)
    )
    return Contestant(name=entry, policy=played, scorer=played)


class _OptimumPolicy(FixedPolicy):
    """π*, with its exact values."""

    language_model: Any  # π* answers all that is asked of a language model in acting

    def __init__(self, best: OptimalPolicy) -> None:
        super().__init__(best)  # type: ignore[arg-type]

    def step(self, obs: Any, rng: np.random.Generator, *, greedy: bool = False) -> PolicyStep:  # noqa: ANN401
        """Chooses a token in each observation; values are V*."""
        chosen = super().step(obs, rng, greedy=greedy)
        return replace(chosen, values=self.next_values(obs))

    def next_values(self, obs: Any) -> NDArray[np.float64]:  # noqa: ANN401 - either form
        """Returns V* of each observation, (B,)."""
        values: NDArray[np.float64] = self.language_model.next_values(obs)
        return values
