"""Learning-rate schedules: their closed forms, and what an optimiser is told over a run."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from tests.agents.tiny import residual, tiny_task, with_kl
from textrl_agents.reinforce import REINFORCE, REINFORCEConfig
from textrl_agents.schedules import learning_rate_factor
from textrl_envs.errors import InvalidInputError

FORMS: dict[str, Callable[[float], float]] = {
    "linear": lambda share: 1 - share,
    "cosine": lambda share: math.cos(math.pi * share / 2) ** 2,
    "constant": lambda share: 1.0,
}
"""What is left once that share of the time after the warm-up has gone by."""


@pytest.mark.parametrize("schedule", FORMS)
@pytest.mark.parametrize("warmup", [0.0, 0.2])
def test_it_rises_to_1_and_falls_by_its_closed_form(schedule: Any, warmup: float) -> None:
    for spent in (0.0, 0.1, 0.2, 0.35, 0.6, 0.99, 1.0):
        found = learning_rate_factor(schedule, spent, warmup_fraction=warmup)
        if spent < warmup:
            assert found == pytest.approx(spent / warmup)
        else:
            expected = FORMS[schedule]((spent - warmup) / (1 - warmup))
            assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("schedule", FORMS)
def test_every_step_of_a_run_has_the_rate_of_what_was_spent_before_it(schedule: Any) -> None:
    policy, total = residual(tiny_task()), 400
    config = REINFORCEConfig(
        episodes_per_batch=16,
        learning_rate=0.02,
        learning_rate_schedule=schedule,
        warmup_fraction=0.3,
    )
    agent = REINFORCE(policy, config=config)
    rows = agent.learn(with_kl(tiny_task(), policy), total_tokens=total).rows
    assert len(rows) > 5
    spent = [0.0, *(row["tokens"] / total for row in rows)]
    for row, share in zip(rows, spent, strict=False):
        factor = learning_rate_factor(schedule, share, warmup_fraction=0.3)
        assert row["learning_rate"] == pytest.approx(0.02 * factor)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate_schedule": "step"}, "learning_rate_schedule must be one of"),
        ({"warmup_fraction": 1.0}, r"warmup_fraction must be in \[0, 1\)"),
    ],
)
def test_a_setting_outside_its_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        REINFORCEConfig(**settings)
