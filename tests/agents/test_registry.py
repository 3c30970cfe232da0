from pathlib import Path

import pytest
import torch

from tests.agents.tiny import residual, tiny_gpt2, tiny_task, vector_env
from textrl_agents import agent_class, agent_names, make
from textrl_agents.policies import CausalLMPolicy, ResidualPolicy
from textrl_agents.ppo import PPO, PPOConfig
from textrl_agents.reinforce import REINFORCE
from textrl_envs.errors import InvalidInputError

MY_AGENT = """
from textrl_agents.ppo import PPO, PPOConfig


class MyAgent(PPO):
    name = "mine"


SETTING = 3
"""


def test_the_built_in_agents_are_known_by_name() -> None:
    assert {"ppo", "reinforce"} <= set(agent_names())
    assert agent_names() == sorted(agent_names())
    assert agent_class("ppo") is PPO
    assert agent_class("reinforce") is REINFORCE


def test_an_agent_gets_its_settings_and_the_policy_that_suits_the_environment() -> None:
    agent = make("ppo", vector_env(tiny_task()), seed=4, device="cpu", epochs=2, clip=0.1)
    assert isinstance(agent, PPO)
    assert agent.config == PPOConfig(epochs=2, clip=0.1)
    assert agent.seed == 4
    assert isinstance(agent.policy, ResidualPolicy)


def test_the_seed_decides_the_first_weights_of_the_policy() -> None:
    envs = vector_env(tiny_task())
    first, same, other = (
        make("ppo", envs, seed=seed, device="cpu").policy.trunk.wte.weight for seed in (0, 0, 1)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_policy_or_the_folder_of_a_model_may_be_given(tmp_path: Path) -> None:
    task = tiny_task()
    policy = residual(task)
    assert make("reinforce", vector_env(task), policy=policy).policy is policy
    tiny_gpt2().save_pretrained(tmp_path)
    agent = make("reinforce", vector_env(task), policy=str(tmp_path), device="cpu")
    assert isinstance(agent.policy, CausalLMPolicy)


def test_an_unknown_agent_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InvalidInputError, match=r"Unknown agent 'pppo'\. Did you mean 'ppo'\?"):
        make("pppo", vector_env(tiny_task()))


def test_an_unknown_setting_is_refused_with_the_nearest_name_before_a_model_is_loaded() -> None:
    with pytest.raises(
        InvalidInputError, match=r"ppo has no setting 'epoch'\. Did you mean 'epochs'\?"
    ):
        make("ppo", vector_env(tiny_task()), policy="/no/such/folder", epoch=3)


def test_a_setting_outside_its_range_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="clip must be positive; got -1"):
        make("ppo", vector_env(tiny_task()), clip=-1)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"has no config\.json"):
        make("ppo", vector_env(tiny_task()), policy=str(tmp_path), device="cpu")


def test_an_agent_may_stand_in_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "file.py"
    path.write_text(MY_AGENT)
    agent = make(f"{path}:MyAgent", vector_env(tiny_task()), device="cpu", epochs=1)
    assert type(agent).__name__ == "MyAgent"
    assert agent.config.epochs == 1
    agent.save(tmp_path / "agent")
    loaded = agent_class(f"{path}:MyAgent").load(tmp_path / "agent", device="cpu")
    assert type(loaded) is type(agent)


def test_an_agent_may_stand_in_an_installed_module() -> None:
    assert agent_class("textrl_agents.ppo:PPO") is PPO


def test_a_file_without_that_agent_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    path = tmp_path / "file.py"
    path.write_text(MY_AGENT)
    with pytest.raises(InvalidInputError, match=r"has no 'MyAgents'\. Did you mean 'MyAgent'\?"):
        agent_class(f"{path}:MyAgents")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"There is no file .*nothing\.py"):
        agent_class(f"{tmp_path / 'nothing.py'}:MyAgent")


def test_a_name_that_is_no_agent_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.py"
    path.write_text(MY_AGENT)
    with pytest.raises(InvalidInputError, match="SETTING"):
        make(f"{path}:SETTING", vector_env(tiny_task()), device="cpu")


# --- agents of another kind: any class with `make` ---

OTHER_AGENT = """
import numpy as np
from textrl_agents import TrainingLog


class Ender:
    def __init__(self, eos, seed, device, patience):
        self.eos, self.seed, self.device, self.patience = eos, seed, device, patience

    @classmethod
    def make(cls, envs, *, seed, device, patience=1):
        return cls(envs.unwrapped.task.tokenizer.eos_token_id, seed, device, patience)

    def act(self, obs, *, greedy=False):
        return np.full(len(obs["input_ids"]), self.eos)

    def learn(self, envs, *, total_tokens, progress=None):
        return TrainingLog()


class Anything(Ender):
    @classmethod
    def make(cls, envs, **settings):
        agent = cls(0, 0, "cpu", 0)
        agent.settings = settings
        return agent


class Mute:
    @classmethod
    def make(cls, envs, *, seed, device):
        return cls()

    def act(self, obs):
        return None


class Seedless:
    @classmethod
    def make(cls, envs):
        return cls()


class NoAgent:
    pass
"""


def other_agent(tmp_path: Path, name: str) -> str:
    path = tmp_path / "other.py"
    path.write_text(OTHER_AGENT)
    return f"{path}:{name}"


def test_an_agent_of_another_kind_makes_itself(tmp_path: Path) -> None:
    envs = vector_env(tiny_task())
    agent = make(other_agent(tmp_path, "Ender"), envs, seed=5, device="cpu", patience=3)
    assert (agent.seed, agent.device, agent.patience) == (5, "cpu", 3)
    agent = make(other_agent(tmp_path, "Anything"), envs, seed=1, device="cpu", colour="red")
    assert agent.settings == {"seed": 1, "device": "cpu", "colour": "red"}


def test_its_unknown_setting_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"no setting 'patienc'\. Did you mean 'patience'"):
        make(other_agent(tmp_path, "Ender"), vector_env(tiny_task()), patienc=3)
    with pytest.raises(InvalidInputError, match=r"null_echo has no setting 'loud'\. It has none\."):
        make("null_echo", vector_env(tiny_task()), loud=True)


def test_it_takes_no_policy(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"makes its own policy; .* Got 'table'"):
        make(other_agent(tmp_path, "Ender"), vector_env(tiny_task()), policy="table")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoAgent", "is no agent; give a subclass of .*OnPolicyAgent, or a class with a class"),
        ("Mute", "has no learn"),
        ("Seedless", r"Seedless\.make must take seed"),
    ],
)
def test_a_class_that_is_no_agent_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make(other_agent(tmp_path, name), vector_env(tiny_task()))
