"""The constant-return test: the optimal policy returns exactly V*(x) in every episode.

At the optimum π*(a|s) = π_ref(a|s) exp((Q(s, a) − V(s)) / β), so that every reward charged with the
KL penalty is V(s_t) − V(s_{t+1}), whatever is sampled, and an episode returns V of its prompt. An
error of sign, place, mask or size anywhere between environment and wrapper breaks it. The optimum
is computed here, by soft value iteration over time, last token and state of the automaton.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from textrl_envs.environments import build_task
from textrl_envs.prompts import PromptTable
from textrl_envs.rewards.automaton import AutomatonReward
from textrl_envs.task import Task
from textrl_envs.text_env import TextEnv
from textrl_envs.vector_env import TextVectorEnv
from textrl_envs.wrappers import KLPenalty
from textrl_envs.wrappers.vector import KLPenalty as VectorKLPenalty

NUM_PROMPTS = 8


@dataclass(frozen=True)
class Solution:
    """The exact values of a task with an n-gram reference and an automaton; S states, V tokens."""

    task: Task
    transitions: Any  # [S, V]
    scores: Any  # [S]
    reference: Any  # [V, V], log-probabilities
    values: Any  # [T + 1, S, V]: with t tokens written, in a state, after a last token
    advantages: Any  # [T, S, V, V]: log π* − log π_ref of each next token
    success: Any  # [T + 1, S, V]: expected score under the reference

    @staticmethod
    def of(task: Task, beta: float) -> "Solution":
        assert isinstance(task.reward, AutomatonReward)
        assert task.load_reference is not None
        (automaton,) = task.reward.automata
        log_ref = task.load_reference().table  # type: ignore[attr-defined]
        limit, states, size = task.max_new_tokens, len(automaton.scores), task.vocabulary_size
        is_eos = np.arange(size) == task.tokenizer.eos_token_id
        tokens = np.arange(size)
        values, success = (np.zeros((limit + 1, states, size)) for _ in range(2))
        advantages = np.zeros((limit, states, size, size))
        values[limit] = success[limit] = automaton.scores[:, None]
        for time in reversed(range(limit)):
            for state in range(states):
                following = automaton.transitions[state]  # [V], by next token
                ends = automaton.scores[following]
                payoff = np.where(is_eos, ends, values[time + 1, following, tokens])
                exponent = log_ref + payoff / beta  # [last token, next token]
                top = exponent.max(axis=1)
                total = top + np.log(np.exp(exponent - top[:, None]).sum(axis=1))
                values[time, state] = beta * total
                advantages[time, state] = (payoff - values[time, state][:, None]) / beta
                mean = np.where(is_eos, ends, success[time + 1, following, tokens])
                success[time, state] = np.exp(log_ref) @ mean
        return Solution(
            task, automaton.transitions, automaton.scores, log_ref, values, advantages, success
        )

    def last_prompt_token(self, prompt: int) -> int:
        table = self.task.prompts
        return int(table.token_ids[prompt, table.lengths[prompt] - 1])

    def value_of(self, prompt: int) -> float:
        return float(self.values[0, 0, self.last_prompt_token(prompt)])

    def success_of(self, prompt: int) -> float:
        return float(self.success[0, 0, self.last_prompt_token(prompt)])


class OptimalPolicy:
    """π*, and its values, for one prompt: where a response begins is not to be seen in its text."""

    def __init__(self, solution: Solution, prompt: int) -> None:
        self._solution = solution
        self._start = int(solution.task.prompts.lengths[prompt])

    vocabulary_size = 46

    def states(self, obs: Any) -> tuple[Any, Any, Any, Any]:
        """Returns time, state of the automaton, last token and whether the text has ended."""
        ids = obs["input_ids"]
        lengths = obs["attention_mask"].sum(axis=1)
        solution = self._solution
        state = np.zeros(len(ids), np.int64)
        for column in range(self._start, int(lengths.max())):
            moved = solution.transitions[state, ids[:, column]]
            state = np.where(column < lengths, moved, state)
        time, last = lengths - self._start, ids[np.arange(len(ids)), lengths - 1]
        limit, eos = solution.task.max_new_tokens, solution.task.tokenizer.eos_token_id
        return time, state, last, (time == limit) | ((time > 0) & (last == eos))

    def next_log_probs(self, obs: Any) -> Any:
        time, state, last, is_end = self.states(obs)
        inside = np.minimum(time, self._solution.task.max_new_tokens - 1)
        log_probs = self._solution.reference[last] + self._solution.advantages[inside, state, last]
        # What is asked of a text that has ended does not matter, but it has to be a distribution.
        return np.where(is_end[:, None], -np.log(46), log_probs)

    def log_probs(self, obs: Any, actions: Any) -> Any:
        return self.next_log_probs(obs)[np.arange(len(actions)), np.asarray(actions)]

    def next_values(self, obs: Any) -> Any:
        time, state, last, is_end = self.states(obs)
        return np.where(is_end, 0.0, self._solution.values[time, state, last])

    def draw(self, obs: Any, rng: np.random.Generator) -> Any:
        cumulative = np.exp(self.next_log_probs(obs)).cumsum(axis=1)
        targets = rng.random(len(cumulative)) * cumulative[:, -1]
        return (cumulative <= targets[:, None]).sum(axis=1)

    def forget(self) -> None:
        """Has nothing to forget."""

    def step(self, obs: Any, rng: np.random.Generator, *, greedy: bool = False) -> Any:
        from textrl_agents.policies.base import PolicyStep

        actions = self.draw(obs, rng)
        nothing = np.zeros(len(actions))
        return PolicyStep(actions, self.log_probs(obs, actions), nothing, self.next_values(obs))


@pytest.fixture(scope="module")
def solution() -> Solution:
    task = build_task("keyword", {})
    return Solution.of(task, task.kl_coefficient)


def with_one_prompt(task: Task, prompt: int) -> Task:
    return replace(task, prompts=PromptTable([task.prompts[prompt]], task.tokenizer))


def test_the_solution_is_a_distribution_and_worth_having(solution: Solution) -> None:
    policy = np.exp(solution.reference + solution.advantages)
    np.testing.assert_allclose(policy.sum(axis=-1), 1, rtol=1e-12)
    for prompt in range(NUM_PROMPTS):
        assert solution.success_of(prompt) + 0.2 < solution.value_of(prompt) < 1


@pytest.mark.parametrize("prompt", range(NUM_PROMPTS))
def test_the_optimal_policy_returns_exactly_its_value(solution: Solution, prompt: int) -> None:
    policy = OptimalPolicy(solution, prompt)
    envs = VectorKLPenalty(
        TextVectorEnv(solution.task, num_envs=64, autoreset_mode=AutoresetMode.DISABLED),
        policy=policy,
    )
    rng = np.random.default_rng(prompt)
    obs, _ = envs.reset(seed=0, options={"prompt_index": prompt})
    returns, is_over = np.zeros(64), np.zeros(64, bool)
    scores = np.zeros(64)
    while not is_over.all():
        obs, rewards, terminated, _, infos = envs.step(policy.draw(obs, rng))
        returns += rewards
        is_over |= terminated
        scores += infos.get("score", 0.0)
    assert returns.std() < 1e-9
    np.testing.assert_allclose(returns, solution.value_of(prompt), rtol=0, atol=1e-9)
    assert scores.mean() > 0.9  # for at this β success is worth its KL


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_with_the_optimal_values_every_step_is_paid_what_it_loses(
    solution: Solution, mode: AutoresetMode
) -> None:
    task = with_one_prompt(solution.task, 3)
    one = replace(solution, task=task)
    policy = OptimalPolicy(one, 0)
    envs = VectorKLPenalty(TextVectorEnv(task, num_envs=32, autoreset_mode=mode), policy=policy)
    rng = np.random.default_rng(0)
    obs, _ = envs.reset(seed=0)
    waits, episodes = np.zeros(32, bool), 0
    for _ in range(70):
        before = policy.next_values(obs)
        obs, rewards, terminated, _, _ = envs.step(policy.draw(obs, rng))
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


def test_one_environment_returns_the_value_too(solution: Solution) -> None:
    task = with_one_prompt(solution.task, 5)
    policy = OptimalPolicy(replace(solution, task=task), 0)
    env = KLPenalty(TextEnv(task), policy=policy)
    rng = np.random.default_rng(0)
    for _ in range(15):
        obs, _ = env.reset(seed=0)
        total, is_over = 0.0, False
        while not is_over:
            batch = {key: value[None] for key, value in obs.items()}  # type: ignore[union-attr]
            obs, reward, is_over, _, _ = env.step(int(policy.draw(batch, rng)[0]))
            total += reward
        assert total == pytest.approx(solution.value_of(5), abs=1e-9)


def test_whole_episodes_of_a_collector_return_the_value_too(solution: Solution) -> None:
    from textrl_agents.collector import Collector

    task = with_one_prompt(solution.task, 2)
    policy = OptimalPolicy(replace(solution, task=task), 0)
    envs = VectorKLPenalty(TextVectorEnv(task, num_envs=16), policy=policy)
    episodes = Collector(envs).collect(policy, 64, seed=[0])
    np.testing.assert_allclose(episodes.returns, solution.value_of(2), rtol=0, atol=1e-9)
    after = np.pad(episodes.values[:, 1:], ((0, 0), (0, 1)))
    residual = np.where(episodes.response_mask, episodes.rewards + after - episodes.values, 0.0)
    np.testing.assert_allclose(residual, 0, rtol=0, atol=1e-9)


def test_another_coefficient_does_not_return_the_value(solution: Solution) -> None:
    # The test of the test: were the penalty left out of account, it could not fail.
    policy = OptimalPolicy(solution, 0)
    envs = VectorKLPenalty(
        TextVectorEnv(solution.task, num_envs=64, autoreset_mode=AutoresetMode.DISABLED),
        policy=policy,
        coefficient=1.05 * solution.task.kl_coefficient,
    )
    rng = np.random.default_rng(0)
    obs, _ = envs.reset(seed=0, options={"prompt_index": 0})
    returns = np.zeros(64)
    for _ in range(solution.task.max_new_tokens):
        obs, rewards, _, _, _ = envs.step(policy.draw(obs, rng))
        returns += rewards
    assert np.abs(returns - solution.value_of(0)).min() > 1e-3


def test_roll_outs_of_the_reference_agree_with_its_exact_value(solution: Solution) -> None:
    from textrl_agents.collector import Collector
    from textrl_agents.policies.fixed import FixedPolicy

    assert solution.task.load_reference is not None
    policy: Any = FixedPolicy(solution.task.load_reference())
    envs = VectorKLPenalty(TextVectorEnv(solution.task, num_envs=512), policy=policy)
    episodes = Collector(envs).collect(policy, 4096, seed=[1])
    np.testing.assert_allclose(episodes.kl, 0, atol=1e-12)
    exact = np.array([solution.success_of(prompt) for prompt in range(NUM_PROMPTS)])
    surprise = episodes.returns - exact[episodes.prompt_index]
    standard_error = np.sqrt((exact * (1 - exact))[episodes.prompt_index].sum()) / len(episodes)
    assert abs(surprise.mean()) < 4 * standard_error
    assert standard_error < 0.2 * exact.mean()  # or this tests nothing
