"""SB3VecEnv against the native environment, and against what SB3 makes of scalar ones."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from tests.agents.tiny import ngram_of, random_ngram, tiny_task, vector_env
from textrl_agents.sb3 import SB3VecEnv
from textrl_envs.errors import InvalidInputError
from textrl_envs.observations import ObsMode
from textrl_envs.text_env import TextEnv
from textrl_envs.wrappers.vector import KLPenalty

ROWS = 6
STEPS = 60


def actions(seed: int = 3, *, size: int = 4) -> Sequence[Any]:
    return list(np.random.default_rng(seed).integers(size, size=(STEPS, ROWS)))


def assert_equal_observations(found: Any, expected: Any) -> None:
    if not isinstance(expected, dict):
        found, expected = {"": found}, {"": expected}
    assert found.keys() == expected.keys()
    for key in expected:
        assert found[key].dtype == expected[key].dtype
        np.testing.assert_array_equal(found[key], expected[key])


@pytest.mark.parametrize("obs_mode", ["dict", "flat"])
def test_every_row_is_that_of_the_native_environment(obs_mode: ObsMode) -> None:
    task = tiny_task()
    native = vector_env(task, ROWS, obs=obs_mode, autoreset_mode=AutoresetMode.SAME_STEP)
    adapted = SB3VecEnv(vector_env(task, ROWS, obs=obs_mode))
    adapted.seed(5)
    expected, _ = native.reset(seed=5)
    assert_equal_observations(adapted.reset(), expected)
    ends = 0
    for tokens in actions():
        expected, rewards, terminated, _, native_infos = native.step(tokens)
        obs, found_rewards, dones, infos = adapted.step(tokens)
        assert_equal_observations(obs, expected)
        np.testing.assert_array_equal(found_rewards, rewards)
        np.testing.assert_array_equal(dones, terminated)
        assert dones.dtype == np.bool_
        for row, info in enumerate(infos):
            assert info["TimeLimit.truncated"] is False
            assert ("terminal_observation" in info) == ("episode" in info) == terminated[row]
            if terminated[row]:
                ends += 1
                assert_equal_observations(
                    info["terminal_observation"], native_infos["final_obs"][row]
                )
                for key in ("score", "finish_reason", "prompt_index"):
                    assert info[key] == native_infos["final_info"][key][row]
    assert ends > 3 * ROWS


def test_it_does_what_sb3_itself_makes_of_scalar_environments() -> None:
    """The same seeds, autoresets, terminal observations, and the numbers of `Monitor`."""
    task = tiny_task()
    theirs = DummyVecEnv([lambda: Monitor(TextEnv(task))] * ROWS)
    ours = SB3VecEnv(vector_env(task, ROWS))
    for envs in (theirs, ours):
        envs.seed(11)
    assert_equal_observations(ours.reset(), theirs.reset())
    for tokens in actions():
        expected, found = theirs.step(tokens), ours.step(tokens)
        assert_equal_observations(found[0], expected[0])
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)  # float32 there
        np.testing.assert_array_equal(found[2], expected[2])
        for info, wanted in zip(found[3], expected[3], strict=True):
            assert info["TimeLimit.truncated"] == wanted["TimeLimit.truncated"]
            if "episode" in wanted:
                assert_equal_observations(
                    info["terminal_observation"], wanted["terminal_observation"]
                )
                assert info["episode"]["r"] == pytest.approx(wanted["episode"]["r"], abs=1e-6)
                assert info["episode"]["l"] == wanted["episode"]["l"]
    assert ours.env_is_wrapped(Monitor) == [True] * ROWS


def test_it_keeps_the_invariants_that_sb3_counts_on() -> None:
    envs = SB3VecEnv(vector_env(tiny_task(), ROWS))
    assert isinstance(envs.observation_space, gym.spaces.Dict)
    last: Any = envs.reset()
    first = {key: values.copy() for key, values in last.items()}
    before = last
    for tokens in actions():
        obs: Any
        obs, rewards, dones, infos = envs.step(tokens)
        assert rewards.shape == dones.shape == (ROWS,)
        assert isinstance(infos, list)
        assert len({id(info) for info in infos}) == len(infos) == ROWS
        for row in range(ROWS):
            one: Any = {key: values[row] for key, values in obs.items()}
            assert one in envs.observation_space
            if dones[row]:
                assert infos[row]["terminal_observation"] in envs.observation_space
        assert not any(np.shares_memory(obs[key], last[key]) for key in obs)
        last = obs
    assert_equal_observations(before, first)  # what was returned stays as it was


def test_the_penalty_is_in_rewards_returns_and_kl() -> None:
    task = tiny_task()
    native = vector_env(task, ROWS, autoreset_mode=AutoresetMode.SAME_STEP)
    policy = random_ngram(seed=9)
    charged = KLPenalty(native, policy=policy)
    adapted = SB3VecEnv(KLPenalty(vector_env(task, ROWS), policy=policy))
    adapted.seed(2)
    adapted.reset()
    charged.reset(seed=2)
    kl, returns = np.zeros(ROWS), np.zeros(ROWS)
    for tokens in actions():
        _, expected, ends, _, infos = charged.step(tokens)
        _, rewards, _, found = adapted.step(tokens)
        np.testing.assert_array_equal(rewards, expected)
        kl += infos["log_ratio"]
        returns += expected
        for row in np.flatnonzero(ends):
            assert found[row]["kl"] == pytest.approx(kl[row], abs=1e-12)
            assert found[row]["episode"]["r"] == pytest.approx(returns[row], abs=1e-12)
            score = found[row]["score"]
            assert returns[row] == pytest.approx(score - task.kl_coefficient * kl[row], abs=1e-9)
        kl[ends] = returns[ends] = 0


def test_seeds_and_options_serve_for_one_reset() -> None:
    envs = SB3VecEnv(vector_env(tiny_task(prompts=tuple("abc")), 3))
    envs.seed(0)
    envs.set_options([{"prompt_index": row} for row in (2, 0, 1)])
    envs.reset()
    assert [info["prompt_index"] for info in envs.reset_infos] == [2, 0, 1]
    drawn = [[info["prompt_index"] for info in envs.reset_infos] for _ in range(20) if envs.reset()]
    assert len({tuple(one) for one in drawn}) > 1
    envs.set_options([{"prompt_index": 2}, {}, {}])
    with pytest.raises(InvalidInputError, match="same keys in every row"):
        envs.reset()


def test_attributes_and_methods_are_found_through_the_wrappers() -> None:
    task = tiny_task()
    base = vector_env(task, 2, render_mode="ansi")
    penalty = KLPenalty(base, policy=random_ngram(seed=1))
    envs = SB3VecEnv(penalty)
    assert envs.render_mode == "ansi"
    assert envs.get_attr("task") == [task, task]
    assert envs.get_attr("charge", 1) == [penalty.charge]
    assert envs.get_attr("reference", [0]) == [ngram_of(task)]
    assert not envs.has_attr("nothing_of_this_name")
    envs.reset()
    assert envs.env_method("render") == list(base.render() or ())
    assert envs.env_method("render", indices=1) == [(base.render() or ())[1]]
    assert envs.env_method("decode", [1, 2]) == ["a b", "a b"]
    assert envs.env_is_wrapped(KLPenalty) == [True, True]
    assert envs.env_is_wrapped(VecMonitor) == [False, False]
    envs.set_attr("render_mode", None)
    assert base.render_mode is None
    assert "render_mode" not in vars(penalty)
    with pytest.raises(InvalidInputError, match="share their attributes"):
        envs.set_attr("render_mode", "ansi", indices=0)


def test_the_environment_keeps_its_own_action_space_and_its_mode_until_the_reset() -> None:
    base = vector_env(tiny_task(), 2)
    envs = SB3VecEnv(base)
    assert envs.action_space == base.single_action_space
    assert envs.action_space is not base.single_action_space
    modes = [base.autoreset_mode]
    envs.reset()
    assert [*modes, base.autoreset_mode] == [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]


def test_other_vector_environments_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="native text vector environments; got Cart"):
        SB3VecEnv(gym.make_vec("CartPole-v1", num_envs=2))
