from typing import Any

import gymnasium as gym
import pytest

import textrl_envs  # noqa: F401 - registers the ids
from tests.agents.tiny import TableReward, random_ngram, tiny_task, vector_env
from textrl_benchmarks.leaderboard.fingerprint import check_fingerprint, fingerprint, ingredients
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task

PARITY = "47eb76f35561083b01a980d41de9361c70703b5f5f50aeb7b986f3e8137e7166"
REFERENCE = "0.128001980276"


def of(task: Task, **settings: Any) -> str:
    return fingerprint(vector_env(task, **settings))


def test_equal_environments_have_equal_fingerprints() -> None:
    first = of(tiny_task())
    assert first == of(tiny_task(), num_envs=3, obs="flat")
    assert len(first) == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"beta": 0.31},
        {"limit": 4},
        {"prompts": ("a", "b a b")},
        {"reference": random_ngram(4, seed=9)},
        {"size": 5},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_whatever_is_changed_changes_the_fingerprint(changes: dict[str, Any]) -> None:
    assert of(tiny_task(**changes)) != of(tiny_task())


def test_a_reward_that_scores_one_response_otherwise_changes_the_fingerprint() -> None:
    task, other = tiny_task(), tiny_task()
    assert isinstance(other.reward, TableReward)
    response = next(iter(other.reward.table))
    other.reward.table[response] += 1e-6
    assert of(task) != of(other)
    one, two = (ingredients(vector_env(each)) for each in (task, other))
    assert {key for key in one if one[key] != two[key]} == {"reference_value", "optimum_value"}


def test_a_built_in_environment_keeps_its_fingerprint() -> None:
    """Whoever changes what Parity-v0 is must give it a new version: old cells are of the old."""
    made = ingredients(gym.make_vec("textrl/Parity-v0", num_envs=2))
    assert made["max_new_tokens"] == 16
    assert made["reference_value"] == REFERENCE
    assert fingerprint(gym.make_vec("textrl/Parity-v0", num_envs=2)) == PARITY


def test_another_environment_is_refused_with_what_it_is_made_of() -> None:
    envs = gym.make_vec("textrl/Parity-v0", num_envs=2)
    check_fingerprint(envs, fingerprint(envs), "textrl/Parity-v0")
    other = gym.make_vec("textrl/Parity-v0", num_envs=2, kl_coefficient=0.2)
    with pytest.raises(
        InvalidInputError, match=r"textrl/Parity-v0 is not .* kl_coefficient 0\.2, reference_value"
    ):
        check_fingerprint(other, fingerprint(envs), "textrl/Parity-v0")


def test_an_environment_without_exact_optimum_has_none() -> None:
    with pytest.raises(InvalidInputError, match=r"bounds\(env\)"):
        fingerprint(gym.make_vec("textrl/Dialogue-v0", num_envs=2))
