"""The expected gradient of an update: the chance of each batch times its gradient, summed.

What it must be is told by `tiny.enumerate_exactly`, which knows nothing of losses or advantages.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from tests.agents.tiny import (
    Exact,
    Floats,
    Response,
    causal_policy,
    episodes_of,
    gradients_of_update,
    residual,
    tiny_gpt2,
)
from textrl_agents.episodes import Episodes
from textrl_agents.on_policy import OnPolicyAgent
from textrl_agents.policies import Policy
from textrl_envs.task import Task

TOLERANCE = 1e-9
"""Of float64 policies. Rounding makes 1e-14; what is wrong is off by a hundredth or more."""
SINGLE_TOLERANCE = 2e-5
"""Of float32 policies, as they are trained."""
FAR = 0.01
"""Whatever is wrong is off by more."""

Played = Sequence[tuple[int, Response]]
Change = Callable[[Episodes], Episodes]


def same(episodes: Episodes) -> Episodes:
    return episodes


def precise(task: Task, **settings: Any) -> Policy:
    """Returns a residual policy in float64."""
    return residual(task, **settings).double()


def make_policy(kind: str, task: Task) -> Policy:
    if kind == "residual":
        return precise(task, away=0.5)
    policy = causal_policy(tiny_gpt2(task.vocabulary_size))
    with torch.no_grad():
        policy.value_head.weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    return policy.double()


def expected_gradient(
    agent: OnPolicyAgent,
    task: Task,
    batches: Iterable[tuple[float, Played]],
    change: Change = same,
) -> Floats:
    """Sums (probability of the batch) x (gradient of its update), an ascent an episode.

    An update divides by the tokens of its batch; that is undone, and the sign turned.
    """
    total = np.zeros(sum(p.numel() for p in agent.policy.parameters()))
    memory = dict(agent.memory)
    for weight, played in batches:
        agent.memory = dict(memory)
        episodes = change(episodes_of(task, agent.policy, played))
        (gradient,) = gradients_of_update(agent, episodes)
        total -= weight * gradient * episodes.num_tokens / len(played)
    return total


def one_by_one(exact: Exact) -> list[tuple[float, Played]]:
    return [(float(w), [y]) for w, y in zip(exact.weights, exact.played, strict=True)]


def in_pairs(exact: Exact, is_pair: Callable[[int, int], bool]) -> list[tuple[float, Played]]:
    """Returns all unordered pairs of independent responses whose prompts may stand together."""
    pairs: list[tuple[float, Played]] = []
    weights = exact.weights.tolist()
    for i, first in enumerate(exact.played):
        for j, second in enumerate(exact.played[: i + 1]):
            if is_pair(first[0], second[0]):
                weight = weights[i] * weights[j] * (1 if i == j else 2)
                pairs.append((weight, [first, second]))
    total = sum(weight for weight, _ in pairs)
    return [(weight / total, pair) for weight, pair in pairs]


def in_groups(exact: Exact, size: int) -> list[tuple[float, Played]]:
    """Returns all ordered groups of independent responses to one prompt."""
    weights = (exact.weights * exact.num_prompts).tolist()
    groups: list[tuple[float, Played]] = []
    for prompt in range(exact.num_prompts):
        rows = [i for i, (own, _) in enumerate(exact.played) if own == prompt]
        for group in itertools.product(rows, repeat=size):
            weight = float(np.prod([weights[i] for i in group])) / exact.num_prompts
            groups.append((weight, [exact.played[i] for i in group]))
    return groups


def exact_values(exact: Exact) -> dict[tuple[int, Response], float]:
    """V(x, y_<t): the expected return to go of every prefix, by enumeration."""
    sums: dict[tuple[int, Response], float] = {}
    masses: dict[tuple[int, Response], float] = {}
    for i, (prompt, y) in enumerate(exact.played):
        to_go, weight = exact.returns_to_go(i), float(exact.weights[i])
        for t in range(len(y)):
            prefix = prompt, y[:t]
            sums[prefix] = sums.get(prefix, 0.0) + weight * float(to_go[t])
            masses[prefix] = masses.get(prefix, 0.0) + weight
    return {prefix: sums[prefix] / masses[prefix] for prefix in sums}
