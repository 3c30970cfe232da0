"""Instruments: functions that assert what holds where every part from text to gradient is right.

Each plays the real environment, KL wrapper, collector, policy and update, and compares them with
numbers that are known exactly. `tests/injections.py` breaks the parts, one at a time, and
`tests/test_silent_bugs.py` shows that no break goes unseen.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import textrl_agents.ppo
from tests.agents.tiny import (
    EOS,
    Exact,
    Floats,
    Ints,
    Response,
    TableReward,
    all_responses,
    causal_policy,
    causal_reference,
    enumerate_exactly,
    flat_gradient,
    gradients_of_update,
    relative_error,
    residual,
    score_of,
    tiny_gpt2,
    tiny_task,
    twin_of,
    vector_env,
    widened,
    with_kl,
)
from textrl_agents.collector import Collector
from textrl_agents.episodes import Episodes
from textrl_agents.losses import clipped_policy_loss, clipped_value_loss
from textrl_agents.on_policy import OnPolicyAgent
from textrl_agents.policies import (
    FixedPolicy,
    NetworkPolicy,
    Policy,
    Sampling,
    TablePolicy,
    make_policy,
)
from textrl_agents.policies.distribution import TokenDistribution
from textrl_agents.ppo import PPO, PPOConfig
from textrl_agents.reinforce import REINFORCE, REINFORCEConfig
from textrl_envs.core import FinishReason
from textrl_envs.environments import build_task
from textrl_envs.optimum import optimum
from textrl_envs.optimum.dynamic_programming import optimal_log_probs, soft_values
from textrl_envs.task import Task

EXACT = 1e-9
"""Of what is computed in float64."""
ALMOST = 2e-5
"""Of networks, which compute in float32."""
STANDARD_ERRORS = 4.0
"""Of means over samples, by a fixed seed."""
CUT_PENALTY = 3.0
"""What a response loses that the limit cuts, in units of the score."""


class OffError(AssertionError):
    """An instrument found an error, and says how large."""

    def __init__(self, error: float, tolerance: float) -> None:
        super().__init__(f"off by {error:.3g}; at most {tolerance:.3g} is right")
        self.error = error


def expect(error: float, tolerance: float) -> None:
    """Raises `OffError` unless the error is within the tolerance; NaN never is."""
    if not error <= tolerance:
        raise OffError(error, tolerance)


# --- tasks, solved once ---


@functools.cache
def small_task() -> Task:
    """Two prompts and 121 responses to each: some end by EOS, some at the limit."""
    return tiny_task(limit=4)


@functools.cache
def keyword_task() -> Task:
    return build_task("keyword", {})


@functools.cache
def tiniest_task(limit: int = 3) -> Task:
    return tiny_task(size=3, limit=limit)


class CutReward(TableReward):
    """A random score, less a penalty for a response without EOS."""

    def __call__(self, *args: Any, response_ids: Sequence[Ints], **texts: Any) -> list[float]:
        scores = super().__call__(*args, response_ids=response_ids, **texts)
        return [
            score - CUT_PENALTY * (ids[-1] != EOS)
            for score, ids in zip(scores, response_ids, strict=True)
        ]


@functools.cache
def cut_task() -> Task:
    """At this β the optimal policy never misses EOS."""
    return tiny_task(limit=4, beta=0.1, reward=CutReward(2, all_responses(4, 4), seed=1))


def count_words(
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    prompt_ids: Sequence[Ints],
    response_ids: Sequence[Ints],
    metadata: Sequence[Mapping[str, Any]],
) -> list[float]:
    """Scores a tenth a token, EOS included, and 1 more for EOS at the end."""
    return [0.1 * len(ids) + float(len(ids) > 0 and ids[-1] == EOS) for ids in response_ids]


@functools.cache
def transformer_task() -> Task:
    """A transformer reference whose padding is EOS."""
    reference = causal_reference(tiny_gpt2(3))
    return tiny_task(size=3, reference=reference, reward=count_words)


def solve_all() -> None:
    """Solves every task whose optimum is asked for, before anything is broken."""
    for task in (small_task(), keyword_task(), cut_task()):
        optimum(task)


# --- policies and episodes ---


def optimal_policy(task: Task, *, temperature: float = 0.7) -> TablePolicy:
    """Returns π* and V* as a policy like any other: its logits are log π* times the temperature."""
    policy = TablePolicy(task, sampling=Sampling(temperature=temperature))
    mdp, beta = policy.mdp, task.kl_coefficient
    values = soft_values(mdp, beta)
    log_probs = optimal_log_probs(mdp, values, beta)
    with torch.no_grad():
        for time in range(mdp.limit):
            logits = temperature * log_probs(time) - mdp.log_ref
            policy.table[time] = torch.from_numpy(logits)
            policy.values[time] = torch.from_numpy(values[time])
    return policy


def played_by_the_optimum(task: Task, *, episodes: int = 256) -> Episodes:
    policy = optimal_policy(task)
    return Collector(with_kl(task, policy, 64)).collect(policy, episodes, seed=[0])


def every_episode(task: Task, policy: Policy) -> Episodes:
    """Collects every response to every prompt once: the collector samples what a script says."""
    responses = all_responses(task.vocabulary_size, task.max_new_tokens)
    prompts = len(task.prompts)
    script = np.zeros((task.max_new_tokens, len(responses)), np.int64)
    for row, response in enumerate(responses):
        script[: len(response), row] = response
    tokens = iter(torch.from_numpy(np.tile(script, prompts)))
    count = prompts * len(responses)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenDistribution, "sample", lambda *_: next(tokens))
        return Collector(with_kl(task, policy, count)).collect(
            policy, count, seed=[0], group_size=len(responses), is_balanced=True
        )


def ppo(policy: Policy, **settings: Any) -> PPO:
    """Returns PPO whose update is one step, and whose advantages are left as they are."""
    given = {"epochs": 1, "minibatches": 1, "micro_batch_size": 10_000, **settings}
    given.setdefault("standardise_advantages", False)
    return PPO(policy, config=PPOConfig(**given))


def reinforce(policy: Policy, baseline: Any, **settings: Any) -> REINFORCE:
    given = {"value_coefficient": 0.0, **settings}
    return REINFORCE(policy, config=REINFORCEConfig(baseline=baseline, **given))


def learnt_from(agent: PPO, episodes: Episodes) -> tuple[Floats, Floats]:
    """Returns the advantages and the value targets that reach PPO's losses, (M,)."""
    seen: dict[str, Floats] = {}

    def policy_loss(log_probs: Any, old: Any, advantages: Any, **settings: Any) -> Any:
        seen["advantages"] = advantages.numpy()
        return clipped_policy_loss(log_probs, old, advantages, **settings)

    def value_loss(values: Any, old: Any, targets: Any, **settings: Any) -> Any:
        seen["targets"] = targets.numpy()
        return clipped_value_loss(values, old, targets, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textrl_agents.ppo, "clipped_policy_loss", policy_loss)
        patch.setattr(textrl_agents.ppo, "clipped_value_loss", value_loss)
        gradients_of_update(agent, episodes)
    return seen["advantages"], seen["targets"]


# --- against the exact optimum ---


def check_constant_return(task: Task) -> None:
    episodes = played_by_the_optimum(task)
    errors = episodes.returns - optimum(task).values[episodes.prompt_index]
    expect(float(np.abs(errors).max()), EXACT)


def the_constant_return() -> None:
    """Every episode of π* returns V*(x): r − β log(π*/π_ref) telescopes, whatever is sampled."""
    for task in (small_task(), keyword_task()):
        check_constant_return(task)


def the_constant_return_step_by_step() -> None:
    """The same where the wrapper charges each step, and rows begin again by themselves."""
    task = small_task()
    values, policy = optimum(task).values, optimal_policy(task)
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        envs = with_kl(task, policy, 16)
        envs.unwrapped.autoreset_mode = mode  # type: ignore[attr-defined]
        rng, returns, errors = np.random.default_rng(0), np.zeros(16), []
        obs, infos = envs.reset(seed=0)
        for _ in range(60):
            prompts = infos["prompt_index"]
            obs, rewards, ended, _, infos = envs.step(policy.step(obs, rng).actions)
            returns += rewards
            errors.extend(np.abs(returns - values[prompts])[ended])
            returns[ended] = 0.0
        assert len(errors) > 100
        expect(float(max(errors)), EXACT)


def the_td_residuals() -> None:
    """With V* as critic the advantages of π* are 0 at every λ, where the loss takes them."""
    task = small_task()
    episodes = played_by_the_optimum(task)
    assert set(episodes.finish_reason) == {FinishReason.STOP, FinishReason.LENGTH}
    for smoothing in (0.0, 0.5, 0.95, 1.0):
        agent = ppo(optimal_policy(task), gae_lambda=smoothing)
        advantages, _ = learnt_from(agent, episodes)
        expect(float(np.abs(advantages).max()), EXACT)


def the_equal_worth_of_all_lengths() -> None:
    """All responses of π* to a prompt are worth the same to PPO, in whatever unit it counts."""
    task = small_task()
    episodes = played_by_the_optimum(task)
    _, targets = learnt_from(ppo(optimal_policy(task), gae_lambda=1.0), episodes)
    worth = targets[np.cumsum(episodes.lengths) - episodes.lengths]  # at the first tokens
    spread = max(worth[episodes.prompt_index == prompt].std() for prompt in (0, 1))
    expect(float(spread / np.abs(worth).mean()), EXACT)


def check_mean(task: Task, policy: Any, exact: Floats) -> None:
    """Checks the mean return of many episodes, in standard errors."""
    episodes = Collector(with_kl(task, policy, 500)).collect(policy, 8000, seed=[1])
    surprise = episodes.returns - exact[episodes.prompt_index]
    standard_error = surprise.std() / math.sqrt(len(episodes))
    expect(float(abs(surprise.mean()) / standard_error), STANDARD_ERRORS)


def the_mean_score_of_the_reference() -> None:
    """Roll-outs of π_ref agree with its exact J."""
    task = cut_task()
    assert task.load_reference is not None
    check_mean(task, FixedPolicy(task.load_reference()), optimum(task).at_reference.rewards)


def the_mean_return_of_a_policy() -> None:
    """Roll-outs of a policy agree with J computed from its probabilities."""
    task = small_task()
    policy = TablePolicy(task, sampling=Sampling(temperature=1.7))
    with torch.no_grad():
        policy.table.normal_(generator=torch.Generator().manual_seed(0))
    check_mean(task, policy, policy.exact().values(task.kl_coefficient))


# --- log-probabilities ---


def the_sum_of_all_probabilities() -> None:
    """Σ_y π(y|x) = 1, as the training forward has it."""
    task = tiniest_task()
    policy = causal_policy(tiny_gpt2(3))
    episodes = every_episode(task, policy)
    with torch.no_grad():
        log_probs = policy.evaluate(episodes).log_probs.numpy()
    rows, _ = np.nonzero(episodes.response_mask)
    totals = np.bincount(rows, weights=log_probs)
    sums = [np.exp(totals[episodes.prompt_index == prompt]).sum() for prompt in (0, 1)]
    expect(float(np.abs(np.array(sums) - 1).max()), ALMOST)


def the_same_text_padded_on_the_left() -> None:
    """A text means the same on whichever side its padding is."""
    task = tiny_task(limit=5)
    policy = residual(task, away=0.5)
    right, _ = vector_env(task, 8).reset(seed=0)
    assert isinstance(right, dict)
    lengths = right["attention_mask"].sum(axis=1)
    columns = np.arange(task.max_tokens) - (task.max_tokens - lengths[:, None])
    left = {key: np.take_along_axis(x, columns % task.max_tokens, 1) for key, x in right.items()}
    expected = policy.next_log_probs(right)
    policy.forget()
    expect(float(np.abs(policy.next_log_probs(left) - expected).max()), ALMOST)


def the_equality_of_two_forwards() -> None:
    """The training forward is a function, though the model has dropout and training has begun."""
    task = tiniest_task()
    policy = causal_policy(tiny_gpt2(3))
    episodes = every_episode(task, policy)
    policy.train()
    first, second = (policy.evaluate(episodes).log_probs.detach() for _ in range(2))
    expect(float((first - second).abs().max()), 0.0)


def ratios_of_ppo() -> list[dict[str, float]]:
    """Trains for three batches, away from the reference, at a temperature."""
    task = tiny_task(limit=6)
    policy = residual(task, away=0.5, sampling=Sampling(temperature=1.7))
    config = PPOConfig(episodes_per_batch=40, learning_rate=1e-2)
    return PPO(policy, config=config).learn(with_kl(task, policy), total_tokens=200).rows


def the_first_ratio() -> None:
    """π / π_old is 1 in the first minibatch of every batch."""
    expect(max(row["first_ratio_error"] for row in ratios_of_ppo()), ALMOST)


def the_later_ratios() -> None:
    """π / π_old is not 1 in the last minibatch: the policy has moved and π_old has not.

    The error is the share of batches that show no move.
    """
    moves = [row["update_kl"] for row in ratios_of_ppo()]
    expect(float(np.mean(np.array(moves) < 1e-3)), 0.0)


def the_weights_of_the_reference() -> None:
    """Training leaves them as they were, to the last bit."""
    reference = causal_reference(tiny_gpt2(3))
    envs = vector_env(tiny_task(size=3, reference=reference, reward=count_words))
    before = [weight.clone() for weight in reference.model.state_dict().values()]
    policy = make_policy(envs, device="cpu")
    config = PPOConfig(episodes_per_batch=16, learning_rate=1e-2)
    PPO(policy, config=config).learn(with_kl(envs.task, policy), total_tokens=1)
    after = reference.model.state_dict().values()
    changes = [(a - b).abs().max() for a, b in zip(after, before, strict=True)]
    expect(float(torch.stack(changes).max()), 0.0)


def the_scores_one_by_one() -> None:
    """Reward and reference say of a padded batch what they say of each text alone."""
    task = transformer_task()
    assert task.load_reference is not None
    reference, table = task.load_reference(), task.prompts
    episodes = every_episode(task, residual(task, away=0.5))
    assert episodes.ref_log_probs is not None
    responses = all_responses(3, 3)
    for row, (prompt, response) in enumerate(
        zip(episodes.prompt_index.tolist(), responses * 2, strict=True)
    ):
        start = table.lengths[prompt]
        text = np.array([*table.token_ids[prompt, :start], *response])[None]
        alone = reference.score(text, np.ones_like(text))[0, start:]
        found = episodes.ref_log_probs[row, : len(response)]
        expect(float(np.abs(found - alone).max()), ALMOST)
        expect(abs(episodes.scores[row] - score_of(task, prompt, response)), EXACT)


# --- gradients ---


def expected_gradient(
    agent: OnPolicyAgent, episodes: Episodes, batches: Sequence[tuple[float, list[int]]]
) -> Floats:
    """Sums (probability of the batch) x (gradient of its update), an ascent an episode."""
    total = np.zeros(sum(p.numel() for p in agent.policy.parameters()))
    memory = dict(agent.memory)
    for weight, rows in batches:
        agent.memory = dict(memory)
        part = episodes.select(np.array(rows))
        (gradient,) = gradients_of_update(agent, part)
        total -= weight * gradient * part.num_tokens / len(rows)
    return total


def check_gradient(
    agent: Callable[[Policy], OnPolicyAgent],
    task: Task,
    batches: Callable[[list[float], Episodes], list[tuple[float, list[int]]]],
) -> None:
    """Compares with the gradient that autograd takes of J(θ), written out (`tests/agents/tiny`)."""
    policy = residual(task, away=0.5)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    expected = flat_gradient(exact.objective, twin)
    episodes = every_episode(task, policy)
    weights = weights_of(exact, all_responses(3, task.max_new_tokens), episodes)
    found = expected_gradient(agent(policy), episodes, batches(weights, episodes))
    expect(relative_error(found, expected), ALMOST)


def weights_of(exact: Exact, script: list[Response], episodes: Episodes) -> list[float]:
    """Returns the probability of each collected episode."""
    weights = dict(zip(exact.played, exact.weights.tolist(), strict=True))
    prompts = episodes.prompt_index.tolist()
    return [weights[key] for key in zip(prompts, script * exact.num_prompts, strict=True)]


def one_by_one(weights: list[float], _: Episodes) -> list[tuple[float, list[int]]]:
    return [(weight, [row]) for row, weight in enumerate(weights)]


def the_enumerated_gradient_of_reinforce() -> None:
    """Summed over all responses, the update has the gradient of J."""
    check_gradient(lambda policy: reinforce(policy, "value"), tiniest_task(), one_by_one)


def the_enumerated_gradient_of_ppo() -> None:
    """The same of PPO's first step."""
    check_gradient(
        lambda policy: ppo(policy, gae_lambda=1.0, value_coefficient=0.0),
        tiniest_task(),
        one_by_one,
    )


def pairs_of_one_prompt(weights: list[float], episodes: Episodes) -> list[tuple[float, list[int]]]:
    prompts = episodes.prompt_index
    pairs = [
        ((1 if i == j else 2) * weights[i] * weights[j], [i, j])
        for i, j in itertools.combinations_with_replacement(range(len(weights)), 2)
        if prompts[i] == prompts[j]
    ]
    total = sum(weight for weight, _ in pairs)
    return [(weight / total, pair) for weight, pair in pairs]


def the_enumerated_gradient_of_pairs() -> None:
    """The same over all pairs of responses to a prompt, for a baseline that looks at the others."""
    check_gradient(
        lambda policy: reinforce(policy, "leave_one_out", group_size=2),
        tiniest_task(2),
        pairs_of_one_prompt,
    )


def the_enumerated_gradient_with_a_memory() -> None:
    """The same for a baseline that looks at earlier batches."""
    check_gradient(
        lambda policy: reinforce(policy, "running_mean"), tiniest_task(2), pairs_of_one_prompt
    )


def unequal_episodes(policy: NetworkPolicy, task: Task) -> Episodes:
    episodes = Collector(with_kl(task, policy, 12)).collect(policy, 12, seed=[0])
    assert len(set(episodes.lengths)) > 2
    return episodes


def the_gradient_in_micro_batches() -> None:
    """Parts of unequal lengths add up to the gradient of the whole batch."""
    task = small_task()
    policy = residual(task, away=0.5)
    episodes = unequal_episodes(policy, task)
    whole, parts = (
        gradients_of_update(reinforce(policy, "value", micro_batch_size=size), episodes)[0]
        for size in (12, 3)
    )
    expect(relative_error(parts, whole), ALMOST)


def the_gradient_with_more_padding() -> None:
    """Columns of padding change nothing, standardised advantages included."""
    task = small_task()
    policy = residual(task, away=0.5, max_tokens=20)
    episodes = unequal_episodes(policy, task)
    agent = ppo(policy, standardise_advantages=True)
    narrow, wide = (
        gradients_of_update(agent, padded)[0] for padded in (episodes, widened(episodes, 6))
    )
    expect(relative_error(wide, narrow), ALMOST)
