"""What makes a board worth nothing: null agents that are not at the bottom."""

from collections.abc import Sequence

from textrl_benchmarks.leaderboard.board.significance import RESOLUTION
from textrl_benchmarks.leaderboard.board.standings import Standing
from textrl_benchmarks.leaderboard.board.statistics import iqm

__all__ = ["null_marks", "problems"]


def problems(standings: Sequence[Standing]) -> list[str]:
    """Returns why the board is invalid; nothing where it is valid.

    A null agent learns nothing and looks at nothing. Where one is above the reference, the score
    rewards something else than what was meant; where no agent is above all of them, the board tells
    nothing of its agents.
    """
    agents = [one for one in standings if one.kind == "agent" and one.scored is not None]
    nulls = [one for one in standings if one.kind == "null"]
    found = [problem for null in nulls for problem in _above_reference(null)]
    if agents:
        found += [
            f"{null.agent.name} has no score: {', '.join(null.marks())}. Run its cells."
            for null in nulls
            if null.scored is None
        ]
        if all(null_marks(agent, nulls) for agent in agents):
            found.append("no agent is above every null agent")
    return found


def null_marks(agent: Standing, nulls: Sequence[Standing]) -> list[str]:
    """Names the null agents that a scored agent's IQM is not above."""
    if agent.scored is None:
        return []
    return [
        f"{'below' if agent.iqm < null.iqm else 'level with'} {null.agent.name}"
        for null in nulls
        if null.scored is not None and agent.iqm <= null.iqm
    ]


def _above_reference(null: Standing) -> list[str]:
    name = null.agent.name
    found = [
        f"{name} is above the reference on {env_id}: {score.value:.3f}, "
        f"interval {score.low:.3f} to {score.high:.3f}"
        for env_id, records in null.cells.items()
        if records
        if (score := null.score_on(env_id)).low > RESOLUTION
    ]
    if null.scored is not None and (whole := null.scored.interval(iqm)).low > RESOLUTION:
        found.append(
            f"{name} is above the reference over all environments: IQM {whole.value:.3f}, "
            f"interval {whole.low:.3f} to {whole.high:.3f}"
        )
    return found
