"""The constant-return test: the optimal policy returns exactly V*(x) in every episode.

At the optimum π*(a|s) = π_ref(a|s) exp((Q(s, a) − V(s)) / β), so that every reward charged with the
KL penalty is V(s_t) − V(s_{t+1}), whatever is sampled, and an episode returns V of its prompt. An
error of sign, place, mask or size anywhere between environment and wrapper breaks it.

Where a judge errs, only the score without noise is constant: it takes the place of the paid one.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from tests.envs.optimum.exact import EXACT, task_of
from textrl_envs.language_models.sampling import draw
from textrl_envs.optimum import OptimalPolicy, Optimum, has_exact_optimum, optimum
from textrl_envs.prompts import PromptTable
from textrl_envs.registration import IDS
from textrl_envs.task import Task
from textrl_envs.text_env import TextEnv
from textrl_envs.vector_env import TextVectorEnv
from textrl_envs.wrappers import KLPenalty
from textrl_envs.wrappers.vector import KLPenalty as VectorKLPenalty

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BATCHES = 16
"""Times that each row plays by the reference."""


@pytest.fixture(scope="module", params=EXACT)
def solution(request: pytest.FixtureRequest) -> Optimum:
    """Every optimum in turn; it is solved once for all tests of this file."""
    return optimum(task_of(request.param))


@pytest.fixture(scope="module")
def keyword() -> Optimum:
    return optimum(task_of("textrl/Keyword-v0"))


@dataclass
class Watch:
    """Sums what the rows of a vector environment are paid, the judge's errors taken back."""

    returns: Floats
    is_over: Bools

    def note(self, rewards: Floats, ended: Bools, infos: dict[str, Any]) -> Floats:
        """Adds a step; returns what it paid without noise."""
        paid = rewards.copy()
        if "noiseless_score" in infos:
            errors = infos["score"] - infos["noiseless_score"]
            paid -= np.where(infos["_score"], errors, 0.0)
        self.returns += np.where(self.is_over, 0.0, paid)
        self.is_over |= ended
        return paid


def with_one_prompt(task: Task, prompt: int) -> Task:
    return replace(task, prompts=PromptTable([task.prompts[prompt]], task.tokenizer))


def play(envs: Any, policy: OptimalPolicy, prompts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Plays a prompt a row to the end; returns returns and TD residuals, (B,) and (steps, B)."""
    rng = np.random.default_rng(0)
    obs, _ = envs.reset(seed=0, options={"prompt_index": prompts})
    watch = Watch(np.zeros(len(prompts)), np.zeros(len(prompts), bool))
    values, residuals = policy.next_values(obs), []
    while not watch.is_over.all():
        obs, rewards, ended, _, infos = envs.step(policy.act(obs, rng))
        paid = watch.note(rewards, ended, infos)
        after = policy.next_values(obs)
        residuals.append(paid + after - values)
        values = after
    return watch.returns, np.array(residuals)


def test_all_ids_but_two_have_an_exact_optimum(bandit_kwargs: Any) -> None:
    assert [name for name in IDS if name not in EXACT] == [
        "textrl/Dialogue-v0",
        "textrl/TextBandit-v0",
    ]
    assert all(has_exact_optimum(task_of(name)) for name in EXACT)
    assert not has_exact_optimum(task_of("textrl/Dialogue-v0"))
    assert not has_exact_optimum(task_of("textrl/TextBandit-v0", **bandit_kwargs))


def test_the_optimal_policy_returns_exactly_its_value(solution: Optimum) -> None:
    task, policy = solution.mdp.task, solution.policy
    count = len(task.prompts)
    prompts = np.arange(max(96, 3 * count)) % count
    envs = VectorKLPenalty(
        TextVectorEnv(task, num_envs=len(prompts), autoreset_mode=AutoresetMode.DISABLED),
        policy=policy,
    )
    returns, residuals = play(envs, policy, prompts)
    assert np.abs(returns - solution.values[prompts]).max() < 1e-9
    assert max(returns[prompts == prompt].std() for prompt in range(count)) < 1e-9
    # With V* as critic, no step is a surprise; nor is waiting for the other rows.
    assert np.abs(residuals).max() < 1e-9


def test_one_environment_returns_the_value_too(solution: Optimum) -> None:
    policy = solution.policy
    env = KLPenalty(TextEnv(solution.mdp.task), policy=policy)
    rng = np.random.default_rng(0)
    for episode in range(2):
        obs, info = env.reset(seed=episode)
        value, total, is_over = float(solution.values[info["prompt_index"]]), 0.0, False
        while not is_over:
            batch: Any = {key: x[None] for key, x in obs.items()}  # type: ignore[union-attr]
            obs, reward, is_over, _, info = env.step(int(policy.act(batch, rng)[0]))
            total += reward
        total -= info["score"] - info.get("noiseless_score", info["score"])
        assert total == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("obs_mode", ["dict", "flat"])
def test_with_the_optimal_values_every_step_is_paid_what_it_loses(
    keyword: Optimum, mode: AutoresetMode, obs_mode: Any
) -> None:
    policy = keyword.policy
    envs = VectorKLPenalty(
        TextVectorEnv(keyword.mdp.task, num_envs=32, autoreset_mode=mode, obs=obs_mode),
        policy=policy,
    )
    rng = np.random.default_rng(0)
    obs, _ = envs.reset(seed=0)
    waits, episodes = np.zeros(32, bool), 0
    for _ in range(70):
        before = policy.next_values(obs)
        obs, rewards, terminated, _, _ = envs.step(policy.act(obs, rng))
        # Nothing is to come after the end, which in SAME_STEP mode the observation does not show.
        after = np.where(terminated, 0.0, policy.next_values(obs))
        residual = np.where(waits, rewards, rewards + after - before)
        np.testing.assert_allclose(residual, 0, rtol=0, atol=1e-9)
        episodes += int(terminated.sum())
        if mode == AutoresetMode.NEXT_STEP:
            waits = terminated
        elif mode == AutoresetMode.DISABLED:
            waits = waits | terminated
            if waits.all():
                obs, _ = envs.reset()
                waits = np.zeros(32, bool)
    assert episodes > 64


class Acting:
    """What the collector asks of a policy, answered by the optimal one."""

    def __init__(self, policy: OptimalPolicy) -> None:
        self.vocabulary_size = policy.vocabulary_size
        self.next_values = policy.next_values
        self.log_probs = policy.log_probs
        self.forget = policy.forget
        self._policy = policy

    def step(self, obs: Any, rng: np.random.Generator, *, greedy: bool = False) -> Any:
        from textrl_agents.policies.base import PolicyStep

        log_probs = self._policy.next_log_probs(obs)
        actions = draw(log_probs, rng)
        chosen = log_probs[np.arange(len(actions)), actions]
        return PolicyStep(actions, chosen, np.zeros(len(actions)), self.next_values(obs))


@pytest.mark.parametrize("name", ["textrl/Keyword-v0", "textrl/Safe-v0"])
def test_whole_episodes_of_a_collector_return_the_value_too(name: str) -> None:
    from textrl_agents.collector import Collector

    solution = optimum(task_of(name))
    policy = Acting(solution.policy)
    envs = VectorKLPenalty(TextVectorEnv(solution.mdp.task, num_envs=16), policy=policy)
    episodes = Collector(envs).collect(policy, 64, seed=[0])
    values = solution.values[episodes.prompt_index]
    np.testing.assert_allclose(episodes.returns, values, rtol=0, atol=1e-9)
    after = np.pad(episodes.values[:, 1:], ((0, 0), (0, 1)))
    residual = np.where(episodes.response_mask, episodes.rewards + after - episodes.values, 0.0)
    np.testing.assert_allclose(residual, 0, rtol=0, atol=1e-9)


def test_another_coefficient_does_not_return_the_value(keyword: Optimum) -> None:
    # The test of the test: were the penalty left out of account, it could not fail.
    task = keyword.mdp.task
    envs = VectorKLPenalty(
        TextVectorEnv(task, num_envs=64, autoreset_mode=AutoresetMode.DISABLED),
        policy=keyword.policy,
        coefficient=1.05 * task.kl_coefficient,
    )
    returns, _ = play(envs, keyword.policy, np.zeros(64, np.int64))
    assert np.abs(returns - keyword.values[0]).min() > 1e-3


def test_a_policy_solved_for_one_prompt_is_that_of_all(keyword: Optimum) -> None:
    alone = optimum(with_one_prompt(keyword.mdp.task, 3))
    assert alone.values[0] == pytest.approx(keyword.values[3], abs=1e-12)
    assert alone.value == alone.values[0]


def test_the_reference_scores_on_average_what_is_computed(solution: Optimum) -> None:
    # The first tests cannot tell a wrong reference or reward from a right one: they follow whatever
    # was solved. Here the environment plays, and the exact law says how far a mean may stray.
    task = solution.mdp.task
    assert task.load_reference is not None
    reference = task.load_reference()
    count = len(task.prompts)
    rows = max(256 // count, 1) * count
    envs = TextVectorEnv(task, num_envs=rows, autoreset_mode=AutoresetMode.DISABLED)
    rng = np.random.default_rng(1)
    means = []
    for batch in range(BATCHES):
        obs, _ = envs.reset(seed=rows * batch, options={"prompt_index": np.arange(rows) % count})
        reference.forget()
        watch = Watch(np.zeros(rows), np.zeros(rows, bool))
        while not watch.is_over.all():
            actions = draw(np.asarray(reference.next_log_probs(obs), np.float64), rng)
            obs, rewards, ended, _, infos = envs.step(actions)
            watch.note(rewards, ended, infos)
        means.append(watch.returns.mean())
    variances = [law.probs @ (law.scores - law.probs @ law.scores) ** 2 for law in solution.laws()]
    standard_error = np.sqrt(np.mean(variances) / (rows * BATCHES))
    assert abs(np.mean(means) - solution.reference_value) < 4 * standard_error
