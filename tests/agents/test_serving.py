"""Serving: 8-bit layers against their bound, and a student against its teacher."""

import copy
import importlib.util
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

import textrl_agents
import textrl_envs  # noqa: F401 - registers the environments
from tests.agents.expectation import TOLERANCE, precise
from tests.agents.tiny import (
    all_episodes,
    causal_policy,
    causal_reference,
    enumerate_exactly,
    episodes_of,
    gradients_of_update,
    ngram_of,
    on_tokens,
    relative_error,
    residual,
    tiny_gpt2,
    tiny_llama,
    tiny_task,
    twin_of,
    vector_env,
    with_kl,
)
from textrl_agents.collector import Collector
from textrl_agents.episodes import Episodes
from textrl_agents.policies import (
    CausalLMPolicy,
    LoraPolicy,
    LSTMPolicy,
    NetworkPolicy,
    Policy,
    TablePolicy,
    make_policy,
)
from textrl_agents.policies.logits import response_logits
from textrl_agents.serving import (
    Distillation,
    DistillationConfig,
    distil,
    network_bytes,
    quantised,
)
from textrl_agents.serving.distillation import token_divergence
from textrl_benchmarks.evaluation import evaluate
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.fast import int8
from textrl_envs.language_models.fast.decode import LeanTrunk
from textrl_envs.language_models.fast.int8 import Int8Linear
from textrl_envs.task import Task
from textrl_envs.wrappers.vector import KLPenalty

# --- the 8-bit layer ---


def bound(x: Tensor, weight: Tensor) -> Tensor:
    """Returns the largest error that two roundings by half a step each can make, [T, N]."""
    of_x, of_weight = (m.abs().amax(1) / 127 for m in (x, weight))
    steps = of_x[:, None] * of_weight
    sums = x.abs().sum(1)[:, None] * of_weight + weight.abs().sum(1) * of_x[:, None]
    return sums / 2 + x.shape[1] * steps / 4


@pytest.mark.parametrize("rows", [1, 2, 9, 40])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (16, 48), (130, 70)])
@pytest.mark.parametrize("is_compiled", [True, False])
def test_a_product_of_8_bits_is_within_the_bound_of_its_roundings(
    rows: int, shape: tuple[int, int], is_compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_compiled:
        monkeypatch.setattr(int8, "_library", lambda: None)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, shape[0], generator=generator) * 3
    weight = torch.randn(shape[1], shape[0], generator=generator)
    bias = torch.randn(shape[1], generator=generator)
    exact = x.double() @ weight.double().T + bias
    error = (Int8Linear(weight, bias)(x) - exact).abs()
    assert bool((error <= bound(x, weight) + 1e-5).all())
    if shape[0] > 1:
        assert float(error.max()) > 1e-4  # it does round


def test_whole_numbers_are_multiplied_without_any_error() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randint(-127, 128, (n, 90), generator=generator).float() for n in (6, 11))
    x[:, 0] = weight[:, 0] = 127.0  # the scales are 1
    assert torch.equal(Int8Linear(weight)(x), x @ weight.T)


def test_the_compiled_product_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = Int8Linear(torch.randn(33, 65, generator=generator))
    x = torch.randn(5, 65, generator=generator)
    found = layer(x)
    assert int8._library() is not None
    monkeypatch.setattr(int8, "_library", lambda: None)
    torch.testing.assert_close(layer(x), found, rtol=0, atol=1e-5)


def test_a_transposed_weight_is_read_as_it_is_meant() -> None:
    """GPT-2 keeps its weights as [in, out]."""
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(n, 20, generator=generator) for n in (30, 4))
    assert torch.equal(Int8Linear(weight.T.contiguous().T)(x), Int8Linear(weight)(x))


def test_a_row_of_zeros_gives_the_bias() -> None:
    bias = torch.tensor([1.0, -2.0])
    assert torch.equal(Int8Linear(torch.zeros(2, 3), bias)(torch.zeros(4, 3)), bias.expand(4, 2))


def test_what_is_no_number_stays_none() -> None:
    layer = Int8Linear(torch.ones(2, 3))
    found = layer(torch.tensor([[1.0, float("nan"), 2.0], [1.0, 0.0, 2.0]]))
    assert found.isnan().any(1).tolist() == [True, False]


def test_layers_side_by_side_are_those_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [Int8Linear(torch.randn(n, 8, generator=generator)) for n in (4, 2, 2)]
    x = torch.randn(3, 8, generator=generator)
    joined = Int8Linear.side_by_side(layers)(x)
    assert torch.equal(joined, torch.cat([layer(x) for layer in layers], dim=1))


# --- the 8-bit policy ---


def network(kind: str) -> tuple[Task, NetworkPolicy]:
    if kind == "residual":
        task = tiny_task(limit=5)
        return task, residual(task, away=0.5, width=16)
    model = tiny_llama(seed=1) if kind == "llama" else tiny_gpt2(seed=1)
    return tiny_task(limit=5), causal_policy(model)


@pytest.mark.parametrize("kind", ["residual", "gpt2", "llama"])
def test_an_8_bit_policy_is_near_its_original(kind: str) -> None:
    """Measured on random weights, the largest change of a log-probability and the mean KL a token:
    .020 and 4e-6 (residual), .16 and 3e-4 (gpt2), .22 and 5e-4 (llama).
    """
    task, policy = network(kind)
    served = quantised(policy)
    if kind != "residual":
        assert LeanTrunk.supports(served.trunk)
    episodes = episodes_of(task, policy, all_episodes(task)[::5])
    with torch.no_grad():
        before, after = (response_logits(p, episodes).log_softmax(-1) for p in (policy, served))
    error = float((after - before).abs().max())
    assert 1e-5 < error < {"residual": 0.04, "gpt2": 0.3, "llama": 0.4}[kind]
    kl = token_divergence(before, after, "forward")
    assert float(kl.mean()) < 1e-3


@pytest.mark.parametrize("kind", ["residual", "gpt2", "llama"])
def test_it_acts_as_it_evaluates(kind: str) -> None:
    task, policy = network(kind)
    served = quantised(policy)
    played = Collector(vector_env(task)).collect(served, 32, seed=[0])
    found = served.evaluate(played)
    # A number at the edge of a step is rounded one way or the other.
    np.testing.assert_allclose(on_tokens(played, found.log_probs), played.log_probs, atol=0.02)


def test_the_original_stays_and_the_copy_is_smaller() -> None:
    _, policy = network("gpt2")
    before = {name: w.clone() for name, w in policy.state_dict().items()}
    served = quantised(policy)
    assert all(torch.equal(before[name], w) for name, w in policy.state_dict().items())
    assert not any(isinstance(m, Int8Linear) for m in policy.modules())
    linear = sum(m.weight.numel() for m in policy.trunk.modules() if isinstance(m, Conv1D))
    scales = sum(m.scale.nbytes for m in served.modules() if isinstance(m, Int8Linear))
    assert network_bytes(policy) - network_bytes(served) == 3 * linear - scales
    assert not any(weight.requires_grad for weight in served.parameters())


def test_a_reference_is_shared_and_not_copied() -> None:
    _, policy = network("residual")
    assert quantised(policy).reference is policy.reference


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is an extra")
def test_adapters_are_merged_first() -> None:
    task = tiny_task(reference=causal_reference(tiny_gpt2()))
    policy = make_policy(vector_env(task), lora={"rank": 2})
    assert isinstance(policy, LoraPolicy)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    obs, _ = vector_env(task).reset(seed=0)
    merged = policy.merged()
    assert type(merged) is CausalLMPolicy
    np.testing.assert_allclose(merged.next_log_probs(obs), policy.next_log_probs(obs), atol=1e-6)
    np.testing.assert_allclose(merged.next_values(obs), policy.next_values(obs), atol=1e-6)
    found = quantised(policy).next_log_probs(obs)
    np.testing.assert_allclose(found, policy.next_log_probs(obs), atol=0.2)


def test_what_cannot_be_quantised_or_saved_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="Distil it into a smaller network"):
        quantised(LSTMPolicy(vocabulary_size=4, device="cpu"))
    with pytest.raises(InvalidInputError, match="Expected a network on the CPU to quantise"):
        quantised(TablePolicy(tiny_task()))
    for kind in ("residual", "gpt2"):
        with pytest.raises(InvalidInputError, match="Save the one that it was made of"):
            quantised(network(kind)[1]).save(tmp_path / kind)


# --- distillation ---


def distribution(logits: list[float]) -> Tensor:
    return torch.tensor([logits]).log()


def test_the_divergences_are_those_of_two_coins() -> None:
    p, q = distribution([0.25, 0.75]), distribution([0.5, 0.5])
    forward = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    reverse = 0.5 * np.log(2.0) + 0.5 * np.log(2 / 3)
    assert float(token_divergence(p, q, "forward")) == pytest.approx(forward, abs=1e-6)
    assert float(token_divergence(p, q, "reverse")) == pytest.approx(reverse, abs=1e-6)


@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_a_token_that_neither_says_costs_nothing_and_has_no_gradient(kind: Any) -> None:
    teacher = torch.tensor([[0.3, -torch.inf, 1.0]])
    student = torch.tensor([[0.1, -torch.inf, -1.0]], requires_grad=True)
    found = token_divergence(teacher, student, kind)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert 0 < float(found.detach()) < 10
    assert float(student.grad[0, 1]) == 0
    assert bool(torch.isfinite(student.grad).all())


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_the_gradient_of_an_update_is_that_of_the_mean_divergence(divergence: Any) -> None:
    """Against float64 twins that read each text by itself."""
    task = tiny_task()
    teacher, student = precise(task, seed=1, away=0.8), precise(task, seed=2, away=0.5)
    episodes = episodes_of(task, student, all_episodes(task)[::3])
    config = DistillationConfig(divergence=divergence, epochs=1, minibatches=1, micro_batch_size=5)
    agent = Distillation(student, teacher=teacher, config=config)
    (found,) = gradients_of_update(agent, episodes)
    twins = [twin_of(policy) for policy in (teacher, student)]
    parameters = list(twins[1].parameters())
    gradients = torch.autograd.grad(
        divergence_by_hand(task, twins, episodes, divergence), parameters, allow_unused=True
    )
    parts = [
        torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)
    ]
    expected = torch.cat([part.reshape(-1) for part in parts]).numpy()
    assert np.linalg.norm(expected) > 1e-3
    assert relative_error(found, expected) < TOLERANCE


def test_minibatches_weighted_by_their_tokens_add_up_to_the_gradient_of_the_batch() -> None:
    task = tiny_task()
    teacher, student = precise(task, seed=1, away=0.8), precise(task, seed=2, away=0.5)
    episodes = episodes_of(task, student, all_episodes(task)[::3])

    def gradients(minibatches: int) -> list[Any]:
        config = DistillationConfig(epochs=1, minibatches=minibatches)
        return gradients_of_update(Distillation(student, teacher=teacher, config=config), episodes)

    (whole,), parts = gradients(1), gradients(4)
    order = np.random.default_rng(0).permutation(len(episodes))
    tokens = [episodes.select(rows).num_tokens for rows in np.array_split(order, 4)]
    weighted = sum(n * part for n, part in zip(tokens, parts, strict=True)) / sum(tokens)
    assert relative_error(np.asarray(weighted), whole) < TOLERANCE


def divergence_by_hand(task: Task, twins: list[Policy], episodes: Episodes, kind: str) -> Tensor:
    """Returns the mean over tokens of Σ_a p(a) log p(a)/q(a)."""
    reference, found = torch.from_numpy(ngram_of(task).table), []
    for row in range(len(episodes)):
        start = int(episodes.prompt_lengths[row])
        for at in range(start, start + int(episodes.lengths[row])):
            ids = torch.from_numpy(episodes.input_ids[row : row + 1, :at])
            both = [
                (reference[ids[0, -1]] + twin.head(hidden_of(twin, ids))).log_softmax(-1)  # type: ignore[operator]
                for twin in twins
            ]
            p, q = both if kind == "forward" else both[::-1]
            found.append((p.exp() * (p - q)).sum())
    return torch.stack(found).mean()


def hidden_of(twin: Policy, ids: Tensor) -> Tensor:
    trunk: Any = twin.trunk
    hidden: Tensor = trunk(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
    return hidden


def worth(task: Task, policy: Policy) -> float:
    """(J − J_ref) / (J* − J_ref), exactly."""
    exact = enumerate_exactly(task, twin_of(policy))
    width = exact.optimum - exact.reference_value
    return (float(exact.objective.detach()) - exact.reference_value) / width


def trained_teacher(task: Task) -> Policy:
    agent = textrl_agents.make(
        "ppo", vector_env(task), policy=residual(task, width=16), episodes_per_batch=64,
        minibatches=2, learning_rate=1e-2,
    )  # fmt: skip
    agent.learn(with_kl(task, agent.policy, 64), total_tokens=4_000)
    policy: Policy = agent.policy
    return policy


@pytest.mark.parametrize("samples", ["student", "teacher"])
@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_a_student_comes_near_its_teacher_and_keeps_the_score(
    samples: str, divergence: str
) -> None:
    task = tiny_task()
    teacher = trained_teacher(task)
    student = residual(task, width=4, seed=3)
    log = distil(
        teacher, student, vector_env(task, 64), total_tokens=12_000, episodes_per_batch=64,
        learning_rate=1e-2, samples=samples, divergence=divergence,
    )  # fmt: skip
    divergences = [row["divergence"] for row in log.rows]
    assert divergences[0] > 0.1
    assert np.mean(divergences[-5:]) < 0.01
    best = worth(task, teacher)
    assert best > 0.75
    assert worth(task, student) > best - 0.05
    assert network_bytes(student) < network_bytes(teacher) / 4


def test_the_teacher_stays_what_it_is() -> None:
    task = tiny_task()
    teacher = residual(task, away=0.5)
    before = copy.deepcopy(teacher.state_dict())
    distil(teacher, residual(task), vector_env(task), total_tokens=100, episodes_per_batch=8)
    assert all(torch.equal(before[name], w) for name, w in teacher.state_dict().items())


def test_distillation_is_saved_with_its_teacher_and_goes_on(tmp_path: Path) -> None:
    logs = []
    for stop in (None, 150):
        task = tiny_task()
        envs = vector_env(task, 8)
        config = DistillationConfig(episodes_per_batch=16, learning_rate_schedule="constant")
        agent = Distillation(residual(task), teacher=residual(task, away=0.5), config=config)
        if stop is not None:
            agent.learn(envs, total_tokens=stop)
            agent.save(tmp_path / "agent")
            agent = Distillation.load(tmp_path / "agent", device="cpu")
        agent.learn(envs, total_tokens=400)
        logs.append([row["divergence"] for row in agent.log.rows])
    assert logs[0] == logs[1]


def test_what_does_not_fit_is_refused() -> None:
    task = tiny_task()
    with pytest.raises(InvalidInputError, match="must have one vocabulary"):
        Distillation(residual(task), teacher=LSTMPolicy(vocabulary_size=5, device="cpu"))
    with pytest.raises(InvalidInputError, match=r"needs a teacher"):
        Distillation(residual(task)).learn(vector_env(task), total_tokens=10)
    with pytest.raises(InvalidInputError, match="no setting 'temprature'"):
        distil(residual(task), residual(task), vector_env(task), total_tokens=1, temprature=2)
    for name in ("samples", "divergence"):
        with pytest.raises(InvalidInputError, match=f"{name} must be"):
            Distillation.make_config(**{name: "both"})
    for name in ("epochs", "minibatches"):
        with pytest.raises(InvalidInputError, match=f"{name} must be at least 1"):
            Distillation.make_config(**{name: 0})


@pytest.mark.slow
def test_on_keyword_both_smaller_policies_keep_the_score() -> None:
    envs = gym.make_vec("textrl/Keyword-v0", num_envs=64)
    agent = textrl_agents.make("ppo", envs, device="cpu")
    charged = KLPenalty(envs, policy=agent.policy)
    agent.learn(charged, total_tokens=60_000)
    student = LSTMPolicy(vocabulary_size=46, reference=envs.unwrapped.reference, width=16)  # type: ignore[attr-defined]
    distil(agent.policy, student, envs, total_tokens=100_000, learning_rate=1e-2)
    teacher, small, served = (
        evaluate(policy, envs, episodes=1024).normalised_score
        for policy in (agent.policy, student, quantised(agent.policy))
    )
    assert teacher.mean > 0.7
    assert abs(served.mean - teacher.mean) < 4 * np.hypot(
        served.standard_error, teacher.standard_error
    )
    assert small.mean > teacher.mean - 0.1
