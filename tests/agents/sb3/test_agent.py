"""The agents: what they are charged, that they repeat, and that they go on."""

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

import textrl_agents
import textrl_envs  # noqa: F401 - registers the environments
from tests.agents.tiny import tiny_task, vector_env
from textrl_agents.agent import StopTraining
from textrl_agents.sb3 import (
    SB3A2C,
    SB3DQN,
    SB3PPO,
    EpisodeRolloutBuffer,
    SB3Agent,
    SB3LanguageModelA2C,
    SB3LanguageModelPPO,
    SB3VecEnv,
)
from textrl_benchmarks.evaluation import evaluate
from textrl_envs.errors import InvalidInputError
from textrl_envs.wrappers import AdaptiveCoefficient
from textrl_envs.wrappers.vector import KLPenalty

ROWS = 8
NETWORK = {"width": 8, "embedding_dim": 8, "heads": 2}
LANGUAGE_MODEL = {"width": 8, "layers": 1, "heads": 2}
SETTINGS: Mapping[type[SB3Agent], dict[str, Any]] = {
    SB3PPO: {**NETWORK, "n_steps": 16},
    SB3A2C: {**NETWORK, "n_steps": 8},
    SB3DQN: {**NETWORK, "learning_starts": 64, "batch_size": 32, "buffer_size": 1_000},
    SB3LanguageModelPPO: {**LANGUAGE_MODEL, "n_steps": 16},
    SB3LanguageModelA2C: {**LANGUAGE_MODEL, "n_steps": 8},
}
every_agent = pytest.mark.parametrize("kind", list(SETTINGS), ids=lambda kind: kind.name)
every_actor_critic = pytest.mark.parametrize(
    "kind", [kind for kind in SETTINGS if kind is not SB3DQN], ids=lambda kind: kind.name
)
every_ppo = pytest.mark.parametrize(
    "kind", [SB3PPO, SB3LanguageModelPPO], ids=lambda kind: kind.name
)


def made(kind: type[SB3Agent], *, seed: int = 0, rows: int = ROWS, **settings: Any) -> Any:
    """Returns an agent and the environment it learns in, in KLPenalty where it has a KL."""
    envs = vector_env(tiny_task(), rows)
    agent: Any = kind.make(envs, seed=seed, device="cpu", **{**SETTINGS[kind], **settings})
    if hasattr(agent, "log_probs"):
        return agent, KLPenalty(envs, policy=agent)
    return agent, envs


def weights(agent: SB3Agent) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in agent.model.policy.parameters()]


def are_equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


# --- what is charged ---


class Recorded:
    """Says what SB3's rollout buffer holds of each step's actions."""

    def __init__(self, log_probs: Any) -> None:
        self._steps = iter(log_probs)

    def log_probs(self, obs: Any, actions: Any) -> Any:
        return next(self._steps)


def moved(agent: Any) -> None:
    """Moves the policy away from the reference."""
    policy = agent.policy
    head = policy.network.head if hasattr(policy, "network") else policy.action_net
    with torch.no_grad():
        head.weight.normal_(0, 1, generator=torch.Generator().manual_seed(0))


def by_step(buffer: Any, column: Any) -> Any:
    """Returns what SB3 trained on, (steps, rows); its own buffers lay it out row by row."""
    if isinstance(buffer, EpisodeRolloutBuffer):
        return column.reshape(-1, ROWS)
    return column.reshape(ROWS, -1).T


@every_actor_critic
def test_the_rewards_in_sb3s_buffer_are_those_of_the_native_penalty(kind: type[SB3Agent]) -> None:
    """The actions of a rollout once more, charged by the log-probs that SB3 wrote beside them."""
    agent, envs = made(kind, learning_rate_schedule="constant")
    moved(agent)
    steps = agent.config.n_steps
    agent.learn(envs, total_tokens=steps * ROWS)
    buffer = agent.model.rollout_buffer
    actions, log_probs = (by_step(buffer, x) for x in (buffer.actions, buffer.log_probs))
    native = vector_env(tiny_task(), ROWS, autoreset_mode=AutoresetMode.SAME_STEP)
    charged = KLPenalty(native, policy=Recorded(log_probs))  # type: ignore[arg-type]
    charged.reset(seed=int(np.random.default_rng([0, 2, 0]).integers(2**31)))
    ratios = []
    for step in range(steps):
        _, rewards, _, _, infos = charged.step(actions[step].astype(np.int64))
        np.testing.assert_allclose(buffer.rewards[step], rewards, rtol=0, atol=1e-5)
        ratios.append(infos["log_ratio"])
    assert np.std(ratios) > 0.3  # there was something to charge


@every_ppo
def test_the_log_holds_the_means_of_the_episodes_that_ended(kind: type[SB3Agent]) -> None:
    agent, envs = made(kind, n_steps=512, learning_rate=0.02)
    log = agent.learn(envs, total_tokens=3 * 512 * ROWS)
    assert [row["tokens"] for row in log.rows] == [512 * ROWS * n for n in (1, 2, 3)]
    assert [row["iteration"] for row in log.rows] == [1, 2, 3]
    for row in log.rows:
        assert row["return"] == pytest.approx(row["reward"] - 0.3 * row["kl"], abs=1e-9)
        assert row["kl_coefficient"] == 0.3
        assert 1 <= row["length"] <= 3
        assert row["entropy_loss"] < 0
    assert log.rows[0]["kl"] == pytest.approx(0, abs=1e-5)  # the reference itself
    assert log.rows[-1]["kl"] > 0.01
    assert log.rows[-1]["learning_rate"] == pytest.approx(0, abs=1e-9)


def test_short_rollouts_share_a_row() -> None:
    agent, envs = made(SB3A2C)
    log = agent.learn(envs, total_tokens=5_000)
    assert [row["tokens"] for row in log.rows] == [2_048, 4_096, 5_056]
    assert agent.tokens == envs.unwrapped.tokens_generated == 5_056


def test_the_normalised_score_is_logged_where_it_is_exact() -> None:
    envs = gym.make_vec("textrl/Passcode-v0", num_envs=ROWS)
    agent = SB3PPO.make(envs, device="cpu", **SETTINGS[SB3PPO])
    log = agent.learn(KLPenalty(envs, policy=agent), total_tokens=2_048)
    assert np.isfinite(log.rows[0]["normalised_score"])
    assert abs(log.rows[0]["normalised_score"]) < 1


# --- repeating ---


@every_agent
def test_one_seed_gives_one_run_and_another_seed_another(kind: type[SB3Agent]) -> None:
    found: list[tuple[list[torch.Tensor], str]] = []
    for seed in (3, 3, 4):
        random.seed(len(found))
        np.random.seed(len(found))  # noqa: NPY002 - what must not matter
        torch.manual_seed(len(found))
        agent, envs = made(kind, seed=seed)
        log = agent.learn(envs, total_tokens=600)
        found.append((weights(agent), str(log.rows)))
    assert are_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert not are_equal(found[0][0], found[2][0])


RUN = """
import sys
sys.path.insert(0, {root!r})
from tests.agents.sb3.test_agent import run_of_a_seed
print(run_of_a_seed(5))
"""


def run_of_a_seed(seed: int) -> str:
    torch.set_num_threads(1)
    digests = []
    for kind in SETTINGS:
        agent, envs = made(kind, seed=seed)
        log = agent.learn(envs, total_tokens=600)
        content = b"".join(weight.numpy().tobytes() for weight in weights(agent))
        digests.append(hashlib.sha256(content + json.dumps(log.rows).encode()).hexdigest())
    return " ".join(digests)


def test_two_processes_give_the_same_weights_and_log() -> None:
    script = RUN.format(root=str(Path(__file__).resolve().parents[3]))
    command = [sys.executable, "-c", script]
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert other.split() == run_of_a_seed(5).split()


def global_states() -> list[Any]:
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002
    return [random.getstate(), str(numpy), torch.get_rng_state().tolist()]


@every_agent
def test_the_global_generators_are_left_as_they_were(kind: type[SB3Agent], tmp_path: Path) -> None:
    before = global_states()
    agent, envs = made(kind)
    agent.learn(envs, total_tokens=300)
    obs, _ = envs.reset(seed=0)
    agent.act(obs)
    agent.save(tmp_path)
    kind.load(tmp_path, device="cpu")
    assert global_states() == before


# --- going on ---


@every_actor_critic
def test_a_loaded_agent_goes_on_as_one_that_was_never_saved(
    kind: type[SB3Agent], tmp_path: Path
) -> None:
    agent, envs = made(kind)
    agent.learn(envs, total_tokens=512)
    agent.save(tmp_path / "agent")
    agent.learn(envs, total_tokens=1_024)
    loaded: Any = kind.load(tmp_path / "agent", device="cpu")
    assert loaded.tokens == 512
    base = vector_env(tiny_task(), ROWS)
    log = loaded.learn(KLPenalty(base, policy=loaded), total_tokens=1_024)
    assert are_equal(weights(loaded), weights(agent))
    assert log.rows == agent.log.rows
    assert base.tokens_generated == 512


@every_agent
def test_a_loaded_agent_acts_as_the_saved_one(kind: type[SB3Agent], tmp_path: Path) -> None:
    agent, envs = made(kind)
    agent.learn(envs, total_tokens=256)
    agent.save(tmp_path)
    loaded: Any = kind.load(tmp_path, device="cpu")
    obs, _ = envs.reset(seed=0)
    np.testing.assert_array_equal(loaded.act(obs, greedy=True), agent.act(obs, greedy=True))
    assert (loaded.config, loaded.seed) == (agent.config, agent.seed)
    if kind is not SB3DQN:
        tokens = np.arange(ROWS) % 4
        np.testing.assert_array_equal(loaded.log_probs(obs, tokens), agent.log_probs(obs, tokens))


@every_ppo
def test_the_saved_model_is_sb3s_own_and_needs_nothing_else(kind: Any, tmp_path: Path) -> None:
    envs = gym.make_vec("textrl/Passcode-v0", num_envs=ROWS)
    agent = kind.make(envs, device="cpu", **SETTINGS[kind])
    agent.save(tmp_path)
    with torch.random.fork_rng(devices=[]):
        model = PPO.load(tmp_path / "model.zip", device="cpu")
    obs, _ = envs.reset(seed=0)
    tokens = agent.act(obs)
    expected = envs.unwrapped.reference.log_probs(obs, tokens)  # type: ignore[attr-defined]
    np.testing.assert_allclose(model.policy.log_probs(obs, tokens), expected, atol=1e-6)  # type: ignore[operator]


def test_another_agents_folder_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    made(SB3A2C)[0].save(tmp_path / "a2c")
    with pytest.raises(InvalidInputError, match="holds the agent 'sb3_a2c', not 'sb3_ppo'"):
        SB3PPO.load(tmp_path / "a2c")
    with pytest.raises(InvalidInputError, match=r"there is no agent\.json"):
        SB3PPO.load(tmp_path)


def test_progress_may_stop_the_training_after_an_update() -> None:
    agent, envs = made(SB3PPO, n_steps=256)
    seen = []

    def progress(row: Mapping[str, float]) -> None:
        seen.append(row["tokens"])
        if len(seen) == 2:
            raise StopTraining

    log = agent.learn(envs, total_tokens=100_000, progress=progress)
    assert seen == [2_048, 4_096]
    assert len(log.rows) == 2
    assert agent.tokens == 4_096
    assert envs.unwrapped.autoreset_mode == AutoresetMode.NEXT_STEP
    agent.learn(envs, total_tokens=5_000)
    assert agent.tokens == 6_144


def test_a_spent_budget_changes_nothing() -> None:
    agent, envs = made(SB3PPO)
    agent.learn(envs, total_tokens=256)
    before = weights(agent)
    agent.learn(envs, total_tokens=256)
    assert are_equal(weights(agent), before)
    assert agent.tokens == 256


# --- playing ---


@every_ppo
def test_actor_critics_act_on_either_form_and_greedily_if_asked(kind: type[SB3Agent]) -> None:
    agent, envs = made(kind)
    obs, _ = envs.reset(seed=0)
    flat = np.where(obs["attention_mask"] == 1, obs["input_ids"], -1)
    rows = np.stack([agent.log_probs(obs, np.full(ROWS, token)) for token in range(4)], axis=1)
    np.testing.assert_array_equal(agent.act(obs, greedy=True), rows.argmax(1))
    np.testing.assert_array_equal(agent.act(flat, greedy=True), rows.argmax(1))
    drawn = np.stack([agent.act(obs) for _ in range(50)])
    assert drawn.dtype == np.int64
    assert all(len(set(column)) > 1 for column in drawn.T)


def test_dqn_has_no_log_probs_and_plays_its_highest_value() -> None:
    agent, envs = made(SB3DQN)
    assert not hasattr(agent, "log_probs")
    assert not hasattr(agent, "policy")
    log = agent.learn(envs, total_tokens=2_048)
    assert np.isnan(log.rows[0]["kl"])
    assert "normalised_score" not in log.rows[0]
    assert np.isfinite(log.rows[0]["loss"])
    obs, _ = envs.reset(seed=0)
    flat = np.where(obs["attention_mask"] == 1, obs["input_ids"], -1)
    with torch.no_grad():
        values = agent.model.q_net(agent.model.policy.obs_to_tensor(obs)[0])
    for given in (obs, flat):
        for greedy in (False, True):
            np.testing.assert_array_equal(agent.act(given, greedy=greedy), values.argmax(1))


@every_agent
def test_agents_made_for_flat_observations_learn_too(kind: type[SB3Agent]) -> None:
    envs = vector_env(tiny_task(), ROWS, obs="flat")
    agent: Any = kind.make(envs, device="cpu", **SETTINGS[kind])
    agent.learn(envs, total_tokens=256)
    assert agent.act(envs.reset(seed=0)[0]).shape == (ROWS,)


@every_ppo
def test_sb3s_own_evaluation_plays_it(kind: type[SB3Agent]) -> None:
    agent, envs = made(kind)
    with torch.random.fork_rng(devices=[]):
        adapted = SB3VecEnv(envs.unwrapped)
        adapted.seed(0)
        mean, _ = evaluate_policy(agent.model, adapted, n_eval_episodes=400, deterministic=False)
    assert mean == pytest.approx(evaluate(agent, envs, episodes=4_000).reward.mean, abs=0.2)


# --- making ---


@pytest.mark.parametrize("name", ["sb3_ppo", "sb3_a2c", "sb3_dqn", "sb3_ppo_lm", "sb3_a2c_lm"])
def test_they_are_known_by_name(name: str) -> None:
    envs = vector_env(tiny_task(), ROWS)
    agent = textrl_agents.make(name, envs, seed=2, device="cpu", width=8, learning_rate=0.5)
    assert agent.name == name
    assert (agent.config.width, agent.config.learning_rate, agent.seed) == (8, 0.5, 2)
    assert agent.model.learning_rate(1.0) == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_step": 3}, r"sb3_ppo has no setting 'n_step'\. Did you mean 'n_steps'\?"),
        ({"clip_range": 0.0}, "clip_range must be positive; got 0.0"),
        ({"gamma": 1.5}, r"gamma must be in \(0, 1\]; got 1.5"),
        ({"n_epochs": "4"}, "n_epochs must be int; got '4'"),
        ({"n_steps": 5, "minibatches": 3}, "must divide a rollout of 40 tokens"),
        ({"n_steps": 1, "minibatches": 8}, "into parts of 2 or more; got 8"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        SB3PPO.make(vector_env(tiny_task(), ROWS), device="cpu", **settings)


def test_an_environment_of_another_shape_is_refused() -> None:
    agent, _ = made(SB3PPO)
    with pytest.raises(InvalidInputError, match="made for 8 rows; the environment has 4"):
        agent.learn(vector_env(tiny_task(), 4), total_tokens=100)
    with pytest.raises(InvalidInputError, match="made for the observation_space"):
        agent.learn(vector_env(tiny_task(limit=5), ROWS), total_tokens=100)


def test_a_penalty_of_another_policy_is_refused() -> None:
    agent, envs = made(SB3PPO)
    _, others = made(SB3PPO, seed=1)
    with pytest.raises(InvalidInputError, match="charges SB3PPO, and not the agent that learns"):
        agent.learn(others, total_tokens=1_000)
    dqn, _ = made(SB3DQN)
    with pytest.raises(InvalidInputError, match="not the agent that learns"):
        dqn.learn(envs, total_tokens=1_000)
    agent.learn(KLPenalty(vector_env(tiny_task(), ROWS), policy=agent.policy), total_tokens=1_000)


@every_actor_critic
def test_a_budget_in_which_nothing_would_be_learnt_is_refused(kind: type[SB3Agent]) -> None:
    agent, envs = made(kind)
    rollout = agent.config.n_steps * ROWS
    before = weights(agent)
    with pytest.raises(InvalidInputError, match=f"more than a rollout, {rollout} tokens"):
        agent.learn(envs, total_tokens=rollout)
    agent, envs = made(kind, learning_rate_schedule="constant")
    agent.learn(envs, total_tokens=rollout)
    assert not are_equal(weights(agent), before)


@pytest.mark.parametrize("kind", [SB3A2C, SB3LanguageModelA2C])
def test_the_advantage_of_one_token_is_not_normalised(kind: type[SB3Agent]) -> None:
    with pytest.raises(InvalidInputError, match="must have 2 tokens or more"):
        made(kind, rows=1, n_steps=1)
    made(kind, rows=1, n_steps=1, normalize_advantage=False)


@every_actor_critic
def test_an_adaptive_coefficient_goes_on_where_it_was(kind: type[SB3Agent], tmp_path: Path) -> None:
    def charged(agent: Any) -> KLPenalty:
        adaptive = AdaptiveCoefficient(value=0.5, target=0.1, horizon=200, batch_size=8)
        return KLPenalty(vector_env(tiny_task(), ROWS), policy=agent, coefficient=adaptive)

    agent, _ = made(kind)
    envs = charged(agent)
    agent.learn(envs, total_tokens=1_024)
    reached = envs.charge.coefficient
    assert reached != 0.5
    agent.save(tmp_path)
    loaded: Any = kind.load(tmp_path, device="cpu")
    fresh = charged(loaded)
    loaded.learn(fresh, total_tokens=1_025)
    assert loaded.log.rows[-1]["kl_coefficient"] != pytest.approx(0.5, rel=0.01)
    assert loaded.memory["kl_coefficient.value"] == fresh.charge.coefficient


def test_listing_agents_does_not_load_sb3() -> None:
    script = (
        "import sys, textrl_agents; assert 'sb3_ppo' in textrl_agents.agent_names(); "
        "assert not {'stable_baselines3', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
