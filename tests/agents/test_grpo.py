"""GRPO: each of its choices, and the bias that it is said to have, by enumeration."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.expectation import FAR, TOLERANCE, in_groups, precise
from tests.agents.tiny import (
    Exact,
    Floats,
    all_episodes,
    all_responses,
    enumerate_exactly,
    episodes_of,
    flat_gradient,
    gradients_of_update,
    next_outputs,
    relative_error,
    residual,
    tiny_task,
    twin_of,
    vector_env,
    widened,
    with_kl,
)
from textrl_agents.advantages import group_advantages
from textrl_agents.agent import StopTraining
from textrl_agents.episodes import Episodes
from textrl_agents.grpo import GRPO, GRPOConfig
from textrl_agents.policies import Policy
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task

PLAIN: dict[str, Any] = {
    "epochs": 1,
    "minibatches": 1,
    "scale_by_deviation": False,
    "length_normalisation": "batch",
    "kl": "reward",
}
"""One step, and nothing that biases it but a mean that holds the episode itself."""


def grpo(policy: Policy, **settings: Any) -> GRPO:
    agent = GRPO(policy, config=GRPOConfig(**{**PLAIN, **settings}))
    agent.kl_coefficient = 0.3  # of tiny_task
    return agent


def expected_gradient(agent: GRPO, task: Task, exact: Exact, size: int) -> Floats:
    """Sums (chance of the group) x (gradient of its update), an ascent an episode.

    Per token an update divides by the tokens of its batch; that is undone.
    """
    total = np.zeros(sum(p.numel() for p in agent.policy.parameters()))
    for weight, played in in_groups(exact, size):
        episodes = episodes_of(task, agent.policy, played)
        (gradient,) = gradients_of_update(agent, episodes)
        is_per_token = agent.config.length_normalisation == "batch"
        total -= weight * gradient * (episodes.num_tokens / size if is_per_token else 1.0)
    return total


@pytest.fixture(scope="module")
def task() -> Task:
    """Two prompts, and seven responses to each, of one or two tokens."""
    return tiny_task(size=3, limit=2)


@pytest.fixture
def known(task: Task) -> tuple[Policy, Policy, Exact]:
    policy = precise(task, away=0.5)
    twin = twin_of(policy)
    return policy, twin, enumerate_exactly(task, twin)


Known = tuple[Policy, Policy, Exact]


# --- the gradient ---


@pytest.mark.parametrize("size", [2, 3])
def test_what_is_left_of_the_gradient_is_k_minus_1_in_k(size: int) -> None:
    task = tiny_task(size=3, limit=2 if size == 2 else 1)
    policy = precise(task, away=0.5)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    found = expected_gradient(grpo(policy), task, exact, size)
    objective = flat_gradient(exact.objective, twin)
    assert relative_error(found, (size - 1) / size * objective) < TOLERANCE


def sum_over_pairs(exact: Exact, weight: Callable[[float, float, int], float]) -> torch.Tensor:
    """Sums chance x weight(R, R', |y|) x log π(y) over pairs of a prompt, R and R' the scores."""
    total = torch.zeros((), dtype=torch.float64)
    chances, count = exact.weights * exact.num_prompts, exact.num_prompts
    for i, (prompt, y) in enumerate(exact.played):
        for j, (other, _) in enumerate(exact.played):
            if prompt == other:
                factor = weight(float(exact.scores[i]), float(exact.scores[j]), len(y))
                total = total + chances[i] * chances[j] / count * factor * exact.log_prob[i]
    return total


def half_difference(mine: float, other: float) -> float:
    return (mine - other) / 2


SCORE_ALONE: dict[str, Any] = {"kl": "loss"}
"""With β = 0 nothing else is left of it: the return is the score."""


def test_a_mean_over_each_response_weighs_it_by_one_over_its_length() -> None:
    task = tiny_task(size=3)
    policy = precise(task, away=0.5)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    agent = grpo(policy, length_normalisation="sequence", **SCORE_ALONE)
    agent.kl_coefficient = 0.0
    found = expected_gradient(agent, task, exact, 2)
    expected = sum_over_pairs(exact, lambda r, other, n: half_difference(r, other) / n)
    assert relative_error(found, flat_gradient(expected, twin)) < TOLERANCE
    whole = flat_gradient(sum_over_pairs(exact, lambda r, o, n: half_difference(r, o)), twin)
    assert cosine(found, whole) < 1 - FAR


def test_scaling_leaves_of_a_pair_its_order_alone(task: Task, known: Known) -> None:
    """The deviation of two returns is half their difference: the better has 1, the other −1."""
    policy, twin, exact = known
    agent = grpo(policy, scale_by_deviation=True, **SCORE_ALONE)
    agent.kl_coefficient = 0.0
    found = expected_gradient(agent, task, exact, 2)

    def scaled(mine: float, other: float, length: int) -> float:
        half = half_difference(mine, other)
        return half / (abs(half) + 1e-4)

    assert relative_error(found, flat_gradient(sum_over_pairs(exact, scaled), twin)) < TOLERANCE
    whole = flat_gradient(sum_over_pairs(exact, lambda r, o, n: half_difference(r, o)), twin)
    assert cosine(found, whole) < 1 - FAR


def kl_from_the_reference(task: Task, twin: Policy, exact: Exact) -> torch.Tensor:
    """Σ_s P(s) KL(π_ref(.|s) ‖ π(.|s)), how often a text is met being held fixed."""
    assert task.load_reference is not None
    table = torch.from_numpy(task.load_reference().table)  # type: ignore[attr-defined]
    prompts = task.prompts
    total = torch.zeros((), dtype=torch.float64)
    for weight, (prompt, y) in zip(exact.weights, exact.played, strict=True):
        begin = tuple(prompts.token_ids[prompt, : prompts.lengths[prompt]].tolist())
        for t in range(len(y)):
            log_pi = next_outputs(twin, [(*begin, *y[:t])])[0][0]
            log_ref = table[(*begin, *y[:t])[-1]]
            total = total + weight * (log_ref.exp() * (log_ref - log_pi)).sum()
    return total


def test_k3_as_loss_draws_by_the_kl_of_the_reference_from_the_policy(
    task: Task, known: Known
) -> None:
    policy, twin, exact = known
    found = expected_gradient(grpo(policy, kl="loss"), task, exact, 2)
    score = sum_over_pairs(exact, lambda r, other, n: half_difference(r, other))
    expected = score - 0.3 * kl_from_the_reference(task, twin, exact)
    assert relative_error(found, flat_gradient(expected, twin)) < TOLERANCE
    # It is not that of the objective, whose KL is from the policy to the reference.
    kl = (exact.log_prob.exp() * (exact.log_prob - exact.ref_log_prob)).sum() / 2
    assert relative_error(found, flat_gradient(score - 0.3 * kl, twin)) > FAR


def cosine(one: Floats, other: Floats) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_beyond_the_clip_a_good_token_is_followed_no_further(task: Task) -> None:
    policy = precise(task, away=0.5)
    episodes = episodes_of(task, policy, [(0, (1, 0)), (0, (2, 0))])
    best = np.argmax(episodes.returns)
    lower = episodes.log_probs - np.where(episodes.response_mask, 1.0, 0.0)  # ratio e
    moved = Episodes(**{**episodes.arrays(), "log_probs": lower})
    agent = grpo(policy, clip=0.2)
    (gradient,) = gradients_of_update(agent, moved)
    (alone,) = gradients_of_update(grpo(policy, clip=10.0), moved)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    worst = 1 - best
    row = exact.played.index((0, ((1, 0), (2, 0))[worst]))
    advantage = (episodes.returns[worst] - episodes.returns[best]) / 2
    surrogate = np.e * advantage * exact.log_prob[row] / episodes.num_tokens
    assert relative_error(-gradient, flat_gradient(surrogate, twin)) < TOLERANCE
    assert relative_error(gradient, alone) > FAR


# --- advantages ---


def test_group_advantages_by_hand() -> None:
    returns = np.array([1.0, 5.0, 3.0, 7.0, 2.0])
    groups = np.array([4, 0, 4, 4, 9])
    mean, deviation = (
        11 / 3,
        np.sqrt(((1 - 11 / 3) ** 2 + (3 - 11 / 3) ** 2 + (7 - 11 / 3) ** 2) / 3),
    )
    centred = group_advantages(returns, groups, scale_by_deviation=False)
    np.testing.assert_allclose(centred, [1 - mean, 0, 3 - mean, 7 - mean, 0])
    scaled = group_advantages(returns, groups, scale_by_deviation=True)
    np.testing.assert_allclose(scaled, centred / (deviation + 1e-4))


def test_a_group_that_agrees_teaches_nothing_but_the_kl() -> None:
    task = tiny_task(reward=lambda prompts, responses, **_: [1.0] * len(responses))
    policy = precise(task, away=0.5)
    episodes = episodes_of(task, policy, [(0, (1, 0)), (0, (2, 0)), (1, (3, 0))])
    for agent in (grpo(policy, kl="loss", scale_by_deviation=True), grpo(policy, kl="loss")):
        agent.kl_coefficient = 0.0
        (gradient,) = gradients_of_update(agent, episodes)
        assert not gradient.any()
        agent.kl_coefficient = 0.3
        (gradient,) = gradients_of_update(agent, episodes)
        assert gradient.any()


# --- batches in parts ---


@pytest.fixture(scope="module")
def batch() -> tuple[Policy, Episodes]:
    """24 episodes of one to five tokens, in no order of length."""
    task = tiny_task(limit=5)
    policy = precise(task, away=0.5, max_tokens=20)
    short, played = all_responses(4, 5)[:40], all_episodes(task)
    rng = np.random.default_rng(0)
    chosen = [played[i] for i in rng.integers(len(played), size=12)]
    chosen += [(int(rng.integers(2)), short[i]) for i in rng.integers(40, size=12)]
    return policy, episodes_of(task, policy, [chosen[i] for i in rng.permutation(24)])


CHOICES = [
    {"length_normalisation": length, "kl": kl, "entropy_coefficient": 0.1}
    for length in ("sequence", "batch")
    for kl in ("loss", "reward")
]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("size", [1, 5, 23])
def test_micro_batches_of_unequal_lengths_add_up_to_the_gradient_of_the_batch(
    size: int, choice: dict[str, Any], batch: tuple[Policy, Episodes]
) -> None:
    policy, episodes = batch
    (whole,) = gradients_of_update(grpo(policy, micro_batch_size=24, **choice), episodes)
    (parts,) = gradients_of_update(grpo(policy, micro_batch_size=size, **choice), episodes)
    assert relative_error(parts, whole) < 1e-12


@pytest.mark.parametrize("choice", CHOICES)
def test_minibatches_with_their_weight_add_up_to_the_gradient_of_the_batch(
    choice: dict[str, Any], batch: tuple[Policy, Episodes]
) -> None:
    """Their weight is their tokens, or their episodes where each response is a mean."""
    policy, episodes = batch
    (whole,) = gradients_of_update(grpo(policy, **choice), episodes)
    parts = gradients_of_update(grpo(policy, minibatches=5, **choice), episodes)
    rows = np.array_split(np.random.default_rng(0).permutation(24), 5)
    is_per_token = choice["length_normalisation"] == "batch"
    weights = [episodes.select(r).num_tokens if is_per_token else len(r) for r in rows]
    summed = sum(n * part for n, part in zip(weights, parts, strict=True)) / sum(weights)
    assert relative_error(np.asarray(summed), whole) < 1e-12


@pytest.mark.parametrize("choice", CHOICES)
def test_extra_padding_columns_leave_the_gradient_as_it_is(
    choice: dict[str, Any], batch: tuple[Policy, Episodes]
) -> None:
    policy, episodes = batch
    (narrow,) = gradients_of_update(grpo(policy, **choice), episodes)
    (wide,) = gradients_of_update(grpo(policy, **choice), widened(episodes, 6))
    assert relative_error(wide, narrow) < 1e-12


# --- as an agent ---


def test_epochs_and_minibatches_are_steps_of_the_optimiser() -> None:
    task = tiny_task()
    policy = residual(task, away=0.3)
    episodes = episodes_of(task, policy, all_episodes(task)[::3])
    agent = GRPO(policy, config=GRPOConfig(epochs=3, minibatches=4))
    agent.kl_coefficient = 0.3
    stats = agent.update(episodes, np.random.default_rng(0))
    assert stats["optimizer_steps"] == 12
    assert {float(state["step"]) for state in agent.optimizer.state.values()} == {12.0}
    assert stats["update_kl"] > 0
    assert stats["kl_loss"] > 0


def test_without_a_reference_nothing_is_charged() -> None:
    task = tiny_task()
    agent = GRPO(residual(task), config=GRPOConfig(episodes_per_batch=16))
    log = agent.learn(vector_env(task, 16), total_tokens=1)
    assert log.rows[0]["kl_loss"] == 0.0


def test_the_price_of_the_kl_is_that_of_the_environment() -> None:
    task = tiny_task(beta=0.7)
    agent = GRPO(residual(task), config=GRPOConfig(episodes_per_batch=16))
    agent.learn(with_kl(task, agent.policy, 16), total_tokens=1)
    assert agent.kl_coefficient == 0.7


def test_a_stopped_and_resumed_run_is_the_run_that_was_never_stopped(tmp_path: Any) -> None:
    task = tiny_task()
    config = GRPOConfig(episodes_per_batch=16, epochs=2, minibatches=2)
    whole = GRPO(residual(task, away=0.2), config=config)
    whole.learn(with_kl(task, whole.policy, 16), total_tokens=200)
    part = GRPO(residual(task, away=0.2), config=config)

    def stop(row: Mapping[str, float]) -> None:
        if row["iteration"] == 2:
            raise StopTraining

    part.learn(with_kl(task, part.policy, 16), total_tokens=200, progress=stop)
    part.save(tmp_path / "agent")
    resumed = GRPO.load(tmp_path / "agent", device="cpu")
    resumed.learn(with_kl(task, resumed.policy, 16), total_tokens=200)
    assert resumed.log.rows == whole.log.rows


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_size": 1}, "group_size must be at least 2; got 1"),
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"minibatches": 257}, r"minibatches must be in 1..episodes_per_batch \(256\); got 257"),
        ({"clip": 0.0}, "clip must be positive; got 0.0"),
        ({"length_normalisation": "token"}, "length_normalisation must be one of .*got 'token'"),
        ({"kl": "k3"}, r"kl must be one of \('loss', 'reward'\); got 'k3'"),
    ],
)
def test_a_setting_outside_its_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        GRPOConfig(**settings)
