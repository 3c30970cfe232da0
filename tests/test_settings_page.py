"""docs/settings.md names every setting with its default."""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from textrl_agents.config import OnPolicyConfig
from textrl_agents.policies import Lora, Sampling
from textrl_agents.registry import agent_class, agent_names
from textrl_agents.serving import DistillationConfig
from textrl_envs.environments import TASKS
from textrl_envs.registration import IDS

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "settings.md").read_text()


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def row(name: str, default: object) -> str:
    return f"| `{name}` | {'required' if default is inspect.Parameter.empty else f'`{default}`'} |"


def settings_of(agent: Any) -> list[tuple[str, object]]:
    """Returns name and default of each: fields of the config, or what `make` takes."""
    if hasattr(agent, "config_class"):
        return [(field.name, field.default) for field in fields(agent.config_class)]
    parameters = list(inspect.signature(agent.make).parameters.values())[1:]
    return [(one.name, one.default) for one in parameters if one.name not in ("seed", "device")]


def task_function(name: str) -> Callable[..., Any]:
    module, _, function = TASKS[IDS[name][0]].partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


@pytest.mark.parametrize("name", agent_names())
def test_every_setting_of_an_agent_is_on_the_page(name: str) -> None:
    assert f"## Agent {name}\n" in PAGE
    for setting, default in settings_of(agent_class(name)):
        assert row(setting, default) in section(f"Agent {name}")


def test_every_setting_of_sampling_and_of_adapters_is_on_the_page() -> None:
    for title, settings in (("Sampling", Sampling), ("LoRA", Lora)):
        for field in fields(settings):
            assert row(field.name, field.default) in section(title)


def test_every_setting_of_distillation_alone_is_on_the_page() -> None:
    shared = {field.name for field in fields(OnPolicyConfig)}
    for field in fields(DistillationConfig):
        if field.name not in shared:
            assert row(field.name, field.default) in section("Distillation")


@pytest.mark.parametrize("name", IDS)
def test_every_parameter_of_an_environment_is_on_the_page(name: str) -> None:
    parameters = inspect.signature(task_function(name)).parameters
    for parameter in parameters.values():
        assert row(parameter.name, parameter.default) in section(f"Environment {name}")
    # And nothing beside them: a title, a head of two lines, and a line each.
    rows = [line for line in section(f"Environment {name}").splitlines() if line.startswith("| `")]
    assert len(rows) == len(parameters)


@pytest.mark.parametrize("name", IDS)
def test_every_environment_has_the_six_headings(name: str) -> None:
    text = inspect.getdoc(task_function(name)) or ""
    headings = ["Observation", "Action", "Reward", "Termination", "Truncation"]
    places = [text.index(f"\n{heading}:\n") for heading in [*headings, "Version history"]]
    assert places == sorted(places)
    assert set(TASKS) == {task for task, _ in IDS.values()}
