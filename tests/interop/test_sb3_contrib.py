"""sb3-contrib's MaskablePPO and RecurrentPPO learn in text environments, unmodified."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.interop.page import code_of, run
from textrl_agents.sb3 import SB3VecEnv, TokenEmbeddingExtractor

contrib = pytest.importorskip("sb3_contrib")

SETTINGS = {"n_steps": 64, "n_epochs": 4, "learning_rate": 1e-3, "gamma": 1.0, "ent_coef": 0.01}
NETWORK = {
    "features_extractor_class": TokenEmbeddingExtractor,
    "ortho_init": False,
    "net_arch": [64, 64],
}
EPISODES = 512


def vec_env(name: str, rows: int = 32) -> SB3VecEnv:
    return SB3VecEnv(gym.make_vec(name, num_envs=rows))


def mean_score(name: str, choose: Any) -> float:
    """Returns the mean score of 512 fresh episodes; the standard error is at most 0.022."""
    envs = vec_env(name, EPISODES)
    envs.seed(1_000_000)
    obs = envs.reset()
    scores, is_over = np.zeros(EPISODES), np.zeros(EPISODES, np.bool_)
    state, starts = None, np.ones(EPISODES, np.bool_)
    while not is_over.all():
        masks = np.stack(envs.env_method("action_masks"))
        actions, state = choose(obs, masks, state, starts)
        obs, rewards, starts, _ = envs.step(actions)
        scores += np.where(is_over, 0, rewards)
        is_over |= starts
    return float(scores.mean())


def uniform() -> Any:
    """Returns a choice among the tokens of the masks."""
    rng = np.random.default_rng(0)

    def choose(_obs: Any, masks: NDArray[np.bool_], _state: Any, _starts: Any) -> Any:
        return np.array([rng.choice(np.flatnonzero(mask)) for mask in masks]), None

    return choose


def test_the_masks_reach_the_algorithm() -> None:
    from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported

    envs = vec_env("textrl/TinyGPT-v0", 6)
    envs.seed(0)
    envs.reset()
    assert is_masking_supported(envs)
    masks = get_action_masks(envs)
    assert masks.shape == (6, 68)
    assert masks.sum(axis=1).tolist() == [3] * 6  # the reference keeps three tokens
    assert is_masking_supported(gym.make("textrl/TinyGPT-v0"))


def test_maskable_ppo_never_chooses_what_is_masked() -> None:
    envs = vec_env("textrl/TinyGPT-v0", 8)
    model = contrib.MaskablePPO(
        "MultiInputPolicy", envs, n_steps=16, batch_size=64, n_epochs=1, policy_kwargs=NETWORK
    )
    chosen: list[bool] = []
    step_async = envs.step_async

    def watched(actions: NDArray[np.int64]) -> None:
        masks = np.stack(envs.env_method("action_masks"))
        chosen.extend(masks[np.arange(8), actions].tolist())
        step_async(actions)

    envs.step_async = watched  # type: ignore[method-assign]
    model.learn(256)
    assert len(chosen) == 256
    assert all(chosen)


@pytest.mark.slow
def test_maskable_ppo_climbs_from_a_uniform_start_far_above_the_reference() -> None:
    """The reference scores 0.092, a uniform choice of its three tokens 0.03; the most is 1."""
    name = "textrl/TinyGPT-v0"
    model = contrib.MaskablePPO(
        "MultiInputPolicy", vec_env(name), batch_size=256, seed=0, policy_kwargs=NETWORK, **SETTINGS
    )
    model.learn(18_000)
    learnt = mean_score(
        name,
        lambda obs, masks, state, starts: model.predict(obs, action_masks=masks),
    )
    assert mean_score(name, uniform()) < 0.08
    assert learnt > 0.092 + 0.5


@pytest.mark.slow
def test_recurrent_ppo_climbs_from_a_uniform_start_far_above_the_reference() -> None:
    """The reference scores 0.050, a uniform choice 0.02; the most is 1."""
    name = "textrl/Brackets-v0"
    model = contrib.RecurrentPPO(
        "MultiInputLstmPolicy",
        vec_env(name),
        batch_size=512,
        seed=0,
        policy_kwargs={**NETWORK, "lstm_hidden_size": 64},
        **SETTINGS,
    )
    model.learn(32_000)
    learnt = mean_score(
        name,
        lambda obs, masks, state, starts: model.predict(obs, state=state, episode_start=starts),
    )
    assert mean_score(name, uniform()) < 0.06
    assert learnt > 0.050 + 0.5


def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    (block,) = code_of("sb3-contrib")
    run(block, tmp_path)
