"""The figures of docs/gradients.md, against brute force, closed forms and what theory says."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from textrl_agents.policies import TablePolicy
from textrl_benchmarks import gradient_page
from textrl_benchmarks.gradient_enumeration import (
    KL_USES,
    AllResponses,
    gradient_variances,
    kl_gradients,
)
from textrl_benchmarks.gradient_page import (
    ENVIRONMENTS,
    KL_ENVIRONMENT,
    all_responses,
    estimators,
    kl_use_rows,
    sampled_estimators,
)
from textrl_envs.environments import build_task
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum.solve import build_mdp

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def small() -> AllResponses:
    """Three kinds of prompts, 21 responses to each, of one or two tokens."""
    return all_responses("parity", {"max_new_tokens": 2, "least": 1})


@pytest.fixture(scope="module")
def variances() -> dict[str, dict[str, tuple[float, float]]]:
    return {
        name: gradient_variances(all_responses(task, settings))
        for name, (task, settings) in ENVIRONMENTS.items()
    }


# --- all responses ---


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_response_is_there_with_its_chance_and_its_score(name: str) -> None:
    responses = all_responses(*ENVIRONMENTS[name])
    chances = responses.chances()
    of_start = np.bincount(responses.start, chances)
    np.testing.assert_allclose(of_start, responses.start_chances, atol=1e-12)
    texts = np.where(responses.mask, responses.tokens, -1)
    assert len(np.unique(np.column_stack([responses.start, texts]), axis=0)) == len(texts)
    task, settings = ENVIRONMENTS[name]
    exact = TablePolicy(build_task(task, settings)).exact()
    assert chances @ responses.scores == pytest.approx(exact.rewards.mean(), abs=1e-12)


def test_scores_of_single_tokens_are_refused() -> None:
    mdp = build_mdp(build_task("length_hack", {"max_new_tokens": 2}))
    with pytest.raises(InvalidInputError, match="this task scores tokens"):
        AllResponses.of(mdp)


# --- variance, by brute force ---


def log_prob_gradients(responses: AllResponses) -> Floats:
    """Σ_t ∇ log π(a_t|s_t) of every response, by autograd, (R, numbers of the table)."""
    log_ref = torch.from_numpy(responses.mdp.log_ref)
    table = torch.zeros(responses.mdp.limit, *log_ref.shape, dtype=torch.float64)
    table.requires_grad_()
    rows = []
    for nodes, tokens, mask in zip(responses.nodes, responses.tokens, responses.mask, strict=True):
        log_prob = torch.zeros((), dtype=torch.float64)
        for time in range(mask.sum()):
            logits = log_ref[nodes[time]] + table[time, nodes[time]]
            log_prob = log_prob + logits.log_softmax(-1)[tokens[time]]
        rows.append(torch.autograd.grad(log_prob, table)[0].reshape(-1).numpy())
    return np.stack(rows)


def trace(gradients: Floats, chances: Floats) -> float:
    """Of the variance of vectors (n, D) with chances (n,)."""
    mean = chances @ gradients
    return float(chances @ ((gradients - mean) ** 2).sum(axis=1))


def both_traces(responses: AllResponses, size: int) -> tuple[float, float]:
    """Variance of an episode's part in groups of `size` with leave-one-out; 1 has no baseline."""
    slopes, scores, chances = log_prob_gradients(responses), responses.scores, responses.chances()
    within, vectors, weights = 0.0, [], []
    for start, share in enumerate(responses.start_chances):
        rows = np.flatnonzero(responses.start == start)
        groups = np.array(list(itertools.product(rows, repeat=size)))
        weight = np.prod(chances[groups] / share, axis=1)
        given = scores[groups]
        others = (given.sum(axis=1, keepdims=True) - given) / max(size - 1, 1)
        found = np.einsum("gk,gkd->gd", given - (others if size > 1 else 0.0), slopes[groups])
        within += share * size * trace(found / size, weight)
        vectors.append(found / size)
        weights.append(share * weight)
    return within, size * trace(np.concatenate(vectors), np.concatenate(weights))


@pytest.mark.parametrize(("name", "size"), [("none", 1), ("leave-one-out, K = 2", 2)])
def test_variances_are_those_of_all_groups_written_out(
    name: str, size: int, small: AllResponses
) -> None:
    found = gradient_variances(small, group_sizes=(2,))[name]
    assert found == pytest.approx(both_traces(small, size), rel=1e-10)


def test_a_state_baseline_changes_the_variance_by_brute_force_too(small: AllResponses) -> None:
    """V of a text is its mean score; here of each kind of prompt and each first token."""
    chances, scores = small.chances(), small.scores
    log_ref = torch.from_numpy(small.mdp.log_ref)
    gradients = np.zeros((len(scores), small.mdp.limit * log_ref.numel()))
    for i, (nodes, tokens, mask) in enumerate(
        zip(small.nodes, small.tokens, small.mask, strict=True)
    ):
        one = np.zeros((small.mdp.limit, *log_ref.shape))
        for time in range(mask.sum()):
            alike = (small.nodes[:, time] == nodes[time]) & small.mask[:, time]
            value = (chances * scores)[alike].sum() / chances[alike].sum()
            slope = -np.exp(small.mdp.log_ref[nodes[time]])
            slope[tokens[time]] += 1
            one[time, nodes[time]] = slope * (scores[i] - value)
        gradients[i] = one.reshape(-1)
    within = sum(
        share * trace(gradients[rows], chances[rows] / share)
        for start, share in enumerate(small.start_chances)
        for rows in [small.start == start]
    )
    expected = float(within), trace(gradients, chances)
    assert gradient_variances(small)["exact value of the text"] == pytest.approx(expected)


# --- variance, by theory ---


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_baselines_stand_in_the_order_that_theory_says(
    name: str, variances: dict[str, dict[str, tuple[float, float]]]
) -> None:
    for which in (0, 1):
        found = {baseline: traces[which] for baseline, traces in variances[name].items()}
        best = found.pop("optimal for each text")
        assert best < min(found.values())
        assert found["optimal constant"] <= found["constant: the mean return"]
        assert found["optimal constant"] < found["none"]
    given = [variances[name][f"leave-one-out, K = {size}"][0] for size in (2, 4, 8)]
    limit = variances[name]["mean of the prompt"][0]
    assert given[0] > given[1] > given[2] > limit
    # What the others' mean costs beside the exact one falls as 1 / (K - 1).
    excess = np.array(given) - limit
    np.testing.assert_allclose(excess * np.array([1, 3, 7]), excess[0], rtol=1e-9)


# --- Schulman's table ---

SCHULMAN = {
    0.1: {"k1": (0.0, 20.0), "k2": (0.002, 1.42), "k3": (0.0, 1.42)},
    1.0: {"k1": (0.0, 2.0), "k2": (0.25, 1.73), "k3": (0.0, 1.7)},
}
"""Bias and deviation over the KL, as he gives them from samples."""


@pytest.mark.parametrize("shift", SCHULMAN)
def test_schulmans_table_of_estimators(shift: float) -> None:
    for found in estimators(shift):
        bias, deviation = SCHULMAN[shift][found.name]
        assert found.bias == pytest.approx(bias, abs=6e-4)
        assert found.deviation == pytest.approx(deviation, rel=4e-3)


@pytest.mark.parametrize("shift", SCHULMAN)
def test_samples_agree_with_the_closed_forms(shift: float) -> None:
    samples = 200_000
    for exact, drawn in zip(
        estimators(shift), sampled_estimators(shift, samples=samples), strict=True
    ):
        assert exact.name == drawn.name
        assert drawn.bias == pytest.approx(exact.bias, abs=4 * exact.deviation / np.sqrt(samples))
        assert drawn.deviation == pytest.approx(exact.deviation, rel=0.03)


# --- uses of the KL ---


def test_the_kl_and_its_gradient_are_those_of_the_table_policy() -> None:
    task = build_task(*KL_ENVIRONMENT)
    policy = TablePolicy(task)
    responses = AllResponses.of(policy.mdp)
    away = torch.from_numpy(np.random.default_rng(1).normal(size=policy.table.shape))
    kl, gradients = kl_gradients(responses, away.clone().requires_grad_())

    def kl_at(table: torch.Tensor) -> float:
        with torch.no_grad():
            policy.table.copy_(table)
        return float(policy.exact().kls.mean())

    assert kl == pytest.approx(kl_at(away), abs=1e-12)
    direction = torch.from_numpy(np.random.default_rng(2).normal(size=policy.table.shape))
    slope = (kl_at(away + 1e-5 * direction) - kl_at(away - 1e-5 * direction)) / 2e-5
    assert gradients["KL"] @ direction.reshape(-1).numpy() == pytest.approx(slope, rel=1e-6)


def test_uses_of_the_kl_do_to_the_gradient_what_theory_says() -> None:
    kls, rows = kl_use_rows()
    assert list(rows) == list(KL_USES)
    assert kls[0] > 0.5 > 0.02 > kls[1]
    errors = {name: numbers[::3] for name, numbers in rows.items()}
    for name in KL_USES[:4]:
        assert max(errors[name]) < 1e-9
    # E[ℓ ∇ log π] is the gradient of the whole KL of a text.
    np.testing.assert_allclose(
        rows["k2 of each token as loss"], rows["whole KL of each text as loss"], atol=1e-9
    )
    for name in ("k2 of each token as loss", "k3 of each token as loss"):
        assert errors[name][0] > 0.1 > errors[name][1] > 0.01
    far, near = rows["k3 in the reward"][:3], rows["k3 in the reward"][3:]
    for _, cosine, size in (far, near):
        assert cosine < -0.4
        assert size > 0.01
    assert near[2] < 0.1 * far[2]
    assert rows["k1 as loss"][2] < 1e-9
    assert np.isnan(rows["k1 as loss"][1])


# --- the page ---


def test_the_page_there_is_is_the_page_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "gradients.md").read_text()
    page = tmp_path / "gradients.md"
    page.write_text(text)
    monkeypatch.setattr(gradient_page, "PAGE", page)
    gradient_page.main([])
    assert page.read_text() == text
    with pytest.raises(SystemExit, match="gradient_page"):
        gradient_page.main(["write"])
