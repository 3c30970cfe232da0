"""OnPolicyConfig: the settings that all on-policy agents share, and what checks a config."""

import math
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from textrl_agents.schedules import Schedule
from textrl_envs.errors import InvalidInputError

__all__ = ["OnPolicyConfig", "check_types"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnPolicyConfig:
    """What every on-policy agent is told.

    Raises:
        InvalidInputError: a number outside its range.
    """

    episodes_per_batch: int = 256
    """Episodes collected before each update."""
    learning_rate: float | None = None
    """Adam's, at the start; None takes the policy's own (`Policy.default_learning_rate`)."""
    learning_rate_schedule: Schedule = "linear"
    """How the learning rate falls over the budget: linear or cosine to 0, or constant."""
    warmup_fraction: float = 0.0
    """Part of the budget over which the learning rate rises from 0 first."""
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    micro_batch_size: int = 128
    """Episodes in one forward; the gradient is that of all that belong to a step."""
    average_decay: float | None = None
    """Once trained, the policy's weights are an exponential moving average over the iterations:
    each keeps this share of the past, as 0.9; None leaves the last weights."""
    gradient_checkpointing: bool = False
    """Keep the inputs of the layers alone, and compute the rest again: less memory, but slower."""

    def __post_init__(self) -> None:
        check_types(self)
        self.check("episodes_per_batch", self.episodes_per_batch >= 1, "at least 1")
        rate = self.learning_rate
        self.check("learning_rate", rate is None or rate > 0, "positive or None")
        known, schedule = get_args(Schedule), self.learning_rate_schedule
        self.check("learning_rate_schedule", schedule in known, f"one of {known}")
        self.check("warmup_fraction", 0 <= self.warmup_fraction < 1, "in [0, 1)")
        decay = self.average_decay
        self.check("average_decay", decay is None or 0 <= decay < 1, "in [0, 1) or None")
        self.check("max_gradient_norm", self.max_gradient_norm > 0, "positive")
        self.check("entropy_coefficient", self.entropy_coefficient >= 0, "0 or more")
        self.check("micro_batch_size", self.micro_batch_size >= 1, "at least 1")

    def check(self, name: str, is_right: bool, expected: str) -> None:
        """Raises InvalidInputError unless the field is right."""
        if not is_right:
            raise InvalidInputError(f"{name} must be {expected}; got {getattr(self, name)!r}.")


def check_types(config: Any) -> None:  # noqa: ANN401 - a dataclass with `check`
    """Raises InvalidInputError for a field that is not of its type, or no finite number."""
    hints = get_type_hints(type(config))
    for field in fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        if get_origin(hint) is Literal or (value is None and NoneType in kinds):
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_right = (
            (bool in kinds and isinstance(value, bool))
            or (int in kinds and is_number and isinstance(value, int))
            or (float in kinds and is_number and math.isfinite(value))
            or (str in kinds and isinstance(value, str))
        )
        names = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
        config.check(field.name, is_right, f"a finite {names}" if float in kinds else f"{names}")
