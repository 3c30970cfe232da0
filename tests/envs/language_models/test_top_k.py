"""TopKModel: k tokens, the same however they are asked for, and a policy that keeps to them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models import NGramModel
from textrl_envs.language_models.base import LanguageModel
from textrl_envs.language_models.top_k import TopKModel
from textrl_envs.task import Task

BuildLM = Callable[..., Any]
V = 32


def random_ngram(seed: int = 0) -> NGramModel:
    logits = np.random.default_rng(seed).normal(size=(V, V))
    return NGramModel(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


def gpt2(build_lm: BuildLM, *, double: bool = True, **options: Any) -> LanguageModel:
    from textrl_envs.language_models.causal import CausalLanguageModel

    model = build_lm("GPT2", n_head=2, n_layer=2, n_embd=32)
    return CausalLanguageModel(model.double() if double else model, device="cpu", **options)


@pytest.fixture(params=["ngram", "gpt2"])
def inner(request: pytest.FixtureRequest, build_lm: BuildLM) -> LanguageModel:
    return random_ngram() if request.param == "ngram" else gpt2(build_lm)


@pytest.fixture(scope="module")
def batch() -> tuple[Any, Any]:
    """Returns ids and mask of six texts of 3 to 9 tokens."""
    rng = np.random.default_rng(1)
    mask = np.arange(9) < np.array([3, 9, 5, 4, 9, 7])[:, None]
    return np.where(mask, rng.integers(2, V, size=mask.shape), 0), mask.astype(np.int8)


def observation(batch: tuple[Any, Any]) -> dict[str, Any]:
    return dict(zip(("input_ids", "attention_mask"), batch, strict=True))


def test_the_likeliest_tokens_are_kept_in_proportion(inner: LanguageModel, batch: Any) -> None:
    full = np.exp(inner.next_log_probs(observation(batch)))
    rows = np.exp(TopKModel(inner, 3).next_log_probs(observation(batch)))
    for before, after in zip(full, rows, strict=True):
        kept = sorted(range(V), key=lambda token: before[token])[-3:]
        expected = np.zeros(V)
        expected[kept] = before[kept] / sum(before[kept])
        np.testing.assert_allclose(after, expected, rtol=0, atol=1e-12)
        assert np.count_nonzero(after) == 3


def test_of_equally_likely_tokens_the_first_are_kept() -> None:
    table = np.log(np.tile([0.2, 0.1, 0.2, 0.2, 0.1, 0.2], (6, 1)))
    for k, kept in ((1, [0]), (2, [0, 2]), (3, [0, 2, 3]), (5, [0, 1, 2, 3, 5])):
        row = TopKModel(NGramModel(table), k).next_log_probs(np.array([[0]]))[0]
        assert np.flatnonzero(np.isfinite(row)).tolist() == kept


def test_all_tokens_kept_is_the_model_itself(inner: LanguageModel, batch: Any) -> None:
    rows = TopKModel(inner, V).next_log_probs(observation(batch))
    np.testing.assert_allclose(rows, inner.next_log_probs(observation(batch)), rtol=0, atol=1e-12)


def test_a_model_that_keeps_few_tokens_may_be_cut_further(inner: LanguageModel, batch: Any) -> None:
    twice = TopKModel(TopKModel(inner, 2), 5).next_log_probs(observation(batch))
    once = TopKModel(inner, 2).next_log_probs(observation(batch))
    np.testing.assert_allclose(twice, once, rtol=0, atol=1e-12)


def test_all_questions_have_the_same_answers(inner: LanguageModel, batch: Any) -> None:
    model, (ids, mask) = TopKModel(inner, 20), batch
    scores = model.score(ids, mask)
    rows, columns = np.nonzero(mask)
    at = model.log_probs_at(ids, mask, (rows, columns))
    for row, column, log_probs in zip(rows, columns, at, strict=True):
        obs = {"input_ids": ids, "attention_mask": mask * (np.arange(9) <= column)}
        following = model.next_log_probs(obs)[row]
        np.testing.assert_allclose(log_probs, following, rtol=0, atol=1e-12)
        if column + 1 < mask[row].sum():
            token = ids[row, column + 1]
            chosen = model.log_probs(obs, ids[:, column + 1])[row]
            np.testing.assert_allclose(
                [chosen, scores[row, column + 1]], following[token], rtol=0, atol=1e-12
            )
    assert np.isneginf(scores).any()  # 20 of 32 tokens are kept: some are not
    assert np.isfinite(scores[:, 1:][mask[:, 1:] != 0]).any()
    assert not scores[:, 0].any()
    assert not scores[mask == 0].any()


def test_answers_are_float64_whatever_the_model(build_lm: BuildLM, batch: Any) -> None:
    model, (ids, mask) = TopKModel(gpt2(build_lm, double=False), 4), batch
    places = (np.array([0]), np.array([1]))
    answers = (
        model.next_log_probs(observation(batch)),
        model.log_probs(observation(batch), ids[:, 0]),
        model.log_probs_at(ids, mask, places),
        model.score(ids, mask),
    )
    assert all(answer.dtype == np.float64 for answer in answers)
    total = np.exp(answers[0]).sum(axis=1)
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [0, -1, V + 1, 2.0, True, "3"])
def test_a_number_out_of_range_is_refused(k: Any) -> None:
    with pytest.raises(InvalidInputError, match="k must be an integer of 1 to 32"):
        TopKModel(random_ngram(), k)


def test_forgetting_is_passed_on() -> None:
    class Forgetful(NGramModel):
        times = 0

        def forget(self) -> None:
            self.times += 1

    inner = Forgetful(random_ngram().table)
    TopKModel(inner, 3).forget()
    assert inner.times == 1


def test_it_is_saved_and_loaded(inner: LanguageModel, batch: Any, tmp_path: Path) -> None:
    model = TopKModel(inner, 4)
    model.save(tmp_path)
    loaded = TopKModel.load(tmp_path)
    assert (loaded.k, loaded.vocabulary_size) == (4, V)
    np.testing.assert_array_equal(loaded.score(*batch), model.score(*batch))


def test_a_smaller_vocabulary_survives_saving(
    build_lm: BuildLM, batch: Any, tmp_path: Path
) -> None:
    TopKModel(gpt2(build_lm, vocabulary_size=30), 30).save(tmp_path)
    loaded = TopKModel.load(tmp_path)
    assert loaded.next_log_probs(observation(batch)).shape == (6, 30)


# --- a policy over it ---


@pytest.fixture
def task(inner: LanguageModel, make_task: Callable[..., Task]) -> Task:
    model = TopKModel(inner, 3)
    return make_task(load_reference=lambda: model, kl_coefficient=0.1)


def moved_policy(task: Task) -> Any:
    """Returns a small policy whose heads were moved far from 0."""
    import torch

    from textrl_agents.policies import ResidualPolicy, make_policy
    from textrl_envs.vector_env import TextVectorEnv

    policy = make_policy(TextVectorEnv(task, num_envs=2), device="cpu")
    assert isinstance(policy, ResidualPolicy)
    with torch.no_grad():
        policy.head.weight.normal_(0, 1, generator=torch.Generator().manual_seed(0))
    return policy


def episodes_of(task: Task, policy: Any) -> Any:
    from textrl_agents.collector import Collector
    from textrl_envs.vector_env import TextVectorEnv
    from textrl_envs.wrappers.vector import KLPenalty

    envs = KLPenalty(TextVectorEnv(task, num_envs=8), policy=policy)
    return Collector(envs).collect(policy, 64, seed=[0])


def test_a_new_policy_is_the_reference(task: Task, batch: Any) -> None:
    from textrl_agents.policies import make_policy
    from textrl_envs.vector_env import TextVectorEnv

    assert task.load_reference is not None
    policy = make_policy(TextVectorEnv(task, num_envs=2), device="cpu")
    np.testing.assert_allclose(
        np.exp(policy.next_log_probs(observation(batch))),
        np.exp(task.load_reference().next_log_probs(observation(batch))),
        rtol=0,
        atol=1e-6,
    )


def test_a_policy_never_leaves_the_kept_tokens(task: Task, batch: Any) -> None:
    assert task.load_reference is not None
    policy, reference = moved_policy(task), task.load_reference()
    before, after = (m.next_log_probs(observation(batch)) for m in (reference, policy))
    np.testing.assert_array_equal(np.isneginf(before), np.isneginf(after))
    assert np.abs(np.exp(before) - np.exp(after)).max() > 0.1
    episodes = episodes_of(task, policy)  # the wrapper refuses a token without probability
    assert episodes.kl.mean() > 0.1
    assert np.isfinite(episodes.returns).all()


def test_tokens_without_probability_leave_numbers_and_gradients_finite(task: Task) -> None:
    import torch

    from textrl_agents.policies import Sampling

    policy = moved_policy(task)
    policy.sampling = Sampling(temperature=0.7)
    evaluated = policy.evaluate(episodes_of(task, policy))
    numbers = (evaluated.log_probs, evaluated.entropies, evaluated.values)
    assert all(torch.isfinite(number).all() for number in numbers)
    assert (evaluated.entropies <= np.log(3) + 1e-6).all()  # of three tokens
    assert (evaluated.entropies > 0).all()
    sum(number.sum() for number in numbers).backward()
    gradients = [p.grad for p in policy.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert policy.head.weight.grad.abs().max() > 1e-3


def test_entropies_are_those_of_the_distribution(task: Task, batch: Any) -> None:
    policy = moved_policy(task)
    entropies = policy.step(observation(batch), np.random.default_rng(0)).entropies
    log_probs = policy.next_log_probs(observation(batch))
    terms = np.exp(log_probs) * np.where(np.isfinite(log_probs), log_probs, 0.0)
    np.testing.assert_allclose(entropies, -terms.sum(axis=1), rtol=0, atol=1e-6)


def test_a_policy_is_saved_and_loaded_with_its_reference(
    task: Task, batch: Any, tmp_path: Path
) -> None:
    from textrl_agents.policies import ResidualPolicy, load_policy

    policy = moved_policy(task)
    policy.save(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy", device="cpu")
    assert isinstance(loaded, ResidualPolicy)
    assert isinstance(loaded.reference, TopKModel)
    np.testing.assert_array_equal(loaded.reference.score(*batch), policy.reference.score(*batch))
    np.testing.assert_array_equal(
        loaded.next_log_probs(observation(batch)), policy.next_log_probs(observation(batch))
    )
