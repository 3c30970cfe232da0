"""The registered ids: cheap to import, JSON as specs, found from a fresh process."""

import copy
import json
import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

import textrl_envs
from textrl_envs.registration import IDS, register_all

MakeKwargs = Callable[[str], dict[str, Any]]

TRAJECTORY = """
import gymnasium as gym
env = gym.make("textrl_envs:textrl/Keyword-v0")
rows = []
obs, info = env.reset(seed=3)
for t in range(60):
    rows.append([obs["input_ids"].tolist(), info["prompt_index"]])
    obs, reward, terminated, truncated, info = env.step((7 * t + 3) % env.action_space.n)
    rows.append([reward, terminated, truncated, info["finish_reason"]])
    if terminated:
        obs, info = env.reset()
import json
print(json.dumps(rows))
"""


def start_python(program: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        text=True,
    )


def output_of(process: "subprocess.Popen[str]") -> str:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def trajectories() -> list[Any]:
    """Returns a trajectory of two fresh processes that differ in their hash seed alone."""
    processes = [start_python(TRAJECTORY, PYTHONHASHSEED=seed) for seed in ("1", "2")]
    return [json.loads(output_of(process)) for process in processes]


def test_importing_the_package_loads_neither_torch_nor_transformers() -> None:
    program = (
        "import sys, textrl_envs\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'stable_baselines3'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    output_of(start_python(program))


def test_an_id_with_its_module_works_in_a_fresh_process(trajectories: list[Any]) -> None:
    ends = [row for row in trajectories[0] if len(row) == 4 and row[1]]
    assert ends
    assert all(truncated is False for _, _, truncated, _ in ends)


def test_a_trajectory_does_not_depend_on_the_hash_seed(trajectories: list[Any]) -> None:
    assert trajectories[0] == trajectories[1]


def test_registering_twice_changes_nothing() -> None:
    specs = {name: gym.registry[name] for name in IDS}
    register_all()
    assert all(gym.registry[name] is spec for name, spec in specs.items())


def test_every_textrl_id_of_the_registry_is_listed() -> None:
    registered = {name for name in gym.registry if name.startswith("textrl/")}
    assert registered == set(IDS)


def test_the_public_names_exist() -> None:
    assert all(hasattr(textrl_envs, name) for name in textrl_envs.__all__)


@pytest.mark.parametrize("name", IDS)
def test_ids_are_versioned_and_name_their_entry_points_by_strings(name: str) -> None:
    spec = gym.spec(name)
    assert re.fullmatch(r"textrl/[A-Z]\w+-v\d+", name)
    assert isinstance(spec.entry_point, str)
    assert isinstance(spec.vector_entry_point, str)


@pytest.mark.parametrize("name", IDS)
def test_no_time_limit_is_put_around_an_environment(name: str) -> None:
    # TimeLimit would cut the text without scoring it; max_new_tokens is the environment's own.
    assert gym.spec(name).max_episode_steps is None


@pytest.mark.parametrize("name", IDS)
def test_a_spec_survives_json(name: str, make_kwargs: MakeKwargs) -> None:
    env = gym.make(name, obs="flat", **make_kwargs(name))
    assert env.spec is not None
    again = EnvSpec.from_json(env.spec.to_json()).make()
    assert again.observation_space == env.observation_space
    assert again.action_space == env.action_space
    first, second = env.reset(seed=5)[0], again.reset(seed=5)[0]
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", IDS)
def test_a_vector_spec_survives_json(name: str, make_kwargs: MakeKwargs) -> None:
    envs = gym.make_vec(name, num_envs=3, autoreset_mode="SameStep", **make_kwargs(name))
    assert envs.spec is not None
    again = gym.make_vec(EnvSpec.from_json(envs.spec.to_json()))
    assert again.num_envs == 3
    assert again.metadata["autoreset_mode"] == gym.vector.AutoresetMode.SAME_STEP


@pytest.mark.parametrize("name", IDS)
def test_a_spec_copies_and_pickles_small_and_fast(name: str, make_kwargs: MakeKwargs) -> None:
    env = gym.make(name, **make_kwargs(name))
    started = time.perf_counter()
    copied = copy.deepcopy(env.spec)
    data = pickle.dumps(env.spec)
    seconds = time.perf_counter() - started
    assert copied == env.spec
    assert len(data) < 10_000
    assert seconds < 0.05  # a model inside would take far longer


def test_the_parameters_of_a_task_are_json_too() -> None:
    env = gym.make("textrl/Keyword-v0", keywords=["letter", "tower"], max_new_tokens=5)
    assert env.spec is not None
    again = EnvSpec.from_json(env.spec.to_json()).make()
    texts = again.unwrapped.prompts.texts  # type: ignore[attr-defined]
    assert all(text.startswith("tell of letter and tower : ") for text in texts)
