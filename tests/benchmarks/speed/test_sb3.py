"""What is timed of Stable-Baselines3 is one and the same work."""

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.utils import obs_as_tensor

from textrl_agents.sb3 import EpisodeRolloutBuffer
from textrl_benchmarks.speed.sb3 import contenders, roll_out, update

ROWS, PROMPT, NEW = 4, 3, 6


@pytest.fixture
def models() -> dict[str, PPO]:
    """Returns them new for each test: one that has been trained says something else."""
    return contenders((1, 16, 2, 64), rows=ROWS, prompt=PROMPT, new=NEW)


def test_all_three_say_the_same_of_the_same_texts(models: dict[str, PPO]) -> None:
    some = next(iter(models.values())).env
    assert some is not None
    obs = obs_as_tensor(some.reset(), torch.device("cpu"))  # type: ignore[arg-type]
    tokens = torch.arange(ROWS) + 5
    found = [model.policy.evaluate_actions(obs, tokens) for model in models.values()]
    for values, log_probs, entropies in found[1:]:
        assert entropies is not None
        torch.testing.assert_close(log_probs, found[0][1], rtol=0, atol=1e-4)
        torch.testing.assert_close(values, found[0][0], rtol=0, atol=1e-4)
        torch.testing.assert_close(entropies, found[0][2], rtol=0, atol=1e-4)


def test_all_three_do_the_same_number_of_tokens(models: dict[str, PPO]) -> None:
    for model in models.values():
        assert roll_out(model)() == update(model)() == ROWS * NEW
        assert model.rollout_buffer.full


def test_they_differ_by_what_their_names_say(models: dict[str, PPO]) -> None:
    kinds = [type(model.rollout_buffer) for model in models.values()]
    assert kinds == [DictRolloutBuffer, DictRolloutBuffer, EpisodeRolloutBuffer]
    names = [type(model.policy).__name__ for model in models.values()]
    assert names == ["MultiInputActorCriticPolicy", "CausalLMPolicy", "CausalLMPolicy"]
    stored = [
        sum(column.nbytes for column in model.rollout_buffer.observations.values())  # type: ignore[attr-defined]
        for model in models.values()
    ]
    assert stored[:2] == [ROWS * NEW * (PROMPT + NEW) * 9] * 2
    assert stored[2] == 0


def test_every_roll_out_begins_with_nothing_remembered(models: dict[str, PPO]) -> None:
    model = list(models.values())[-1]
    roll_out(model)()
    reader = model.policy.network._decoder.reader  # type: ignore[union-attr]
    before = np.array(reader.version)  # type: ignore[union-attr]
    roll_out(model)()
    assert reader.version > before  # type: ignore[union-attr]
