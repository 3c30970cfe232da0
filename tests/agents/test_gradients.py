"""The expected gradient of each algorithm, summed over every response, against that of J.

Each response is played by hand, given to the agent's own `update`, and its gradient weighted by the
probability of the response. That sum must be the gradient of J(θ) = E[r − β log(π / π_ref)], which
autograd takes from a float64 copy that knows nothing of losses, masks or advantages (`tiny.py`).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.expectation import (
    FAR,
    SINGLE_TOLERANCE,
    TOLERANCE,
    Change,
    Played,
    exact_values,
    expected_gradient,
    in_pairs,
    make_policy,
    one_by_one,
    precise,
)
from tests.agents.tiny import (
    Exact,
    Floats,
    all_responses,
    enumerate_exactly,
    episodes_of,
    flat_gradient,
    gradients_of_update,
    played_in,
    relative_error,
    residual,
    tiny_task,
    twin_of,
    widened,
    with_kl,
)
from textrl_agents.advantages import returns_to_go
from textrl_agents.collector import Collector
from textrl_agents.episodes import Episodes
from textrl_agents.kl import k3
from textrl_agents.on_policy import OnPolicyAgent
from textrl_agents.policies import Policy, Sampling
from textrl_agents.ppo import PPO, PPOConfig
from textrl_agents.reinforce import REINFORCE, REINFORCEConfig
from textrl_envs.task import Task


def reinforce(policy: Policy, baseline: Any, **settings: Any) -> REINFORCE:
    settings = {"value_coefficient": 0.0, **settings}
    return REINFORCE(policy, config=REINFORCEConfig(baseline=baseline, **settings))


def ppo(policy: Policy, **settings: Any) -> PPO:
    given = {
        "epochs": 1,
        "minibatches": 1,
        "standardise_advantages": False,
        "gae_lambda": 1.0,
        "value_coefficient": 0.0,
        **settings,
    }
    return PPO(policy, config=PPOConfig(**given))


@pytest.fixture(scope="module")
def task() -> Task:
    """Two prompts of unequal length and 15 responses to each, of one to three tokens."""
    return tiny_task(size=3)


# --- the instrument itself ---


@pytest.mark.parametrize("kind", ["residual", "causal_lm"])
def test_the_probabilities_of_all_responses_sum_to_one(kind: str, task: Task) -> None:
    policy = make_policy(kind, task)
    exact = enumerate_exactly(task, twin_of(policy))
    assert len(exact.played) == 2 * 15
    assert float(exact.weights.sum()) == pytest.approx(1.0, abs=1e-12)
    episodes = episodes_of(task, policy, exact.played)
    found = np.exp(episodes.log_probs.sum(axis=1)).reshape(2, -1).sum(axis=1)
    np.testing.assert_allclose(found, 1.0, atol=1e-12)


@pytest.mark.parametrize("kind", ["residual", "causal_lm"])
def test_evaluate_gives_the_exact_log_probs_entropies_and_values(kind: str, task: Task) -> None:
    policy = make_policy(kind, task)
    exact = enumerate_exactly(task, twin_of(policy))
    episodes = episodes_of(task, policy, exact.played)
    for row, length in enumerate(episodes.lengths):
        for found, expected in (
            (episodes.log_probs, exact.log_probs),
            (episodes.entropies, exact.entropies),
            (episodes.values, exact.values),
        ):
            np.testing.assert_allclose(
                found[row, :length], expected[row].detach().numpy(), atol=1e-12
            )


def test_the_exact_gradient_agrees_with_finite_differences(task: Task) -> None:
    policy = precise(task, away=0.5)
    twin = twin_of(policy)
    gradient = flat_gradient(enumerate_exactly(task, twin).objective, twin)
    rng, step = np.random.default_rng(0), 1e-5
    for _ in range(3):
        direction = rng.normal(size=len(gradient))
        direction /= np.linalg.norm(direction)
        objectives = []
        for sign in (1, -2, 1):  # there, to the other side, and back
            move(twin, sign * step * direction)
            objectives.append(float(enumerate_exactly(task, twin).objective.detach()))
        slope = (objectives[0] - objectives[1]) / (2 * step)
        assert gradient @ direction == pytest.approx(slope, abs=1e-8)


@torch.no_grad()
def move(policy: Policy, by: Floats) -> None:
    start = 0
    for parameter in policy.parameters():
        part = by[start : start + parameter.numel()].reshape(parameter.shape)
        parameter.add_(torch.from_numpy(part))
        start += parameter.numel()


# --- REINFORCE ---


@pytest.mark.parametrize("kind", ["residual", "causal_lm"])
@pytest.mark.parametrize("baseline", ["none", "running_mean", "value"])
def test_reinforce_expects_the_gradient_of_the_objective(
    kind: str, baseline: str, task: Task
) -> None:
    policy = make_policy(kind, task)
    agent, twin = reinforce(policy, baseline), twin_of(policy)
    agent.memory["running_mean"] = 0.7
    exact = enumerate_exactly(task, twin)
    found = expected_gradient(agent, task, one_by_one(exact))
    assert relative_error(found, flat_gradient(exact.objective, twin)) < TOLERANCE


@pytest.mark.parametrize("make", [lambda p: reinforce(p, "none"), lambda p: ppo(p)])
def test_as_they_are_trained_in_float32_policies_miss_it_by_rounding_alone(
    make: Callable[[Policy], OnPolicyAgent], task: Task
) -> None:
    policy = residual(task, away=0.5)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    found = expected_gradient(make(policy), task, one_by_one(exact))
    error = relative_error(found, flat_gradient(exact.objective, twin))
    assert TOLERANCE < error < SINGLE_TOLERANCE


@pytest.mark.parametrize("kind", ["residual", "causal_lm"])
def test_a_mean_of_the_prompts_earlier_batches_leaves_the_gradient_as_it_is(
    kind: str, task: Task
) -> None:
    policy = make_policy(kind, task)
    agent, twin = reinforce(policy, "prompt_mean"), twin_of(policy)
    agent.memory = {"running_mean": 0.7, "running_mean of prompt 1": -0.4}
    exact = enumerate_exactly(task, twin)
    found = expected_gradient(agent, task, one_by_one(exact))
    assert relative_error(found, flat_gradient(exact.objective, twin)) < TOLERANCE


@pytest.mark.parametrize("kind", ["residual", "causal_lm"])
def test_the_greedy_response_as_baseline_leaves_the_gradient_as_it_is(
    kind: str, task: Task
) -> None:
    policy = make_policy(kind, task)
    agent, twin = reinforce(policy, "greedy"), twin_of(policy)
    exact = enumerate_exactly(task, twin)
    agent.greedy = episodes_of(task, policy, [(0, (1, 2, 1)), (1, (2, 0))])
    found = expected_gradient(agent, task, one_by_one(exact))
    assert relative_error(found, flat_gradient(exact.objective, twin)) < TOLERANCE


# --- REINFORCE with earlier episodes ---


def gradient_from_earlier(
    task: Task, policy: Policy, old: Policy, *, baseline: Any, max_ratio: float
) -> Floats:
    """Sums (chance under the old policy) x (what one earlier episode adds to a step).

    An update takes the newest batch too; its own gradient is taken off again.
    """
    newest = episodes_of(task, policy, [(0, (1, 0))])
    settings = {"reuse": 1, "episodes_per_batch": 1, "max_ratio": max_ratio}
    agent = reinforce(policy, "none", **settings)
    agent.kl_coefficient = task.kl_coefficient
    (alone,) = gradients_of_update(agent, newest)
    total = np.zeros_like(alone)
    for weight, played in one_by_one(enumerate_exactly(task, twin_of(old))):
        earlier = episodes_of(task, old, played)
        kept = np.where(earlier.response_mask, baseline, 0.0)
        agent.earlier = replace(earlier, values=kept)
        (both,) = gradients_of_update(agent, newest)
        tokens = newest.num_tokens + earlier.num_tokens
        total -= weight * (tokens * both - newest.num_tokens * alone)
    return total


@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_earlier_episodes_expect_the_gradient_of_the_policy_now(
    baseline: float, task: Task
) -> None:
    """Its KL included: what the old policy was charged is forgotten."""
    policy, old = precise(task, away=0.4, seed=1), precise(task, away=0.5)
    found = gradient_from_earlier(task, policy, old, baseline=baseline, max_ratio=1e9)
    twin = twin_of(policy)
    expected = flat_gradient(enumerate_exactly(task, twin).objective, twin)
    assert relative_error(found, expected) < TOLERANCE


def test_the_cut_of_the_ratio_biases_by_what_is_cut_and_nothing_else(task: Task) -> None:
    policy, old = precise(task, away=0.4, seed=1), precise(task, away=0.5)
    found = gradient_from_earlier(task, policy, old, baseline=0.0, max_ratio=1.2)
    twin = twin_of(policy)
    exact, before = enumerate_exactly(task, twin), enumerate_exactly(task, twin_of(old))
    ratios = (exact.weights / before.weights).clamp(max=1.2)
    assert 0.1 < float((ratios == 1.2).double().mean()) < 0.9
    surrogate = sum(
        before.weights[i] * ratios[i] * (exact.log_probs[i] * exact.returns_to_go(i)).sum()
        for i in range(len(exact.played))
    )
    assert isinstance(surrogate, torch.Tensor)
    assert relative_error(found, flat_gradient(surrogate, twin)) < TOLERANCE
    assert relative_error(found, flat_gradient(exact.objective, twin)) > FAR


def same_prompt(first: int, second: int) -> bool:
    return first == second


def different_prompts(first: int, second: int) -> bool:
    return first != second


@pytest.mark.parametrize("is_pair", [same_prompt, different_prompts])
def test_reinforce_with_leave_one_out_expects_the_gradient_of_the_objective(
    is_pair: Callable[[int, int], bool],
) -> None:
    """Over all pairs of independent responses: of one prompt, and each alone with its own."""
    task = tiny_task(size=3, limit=2)
    policy = precise(task, away=0.5)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    agent = reinforce(policy, "leave_one_out", group_size=2)
    found = expected_gradient(agent, task, in_pairs(exact, is_pair))
    assert relative_error(found, flat_gradient(exact.objective, twin)) < TOLERANCE


def test_reinforce_without_kl_expects_the_gradient_of_the_score() -> None:
    task = tiny_task(size=3, beta=0.0)
    policy = precise(task, away=0.5)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    found = expected_gradient(reinforce(policy, "none"), task, one_by_one(exact))
    assert relative_error(found, flat_gradient(exact.objective, twin)) < TOLERANCE


def test_reinforce_holds_at_another_temperature(task: Task) -> None:
    policy = precise(task, away=0.5, sampling=Sampling(temperature=1.7))
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    found = expected_gradient(reinforce(policy, "none"), task, one_by_one(exact))
    assert relative_error(found, flat_gradient(exact.objective, twin)) < TOLERANCE


# --- value and entropy ---


def whole_objective(exact: Exact, *, value: float, entropy: float) -> torch.Tensor:
    """J + entropy Σ_t H(s_t) − value Σ_t (V(s_t) − G_t)² / 2, visits and targets held fixed."""
    bonus = torch.stack([h.sum() for h in exact.entropies])
    errors = torch.stack(
        [(v - exact.returns_to_go(i)).square().sum() / 2 for i, v in enumerate(exact.values)]
    )
    return exact.objective + (exact.weights * (entropy * bonus - value * errors)).sum()


def test_reinforce_adds_the_gradients_of_value_and_entropy(task: Task) -> None:
    policy = precise(task, away=0.5)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    agent = reinforce(policy, "value", value_coefficient=0.5, entropy_coefficient=0.3)
    found = expected_gradient(agent, task, one_by_one(exact))
    expected = flat_gradient(whole_objective(exact, value=0.5, entropy=0.3), twin)
    assert relative_error(found, expected) < TOLERANCE


def test_ppo_adds_the_gradients_of_value_and_entropy(task: Task) -> None:
    """In the first minibatch neither clip is reached, so the value's is the plain squared error."""
    policy = precise(task, away=0.5)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    agent = ppo(policy, value_coefficient=0.5, entropy_coefficient=0.3)
    found = expected_gradient(agent, task, one_by_one(exact))
    expected = flat_gradient(whole_objective(exact, value=0.5, entropy=0.3), twin)
    assert relative_error(found, expected) < TOLERANCE


# --- PPO ---


@pytest.mark.parametrize("kind", ["residual", "causal_lm"])
def test_the_first_minibatch_of_ppo_expects_the_gradient_of_the_objective(
    kind: str, task: Task
) -> None:
    policy = make_policy(kind, task)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    found = expected_gradient(ppo(policy), task, one_by_one(exact))
    assert relative_error(found, flat_gradient(exact.objective, twin)) < TOLERANCE


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.95])
def test_ppo_is_unbiased_at_any_lambda_where_the_value_is_exact(
    smoothing: float, task: Task
) -> None:
    policy = precise(task, away=0.5)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    values = exact_values(exact)

    def knowing(episodes: Episodes) -> Episodes:
        prompt, ids = int(episodes.prompt_index[0]), episodes.response_ids[0].tolist()
        known = [values[prompt, tuple(ids[:t])] for t in range(len(ids))]
        return replace(episodes, values=np.array([known]))

    agent = ppo(policy, gae_lambda=smoothing)
    found = expected_gradient(agent, task, one_by_one(exact), knowing)
    assert relative_error(found, flat_gradient(exact.objective, twin)) < TOLERANCE


def gradient_of_a_later_step(agent: PPO, task: Task, old: Policy) -> Floats:
    """Sums (chance under the old policy) x (what an update makes of its episode), an ascent."""
    total = np.zeros(sum(p.numel() for p in agent.policy.parameters()))
    for weight, played in one_by_one(enumerate_exactly(task, twin_of(old))):
        episodes = episodes_of(task, old, played)
        (gradient,) = gradients_of_update(agent, episodes)
        total -= weight * gradient * episodes.num_tokens
    return total


def test_a_later_step_of_ppo_expects_the_gradient_of_the_clipped_surrogate(task: Task) -> None:
    """And that is its bias: texts are still the old policy's, and far ratios count no further."""
    policy, old = precise(task, away=0.4, seed=1), precise(task, away=0.5)
    found = gradient_of_a_later_step(ppo(policy, clip=0.3), task, old)
    twin = twin_of(policy)
    exact, before = enumerate_exactly(task, twin), enumerate_exactly(task, twin_of(old))
    surrogate, clipped = torch.zeros((), dtype=torch.float64), []
    for i, weight in enumerate(before.weights):
        ratio = (exact.log_probs[i] - before.log_probs[i].detach()).exp()
        gain = before.returns_to_go(i) - before.values[i].detach()
        least = torch.minimum(ratio * gain, ratio.clamp(0.7, 1.3) * gain)
        surrogate = surrogate + weight * least.sum()
        clipped += (least != ratio * gain).tolist()
    assert 0.1 < np.mean(clipped) < 0.9
    assert relative_error(found, flat_gradient(surrogate, twin)) < TOLERANCE
    assert relative_error(found, flat_gradient(exact.objective, twin)) > FAR


def test_of_single_tokens_and_without_a_clip_a_later_step_of_ppo_is_unbiased() -> None:
    """The ratio of the token is then that of the response; the score does not age, a KL would."""
    task = tiny_task(size=4, limit=1, beta=0.0)
    policy, old = precise(task, away=0.4, seed=1), precise(task, away=0.5)
    found = gradient_of_a_later_step(ppo(policy, clip=1e9), task, old)
    twin = twin_of(policy)
    expected = flat_gradient(enumerate_exactly(task, twin).objective, twin)
    assert relative_error(found, expected) < TOLERANCE


# --- what is wrong is caught ---


def with_k3_reward(episodes: Episodes) -> Episodes:
    assert episodes.ref_log_probs is not None
    ratio = torch.from_numpy(episodes.log_probs - episodes.ref_log_probs)
    charged = episodes.task_rewards - 0.3 * k3(ratio).numpy()
    return replace(episodes, rewards=np.where(episodes.response_mask, charged, 0.0))


def with_turned_kl(episodes: Episodes) -> Episodes:
    return replace(episodes, rewards=2 * episodes.task_rewards - episodes.rewards)


def with_value_after_the_action(episodes: Episodes) -> Episodes:
    """The baseline of the text that already holds the token."""
    later = np.pad(episodes.values[:, 1:], ((0, 0), (0, 1)))
    return replace(episodes, values=later)


def with_its_own_return(episodes: Episodes) -> Episodes:
    """Half of the episode's own return: its part of the mean of a pair."""
    own = returns_to_go(episodes.rewards, bootstrap_values=episodes.bootstrap_values)
    return replace(episodes, values=own / 2)


def without_eos(episodes: Episodes) -> Episodes:
    """EOS left out of the mask, its score paid on the token before."""
    if episodes.finish_reason[0] != 1 or episodes.lengths[0] == 1:
        return episodes
    keep = episodes.response_mask.copy()
    keep[:, -1] = False
    rewards = episodes.rewards.copy()
    rewards[:, -2] += rewards[:, -1]
    return replace(episodes, response_mask=keep, rewards=np.where(keep, rewards, 0.0))


def per_token_mean(episodes: Episodes) -> Episodes:
    """1/|y|: long responses count less."""
    return replace(episodes, rewards=episodes.rewards / episodes.num_tokens)


def score_at_the_first_token(episodes: Episodes) -> Episodes:
    rewards = episodes.rewards - episodes.task_rewards
    rewards[:, 0] += episodes.scores
    return replace(episodes, rewards=rewards)


@pytest.mark.parametrize(
    "wrong",
    [
        with_k3_reward,
        with_turned_kl,
        with_value_after_the_action,
        with_its_own_return,
        without_eos,
        per_token_mean,
        score_at_the_first_token,
    ],
)
def test_a_wrong_variant_misses_the_gradient_by_far(wrong: Change, task: Task) -> None:
    policy = precise(task, away=0.5)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    found = expected_gradient(reinforce(policy, "value"), task, one_by_one(exact), wrong)
    error = relative_error(found, flat_gradient(exact.objective, twin))
    assert error > FAR


def test_a_group_mean_that_holds_the_episode_itself_halves_the_gradient_of_a_pair() -> None:
    """science.md: the mean including oneself scales RLOO by (K − 1) / K; the instrument sees it."""
    task = tiny_task(size=3, limit=2)
    policy = precise(task, away=0.5)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    agent = reinforce(policy, "leave_one_out", group_size=2)

    def seeing_itself(returns: Floats, groups: Floats) -> Floats:
        return np.full(len(returns), returns.mean())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("textrl_agents.reinforce.leave_one_out", seeing_itself)
        found = expected_gradient(agent, task, in_pairs(exact, same_prompt))
    expected = flat_gradient(exact.objective, twin)
    assert relative_error(found, expected) > FAR
    # Whole-episode baselines act on every token alike, so that exactly half is left.
    assert relative_error(found, expected / 2) < TOLERANCE


# --- batches in parts ---


@pytest.fixture
def unequal_batch() -> tuple[Task, Played]:
    """23 episodes of one to five tokens, in no order of length."""
    task = tiny_task(limit=5)
    responses = all_responses(4, 5)
    rng = np.random.default_rng(0)
    chosen = [(int(rng.integers(2)), responses[int(rng.integers(40))]) for _ in range(12)]
    chosen += [(int(rng.integers(2)), responses[-int(rng.integers(1, 99))]) for _ in range(11)]
    return task, [chosen[i] for i in rng.permutation(len(chosen))]


@pytest.mark.parametrize("size", [1, 4, 7, 22])
def test_micro_batches_of_unequal_lengths_add_up_to_the_gradient_of_the_batch(
    size: int, unequal_batch: tuple[Task, Played]
) -> None:
    task, played = unequal_batch
    policy = precise(task, away=0.5)
    episodes = episodes_of(task, policy, played)
    settings = {"value_coefficient": 0.5, "entropy_coefficient": 0.1}
    (whole,) = gradients_of_update(
        reinforce(policy, "value", micro_batch_size=23, **settings), episodes
    )
    (parts,) = gradients_of_update(
        reinforce(policy, "value", micro_batch_size=size, **settings), episodes
    )
    assert relative_error(parts, whole) < 1e-6


@pytest.mark.parametrize("size", [1, 4, 22])
def test_micro_batches_of_ppo_add_up_too_where_ratios_are_clipped(
    size: int, unequal_batch: tuple[Task, Played]
) -> None:
    task, played = unequal_batch
    old, policy = precise(task, away=0.5), precise(task, away=0.4, seed=1)
    episodes = episodes_of(task, old, played)
    settings: dict[str, Any] = {"value_coefficient": 0.5, "entropy_coefficient": 0.1}
    (whole,) = gradients_of_update(ppo(policy, micro_batch_size=23, **settings), episodes)
    (parts,) = gradients_of_update(ppo(policy, micro_batch_size=size, **settings), episodes)
    assert relative_error(parts, whole) < TOLERANCE


def test_minibatches_weighted_by_their_tokens_add_up_to_the_gradient_of_the_batch(
    unequal_batch: tuple[Task, Played],
) -> None:
    task, played = unequal_batch
    policy = precise(task, away=0.5)
    episodes = episodes_of(task, policy, played)
    settings: dict[str, Any] = {"standardise_advantages": True, "value_coefficient": 0.5}
    (whole,) = gradients_of_update(ppo(policy, **settings), episodes)
    parts = gradients_of_update(ppo(policy, minibatches=4, **settings), episodes)
    order = np.random.default_rng(0).permutation(len(episodes))
    tokens = [episodes.select(rows).num_tokens for rows in np.array_split(order, 4)]
    weighted = sum(n * part for n, part in zip(tokens, parts, strict=True)) / sum(tokens)
    assert relative_error(np.asarray(weighted), whole) < 1e-6
    # The lengths differ, so a mean of means is something else.
    assert relative_error(np.mean(parts, axis=0), whole) > 0.01


def test_extra_padding_columns_leave_the_gradient_as_it_is(
    unequal_batch: tuple[Task, Played],
) -> None:
    task, played = unequal_batch
    policy = precise(task, away=0.5, max_tokens=20)
    episodes = episodes_of(task, policy, played)
    wide = widened(episodes, 6)
    for agent in (
        ppo(policy, standardise_advantages=True, value_coefficient=0.5, gae_lambda=0.9),
        reinforce(policy, "value", value_coefficient=0.5, standardise_advantages=True),
        reinforce(policy, "leave_one_out"),
    ):
        (narrow_gradient,) = gradients_of_update(agent, episodes)
        (wide_gradient,) = gradients_of_update(agent, wide)
        assert relative_error(wide_gradient, narrow_gradient) < 1e-6


# --- from the collector ---


@pytest.fixture(scope="module")
def collected() -> tuple[Exact, Episodes]:
    """Two prompts and 40 responses to each, played 20,000 times."""
    task = tiny_task()
    policy = residual(task, away=0.5)
    episodes = Collector(with_kl(task, policy, 500)).collect(policy, 20_000, seed=[5])
    return enumerate_exactly(task, twin_of(policy)), episodes


def test_the_collector_plays_every_response_as_often_as_the_policy_says(
    collected: tuple[Exact, Episodes],
) -> None:
    """χ² over all responses to both prompts: with the gradients above, the chain is closed."""
    exact, episodes = collected
    place = {y: i for i, y in enumerate(exact.played)}
    assert len(place) == 2 * 40
    counts = np.zeros(len(place))
    for y in played_in(episodes):
        counts[place[y]] += 1
    expected = exact.weights.numpy() * len(episodes)
    rare = expected < 5
    found, wanted = (np.append(x[~rare], x[rare].sum()) for x in (counts, expected))
    chi_square = float(((found - wanted) ** 2 / wanted).sum())
    freedom = len(wanted) - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_the_mean_return_of_collected_episodes_is_the_objective(
    collected: tuple[Exact, Episodes],
) -> None:
    exact, episodes = collected
    error = episodes.returns.std() / np.sqrt(len(episodes))
    assert abs(episodes.returns.mean() - float(exact.objective.detach())) < 4 * error


def test_collected_episodes_equal_those_written_by_hand() -> None:
    task = tiny_task()
    policy = residual(task, away=0.5)
    collected = Collector(with_kl(task, policy, 16)).collect(policy, 64, seed=[7])
    by_hand = episodes_of(task, policy, played_in(collected))
    np.testing.assert_array_equal(collected.input_ids, by_hand.input_ids)
    np.testing.assert_array_equal(collected.attention_mask, by_hand.attention_mask)
    np.testing.assert_array_equal(collected.response_mask, by_hand.response_mask)
    np.testing.assert_array_equal(collected.finish_reason, by_hand.finish_reason)
    np.testing.assert_array_equal(collected.task_rewards, by_hand.task_rewards)
    for name in ("log_probs", "ref_log_probs", "values", "entropies", "rewards"):
        np.testing.assert_allclose(getattr(collected, name), getattr(by_hand, name), atol=1e-5)
