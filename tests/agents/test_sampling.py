"""What is drawn from: one distribution, in acting, scoring, charging and training.

What each setting should give is computed by hand, a row at a time in float64 (`sampled_by_hand`).
"""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.agents.expectation import TOLERANCE, expected_gradient, one_by_one
from tests.agents.test_policies import TEXTS, observe
from tests.agents.tiny import (
    TableReward,
    all_episodes,
    causal_policy,
    causal_reference,
    enumerate_exactly,
    episodes_of,
    flat_gradient,
    ngram_of,
    random_ngram,
    relative_error,
    residual,
    sampled_by_hand,
    tiny_gpt2,
    tiny_llama,
    tiny_task,
    twin_of,
    vector_env,
    with_kl,
)
from textrl_agents import make
from textrl_agents.collector import Collector
from textrl_agents.policies import (
    CausalLMPolicy,
    LSTMPolicy,
    Policy,
    Sampling,
    TablePolicy,
    load_policy,
    make_policy,
)
from textrl_agents.ppo import PPO, PPOConfig
from textrl_agents.reinforce import REINFORCE, REINFORCEConfig
from textrl_benchmarks.cli import main
from textrl_benchmarks.leaderboard.running.contestants import make_contestant
from textrl_benchmarks.leaderboard.running.play import play
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.top_k import TopKModel
from textrl_envs.optimum.dynamic_programming import expectations
from textrl_envs.task import Task

SAMPLINGS = {
    "plain": Sampling(),
    "temperature": Sampling(temperature=1.7),
    "top-k": Sampling(top_k=2),
    "top-p": Sampling(top_p=0.8),
    "reference": Sampling(reference_share=0.2),
    "all": Sampling(temperature=0.7, top_k=3, top_p=0.8, reference_share=0.1),
}
KINDS = ("residual", "lstm", "causal_lm", "table")

samplings = pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
kinds = pytest.mark.parametrize("kind", KINDS)


def make_one(kind: str, task: Task, sampling: Sampling) -> Policy:
    """Returns a policy of each kind, away from its reference."""
    generator = torch.Generator().manual_seed(0)
    if kind == "residual":
        return residual(task, away=0.5, sampling=sampling)
    if kind == "table":
        policy: Policy = TablePolicy(task, sampling=sampling)
        moved = [*policy.parameters()]
    elif kind == "lstm":
        policy = LSTMPolicy(
            vocabulary_size=task.vocabulary_size,
            reference=ngram_of(task),
            width=8,
            sampling=sampling,
            device="cpu",
        )
        moved = [policy.head.weight, *policy.value_head.parameters()]
    else:
        reference = ngram_of(task) if sampling.reference_share else None
        policy = causal_policy(
            tiny_gpt2(task.vocabulary_size), sampling=sampling, reference=reference
        )
        moved = [*policy.value_head.parameters()]
    with torch.no_grad():
        for weight in moved:
            weight.normal_(0, 0.5, generator=generator)
    return policy


def prefixes_of(task: Task) -> list[list[int]]:
    """Returns both prompts, alone and with each word behind them."""
    prompts = [
        task.prompts.token_ids[i, : task.prompts.lengths[i]].tolist()
        for i in range(len(task.prompts))
    ]
    return prompts + [[*prompt, word] for prompt in prompts for word in range(1, 4)]


# --- the sets, by hand ---


def sets_of(logits: list[list[float]], sampling: Sampling, **given: Any) -> list[list[int]]:
    """Returns which tokens can be drawn."""
    found = sampling.apply(torch.tensor(logits), **given)
    return [torch.nonzero(row > -math.inf)[:, 0].tolist() for row in found]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0, 1, 2, 3]),
        (Sampling(top_k=1), [2]),
        (Sampling(top_k=3), [0, 2, 3]),
        (Sampling(top_k=9), [0, 1, 2, 3]),
        (Sampling(top_p=0.3), [2]),
        (Sampling(top_p=0.5), [2]),
        (Sampling(top_p=0.51), [0, 2]),
        (Sampling(top_p=0.95), [0, 2, 3]),
        (Sampling(top_p=0.97), [0, 1, 2, 3]),
        # Of the two that are left, the likelier has 0.625.
        (Sampling(top_k=2, top_p=0.62), [2]),
        (Sampling(top_k=2, top_p=0.63), [0, 2]),
        # The hotter, the flatter: 0.40, 0.31, 0.22 and 0.07 at temperature 2.
        (Sampling(top_p=0.6, temperature=2.0), [0, 2]),
        (Sampling(top_p=0.75, temperature=2.0), [0, 2, 3]),
    ],
)
def test_the_tokens_that_can_be_drawn(sampling: Sampling, expected: list[int]) -> None:
    row = torch.tensor([0.3, 0.04, 0.5, 0.16]).double().log().tolist()
    assert sets_of([row], sampling) == [expected]


@pytest.mark.parametrize("sampling", [Sampling(top_k=2), Sampling(top_p=0.55)])
def test_of_equal_tokens_those_of_smaller_id_are_kept(sampling: Sampling) -> None:
    rows = [[1.0, 0.0, 1.0, 1.0], [0.0, 2.0, 2.0, 2.0], [3.0, 0.0, 3.0, 0.0]]
    assert sets_of(rows, sampling) == [[0, 2], [1, 2], [0, 2]]


@pytest.mark.parametrize("sampling", [Sampling(top_k=1024), Sampling(top_p=0.25)])
def test_of_many_equal_tokens_the_first_are_kept(sampling: Sampling) -> None:
    found = sets_of([[1.0] * 4096] * 3, sampling)
    assert found == [list(range(1024))] * 3


@pytest.mark.parametrize(
    ("sampling", "token", "expected"),
    [
        (Sampling(top_k=2), 2, [0, 2]),
        (Sampling(top_k=2), 0, [0, 2]),
        (Sampling(top_k=2), 1, [1, 2]),
        (Sampling(top_k=1), 1, [1]),
        (Sampling(top_p=0.75), 0, [0, 2]),
        (Sampling(top_p=0.75), 1, [0, 1, 2]),
        (Sampling(top_p=0.5), 1, [1, 2]),
    ],
)
def test_a_token_that_was_drawn_belongs_to_its_set(
    sampling: Sampling, token: int, expected: list[int]
) -> None:
    """It comes first, and the others fill up what it leaves."""
    row = torch.tensor([0.3, 0.04, 0.5, 0.16]).log().tolist()
    assert sets_of([row], sampling, tokens=torch.tensor([token])) == [expected]


def test_a_token_that_the_reference_gives_is_not_moved_into_the_set() -> None:
    """It was drawn from the reference's share, and the set was what it was."""
    sampling = Sampling(top_k=1, reference_share=0.25)
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 2.0, 1.0]])
    reference = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.5, 0.0]])
    found = sampling.apply(logits, ref_log_probs=reference.log(), tokens=torch.tensor([0, 2]))
    # In the second row only the set can have given it.
    expected = [[0.125, 0.8125, 0.0625], [0.125, 0.125, 0.75]]
    torch.testing.assert_close(found.exp(), torch.tensor(expected))


@samplings
def test_many_rows_and_tokens_are_as_each_by_itself(
    sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 300, generator=generator, dtype=torch.float64) * 3
    logits[:, 7] = logits[:, 9] = logits[:, 11]
    reference = torch.randn(50, 300, generator=generator, dtype=torch.float64).log_softmax(-1)
    expected = sampled_by_hand(logits, sampling, reference).exp()
    for elements in (300, 1000, 1 << 20):
        monkeypatch.setattr("textrl_agents.policies.distribution.BLOCK_ELEMENTS", elements)
        found = sampling.apply(logits, ref_log_probs=reference)
        torch.testing.assert_close(found.softmax(-1), expected, atol=1e-12, rtol=0)


def test_only_kept_tokens_have_a_gradient() -> None:
    logits = torch.tensor([[0.3, 0.1, 0.5, 0.2]], requires_grad=True)
    Sampling(top_k=2).apply(logits)[:, [0, 2]].sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.tolist() == [[1.0, 0.0, 1.0, 0.0]]


@pytest.mark.parametrize("kept", [None, 2])
def test_the_gradient_of_the_mixture_is_a_number_where_neither_can_say_a_token(
    kept: int | None,
) -> None:
    sampling = Sampling(top_k=kept, reference_share=0.3)
    logits = torch.tensor([[2.0, 1.0, -math.inf, 0.0]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[0.0, 0.5, 0.0, 0.5]], dtype=torch.float64)
    found = sampling.apply(logits, ref_log_probs=reference.log()).log_softmax(-1)
    assert found[0, 2] == -math.inf
    (gradient,) = torch.autograd.grad(found[0, 1], logits)
    finite = logits.detach()[:, [0, 1, 3] if kept is None else [0, 1]].requires_grad_()
    by_hand = (0.7 * finite.softmax(-1)[0, 1] + 0.15).log()
    (expected,) = torch.autograd.grad(by_hand, finite)
    torch.testing.assert_close(gradient[:, [0, 1, 3]][:, : finite.shape[1]], expected)
    assert gradient[0, 2] == 0


def test_the_default_changes_nothing() -> None:
    logits = torch.randn(3, 5)
    assert Sampling().apply(logits, tokens=torch.tensor([0, 1, 2])) is logits


# --- one distribution everywhere ---


@kinds
@samplings
def test_the_probabilities_of_all_responses_sum_to_one(kind: str, sampling: Sampling) -> None:
    task = tiny_task()
    policy = make_one(kind, task, sampling)
    total = np.zeros(len(task.prompts))
    for prompt, response in all_episodes(task):
        ids = task.prompts.token_ids[prompt, : task.prompts.lengths[prompt]].tolist()
        texts = [[*ids, *response[:t]] for t in range(len(response))]
        total[prompt] += np.exp(policy.log_probs(observe(task, texts), np.array(response)).sum())
    np.testing.assert_allclose(total, 1.0, atol=2e-6)


@pytest.mark.parametrize("kind", ["residual", "causal_lm"])
@samplings
def test_evaluate_gives_what_is_computed_by_hand(kind: str, sampling: Sampling) -> None:
    task = tiny_task()
    policy = make_one(kind, task, sampling).double()
    exact = enumerate_exactly(task, twin_of(policy))
    found = episodes_of(task, policy, exact.played)
    possible = exact.weights.numpy() > 1e-100
    is_truncated = sampling.top_k is not None or sampling.top_p < 1
    assert possible.all() == (not is_truncated or sampling.reference_share > 0)
    for row in np.flatnonzero(possible):
        length = found.lengths[row]
        np.testing.assert_allclose(
            found.log_probs[row, :length], exact.log_probs[row].detach(), atol=1e-10
        )
        np.testing.assert_allclose(
            found.entropies[row, :length], exact.entropies[row].detach(), atol=1e-10
        )


@kinds
@samplings
def test_step_log_probs_and_evaluate_agree(kind: str, sampling: Sampling) -> None:
    task = tiny_task(limit=4)
    policy = make_one(kind, task, sampling)
    envs = with_kl(task, policy, num_envs=16)
    # The rows of the collector end and wait at different times.
    episodes = Collector(envs).collect(policy, 64, seed=[0])
    found = policy.evaluate(episodes)
    mask = episodes.response_mask
    np.testing.assert_allclose(found.log_probs.detach(), episodes.log_probs[mask], atol=1e-5)
    np.testing.assert_allclose(found.entropies.detach(), episodes.entropies[mask], atol=1e-5)
    assert np.isfinite(episodes.log_probs).all()

    policy.forget()
    obs = observe(task, prefixes_of(task))
    rows = policy.next_log_probs(obs)
    step = policy.step(obs, np.random.default_rng(0))
    chosen = rows[np.arange(len(rows)), step.actions]
    np.testing.assert_allclose(step.log_probs, chosen, atol=1e-6)
    np.testing.assert_allclose(policy.log_probs(obs, step.actions), chosen, atol=1e-6)
    surprise = np.where(np.isfinite(rows), -np.exp(rows) * np.nan_to_num(rows), 0.0)
    np.testing.assert_allclose(step.entropies, surprise.sum(axis=1), atol=1e-5)


@kinds
@samplings
def test_tokens_are_drawn_as_often_as_their_probabilities_say(
    kind: str, sampling: Sampling
) -> None:
    task = tiny_task()
    policy = make_one(kind, task, sampling)
    obs = observe(task, [[2, 1, 3]] * 2000)
    expected = np.exp(policy.next_log_probs(obs)[0])
    rng = np.random.default_rng(0)
    drawn = np.concatenate([policy.step(obs, rng).actions for _ in range(10)])
    counts = np.bincount(drawn, minlength=4)
    is_possible = expected > 0
    assert (counts[~is_possible] == 0).all()
    errors = counts[is_possible] - len(drawn) * expected[is_possible]
    chi_square = float((errors**2 / (len(drawn) * expected[is_possible])).sum())
    assert chi_square < 3 + 4 * math.sqrt(2 * 3)


@samplings
def test_a_table_is_evaluated_under_its_own_sampling(sampling: Sampling) -> None:
    task = tiny_task()
    policy = make_one("table", task, sampling)
    assert isinstance(policy, TablePolicy)
    reference = policy.mdp.log_ref

    def by_hand(time: int) -> np.ndarray[Any, Any]:
        logits = torch.from_numpy(reference) + policy.table[time].detach()
        return sampled_by_hand(logits, sampling, torch.from_numpy(reference)).numpy()

    expected = expectations(policy.mdp, by_hand)
    np.testing.assert_allclose(policy.exact().rewards, expected.rewards, atol=1e-12)
    np.testing.assert_allclose(policy.exact().kls, expected.kls, atol=1e-12)


@kinds
@samplings
def test_rows_that_wait_keep_what_they_had(kind: str, sampling: Sampling) -> None:
    task = tiny_task(limit=5)
    policy = make_one(kind, task, sampling)
    texts = [[1], [2, 1, 3], [1, 2], [2, 1, 3, 1]]
    before = policy.next_log_probs(observe(task, texts))
    longer = [*texts[:2], [1, 2, 3], texts[3]]
    found = policy.next_log_probs(observe(task, longer))
    np.testing.assert_array_equal(found[[0, 1, 3]], before[[0, 1, 3]])
    policy.forget()
    np.testing.assert_allclose(policy.next_log_probs(observe(task, longer)), found, atol=1e-5)


# --- the charge ---


@pytest.mark.parametrize("kind", ["residual", "causal_lm"])
@pytest.mark.parametrize("is_deferred", [True, False])
@samplings
def test_the_kl_charged_is_that_of_the_distribution_that_is_drawn_from(
    kind: str, is_deferred: bool, sampling: Sampling
) -> None:
    """The score is β log(π / π_ref), by hand: less the charge, every episode returns 0."""
    task = tiny_task(beta=0.4)
    policy = make_one(kind, task, sampling)
    exact = enumerate_exactly(task, twin_of(policy))
    assert isinstance(task.reward, TableReward)
    ratios = task.kl_coefficient * (exact.log_prob - exact.ref_log_prob).detach()
    task.reward.table = dict(zip(exact.played, ratios.tolist(), strict=True))
    envs = with_kl(task, policy, num_envs=16)
    if is_deferred:
        returns = Collector(envs).collect(policy, 64, seed=[0]).returns
    else:
        returns = play_step_by_step(envs, policy)
    np.testing.assert_allclose(returns, 0.0, atol=1e-5)
    assert np.abs(ratios[exact.weights > 1e-3].numpy()).max() > 0.1


def play_step_by_step(envs: Any, policy: Policy) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    obs, _ = envs.reset(seed=0)
    returns, is_over = np.zeros(envs.num_envs), np.zeros(envs.num_envs, bool)
    while not is_over.all():
        obs, rewards, terminated, _, _ = envs.step(policy.step(obs, rng).actions)
        returns += np.where(is_over, 0.0, rewards)
        is_over |= terminated
    return returns


# --- gradients ---


@pytest.mark.parametrize("kind", ["residual", "causal_lm"])
@pytest.mark.parametrize("entropy", [0.0, 0.3])
@samplings
def test_reinforce_expects_the_gradient_of_the_objective_of_that_policy(
    kind: str, entropy: float, sampling: Sampling
) -> None:
    task = tiny_task(size=3)
    policy = make_one(kind, task, sampling).double()
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    config = REINFORCEConfig(baseline="none", value_coefficient=0.0, entropy_coefficient=entropy)
    found = expected_gradient(REINFORCE(policy, config=config), task, one_by_one(exact))
    bonus = torch.stack([h.sum() for h in exact.entropies])
    objective = exact.objective + entropy * (exact.weights * bonus).sum()
    assert relative_error(found, flat_gradient(objective, twin)) < TOLERANCE


@kinds
@pytest.mark.parametrize(
    "sampling",
    [Sampling(top_k=2), Sampling(top_p=0.6), Sampling(top_k=2, reference_share=0.1)],
    ids=["top-k", "top-p", "top-k and reference"],
)
def test_epochs_stay_finite_though_tokens_leave_the_set(kind: str, sampling: Sampling) -> None:
    task = tiny_task(limit=5)
    policy = make_one(kind, task, sampling)
    config = PPOConfig(epochs=6, minibatches=4, learning_rate=0.3, episodes_per_batch=64)
    agent = PPO(policy, config=config)
    episodes = Collector(with_kl(task, policy)).collect(policy, 64, seed=[0])
    stats = agent.update(episodes, np.random.default_rng(0))
    assert all(math.isfinite(number) for number in stats.values())
    has_left = np.isneginf(plain_log_probs(policy, task, episodes))
    assert has_left.any() == (sampling.reference_share == 0)
    assert torch.isfinite(policy.evaluate(episodes).log_probs).all()
    rows = agent.learn(with_kl(task, policy), total_tokens=400).rows
    assert len(rows) >= 2
    assert all(math.isfinite(number) for row in rows for number in row.values())


def plain_log_probs(policy: Policy, task: Task, episodes: Any) -> np.ndarray[Any, Any]:
    """Returns the log-probabilities of the tokens as if they were about to be drawn, (M,)."""
    rows, columns = episodes.response_places()
    texts = [
        episodes.input_ids[row, :column].tolist() for row, column in zip(rows, columns, strict=True)
    ]
    return policy.log_probs(observe(task, texts), episodes.input_ids[rows, columns])


def test_a_reference_that_cannot_say_everything_can_be_truncated_and_mixed_in() -> None:
    reference = TopKModel(random_ngram(), 3)
    task = tiny_task(limit=4, reference=reference)
    for sampling in SAMPLINGS.values():
        policy = residual(task, away=0.5, sampling=sampling)
        episodes = Collector(with_kl(task, policy)).collect(policy, 64, seed=[0])
        found = policy.evaluate(episodes)
        np.testing.assert_allclose(
            found.log_probs.detach(), episodes.log_probs[episodes.response_mask], atol=1e-5
        )
        (found.log_probs + found.entropies).sum().backward()  # type: ignore[no-untyped-call]
        assert policy.head.weight.grad is not None
        assert torch.isfinite(policy.head.weight.grad).all()


# --- the reference that is mixed in ---


def test_exploration_never_loses_what_the_reference_can_say() -> None:
    task = tiny_task()
    policy = residual(task, sampling=Sampling(temperature=0.01, top_k=1, reference_share=0.05))
    obs = observe(task, TEXTS)
    least = np.log(0.05) + ngram_of(task).next_log_probs(obs)
    assert (policy.next_log_probs(obs) >= least - 1e-6).all()


def test_the_reference_is_shared_and_not_trained() -> None:
    reference = causal_reference(tiny_llama())
    task = tiny_task(reference=reference)
    sampling = Sampling(reference_share=0.2)
    policy = make_policy(vector_env(task), sampling=sampling, device="cpu")
    assert isinstance(policy, CausalLMPolicy)
    assert policy.reference is reference
    plain = make_policy(vector_env(task), device="cpu")
    assert isinstance(plain, CausalLMPolicy)
    assert plain.reference is None
    count = sum(1 for _ in policy.parameters())
    assert count == sum(1 for _ in plain.parameters())
    before = [p.clone() for p in reference.model.parameters()]
    PPO(policy, config=PPOConfig(episodes_per_batch=16)).learn(
        with_kl(task, policy), total_tokens=100
    )
    assert all(map(torch.equal, before, reference.model.parameters()))
    obs = observe(task, TEXTS)
    own = causal_policy(policy.model).next_log_probs(obs)
    expected = np.log(0.8 * np.exp(own) + 0.2 * np.exp(reference.next_log_probs(obs)))
    np.testing.assert_allclose(policy.next_log_probs(obs), expected, atol=1e-5)


def test_a_model_of_ones_own_is_mixed_with_the_environments_reference(tmp_path: Path) -> None:
    tiny_gpt2().save_pretrained(tmp_path)
    task = tiny_task()
    policy = make_policy(
        vector_env(task), model=str(tmp_path), sampling=Sampling(reference_share=0.2), device="cpu"
    )
    assert isinstance(policy, CausalLMPolicy)
    assert policy.reference is ngram_of(task)


def test_a_share_without_a_reference_is_refused() -> None:
    expected = "reference_share=0.2 mixes the reference into the policy, which knows none"
    with pytest.raises(InvalidInputError, match=expected):
        causal_policy(tiny_gpt2(), sampling=Sampling(reference_share=0.2))
    with pytest.raises(InvalidInputError, match=expected):
        Sampling(reference_share=0.2).apply(torch.zeros(1, 3))


# --- settings ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0}, "temperature must be a positive number; got 0"),
        ({"temperature": math.inf}, "temperature must be a positive number; got inf"),
        ({"temperature": "hot"}, "temperature must be a positive number; got 'hot'"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1, or None; got 0"),
        ({"top_k": 2.0}, "top_k must be a whole number"),
        ({"top_k": True}, "top_k must be a whole number"),
        ({"top_p": 0.0}, "top_p must be above 0, and at most 1; got 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0"),
        ({"top_p": math.nan}, "top_p must be above 0"),
        ({"reference_share": 1.0}, "reference_share must be at least 0, and below 1; got 1.0"),
        ({"reference_share": -0.1}, "reference_share must be at least 0"),
        ({"topk": 3}, "sampling has no setting 'topk'. Did you mean 'top_k'?"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError) as found:
        Sampling.of(settings)
    assert message in str(found.value)
    assert "\n" not in str(found.value)


def test_settings_that_are_no_table_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="sampling must be a Sampling, or settings by name"):
        Sampling.of(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [*KINDS, "residual_lm", "top_k_reference"])
def test_a_saved_policy_samples_as_before(kind: str, tmp_path: Path) -> None:
    sampling = SAMPLINGS["all"]
    task = tiny_task(limit=4)
    obs = observe(task, TEXTS[:3])
    if kind == "table":
        envs: Any = gym.make_vec("textrl/SumVerify-v0", num_envs=4)
        policy: Policy = TablePolicy.of(envs, sampling=sampling)
        obs, _ = envs.reset(seed=0)
    elif kind == "residual_lm":
        task = tiny_task(limit=4, reference=causal_reference(tiny_gpt2()))
        policy = make_policy(vector_env(task), sampling=sampling, device="cpu")
    elif kind == "top_k_reference":
        reference = TopKModel(causal_reference(tiny_gpt2()), 3)
        policy = residual(tiny_task(limit=4, reference=reference), away=0.5, sampling=sampling)
    else:
        policy = make_one(kind, task, sampling)
    policy.save(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy", device="cpu")
    assert loaded.sampling == sampling
    np.testing.assert_allclose(loaded.next_log_probs(obs), policy.next_log_probs(obs), atol=1e-6)
    assert json.loads((tmp_path / "policy" / "policy.json").read_text())["sampling"] == asdict(
        sampling
    )


@kinds
def test_a_folder_that_has_a_temperature_alone_is_read(kind: str, tmp_path: Path) -> None:
    if kind == "table":
        envs: Any = gym.make_vec("textrl/SumVerify-v0", num_envs=4)
        policy: Policy = TablePolicy.of(envs)
    else:
        policy = make_one(kind, tiny_task(), Sampling())
    policy.save(tmp_path / "policy")
    path = tmp_path / "policy" / "policy.json"
    about = json.loads(path.read_text())
    del about["sampling"]
    path.write_text(json.dumps({**about, "temperature": 1.3}))
    assert load_policy(path.parent, device="cpu").sampling == Sampling(temperature=1.3)


def test_make_takes_the_sampling_of_the_new_policy() -> None:
    envs = vector_env(tiny_task())
    agent = make("ppo", envs, sampling={"top_k": 2}, device="cpu")
    assert agent.policy.sampling == Sampling(top_k=2)
    sampling = Sampling(top_p=0.9)
    assert make("ppo", envs, sampling=sampling, policy="table").policy.sampling is sampling
    with pytest.raises(InvalidInputError, match=r"The policy has a sampling of its own.*top_k=2"):
        make("ppo", envs, policy=agent.policy, sampling=sampling)
    with pytest.raises(InvalidInputError, match="null_echo has no setting 'sampling'"):
        make("null_echo", envs, sampling=sampling)


def test_a_boards_agent_plays_and_is_scored_by_its_sampling() -> None:
    """A suite's `settings = { sampling = { top_k = 1 } }`: one text a prompt, and sure of it."""
    envs = gym.make_vec("textrl/Parity-v0", num_envs=8)
    contestant = make_contestant("ppo", envs, settings={"sampling": {"top_k": 1}})
    samples = play(contestant, envs, episodes=16, seed=[0, 4])
    assert all(set(sample.log_probs or [None]) == {0.0} for sample in samples)


def test_train_and_resume_keep_the_sampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "--env=textrl/Passcode-v0", "--policy=table", "--out=run"]
    numbers = ["--total-tokens=300", "--num-envs=16", "--eval-episodes=32"]
    small = ["--env-args", "length=2", "digits=3", "--agent-args", "episodes_per_batch=32"]
    assert main([*words, *numbers, *small, "--sampling-args", "top_k=3", "temperature=0.9"]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["options"]["sampling_args"] == ["top_k=3", "temperature=0.9"]
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    expected = Sampling(top_k=3, temperature=0.9)
    assert load_policy(checkpoint / "policy").sampling == expected
    capsys.readouterr()
    assert main(["train", "--resume=run"]) == 0
    assert "resumed at" in capsys.readouterr().out
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert load_policy(checkpoint / "policy").sampling == expected
