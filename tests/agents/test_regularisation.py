"""Dropout, frozen layers and weight decay, on real decoders of two families."""

import math

import pytest
import torch
from torch import Tensor

from tests.agents.tiny import tiny_gpt2, tiny_llama
from textrl_agents.regularisation import (
    blocks,
    decay_groups,
    dropout,
    frozen,
    lowest_parameters,
)
from textrl_envs.errors import InvalidInputError

IDS = torch.tensor([[1, 2, 3, 1]])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def hidden(model: torch.nn.Module) -> Tensor:
    found: Tensor = model.base_model(input_ids=IDS, use_cache=False).last_hidden_state  # type: ignore[operator]
    return found


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_what_is_dropped_is_decided_by_the_generator_alone(make: type) -> None:
    model = make().eval()
    trunk, plain = model.base_model, hidden(model)
    state = torch.get_rng_state()
    found = []
    for seed in (0, 0, 1):
        with dropout(trunk, 0.5, generator(seed)):
            found.append(hidden(model))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.allclose(found[0], plain)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(hidden(model), plain)  # and afterwards nothing is


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_a_rate_of_0_changes_nothing(make: type) -> None:
    model = make().eval()
    plain = hidden(model)
    with dropout(model.base_model, 0.0, generator()):
        assert torch.equal(hidden(model), plain)


def test_that_share_is_dropped_and_the_mean_stays() -> None:
    model = tiny_gpt2().eval().requires_grad_(False)
    mlp, x = model.base_model.h[0].mlp, torch.randn(1, 4, 16, generator=generator())
    plain = mlp(x)
    with dropout(model.base_model, 0.25, generator()):
        found = torch.stack([mlp(x) for _ in range(4000)])
    share = float((found == 0).double().mean())
    assert share == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / found.numel()))
    kept = found[0] != 0
    torch.testing.assert_close(found[0][kept], plain[kept] / 0.75)
    # The deviation of a mean of 4,000 is √(p / (1 − p)) |x| / √4000.
    limit = 5 * math.sqrt(0.25 / 0.75 / 4000) * float(plain.abs().max())
    assert float((found.mean(0) - plain).abs().max()) < limit


@pytest.mark.parametrize("network", [None, torch.nn.Linear(2, 2)])
def test_a_network_without_known_layers_is_refused(network: torch.nn.Module | None) -> None:
    with (
        pytest.raises(InvalidInputError, match=r"dropout needs a Transformers decoder.*Set it to"),
        dropout(network, 0.1, generator()),
    ):
        pass
    with pytest.raises(InvalidInputError, match=r"frozen_layers must be at most 0.*got 1"):
        lowest_parameters(network, 1)
    assert lowest_parameters(network, 0) == []


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_frozen_weights_take_no_gradients_until_the_end(make: type) -> None:
    model = make()
    trunk = model.base_model
    lowest = lowest_parameters(trunk, 1)
    ids = {id(p) for p in lowest}
    assert ids >= {id(p) for p in blocks(trunk)[0].parameters()}
    assert id(trunk.get_input_embeddings().weight) in ids
    assert not ids & {id(p) for p in blocks(trunk)[1].parameters()}
    with frozen(lowest):
        model(input_ids=IDS, labels=IDS).loss.backward()
        assert all(p.grad is None for p in lowest)
    assert all(p.grad is not None for p in blocks(trunk)[1].parameters())
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(InvalidInputError, match=r"at most 2, the blocks of .*Model; got 3"):
        lowest_parameters(trunk, 3)


def test_matrices_decay_and_nothing_else_does() -> None:
    model = tiny_gpt2()
    matrices, others = decay_groups(list(model.parameters()), weight_decay=0.3)
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert {p.ndim for p in matrices["params"]} == {2}
    assert {p.ndim for p in others["params"]} == {1}
    assert len(matrices["params"]) + len(others["params"]) == len(list(model.parameters()))
