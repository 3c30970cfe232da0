"""PPO-ptx: plain text as blocks, what PPO's gradient gains by them, and what is not forgotten."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.agents.expectation import TOLERANCE, precise
from tests.agents.tiny import (
    EOS,
    Floats,
    all_episodes,
    episodes_of,
    flat_gradient,
    gradients_of_update,
    next_outputs,
    relative_error,
    residual,
    tiny_task,
    twin_of,
    with_kl,
)
from textrl_agents import StopTraining
from textrl_agents.demonstrations import text_episodes
from textrl_agents.episodes import Episodes
from textrl_agents.policies import Policy, TablePolicy
from textrl_agents.ppo import PPO, PPOConfig
from textrl_envs.errors import InvalidInputError

TEXT = "a b c c b a b c a a c\n"
BLOCKS = [[1, 2, 3, 3, 2, 1], [2, 3, 1, 1, 3, EOS]]
"""The text in tokens, EOS behind it, in blocks of 6, the length of the task's texts."""


@pytest.fixture
def plain_text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def make_agent(policy: Policy, path: Path | None, **settings: Any) -> PPO:
    given = {"epochs": 1, "minibatches": 1, "episodes_per_batch": 32, **settings}
    if path is not None:
        given = {"pretraining_coefficient": 1.0, "pretraining_text": str(path), **given}
    return PPO(policy, config=PPOConfig(**given), seed=3)


def texts_of(episodes: Episodes) -> list[list[int]]:
    lengths = episodes.attention_mask.sum(axis=1)
    return [ids[:n].tolist() for ids, n in zip(episodes.input_ids, lengths, strict=True)]


# --- as episodes ---


def test_a_text_is_cut_into_blocks_whose_first_token_is_given(plain_text: Path) -> None:
    found = text_episodes(plain_text, tiny_task())
    assert texts_of(found) == BLOCKS
    assert found.prompt_ids.tolist() == [[1], [2]]
    assert found.lengths.tolist() == [5, 5]
    for row, block in enumerate(BLOCKS):
        assert found.response_ids[row, :5].tolist() == block[1:]


def test_each_line_of_a_jsonl_file_is_a_text_that_ends(tmp_path: Path) -> None:
    """A block of one token alone has nothing to learn, and is left out."""
    path = tmp_path / "texts.jsonl"
    lines = ["a b", {"text": "c"}, "a b c a b c"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = text_episodes(path, tiny_task())
    assert texts_of(found) == [[1, 2, EOS], [3, EOS], [1, 2, 3, 1, 2, 3]]


def test_what_was_never_sampled_is_0(plain_text: Path) -> None:
    found = text_episodes(plain_text, tiny_task())
    for name in ("log_probs", "values", "entropies", "task_rewards", "rewards"):
        assert not getattr(found, name).any()
    assert found.ref_log_probs is None


# --- in the gradient of PPO ---


def minus_log_likelihood(policy: Policy) -> Tensor:
    """−Σ log π of the tokens of all blocks, each prefix read by itself."""
    total = torch.zeros((), dtype=torch.float64)
    for block in BLOCKS:
        for t in range(1, len(block)):
            total = total - next_outputs(policy, [tuple(block[:t])])[0][0, block[t]]
    return total


def gradient_of_batch(policy: Policy, path: Path | None, **settings: Any) -> Floats:
    """Of all responses to all prompts, once each."""
    task = tiny_task()
    agent = make_agent(policy, path, **settings)
    agent.learn(with_kl(task, policy), total_tokens=0)  # the text is read, and nothing played
    (found,) = gradients_of_update(agent, episodes_of(task, policy, all_episodes(task)))
    return found


@pytest.mark.parametrize("micro_batch_size", [1, 128])
@pytest.mark.parametrize("coefficient", [0.3, 2.0])
def test_the_gradient_gains_the_coefficient_times_that_of_the_mean_nll(
    coefficient: float, micro_batch_size: int, plain_text: Path
) -> None:
    policy = precise(tiny_task(), away=0.5)
    twin = twin_of(policy)
    settings: dict[str, Any] = {"micro_batch_size": micro_batch_size}
    alone = gradient_of_batch(policy, None, **settings)
    both = gradient_of_batch(policy, plain_text, pretraining_coefficient=coefficient, **settings)
    expected = coefficient * flat_gradient(minus_log_likelihood(twin) / 10, twin)
    assert relative_error(both - alone, expected) < TOLERANCE


def test_instructgpts_coefficient_is_ours_times_a_ratio_of_mean_lengths(plain_text: Path) -> None:
    """Its objective adds γ times the mean log-likelihood of a text to the mean of an episode."""
    task = tiny_task()
    policy = precise(task, away=0.5)
    twin, ours = twin_of(policy), 0.4
    alone = gradient_of_batch(policy, None)
    both = gradient_of_batch(policy, plain_text, pretraining_coefficient=ours)
    mean_response = np.mean([len(y) for _, y in all_episodes(task)])
    mean_text = 5  # learnt tokens of a block
    gamma = ours * mean_response / mean_text
    expected = gamma * flat_gradient(minus_log_likelihood(twin) / len(BLOCKS), twin)
    assert relative_error((both - alone) * mean_response, expected) < TOLERANCE


def test_the_loss_of_the_text_is_logged(plain_text: Path) -> None:
    task = tiny_task()
    policy = precise(task, away=0.5)
    agent = make_agent(policy, plain_text, learning_rate=1e-12)
    (row,) = agent.learn(with_kl(task, policy), total_tokens=1).rows
    expected = float(minus_log_likelihood(twin_of(policy)).detach()) / 10
    assert row["pretraining_loss"] == pytest.approx(expected, rel=1e-6)


# --- what it is for ---


def test_the_text_is_not_forgotten(plain_text: Path) -> None:
    """Paid for responses alone the policy drifts from the text; mixed in, it is learnt."""
    likelihoods = []
    for path in (None, plain_text):
        task = tiny_task(beta=0.0)
        policy = residual(task)
        settings = {"learning_rate": 0.02, "learning_rate_schedule": "constant", "epochs": 4}
        agent = make_agent(policy, path, **settings)
        before = float(minus_log_likelihood(twin_of(policy)).detach())
        agent.learn(with_kl(task, policy), total_tokens=1_500)
        likelihoods.append(before - float(minus_log_likelihood(twin_of(policy)).detach()))
    assert likelihoods[0] < 0 < likelihoods[1]


def test_a_run_saved_and_loaded_goes_on_to_the_same_bytes(plain_text: Path, tmp_path: Path) -> None:
    def stop(row: Mapping[str, float]) -> None:
        if row["iteration"] == 2:
            raise StopTraining

    def begin() -> PPO:
        return make_agent(residual(tiny_task()), plain_text, minibatches=32)

    whole, agent = begin(), begin()
    whole.learn(with_kl(tiny_task(), whole.policy), total_tokens=300)
    agent.learn(with_kl(tiny_task(), agent.policy), total_tokens=300, progress=stop)
    agent.save(tmp_path / "agent")
    loaded = PPO.load(tmp_path / "agent", device="cpu")
    loaded.learn(with_kl(tiny_task(), loaded.policy), total_tokens=300)
    assert len(whole.log.rows) > 3
    assert loaded.log.rows == whole.log.rows


# --- errors ---


def test_a_table_cannot_read_other_texts(plain_text: Path) -> None:
    task = tiny_task()
    agent = make_agent(TablePolicy(task), plain_text)
    with pytest.raises(InvalidInputError, match="A TablePolicy reads the environment's own texts"):
        agent.learn(with_kl(task, agent.policy), total_tokens=1)


def test_a_file_that_gives_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('""\n')
    with pytest.raises(InvalidInputError, match=r"texts\.jsonl"):
        text_episodes(path, tiny_task())
    with pytest.raises(InvalidInputError, match="Cannot read training data"):
        text_episodes(tmp_path / "none.txt", tiny_task())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pretraining_coefficient": -1.0}, "pretraining_coefficient must be 0 or more"),
        ({"pretraining_coefficient": 1.0}, "pretraining_text must be given where"),
        ({"pretraining_text": "text.txt"}, "pretraining_text must be given where"),
    ],
)
def test_a_coefficient_and_a_text_belong_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        PPOConfig(**settings)
