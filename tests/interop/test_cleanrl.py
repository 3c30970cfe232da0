"""A single-file PPO, which imports no agent of this suite, against a known optimum."""

import ast

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.interop.examples import EXAMPLES, load_example, normalised_score, run_example

example = load_example("cleanrl_ppo")


def advantages(rewards: Tensor, values: Tensor, next_values: Tensor, is_end: Tensor) -> Tensor:
    found: Tensor = example.generalised_advantages(
        rewards, values, next_values, is_end, gamma=1.0, gae_lambda=1.0
    )
    return found


def test_an_advantage_is_the_return_to_come_less_the_value_and_stops_at_an_end() -> None:
    rewards = torch.tensor([[0.25], [1.0], [0.5]])
    values = torch.tensor([[0.1], [0.2], [0.3]])
    next_values = torch.tensor([[0.2], [0.0], [4.0]])  # it terminates in the second step
    is_end = torch.tensor([[False], [True], [False]])
    found = advantages(rewards, values, next_values, is_end)
    np.testing.assert_allclose(found[:, 0], [1.25 - 0.1, 1.0 - 0.2, 4.5 - 0.3], rtol=1e-6)


def test_a_truncated_step_is_worth_what_would_have_followed_it_and_nothing_of_the_next_text() -> (
    None
):
    rewards, values = torch.tensor([[0.25], [9.0]]), torch.tensor([[0.1], [0.2]])
    next_values, is_end = torch.tensor([[0.7], [0.0]]), torch.tensor([[True], [True]])
    found = advantages(rewards, values, next_values, is_end)
    np.testing.assert_allclose(found[0], [0.25 + 0.7 - 0.1], rtol=1e-6)


def test_with_a_smaller_lambda_each_step_trusts_the_value_of_the_next_one() -> None:
    """A_t = Σ_k (γ λ)^k δ_{t+k}, summed by hand."""
    deltas = [0.5 + 0.9 * 0.2 - 0.1, 1.0 + 0.9 * 0.0 - 0.2]
    found = example.generalised_advantages(
        torch.tensor([[0.5], [1.0]]),
        torch.tensor([[0.1], [0.2]]),
        torch.tensor([[0.2], [0.0]]),
        torch.tensor([[False], [True]]),
        gamma=0.9,
        gae_lambda=0.8,
    )
    np.testing.assert_allclose(
        found[:, 0], [deltas[0] + 0.9 * 0.8 * deltas[1], deltas[1]], rtol=1e-6
    )


def test_the_untrained_network_is_the_reference() -> None:
    network = example.TokenNetwork(5, 4)
    reference = torch.log_softmax(torch.randn(2, 5, generator=torch.manual_seed(0)), dim=1)
    obs = torch.tensor([[3, -1, -1, -1], [0, 4, 1, 2]])
    policy, values = network(obs, reference)
    torch.testing.assert_close(policy.logits, reference)
    assert not values.any()


def test_it_imports_environments_and_no_agents() -> None:
    tree = ast.parse((EXAMPLES / "cleanrl_ppo.py").read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert not [name for name in names if name and name.startswith(("textrl_agents", "stable"))]


@pytest.mark.slow
def test_it_comes_near_the_optimum_of_keyword_and_not_above_it() -> None:
    """Measured for 60,000 tokens, seed 1: .873 ± .005, where the reference is 0."""
    printed = run_example("cleanrl_ppo", "--total-tokens", "60000", "--seed", "1")
    score, error = normalised_score(printed)
    assert score - 4 * error > 0.6
    assert score - 4 * error < 1
