"""docs/settings.md names every setting with its default."""

import inspect
from dataclasses import fields
from pathlib import Path

import pytest

from textrl_agents.ppo import PPOConfig
from textrl_agents.reinforce import REINFORCEConfig
from textrl_envs.environments.keyword import keyword
from textrl_envs.environments.text_bandit import text_bandit

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "settings.md").read_text()


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def row(name: str, default: object) -> str:
    return f"| `{name}` | {'required' if default is inspect.Parameter.empty else f'`{default}`'} |"


@pytest.mark.parametrize(
    ("title", "config"), [("Agent ppo", PPOConfig), ("Agent reinforce", REINFORCEConfig)]
)
def test_every_setting_of_an_agent_is_on_the_page(title: str, config: type) -> None:
    for field in fields(config):
        assert row(field.name, field.default) in section(title)


@pytest.mark.parametrize(
    ("title", "function"),
    [("Environment textrl/Keyword-v0", keyword), ("Environment textrl/TextBandit-v0", text_bandit)],
)
def test_every_parameter_of_an_environment_is_on_the_page(title: str, function: object) -> None:
    assert callable(function)
    for name, parameter in inspect.signature(function).parameters.items():
        assert row(name, parameter.default) in section(title)
