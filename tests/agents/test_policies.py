import copy
import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import textrl_envs  # noqa: F401 - registers the environments
from tests.agents.tiny import (
    EOS,
    Floats,
    all_episodes,
    causal_policy,
    causal_reference,
    enumerate_exactly,
    episodes_of,
    ngram_of,
    random_ngram,
    residual,
    tiny_gpt2,
    tiny_llama,
    tiny_task,
    twin_of,
    vector_env,
    widened,
)
from textrl_agents.policies import (
    CausalLMPolicy,
    FixedPolicy,
    NetworkPolicy,
    Policy,
    ResidualPolicy,
    Sampling,
    load_policy,
    make_policy,
)
from textrl_agents.policies.distribution import sample
from textrl_agents.ppo import PPO, PPOConfig
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.causal import CausalLanguageModel
from textrl_envs.language_models.fast.decode import LeanTrunk
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.task import Task

ALMOST_ONE = math.nextafter(1.0, 0.0)
KINDS = ("residual", "residual_lm", "gpt2", "llama")


def make(kind: str, **settings: Any) -> tuple[Task, Policy]:
    """Returns a policy of each kind, away from its reference, and a task that it fits."""
    if kind == "residual":
        task = tiny_task(limit=5)
        return task, residual(task, away=0.5, **settings)
    model = tiny_llama() if kind == "llama" else tiny_gpt2()
    task = tiny_task(limit=5, reference=causal_reference(model))
    if kind == "residual_lm":
        return task, residual(task, away=0.5, **settings)
    policy = causal_policy(tiny_llama(seed=1) if kind == "llama" else tiny_gpt2(seed=1), **settings)
    with torch.no_grad():
        policy.value_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    return task, policy


def observe(task: Task, texts: list[list[int]]) -> dict[str, Any]:
    lengths = np.array([len(text) for text in texts])
    mask = np.arange(task.max_tokens) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
    return {"input_ids": ids, "attention_mask": mask.astype(np.int8)}


TEXTS = [[1], [2, 1, 3], [2, 1, 3, 3], [1, 2, 2, 1, 3], [3, 3]]


# --- the sampler ---


def test_tokens_are_drawn_as_often_as_their_probabilities_say() -> None:
    probabilities = torch.tensor([0.05, 0.4, 0.001, 0.25, 0.299])
    number = 100_000
    uniforms = torch.from_numpy(np.random.default_rng(0).random(number))
    drawn = sample(probabilities.expand(number, 5), uniforms)
    counts = torch.bincount(drawn, minlength=5).double()
    expected = probabilities.double() * number
    chi_square = float(((counts - expected).square() / expected).sum())
    assert chi_square < 4 + 4 * math.sqrt(2 * 4)


def test_a_draw_is_the_first_token_whose_cumulative_probability_exceeds_the_number() -> None:
    log_probs = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64).log()
    uniforms = [0.0, 0.24, 0.26, 0.49, 0.51, 0.99]
    drawn = sample(log_probs.exp().expand(6, 3), torch.tensor(uniforms, dtype=torch.float64))
    assert drawn.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("uniform", [0.0, 5e-324, 0.3, 1 - 1e-9, ALMOST_ONE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_token_of_probability_zero_is_never_drawn(uniform: float, dtype: torch.dtype) -> None:
    """At both ends and in between, though float32 probabilities do not sum to 1."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 9, generator=generator, dtype=dtype) * 3
    is_possible = torch.rand(2000, 9, generator=generator) < 0.5
    is_possible[:, 4] = True
    log_probs = logits.masked_fill(~is_possible, -math.inf).log_softmax(-1)
    drawn = sample(log_probs.exp(), torch.full((2000,), uniform, dtype=torch.float64))
    assert bool(is_possible.gather(1, drawn[:, None]).all())


def test_a_lone_possible_token_is_always_drawn() -> None:
    log_probs = torch.full((9, 9), -math.inf)
    log_probs.fill_diagonal_(0.0)
    for uniform in (0.0, 0.5, ALMOST_ONE):
        drawn = sample(log_probs.exp(), torch.full((9,), uniform, dtype=torch.float64))
        assert drawn.tolist() == list(range(9))


# --- step, log_probs, evaluate ---


@pytest.mark.parametrize("kind", KINDS)
def test_step_log_probs_and_next_log_probs_agree(kind: str) -> None:
    task, policy = make(kind)
    obs = observe(task, TEXTS)
    table = policy.next_log_probs(obs)
    np.testing.assert_allclose(np.exp(table).sum(axis=1), 1.0, atol=1e-6)
    step = policy.step(obs, np.random.default_rng(0))
    chosen = table[np.arange(5), step.actions]
    np.testing.assert_array_equal(step.log_probs, chosen)
    np.testing.assert_array_equal(policy.log_probs(obs, step.actions), chosen)
    np.testing.assert_allclose(step.entropies, -(np.exp(table) * table).sum(axis=1), atol=1e-6)
    np.testing.assert_array_equal(step.values, policy.next_values(obs))


@pytest.mark.parametrize("kind", KINDS)
def test_the_greedy_step_takes_the_likeliest_token_at_its_sampling_log_prob(kind: str) -> None:
    task, policy = make(kind)
    obs = observe(task, TEXTS)
    table = policy.next_log_probs(obs)
    step = policy.step(obs, np.random.default_rng(0), greedy=True)
    np.testing.assert_array_equal(step.actions, table.argmax(axis=1))
    np.testing.assert_array_equal(step.log_probs, table.max(axis=1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_one_temperature_holds_for_acting_scoring_and_training(temperature: float) -> None:
    task = tiny_task()
    policy = residual(task, away=0.5, sampling=Sampling(temperature=temperature))
    exact = enumerate_exactly(task, twin_of(policy))
    episodes = episodes_of(task, policy, exact.played)
    row = next(i for i, (prompt, y) in enumerate(exact.played) if prompt == 1 and len(y) == 3)
    expected = exact.log_probs[row].detach().numpy()
    np.testing.assert_allclose(episodes.log_probs[row], expected, atol=3e-6)
    prompt, y = [2, 1, 3], list(exact.played[row][1])
    for t in range(3):
        obs = observe(task, [prompt + y[:t]])
        step = policy.log_probs(obs, np.array([y[t]]))
        assert step[0] == pytest.approx(expected[t], abs=3e-6)
        assert policy.next_log_probs(obs)[0, y[t]] == pytest.approx(expected[t], abs=3e-6)


def test_a_higher_temperature_raises_the_entropy_of_acting_and_of_training() -> None:
    task = tiny_task()
    cold, hot = (residual(task, away=0.5, sampling=Sampling(temperature=t)) for t in (0.5, 5.0))
    obs = observe(task, [[1], [2, 1, 3]])
    rng = np.random.default_rng(0)
    assert (hot.step(obs, rng).entropies > cold.step(obs, rng).entropies).all()
    played = all_episodes(task)
    assert episodes_of(task, hot, played).entropies[:, 0].min() > math.log(4) - 0.2


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(InvalidInputError, match="temperature must be a positive number; got"):
        residual(tiny_task(), sampling=Sampling(temperature=temperature))


# --- padding, batches, dropout ---


def test_evaluate_does_not_depend_on_padding_columns() -> None:
    task = tiny_task(limit=4)
    policy = residual(task, away=0.5, max_tokens=30)
    episodes = episodes_of(task, policy, all_episodes(task)[::7])
    narrow, wide = policy.evaluate(episodes), policy.evaluate(widened(episodes, 11))
    for name in ("log_probs", "entropies", "values"):
        torch.testing.assert_close(getattr(wide, name), getattr(narrow, name), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["residual", "gpt2", "llama"])
def test_evaluating_one_by_one_equals_evaluating_together(kind: str) -> None:
    _, policy = make(kind)
    task = tiny_task(limit=5)
    episodes = episodes_of(task, policy, all_episodes(task)[::37])
    together = policy.evaluate(episodes).log_probs
    alone = [
        policy.evaluate(episodes.select(np.array([i]))).log_probs for i in range(len(episodes))
    ]
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_left_padding_and_other_forms_of_an_observation_change_nothing(kind: str) -> None:
    task, policy = make(kind)
    right = observe(task, TEXTS)
    expected = policy.next_log_probs(right)
    left = {key: np.zeros_like(value) for key, value in right.items()}
    flat = np.where(right["attention_mask"] != 0, right["input_ids"], -1)
    for row, text in enumerate(TEXTS):
        left["input_ids"][row, -len(text) :] = text
        left["attention_mask"][row, -len(text) :] = 1
    for obs in (left, flat):
        policy.forget()
        np.testing.assert_allclose(policy.next_log_probs(obs), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "residual"])
def test_two_forwards_are_equal_though_the_config_has_dropout(kind: str) -> None:
    model = tiny_gpt2(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    model.train()
    task = tiny_task(limit=5)
    policy = causal_policy(model) if kind == "gpt2" else residual(task, away=0.5)
    policy.train()
    episodes = episodes_of(task, policy, all_episodes(task)[::11])
    first, second = policy.evaluate(episodes), policy.evaluate(episodes)
    assert torch.equal(first.log_probs, second.log_probs)
    assert torch.equal(first.values, second.values)
    assert not any(module.training for module in policy.modules())


# --- the memo ---


@contextmanager
def counted_forwards(policy: Policy) -> Iterator[list[int]]:
    """Lists the number of tokens of every forward of the trunk, lean or its own."""
    seen: list[int] = []
    lean = LeanTrunk.read

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["input_ids"].numel())

    def note_lean(self: LeanTrunk, tokens: Any, *rest: Any) -> Any:
        if self._trunk is policy.trunk:
            seen.append(tokens.size)
        return lean(self, tokens, *rest)

    assert isinstance(policy, NetworkPolicy)
    hook = policy.trunk.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LeanTrunk, "read", note_lean)
            yield seen
    finally:
        hook.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_the_kl_wrapper_may_ask_again_for_free(kind: str) -> None:
    task, policy = make(kind)
    obs = observe(task, TEXTS)
    step = policy.step(obs, np.random.default_rng(0))
    with counted_forwards(policy) as forwards:
        policy.log_probs(obs, step.actions)
        policy.next_values(obs)
        assert forwards == []
        # And the next token costs one token a row.
        policy.step(observe(task, [[*text, 1] for text in TEXTS]), np.random.default_rng(0))
        assert forwards == [len(TEXTS)]


def expect_change(policy: Policy, obs: Any, before: Floats) -> None:
    after = policy.next_log_probs(obs)
    assert np.abs(after - before).max() > 1e-4
    policy.forget()
    np.testing.assert_allclose(policy.next_log_probs(obs), after, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_memo_is_dropped_after_a_step_of_the_optimiser(kind: str) -> None:
    task, policy = make(kind)
    obs = observe(task, TEXTS)
    before = policy.next_log_probs(obs)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    policy.evaluate(short_episodes(task, policy)).log_probs.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    expect_change(policy, obs, before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_memo_is_dropped_after_a_step_of_an_agent(kind: str) -> None:
    """Its optimiser is fused, and by itself writes without a trace."""
    task, policy = make(kind)
    obs = observe(task, TEXTS)
    before = policy.next_log_probs(obs)
    agent = PPO(policy, config=PPOConfig(learning_rate=0.05))
    policy.evaluate(short_episodes(task, policy)).log_probs.sum().backward()  # type: ignore[no-untyped-call]
    agent.step_optimizer()
    expect_change(policy, obs, before)


@pytest.mark.parametrize("kind", ["residual", "llama"])
def test_the_memo_is_dropped_after_a_step_of_the_head_alone(kind: str) -> None:
    """The trunk's cache stays right, but what was made of it does not."""
    task, policy = make(kind)
    obs = observe(task, TEXTS)
    before = policy.next_log_probs(obs)
    if isinstance(policy, ResidualPolicy):
        head: torch.nn.Module = policy.head
    else:
        assert isinstance(policy, CausalLMPolicy)
        head = policy.model.lm_head
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    policy.evaluate(short_episodes(task, policy)).log_probs.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    expect_change(policy, obs, before)


def test_the_memo_is_dropped_after_loading_weights_or_changing_the_temperature() -> None:
    task = tiny_task()
    policy, other = residual(task, away=0.5), residual(task, away=0.5, seed=3)
    obs = observe(task, [[1], [2, 1, 3]])
    before = policy.next_log_probs(obs)
    policy.load_state_dict(other.state_dict())
    expect_change(policy, obs, before)
    np.testing.assert_allclose(policy.next_log_probs(obs), other.next_log_probs(obs), atol=1e-6)
    before = policy.next_log_probs(obs)
    policy.sampling = Sampling(temperature=3.0)
    expect_change(policy, obs, before)


def test_the_memo_is_of_one_observation() -> None:
    task = tiny_task()
    policy = residual(task, away=0.5)
    one, two = observe(task, [[1], [2, 1, 3]]), observe(task, [[2], [2, 1, 3]])
    first = policy.next_log_probs(one)
    assert np.abs(policy.next_log_probs(two)[0] - first[0]).max() > 1e-3
    np.testing.assert_allclose(policy.next_log_probs(one), first, atol=1e-6)
    alone = {key: value[:1] for key, value in one.items()}
    np.testing.assert_allclose(policy.next_log_probs(alone), first[:1], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_wait_keep_their_numbers_while_others_go_on(kind: str) -> None:
    """Some rows grow, some begin anew, some wait; every answer is that of a fresh reading."""
    task, policy = make(kind)
    rng = np.random.default_rng(0)
    texts = [[1], [2, 1], [3], [1, 1]]
    for step in range(12):
        moves = rng.choice(3, size=4, p=[0.5, 0.3, 0.2]) if step else np.ones(4)
        for row, move in enumerate(moves):
            if move == 1 and len(texts[row]) < 4:
                texts[row] = [*texts[row], int(rng.integers(1, 4))]
            elif move == 2:
                texts[row] = [int(rng.integers(1, 4))]
        obs = observe(task, texts)
        found, values = policy.next_log_probs(obs), policy.next_values(obs)
        drawn = policy.step(obs, np.random.default_rng(step))
        policy_afresh = copy.deepcopy(policy)
        policy_afresh.forget()
        expected = policy_afresh.next_log_probs(obs)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
        np.testing.assert_allclose(values, policy_afresh.next_values(obs), rtol=2e-6, atol=2e-6)
        chosen = expected[np.arange(4), drawn.actions]
        np.testing.assert_allclose(drawn.log_probs, chosen, rtol=0, atol=2e-6)


@torch.no_grad()
def test_the_head_reads_only_the_rows_that_changed() -> None:
    task, policy = make("gpt2")
    assert isinstance(policy, NetworkPolicy)
    texts = [[1], [2, 1], [3], [1, 1]]
    policy.next_log_probs(observe(task, texts))
    asked: list[int] = []
    next_logits = policy.next_logits

    def counted(hidden: torch.Tensor, obs: Any, rows: Any) -> torch.Tensor:
        found = next_logits(hidden, obs, rows)
        asked.append(len(found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "next_logits", counted)
        texts[1].append(2)
        policy.next_log_probs(observe(task, texts))
        texts = [[*text, 1] for text in texts]
        policy.next_log_probs(observe(task, texts))
    assert asked == [1, 4]


def short_episodes(task: Task, policy: Policy) -> Any:
    """Any episodes will do for a gradient; those of the n-gram task have the same prompts."""
    like = tiny_task(limit=task.max_new_tokens)
    return episodes_of(like, policy, all_episodes(like)[:20])


# --- the residual policy ---


def test_an_untrained_residual_policy_is_the_reference() -> None:
    envs = gym.make_vec("textrl/Keyword-v0", num_envs=8)
    policy = make_policy(envs, seed=3, device="cpu")
    reference = ngram_of(envs.unwrapped.task)  # type: ignore[attr-defined]
    obs, _ = envs.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(10):
        expected = reference.next_log_probs(obs)
        np.testing.assert_allclose(policy.next_log_probs(obs), expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(policy.next_values(obs), 0.0)
        obs, *_ = envs.step(policy.step(obs, rng).actions)


@pytest.mark.parametrize("kind", ["residual", "residual_lm"])
def test_an_untrained_residual_policy_charges_no_kl_to_its_episodes(kind: str) -> None:
    task, _ = make(kind)
    policy = residual(task)
    like = tiny_task(limit=5)
    episodes = episodes_of(like, policy, all_episodes(like)[::5])
    assert task.load_reference is not None
    scores = task.load_reference().score(episodes.input_ids, episodes.attention_mask)
    rows, columns = episodes.response_places()
    expected = scores[rows, columns]
    np.testing.assert_allclose(episodes.log_probs[episodes.response_mask], expected, atol=1e-6)


def test_a_reference_with_impossible_tokens_can_be_trained_on() -> None:
    """Top-k references give most tokens no probability: 0 · log 0 is 0, and so is its gradient."""
    with np.errstate(divide="ignore"):
        table = np.log(np.array([[0, 0.5, 0.5], [0.25, 0.75, 0], [0.5, 0, 0.5]]))
    task = tiny_task(size=3, limit=2, prompts=("a",), reference=NGramModel(table))
    policy = residual(task)
    episodes = episodes_of(task, policy, [(0, (1, EOS)), (0, (EOS,)), (0, (1, 1))])
    found = policy.evaluate(episodes)
    assert bool(torch.isfinite(found.log_probs).all())
    assert bool(torch.isfinite(found.entropies).all())
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    np.testing.assert_allclose(found.entropies.detach().numpy(), entropy, atol=1e-6)
    (found.log_probs.sum() + found.entropies.sum()).backward()  # type: ignore[no-untyped-call]
    assert policy.head.weight.grad is not None
    assert bool(torch.isfinite(policy.head.weight.grad).all())


def test_other_seeds_give_other_weights_and_equal_seeds_equal_ones() -> None:
    task = tiny_task()
    first, same, other = (residual(task, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_making_a_policy_leaves_the_global_generator_as_it_was() -> None:
    task = tiny_task()
    before = torch.random.get_rng_state()
    residual(task)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="width must be a multiple of heads; got 10 and 4"):
        residual(tiny_task(), width=10, heads=4)


# --- the causal LM policy ---


def test_a_policy_of_the_reference_starts_as_its_copy() -> None:
    reference = causal_reference(tiny_gpt2())
    policy = CausalLMPolicy.of_reference(reference)
    task = tiny_task(limit=5, reference=reference)
    obs = observe(task, TEXTS)
    np.testing.assert_allclose(
        policy.next_log_probs(obs), reference.next_log_probs(obs), rtol=0, atol=1e-6
    )
    before = weights_hash(reference.model)
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    policy.evaluate(short_episodes(task, policy)).log_probs.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert weights_hash(reference.model) == before
    assert weights_hash(policy.model) != before
    assert not any(p.requires_grad for p in reference.model.parameters())
    assert all(p.requires_grad for p in policy.parameters())


def weights_hash(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def test_logits_beyond_the_environments_vocabulary_are_left_out() -> None:
    task = tiny_task(limit=5)
    policy = causal_policy(tiny_gpt2(11), vocabulary_size=4)
    assert policy.vocabulary_size == 4
    obs = observe(task, TEXTS)
    log_probs = policy.next_log_probs(obs)
    assert log_probs.shape == (5, 4)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1.0, atol=1e-6)
    twin = twin_of(policy)
    exact = enumerate_exactly(task, twin)
    episodes = episodes_of(task, policy, exact.played[::50])
    for row, log_prob in enumerate(exact.log_probs[::50]):
        found = episodes.log_probs[row, : episodes.lengths[row]]
        np.testing.assert_allclose(found, log_prob.detach().numpy(), atol=1e-5)


def test_a_model_with_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="the environment has 7 tokens, the model 4"):
        causal_policy(tiny_gpt2(), vocabulary_size=7)


# --- the fixed policy ---


def test_a_fixed_policy_is_its_language_model() -> None:
    model = random_ngram()
    policy = FixedPolicy(model)
    task = tiny_task(limit=5)
    obs = observe(task, TEXTS)
    step = policy.step(obs, np.random.default_rng(0))
    table = np.stack([model.table[text[-1]] for text in TEXTS])
    np.testing.assert_allclose(step.log_probs, table[np.arange(5), step.actions])
    np.testing.assert_allclose(step.entropies, -(np.exp(table) * table).sum(axis=1))
    np.testing.assert_allclose(policy.log_probs(obs, step.actions), step.log_probs)
    np.testing.assert_array_equal(step.values, np.zeros(5))
    greedy = policy.step(obs, np.random.default_rng(0), greedy=True)
    np.testing.assert_array_equal(greedy.actions, table.argmax(axis=1))
    for form in (obs, obs["input_ids"]):
        np.testing.assert_array_equal(policy.next_values(form), np.zeros(5))
    assert policy.vocabulary_size == 4


# --- saved and made by name ---


def padded(kind: str) -> Policy:
    """A policy whose model has more rows than the environment has tokens."""
    if kind == "padded_gpt2":
        return causal_policy(tiny_gpt2(11), vocabulary_size=4, sampling=Sampling(temperature=1.3))
    reference = causal_reference(tiny_gpt2(11), vocabulary_size=4)
    return residual(
        tiny_task(limit=5, reference=reference), away=0.5, sampling=Sampling(temperature=1.3)
    )


@pytest.mark.parametrize("kind", [*KINDS, "padded_gpt2", "padded_residual_lm"])
def test_a_saved_policy_answers_as_before(kind: str, tmp_path: Path) -> None:
    task = tiny_task(limit=5)
    policy = (
        padded(kind)
        if kind.startswith("padded")
        else make(kind, sampling=Sampling(temperature=1.3))[1]
    )
    policy.save(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy", device="cpu")
    assert type(loaded) is type(policy)
    assert loaded.sampling.temperature == 1.3
    assert loaded.vocabulary_size == policy.vocabulary_size == 4
    before, after = policy.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    obs = observe(task, TEXTS)
    np.testing.assert_array_equal(loaded.next_log_probs(obs), policy.next_log_probs(obs))
    np.testing.assert_array_equal(loaded.next_values(obs), policy.next_values(obs))
    assert all(p.requires_grad for p in loaded.parameters())


def test_a_folder_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    task = tiny_task(limit=5)
    obs = observe(task, TEXTS)
    for seed in (0, 1):
        own = tiny_task(limit=5, reference=causal_reference(tiny_gpt2(seed=seed)))
        policy = residual(own, away=0.5)
        policy.save(tmp_path / "policy")
        loaded = load_policy(tmp_path / "policy", device="cpu")
        np.testing.assert_array_equal(loaded.next_log_probs(obs), policy.next_log_probs(obs))


def test_a_folder_without_a_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"holds no policy: there is no policy\.json"):
        load_policy(tmp_path)


def test_an_unknown_kind_of_policy_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text('{"kind": "residuals"}')
    with pytest.raises(InvalidInputError, match="Did you mean 'residual'"):
        load_policy(tmp_path)


def test_the_environments_reference_decides_the_kind_of_policy(tmp_path: Path) -> None:
    table = make_policy(
        vector_env(tiny_task(), 2), device="cpu", sampling=Sampling(temperature=0.7)
    )
    assert isinstance(table, ResidualPolicy)
    assert table.sampling.temperature == 0.7
    task = tiny_task(reference=causal_reference(tiny_gpt2()))
    copied = make_policy(vector_env(task, 2), device="cpu")
    assert isinstance(copied, CausalLMPolicy)
    assert isinstance(task.load_reference and task.load_reference(), CausalLanguageModel)
    tiny_gpt2(seed=7).save_pretrained(tmp_path)
    read = make_policy(vector_env(tiny_task(), 2), model=str(tmp_path), device="cpu")
    assert isinstance(read, CausalLMPolicy)
    assert torch.equal(read.model.lm_head.weight, tiny_gpt2(seed=7).lm_head.weight)


def test_without_model_or_reference_there_is_no_policy_to_make() -> None:
    envs = gym.make_vec(
        "textrl/TextBandit-v0",
        num_envs=2,
        tokenizer=tiny_task().tokenizer,
        prompts=["a"],
        reward=lambda prompts, responses, **_: [0.0] * len(responses),
    )
    with pytest.raises(InvalidInputError, match="has no reference to start from"):
        make_policy(envs)


def test_a_reference_of_another_vocabulary_is_refused() -> None:
    envs = vector_env(tiny_task(reference=random_ngram(3)), 2)
    with pytest.raises(InvalidInputError, match="the environment has 4 tokens, the model 3"):
        make_policy(envs, device="cpu")


def gradient_of(policy: Policy, episodes: Any) -> Tensor:
    policy.zero_grad()
    policy.evaluate(episodes).log_probs.sum().backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.reshape(-1) for p in policy.parameters() if p.grad is not None])


def test_acting_does_not_disturb_the_gradients_of_training() -> None:
    task, policy = make("gpt2")
    episodes = short_episodes(task, policy)
    before = gradient_of(policy, episodes)
    policy.step(observe(task, TEXTS), np.random.default_rng(0))
    torch.testing.assert_close(gradient_of(policy, episodes), before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_drawn_from_what_is_no_number(kind: str) -> None:
    task, policy = make(kind)
    with torch.no_grad():
        next(policy.parameters()).fill_(math.nan)
    obs, _ = vector_env(task, 2).reset(seed=0)
    with pytest.raises(InvalidInputError, match="logits that are not finite"):
        policy.step(obs, np.random.default_rng(0))


@pytest.mark.parametrize("with_value_model", [False, True])
def test_a_policy_of_a_model_in_float64_acts_as_it_evaluates(with_value_model: bool) -> None:
    value_model = tiny_gpt2(seed=1).double() if with_value_model else None
    policy = CausalLMPolicy(
        tiny_gpt2().double(), vocabulary_size=4, value_model=value_model, device="cpu"
    )
    task = tiny_task(limit=5)
    obs, _ = vector_env(task, 2).reset(seed=0)
    step = policy.step(obs, np.random.default_rng(0))
    found = policy.log_probs(obs, step.actions)
    np.testing.assert_allclose(step.log_probs, found, rtol=0, atol=1e-12)
    assert np.isfinite(policy.next_values(obs)).all()
