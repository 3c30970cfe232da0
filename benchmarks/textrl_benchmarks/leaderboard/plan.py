"""plan(suite) -> cells: every combination, and what identifies its agent and environment."""

from typing import Any

from textrl_benchmarks.commands.environment_options import make_environment
from textrl_benchmarks.leaderboard.cell import Cell
from textrl_benchmarks.leaderboard.fingerprint import fingerprint
from textrl_benchmarks.leaderboard.running.contestants import BASELINES, make_contestant
from textrl_benchmarks.leaderboard.running.run_cell import anchors_of
from textrl_benchmarks.leaderboard.suite import Suite, SuiteAgent, SuiteEnvironment
from textrl_benchmarks.leaderboard.versions import entry_version
from textrl_envs.errors import InvalidInputError

__all__ = ["plan"]


def plan(suite: Suite) -> list[Cell]:
    """Returns all cells, seed by seed, so that a run that is stopped has whole seeds.

    Raises:
        InvalidInputError: an environment, agent, setting or policy that cannot be used.
    """
    baselines = tuple(SuiteAgent(name=name, entry=name) for name in BASELINES)
    agents = (*suite.agents, *baselines)
    versions = {agent.name: entry_version(agent.entry, agent.policy) for agent in agents}
    made = {
        one.id: make_environment(one.id, one.parameters, suite.num_envs)
        for one in suite.environments
    }
    for name, envs in made.items():
        anchors_of(envs, name)  # refuses what has no exact optimum, and names it
    _check_agents(suite, next(iter(made.values())))
    fingerprints = {name: fingerprint(envs) for name, envs in made.items()}
    return [
        _cell(suite, one, agent, seed, fingerprints[one.id], versions[agent.name])
        for seed in suite.seeds
        for one in suite.environments
        for agent in agents
    ]


def _cell(
    suite: Suite,
    environment: SuiteEnvironment,
    agent: SuiteAgent,
    seed: int,
    env_sha256: str,
    version: str,
) -> Cell:
    return Cell(
        suite=suite.name,
        suite_version=suite.version,
        env_id=environment.id,
        env_parameters=environment.parameters,
        env_sha256=env_sha256,
        agent=agent.name,
        entry=agent.entry,
        entry_version=version,
        policy=agent.policy,
        settings=agent.settings,
        seed=seed,
        budget_tokens=0 if agent.name in BASELINES else environment.budget_tokens,
        num_envs=suite.num_envs,
        eval_episodes=suite.eval_episodes,
    )


def _check_agents(suite: Suite, envs: Any) -> None:  # noqa: ANN401 - a vector environment
    """Makes every agent once, so that a typo answers before anything is run."""
    for agent in suite.agents:
        try:
            make_contestant(agent.entry, envs, policy=agent.policy, seed=0, settings=agent.settings)
        except InvalidInputError as error:
            raise InvalidInputError(f"Agent {agent.name!r}: {error}") from error
