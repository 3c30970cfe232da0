"""PufferLib's emulation and vectorisation of unmodified environments.

Its wheel, 2.0.2, pins NumPy 1.23 and gymnasium 0.29. Installed without its dependencies it runs
beside those of this project, in a virtual environment apart:
pip install --no-deps pufferlib==2.0.2 gym==0.23.0
"""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

import textrl_envs  # noqa: F401 - registers the environments
from textrl_agents.policies import FixedPolicy
from textrl_benchmarks.evaluation import evaluate
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.language_models.sampling import draw

pytest.importorskip(
    "pufferlib",
    reason="PufferLib is not installed here: `make apart` tests it",
)
pytestmark = pytest.mark.filterwarnings("default")  # gym, which it imports, warns of itself


def emulated(env_id: str, obs: str) -> Any:
    from pufferlib.emulation import GymnasiumPufferEnv

    return GymnasiumPufferEnv(env=gym.make(env_id, obs=obs))


def rows(env_id: str, count: int, *, obs: str = "flat") -> Any:
    from pufferlib import vector

    return vector.make(
        emulated, env_kwargs={"env_id": env_id, "obs": obs}, num_envs=count, backend=vector.Serial
    )


def test_its_rows_are_the_environment_step_for_step() -> None:
    """A step begins an episode anew where the one before it ended one, as in NEXT_STEP."""
    envs, plain = (
        rows("textrl/Keyword-v0", 3),
        gym.make_vec("textrl/Keyword-v0", num_envs=3, obs="flat"),
    )
    obs, _ = envs.reset(seed=5)
    expected, _ = plain.reset(seed=5)
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(80):
        np.testing.assert_array_equal(obs, expected)
        actions = rng.integers(0, 46, 3)
        obs, rewards, terminals, truncations, _ = envs.step(actions)
        expected, paid, terminated, _, _ = plain.step(actions)
        ends += int(terminated.sum())
        np.testing.assert_array_equal(rewards, paid)
        np.testing.assert_array_equal(terminals, terminated)
        assert not truncations.any()
    assert ends > 6


def test_the_dict_form_is_packed_into_bytes_and_read_back() -> None:
    from pufferlib.emulation import nativize

    env = emulated("textrl/Keyword-v0", "dict")
    packed, _ = env.reset(seed=5)
    plain: Any = gym.make("textrl/Keyword-v0")
    expected, _ = plain.reset(seed=5)
    found = nativize(packed, plain.observation_space, env.obs_dtype)
    assert packed.dtype == np.uint8
    for key in expected:
        np.testing.assert_array_equal(np.ravel(found[key]), expected[key])


def tilted(reference: NGramModel, bias: NDArray[np.float64]) -> NGramModel:
    """Returns the policy whose logits are the reference's and a number for each token."""
    logits = reference.table + bias
    return NGramModel(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))


@pytest.mark.slow
def test_a_bias_learnt_in_its_rows_beats_the_reference_of_length_hack() -> None:
    """REINFORCE with the mean of each step as baseline. Measured for seed 0: .962."""
    env_id, count = "textrl/LengthHack-v0", 32
    plain: Any = gym.make_vec(env_id, num_envs=64, obs="flat")
    reference, beta = plain.unwrapped.reference, plain.unwrapped.kl_coefficient
    envs, rng = rows(env_id, count), np.random.default_rng(0)
    bias: NDArray[np.float64] = np.zeros(46)
    for update in range(40):
        policy, is_playing = tilted(reference, bias), np.ones(count, np.bool_)
        obs, _ = envs.reset(seed=1000 * update)
        charged, slopes = [], []
        for _ in range(32):  # no episode is longer, and the first of each row is taken
            log_probs = policy.next_log_probs(obs)
            actions = draw(log_probs, rng)
            slopes.append((np.eye(46)[actions] - np.exp(log_probs)) * is_playing[:, None])
            ratio = policy.log_probs(obs, actions) - reference.log_probs(obs, actions)
            obs, rewards, is_end, _, _ = envs.step(actions)
            charged.append((rewards - beta * ratio) * is_playing)
            is_playing &= ~is_end
        to_go = np.cumsum(charged[::-1], axis=0)[::-1]
        advantages = to_go - to_go.mean(axis=1, keepdims=True)
        bias += 3.0 * np.einsum("tn,tnv->v", advantages, np.array(slopes)) / count
    learnt = FixedPolicy(tilted(reference, bias))
    reached = evaluate(learnt, plain, episodes=1024).normalised_score
    assert reached.interval[0] > 0.4
    assert reached.interval[0] < 1.0
