import csv
import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from tests.agents.tiny import (
    causal_policy,
    causal_reference,
    ngram_of,
    residual,
    tiny_gpt2,
    tiny_task,
    vector_env,
    with_kl,
)
from textrl_agents import StopTraining, TrainingLog
from textrl_agents.on_policy import OnPolicyAgent
from textrl_agents.policies import LSTMPolicy, Policy, TablePolicy
from textrl_agents.ppo import PPO, PPOConfig
from textrl_agents.reinforce import REINFORCE, REINFORCEConfig
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task
from textrl_envs.wrappers.vector import AdaptiveCoefficient, KLPenalty

BUDGET = 300
"""About four batches of 32 episodes."""


def make_task(kind: str) -> Task:
    if kind == "residual":
        return tiny_task()
    return tiny_task(reference=causal_reference(tiny_gpt2()))


def make_policy(kind: str, task: Task) -> Policy:
    return causal_policy(tiny_gpt2(seed=1)) if kind == "causal_lm" else residual(task, away=0.5)


def make_agent(algorithm: str, policy: Policy, **settings: Any) -> OnPolicyAgent:
    given = {"episodes_per_batch": 32, "learning_rate": 1e-2, **settings}
    if algorithm == "ppo":
        given = {"epochs": 2, "minibatches": 2, **given}
        return PPO(policy, config=PPOConfig(**given), seed=5)
    return REINFORCE(policy, config=REINFORCEConfig(baseline=algorithm, **given), seed=5)  # type: ignore[arg-type]


def make_envs(task: Task, policy: Policy, *, adaptive: bool = False, in_step: bool = False) -> Any:
    """Makes everything anew, as another process would."""
    coefficient = AdaptiveCoefficient(value=0.3, target=0.5, horizon=100, batch_size=48)
    envs = with_kl(task, policy, coefficient=coefficient if adaptive else None)
    return RecordEpisodeStatistics(envs) if in_step else envs


def stop_after(iterations: int) -> Any:
    def progress(row: Mapping[str, float]) -> None:
        if row["iteration"] == iterations:
            raise StopTraining

    return progress


def weights(agent: OnPolicyAgent) -> dict[str, torch.Tensor]:
    return agent.policy.state_dict()


def assert_equal_weights(first: OnPolicyAgent, second: OnPolicyAgent) -> None:
    left, right = weights(first), weights(second)
    assert list(left) == list(right)
    for name in left:
        assert torch.equal(left[name], right[name]), name


# --- learn ---


def small_run(**settings: Any) -> tuple[OnPolicyAgent, Any]:
    task = tiny_task()
    agent = make_agent("ppo", residual(task), **settings)
    return agent, with_kl(task, agent.policy)


def test_the_batch_that_reaches_the_budget_is_finished_and_the_last() -> None:
    agent, envs = small_run()
    log = agent.learn(envs, total_tokens=BUDGET)
    assert log.rows[-2]["tokens"] < BUDGET <= log.rows[-1]["tokens"]
    assert [row["iteration"] for row in log.rows] == list(range(1, len(log.rows) + 1))
    lengths = [32 * row["length"] for row in log.rows]
    np.testing.assert_allclose([row["tokens"] for row in log.rows], np.cumsum(lengths))
    assert agent.tokens == log.rows[-1]["tokens"]


def test_the_budget_counts_from_the_beginning() -> None:
    agent, envs = small_run()
    first = len(agent.learn(envs, total_tokens=BUDGET).rows)
    assert len(agent.learn(envs, total_tokens=BUDGET).rows) == first
    assert len(agent.learn(envs, total_tokens=2 * BUDGET).rows) > first
    assert agent.tokens >= 2 * BUDGET


def test_the_return_logged_is_reward_minus_priced_kl() -> None:
    agent, envs = small_run()
    for row in agent.learn(envs, total_tokens=BUDGET).rows:
        assert row["kl_coefficient"] == 0.3
        assert row["return"] == pytest.approx(row["reward"] - 0.3 * row["kl"], abs=1e-12)
        assert all(isinstance(value, int | float) for value in row.values())
        assert 0 < row["entropy"] < math.log(4)
        assert 1 <= row["length"] <= 3


def test_the_first_row_shows_the_reference() -> None:
    agent, envs = small_run()
    row = agent.learn(envs, total_tokens=1).rows[0]
    assert row["kl"] == pytest.approx(0.0, abs=1e-6)


def test_the_learning_rate_falls_linearly_with_the_tokens() -> None:
    agent, envs = small_run()
    rows = agent.learn(envs, total_tokens=BUDGET).rows
    spent = [0, *(row["tokens"] for row in rows[:-1])]
    expected = [1e-2 * (1 - tokens / BUDGET) for tokens in spent]
    np.testing.assert_allclose([row["learning_rate"] for row in rows], expected)


def test_the_learning_rate_stays_where_it_is_not_to_fall() -> None:
    agent, envs = small_run(learning_rate_schedule="constant")
    rows = agent.learn(envs, total_tokens=BUDGET).rows
    assert {row["learning_rate"] for row in rows} == {1e-2}


def test_without_a_learning_rate_the_policy_gives_its_own() -> None:
    task = tiny_task()
    rates = []
    for policy in (residual(task), causal_policy(tiny_gpt2())):
        agent = make_agent("ppo", policy, learning_rate=None)
        rates.append(agent.learn(with_kl(task, policy), total_tokens=1).rows[0]["learning_rate"])
    assert rates == [1e-3, 1e-4]


def test_one_step_a_batch_may_be_twice_as_large() -> None:
    policy = residual(tiny_task())
    agent = make_agent("value", policy, learning_rate=None)
    assert agent.learning_rate == 2 * policy.default_learning_rate


def test_progress_hears_of_every_iteration_and_may_stop() -> None:
    agent, envs = small_run()
    heard: list[Mapping[str, float]] = []

    def progress(row: Mapping[str, float]) -> None:
        heard.append(row)
        if len(heard) == 2:
            raise StopTraining

    log = agent.learn(envs, total_tokens=10_000, progress=progress)
    assert heard == log.rows
    assert len(log.rows) == agent.iteration == 2


def test_other_errors_of_a_progress_callback_are_not_swallowed() -> None:
    agent, envs = small_run()

    def progress(row: Mapping[str, float]) -> None:
        raise ZeroDivisionError("in the callback")

    with pytest.raises(ZeroDivisionError, match="in the callback"):
        agent.learn(envs, total_tokens=BUDGET, progress=progress)


@pytest.mark.parametrize("kind", ["lstm", "table"])
def test_a_policy_without_layers_to_compute_again_refuses_checkpointing(kind: str) -> None:
    task = tiny_task()
    lstm = LSTMPolicy(vocabulary_size=4, reference=ngram_of(task), width=8, device="cpu")
    policy: Policy = lstm if kind == "lstm" else TablePolicy(task)
    assert not make_agent("ppo", policy).policy.is_checkpointed
    message = f"gradient_checkpointing .*; got a {type(policy).__name__}. Leave it out"
    with pytest.raises(InvalidInputError, match=message):
        make_agent("ppo", policy, gradient_checkpointing=True)


@pytest.mark.parametrize("kind", ["residual", "causal_lm"])
def test_a_policy_is_told_of_checkpointing(kind: str) -> None:
    policy = make_policy(kind, tiny_task())
    make_agent("ppo", policy, gradient_checkpointing=True)
    assert policy.is_checkpointed


def test_gradients_are_scaled_down_to_the_largest_norm() -> None:
    agent, _ = small_run(max_gradient_norm=0.5)
    for parameter in agent.policy.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    count = sum(p.numel() for p in agent.policy.parameters())
    taken: list[float] = []
    agent.optimizer.step = lambda: taken.extend(  # type: ignore[assignment, method-assign]
        float(p.grad.square().sum()) for p in agent.policy.parameters() if p.grad is not None
    )
    assert agent.step_optimizer() == pytest.approx(3.0 * math.sqrt(count), rel=1e-5)
    assert math.sqrt(sum(taken)) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("algorithm", ["ppo", "none"])
def test_a_gradient_that_is_not_finite_stops_the_training_before_the_step(algorithm: str) -> None:
    """1e200 is a finite reward in float64 and infinite in float32."""
    task = tiny_task(reward=lambda p, r, **_: [1e200] * len(r))
    agent = make_agent(algorithm, residual(task), **one_step(algorithm))
    before = {name: tensor.clone() for name, tensor in weights(agent).items()}
    with pytest.raises(InvalidInputError, match="gradient is not finite at iteration 1"):
        agent.learn(vector_env(task), total_tokens=BUDGET)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(agent).items())
    assert agent.iteration == 0


def one_step(algorithm: str) -> dict[str, Any]:
    return {"standardise_advantages": False} if algorithm == "ppo" else {}


@pytest.mark.parametrize("algorithm", ["ppo", "leave_one_out"])
@pytest.mark.parametrize("kind", ["residual", "residual_lm", "causal_lm"])
def test_the_reference_is_not_trained(algorithm: str, kind: str) -> None:
    task = make_task(kind)
    assert task.load_reference is not None
    reference: Any = task.load_reference()

    def digest() -> str:
        if kind == "residual":
            return hashlib.sha256(ngram_of(task).table.tobytes()).hexdigest()
        return "".join(
            hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
            for tensor in reference.model.state_dict().values()
        )

    before = digest()
    agent = make_agent(algorithm, make_policy(kind, task))
    policy_before = {name: tensor.clone() for name, tensor in weights(agent).items()}
    agent.learn(with_kl(task, agent.policy), total_tokens=BUDGET)
    assert digest() == before
    assert any(not torch.equal(policy_before[name], x) for name, x in weights(agent).items())


def test_acting_gives_token_ids_and_greedily_the_likeliest() -> None:
    task = tiny_task()
    agent = make_agent("ppo", residual(task, away=0.5))
    envs = vector_env(task, 8)
    obs, _ = envs.reset(seed=0)
    actions = agent.act(obs)
    assert actions.shape == (8,)
    assert actions.dtype == np.int64
    envs.step(actions)
    obs, _ = envs.reset(seed=0)
    expected = agent.policy.next_log_probs(obs).argmax(axis=1)
    np.testing.assert_array_equal(agent.act(obs, greedy=True), expected)


# --- save, load, go on ---


def whole_run(kind: str, algorithm: str, **how: Any) -> OnPolicyAgent:
    task = make_task(kind)
    agent = make_agent(algorithm, make_policy(kind, task))
    agent.learn(make_envs(task, agent.policy, **how), total_tokens=BUDGET)
    return agent


def run_in_two(kind: str, algorithm: str, folder: Path, **how: Any) -> OnPolicyAgent:
    task = make_task(kind)
    agent = make_agent(algorithm, make_policy(kind, task))
    envs = make_envs(task, agent.policy, **how)
    agent.learn(envs, total_tokens=BUDGET, progress=stop_after(2))
    agent.save(folder)
    loaded = type(agent).load(folder, device="cpu")
    assert loaded.iteration == 2
    envs = make_envs(make_task(kind), loaded.policy, **how)
    loaded.learn(envs, total_tokens=BUDGET)
    return loaded


def assert_same_run(found: OnPolicyAgent, expected: OnPolicyAgent) -> None:
    assert len(expected.log.rows) > 3
    assert found.log.rows == expected.log.rows
    assert_equal_weights(found, expected)
    assert found.memory == expected.memory
    assert (found.iteration, found.tokens) == (expected.iteration, expected.tokens)


@pytest.mark.parametrize(
    ("kind", "algorithm", "adaptive"),
    [
        ("residual", "ppo", False),
        ("residual", "ppo", True),
        ("residual", "running_mean", True),
        ("residual", "leave_one_out", False),
        ("residual", "value", False),
        ("causal_lm", "ppo", False),
        ("causal_lm", "ppo", True),
        ("causal_lm", "leave_one_out", True),
    ],
)
def test_a_run_saved_and_loaded_goes_on_as_if_it_had_never_stopped(
    kind: str, algorithm: str, adaptive: bool, tmp_path: Path
) -> None:
    expected = whole_run(kind, algorithm, adaptive=adaptive)
    found = run_in_two(kind, algorithm, tmp_path / "agent", adaptive=adaptive)
    assert_same_run(found, expected)
    if adaptive:
        assert len({row["kl_coefficient"] for row in expected.log.rows}) > 1


@pytest.mark.parametrize("kind", ["residual_lm", "causal_lm"])
def test_what_a_transformers_reference_remembers_does_not_change_a_run(
    kind: str, tmp_path: Path
) -> None:
    """Charged step by step, or asked by the policy, it is read through a cache."""
    in_step = kind == "causal_lm"
    expected = whole_run(kind, "ppo", in_step=in_step)
    found = run_in_two(kind, "ppo", tmp_path / "agent", in_step=in_step)
    for row in (*found.log.rows, *expected.log.rows):
        row["kl_coefficient"] = 0.0  # not a number where the KL wrapper is not the outermost
    assert_same_run(found, expected)


def test_an_adaptive_coefficient_inside_another_wrapper_is_saved_too(tmp_path: Path) -> None:
    expected = whole_run("residual", "ppo", adaptive=True, in_step=True)
    found = run_in_two("residual", "ppo", tmp_path / "agent", adaptive=True, in_step=True)
    assert expected.memory
    assert_same_run(found, expected)


def test_looking_at_the_policy_between_iterations_does_not_change_a_run() -> None:
    """Evaluation, or a progress display with samples, asks the policy that is being trained."""
    expected = whole_run("residual", "ppo")
    task = make_task("residual")
    agent = make_agent("ppo", make_policy("residual", task))
    others = vector_env(task, 8)

    def look(row: Mapping[str, float]) -> None:
        for seed in range(4):
            obs, _ = others.reset(seed=seed)
            for _ in range(3):
                obs, *_ = others.step(agent.act(obs))

    agent.learn(make_envs(task, agent.policy), total_tokens=BUDGET, progress=look)
    assert_same_run(agent, expected)


def test_an_agent_that_never_learnt_is_saved_too(tmp_path: Path) -> None:
    task = make_task("residual")
    agent = make_agent("ppo", make_policy("residual", task))
    agent.save(tmp_path / "agent")
    loaded = PPO.load(tmp_path / "agent", device="cpu")
    loaded.learn(make_envs(task, loaded.policy), total_tokens=BUDGET)
    assert_same_run(loaded, whole_run("residual", "ppo"))


def test_config_and_seed_are_saved_with_the_agent(tmp_path: Path) -> None:
    task = tiny_task()
    config = REINFORCEConfig(baseline="running_mean", learning_rate=None, group_size=3)
    REINFORCE(residual(task), config=config, seed=11).save(tmp_path / "agent")
    loaded = REINFORCE.load(tmp_path / "agent", device="cpu")
    assert loaded.config == config
    assert loaded.seed == 11


def test_a_saved_folder_takes_the_place_of_the_earlier_one(tmp_path: Path) -> None:
    agent, envs = small_run()
    agent.save(tmp_path / "agent")
    (tmp_path / "agent" / "left over").touch()
    agent.learn(envs, total_tokens=BUDGET)
    agent.save(tmp_path / "agent")
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]
    assert not (tmp_path / "agent" / "left over").exists()
    assert PPO.load(tmp_path / "agent", device="cpu").tokens == agent.tokens


def test_a_save_that_fails_leaves_the_earlier_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, envs = small_run()
    agent.save(tmp_path / "agent")
    agent.learn(envs, total_tokens=BUDGET)

    def full(*args: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("textrl_agents.on_policy.save_file", full)
        with pytest.raises(OSError, match="No space left"):
            agent.save(tmp_path / "agent")
    assert PPO.load(tmp_path / "agent", device="cpu").tokens == 0
    # What was left half written does not stand in the way of the next.
    agent.save(tmp_path / "agent")
    assert PPO.load(tmp_path / "agent", device="cpu").tokens == agent.tokens
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]


def test_a_save_that_dies_at_the_last_moment_leaves_an_agent_to_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed just before the new folder gets its name."""
    agent, envs = small_run()
    agent.save(tmp_path / "agent")
    agent.learn(envs, total_tokens=BUDGET)
    rename = Path.rename

    def die(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            agent.save(tmp_path / "agent")
    assert PPO.load(tmp_path / "agent", device="cpu").tokens in (0, agent.tokens)


def test_a_folder_without_an_agent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"holds no agent: there is no agent\.json"):
        PPO.load(tmp_path)
    with pytest.raises(InvalidInputError, match=r"nowhere holds no agent"):
        PPO.load(tmp_path / "nowhere")


def test_the_folder_of_another_agent_is_refused(tmp_path: Path) -> None:
    agent, _ = small_run()
    agent.save(tmp_path / "agent")
    with pytest.raises(InvalidInputError, match="holds the agent 'ppo', not 'reinforce'"):
        REINFORCE.load(tmp_path / "agent")


def test_the_saved_description_is_json_that_others_can_read(tmp_path: Path) -> None:
    agent, envs = small_run()
    agent.learn(envs, total_tokens=BUDGET)
    agent.save(tmp_path / "agent")
    about = json.loads((tmp_path / "agent" / "agent.json").read_text())
    assert about["agent"] == "ppo"
    assert about["config"]["episodes_per_batch"] == 32
    assert about["log"] == agent.log.rows
    weights_and_state = sorted(p.name for p in (tmp_path / "agent").rglob("*.safetensors"))
    assert weights_and_state == [
        "ngram.safetensors",
        "optimizer.safetensors",
        "residual.safetensors",
    ]


def test_a_log_is_written_in_full(tmp_path: Path) -> None:
    agent, envs = small_run()
    log = agent.learn(envs, total_tokens=BUDGET)
    log.write_csv(tmp_path / "log.csv")
    with (tmp_path / "log.csv").open(newline="", encoding="utf-8") as file:
        rows = [{key: float(x) for key, x in row.items()} for row in csv.DictReader(file)]
    assert rows == log.rows
    TrainingLog().write_csv(tmp_path / "empty.csv")
    assert (tmp_path / "empty.csv").read_text().strip() == ""


# --- one seed, one result ---

SCRIPT = """
import hashlib, json
import gymnasium as gym, torch
import textrl_agents, textrl_envs
from textrl_envs.wrappers.vector import KLPenalty

torch.set_num_threads(1)
for name in ("ppo", "reinforce"):
    envs = gym.make_vec("textrl/Keyword-v0", num_envs=16)
    agent = textrl_agents.make(name, envs, seed=3, device="cpu", episodes_per_batch=16)
    log = agent.learn(KLPenalty(envs, policy=agent.policy), total_tokens=700)
    print(json.dumps(log.rows))
    for key, tensor in agent.policy.state_dict().items():
        print(key, hashlib.sha256(tensor.numpy().tobytes()).hexdigest())
"""


def test_a_seed_gives_the_same_run_whatever_the_hash_seed() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for hash_seed in ("1", "2")
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    first, second = (output for output, _ in outputs)
    assert len(json.loads(first.splitlines()[0])) > 2
    assert first == second


def test_a_kl_wrapper_of_another_policy_does_not_change_what_is_learnt() -> None:
    """Whole episodes are charged by the log-probabilities that were noted when they were played."""
    runs = []
    for is_own in (True, False):
        task = tiny_task()
        agent = make_agent("ppo", residual(task))
        policy = agent.policy if is_own else residual(task, away=1.0, seed=9)
        envs = KLPenalty(vector_env(task), policy=policy)
        runs.append(agent.learn(envs, total_tokens=BUDGET).rows)
    assert runs[0] == runs[1]
