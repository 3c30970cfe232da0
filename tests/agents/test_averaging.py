"""WeightAverage against the sum that it stands for, and as agents use it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.agents.tiny import residual, tiny_task, with_kl
from textrl_agents import StopTraining
from textrl_agents.averaging import WeightAverage
from textrl_agents.policies import Policy
from textrl_agents.reinforce import REINFORCE, REINFORCEConfig
from textrl_envs.errors import InvalidInputError

DECAY = 0.8


def walk(steps: int) -> tuple[WeightAverage, nn.Parameter, list[Tensor]]:
    """Returns an average over so many random steps of one weight, the weight, and its path."""
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    average, path = WeightAverage([parameter], decay=DECAY), []
    for _ in range(steps):
        with torch.no_grad():
            parameter.add_(torch.randn(3, generator=generator, dtype=torch.float64))
        average.update()
        path.append(parameter.detach().clone())
    return average, parameter, path


def weighted_sum(path: list[Tensor]) -> Tensor:
    """0.8^n x_0 + 0.2 Σ_k 0.8^(n−k) x_k, whose weights sum to 1."""
    last = len(path) - 1
    weights = [DECAY**last] + [(1 - DECAY) * DECAY ** (last - k) for k in range(1, last + 1)]
    assert sum(weights) == pytest.approx(1.0)
    return torch.stack([w * x for w, x in zip(weights, path, strict=True)]).sum(dim=0)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_it_is_the_weighted_sum_of_the_path(steps: int) -> None:
    average, parameter, path = walk(steps)
    average.exchange()
    torch.testing.assert_close(parameter.detach(), weighted_sum(path))


def test_exchanged_twice_all_is_as_it_was() -> None:
    average, parameter, path = walk(4)
    average.exchange()
    assert average.is_exchanged
    average.exchange()
    assert not average.is_exchanged
    assert torch.equal(parameter.detach(), path[-1])
    average.exchange()
    torch.testing.assert_close(parameter.detach(), weighted_sum(path))


def test_before_the_first_update_there_is_nothing_to_exchange() -> None:
    average, parameter, _ = walk(0)
    average.exchange()
    assert not average.is_exchanged
    assert not parameter.detach().any()


def test_a_state_is_gone_on_from() -> None:
    average, parameter, path = walk(3)
    again = WeightAverage([parameter], decay=DECAY)
    again.set_state(average.state())
    again.update()
    again.exchange()
    torch.testing.assert_close(parameter.detach(), weighted_sum([*path, path[-1]]))


# --- in an agent ---


def flat(policy: Policy) -> Tensor:
    return torch.cat([p.detach().flatten() for p in policy.parameters()])


def make_agent(decay: float | None) -> REINFORCE:
    config = REINFORCEConfig(episodes_per_batch=32, learning_rate=1e-2, average_decay=decay)
    return REINFORCE(residual(tiny_task()), config=config, seed=5)


def test_once_trained_the_policy_is_the_average_over_its_iterations() -> None:
    """And the training is the one without: the average is looked at by nobody meanwhile."""
    plain, averaged = make_agent(None), make_agent(DECAY)
    path: list[Tensor] = []

    def note(row: Mapping[str, float]) -> None:
        path.append(flat(plain.policy))

    plain.learn(with_kl(tiny_task(), plain.policy), total_tokens=300, progress=note)
    averaged.learn(with_kl(tiny_task(), averaged.policy), total_tokens=300)
    assert averaged.log.rows == plain.log.rows
    assert len(path) > 3
    torch.testing.assert_close(flat(averaged.policy), weighted_sum(path))
    assert not torch.equal(flat(averaged.policy), path[-1])


@pytest.mark.parametrize("stop_at", [1, 3])
def test_a_run_saved_and_loaded_goes_on_as_if_it_had_never_stopped(
    stop_at: int, tmp_path: Path
) -> None:
    """The folder holds the averaged weights, to be used, and those that training goes on from."""

    def stop(row: Mapping[str, float]) -> None:
        if row["iteration"] == stop_at:
            raise StopTraining

    whole, agent = make_agent(DECAY), make_agent(DECAY)
    whole.learn(with_kl(tiny_task(), whole.policy), total_tokens=300)
    agent.learn(with_kl(tiny_task(), agent.policy), total_tokens=300, progress=stop)
    agent.save(tmp_path / "agent")
    loaded = REINFORCE.load(tmp_path / "agent", device="cpu")
    assert torch.equal(flat(loaded.policy), flat(agent.policy))
    loaded.learn(with_kl(tiny_task(), loaded.policy), total_tokens=300)
    assert loaded.log.rows == whole.log.rows
    assert torch.equal(flat(loaded.policy), flat(whole.policy))


def test_what_acts_is_the_average_and_not_what_was_remembered_of_the_weights() -> None:
    agent = make_agent(DECAY)
    envs = with_kl(tiny_task(), agent.policy)
    agent.learn(envs, total_tokens=300)
    obs, _ = envs.reset(seed=0)
    found = agent.policy.next_log_probs(obs)
    agent.policy.forget()
    np.testing.assert_allclose(found, agent.policy.next_log_probs(obs), atol=1e-6)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(InvalidInputError, match=r"average_decay must be in \[0, 1\) or None"):
        REINFORCEConfig(average_decay=decay)
