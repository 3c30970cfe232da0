"""EpisodeRolloutBuffer beside SB3's own: the same tokens, the same numbers, each text once."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from tests.agents.sb3.networks import ROWS, collect, evaluated, long_task, model, network
from tests.agents.tiny import with_kl
from textrl_agents.episodes import Episodes
from textrl_agents.policies import NetworkPolicy
from textrl_agents.sb3 import EpisodeRolloutBuffer
from textrl_agents.sb3.texts import as_arrays
from textrl_envs.observations import ObsMode

STEPS = 7
either_form = pytest.mark.parametrize("obs", ["dict", "flat"])


# --- beside SB3's own, on the same rollouts ---


def minibatches(buffer: Any, batch_size: int | None) -> list[Any]:
    """Returns those of a rollout; in the place of `returns` stands which token it is."""
    with pytest.MonkeyPatch.context() as patch:
        tags = np.arange(STEPS * ROWS, dtype=np.float32).reshape(STEPS, ROWS)
        patch.setattr(buffer, "returns", tags)
        return list(buffer.get(batch_size))


def in_order(batches: list[Any], columns: list[torch.Tensor]) -> torch.Tensor:
    """Returns a column of minibatches as one, in the order of steps and rows."""
    order = torch.cat([batch.returns for batch in batches]).argsort()
    return torch.cat([column.flatten() for column in columns])[order].detach().double()


def read_one_by_one(plain: NetworkPolicy, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns values and log-probs of stock observations, by a network without any memory."""
    plain.forget()
    obs = as_arrays(batch.observations)
    found = plain.next_values(obs), plain.log_probs(obs, batch.actions.long().flatten().numpy())
    values, log_probs = (in_order([batch], [torch.from_numpy(column)]) for column in found)
    return values, log_probs


@pytest.mark.parametrize("ends", [False, True], ids=["16 steps each", "of any length"])
@either_form
def test_episodes_that_straddle_rollouts_are_as_in_the_stock_buffer(
    obs: ObsMode, ends: bool
) -> None:
    """Rollouts of 7 steps, episodes of 16; the stock observations are read again one by one."""
    task = long_task(ends=ends)
    stock = model(task, obs=obs)
    ours = model(task, obs=obs, rollout_buffer_class=EpisodeRolloutBuffer)
    plain = network("residual", task)
    lengths: list[int] = []
    for _ in range(6):
        expected_buffer, buffer = collect(stock), collect(ours)
        assert type(expected_buffer) is (DictRolloutBuffer if obs == "dict" else RolloutBuffer)
        for name in ("rewards", "episode_starts", "advantages", "returns", "values", "log_probs"):
            np.testing.assert_array_equal(
                getattr(buffer, name), getattr(expected_buffer, name), err_msg=name
            )
        expected, found = minibatches(expected_buffer, None), minibatches(buffer, 12)
        for name in ("actions", "old_values", "old_log_prob", "advantages"):
            columns = (
                in_order(batches, [getattr(batch, name) for batch in batches])
                for batches in (found, expected)
            )
            assert torch.equal(*columns), name
        again = [evaluated(ours, batch) for batch in found]
        for part, truth in enumerate(read_one_by_one(plain, expected[0])):
            column = in_order(found, [answer[part] for answer in again])
            torch.testing.assert_close(column, truth, rtol=0, atol=1e-5)
        lengths += [n for batch in found for n in batch.observations.lengths.tolist()]
    assert sum(lengths) == 6 * STEPS * ROWS
    if not ends:  # 42 steps a row: 7, 7, 2 | 5, 7, 4 | 3, 7
        assert sorted(lengths) == sorted(ROWS * [7, 7, 2, 5, 7, 4, 3, 7])


@pytest.mark.parametrize("algorithm", [PPO, A2C])
@pytest.mark.parametrize("kind", ["residual", "gpt2", "value model"])
@either_form
def test_an_update_of_sb3_is_the_same_from_either_buffer(
    algorithm: Any, kind: str, obs: ObsMode
) -> None:
    """In one minibatch, where the order of tokens does not matter."""
    task, found = long_task(), []
    for buffer in (None, EpisodeRolloutBuffer):
        made = model(
            task,
            kind,
            algorithm=algorithm,
            obs=obs,
            rollout_buffer_class=buffer,
            learning_rate=1e-3,
            ent_coef=0.01,
            # SGD, since Adam makes a step of full size of a gradient that is 0 but for rounding.
            optimizer={"optimizer_class": torch.optim.SGD},
            **({"n_epochs": 2, "clip_range_vf": 0.2} if algorithm is PPO else {}),
        )
        before = [weight.detach().clone() for weight in made.policy.parameters()]
        for _ in range(2):
            collect(made)
            made.train()
        after = [weight.detach().clone() for weight in made.policy.parameters()]
        found.append([new - old for old, new in zip(before, after, strict=True)])
    for stock, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-3, atol=1e-7)
    assert max(float(step.abs().max()) for step in found[0]) > 1e-4


def test_rewards_with_the_penalty_are_as_in_the_stock_buffer() -> None:
    task, found = long_task(), []
    for buffer in (None, EpisodeRolloutBuffer):
        scorer = network("gpt2", task)
        made = model(task, "gpt2", envs=with_kl(task, scorer, ROWS), rollout_buffer_class=buffer)
        found.append(collect(made).rewards)
    np.testing.assert_array_equal(*found)
    assert (found[0] != 0).mean() > 0.9


# --- by hand ---

SPACE = gym.spaces.Box(-1, 9, (6,), np.int64)
TOKENS = gym.spaces.Discrete(10)


def text(*ids: int) -> list[int]:
    return [*ids, *[-1] * (6 - len(ids))]


def filled(buffer: Any, rows: list[list[tuple[list[int], int, bool]]]) -> Any:
    """Adds steps of (observation, action, begins) a row; value and so on number the tokens."""
    for step, parts in enumerate(zip(*rows, strict=True)):
        obs, actions, begins = zip(*parts, strict=True)
        number = torch.arange(len(rows)) + 10.0 * step
        buffer.add(
            np.array(obs),
            np.array(actions)[:, None],
            number.numpy(),
            np.array(begins),
            number[:, None] + 0.25,
            number + 0.5,
        )
    return buffer


def made(steps: int, rows: int = 1, **settings: Any) -> EpisodeRolloutBuffer:
    return EpisodeRolloutBuffer(steps, SPACE, TOKENS, "cpu", n_envs=rows, **settings)


def pieces_of(buffer: Any) -> list[tuple[list[int], list[int]]]:
    """Returns (prompt, response) of each piece of a buffer that gives all at once."""
    (batch,) = buffer.get()
    episodes = batch.observations
    assert isinstance(episodes, Episodes)
    return [
        (ids[:begin].tolist(), ids[begin : begin + count].tolist())
        for ids, begin, count in zip(
            episodes.input_ids, episodes.prompt_lengths, episodes.lengths, strict=True
        )
    ]


def test_pieces_hold_the_first_observation_and_the_actions() -> None:
    rows = [
        [(text(1, 2), 3, True), (text(1, 2, 3), 4, False), (text(5), 6, True)],
        [(text(7, 7, 7), 8, False), (text(7), 9, True), (text(7, 9), 1, False)],
    ]
    buffer = filled(made(3, 2), rows)
    assert pieces_of(buffer) == [([1, 2], [3, 4]), ([5], [6]), ([7, 7, 7], [8]), ([7], [9, 1])]
    (batch,) = buffer.get()
    assert batch.actions.flatten().tolist() == [3, 4, 6, 8, 9, 1]
    assert batch.actions.dtype == torch.int64
    assert batch.old_values.tolist() == [0.25, 10.25, 20.25, 1.25, 11.25, 21.25]
    assert batch.old_log_prob.tolist() == [0.5, 10.5, 20.5, 1.5, 11.5, 21.5]
    assert buffer.observations == {}


def test_a_text_that_is_not_the_last_one_and_its_action_begins_a_piece() -> None:
    """As where an environment writes words of its own, or puts a text away without an end."""
    steps = [
        (text(1, 2), 3, True),
        (text(1, 2, 3, 9), 4, False),  # one more than the action
        (text(1, 2, 3, 9, 5), 6, False),  # another token than the action
        (text(1, 2, 3), 4, False),  # shorter
        (text(2, 2, 3, 4), 5, False),  # another beginning
        (text(2, 2, 3, 4, 5), 6, False),  # goes on
    ]
    assert pieces_of(filled(made(6), [steps])) == [
        ([1, 2], [3]),
        ([1, 2, 3, 9], [4]),
        ([1, 2, 3, 9, 5], [6]),
        ([1, 2, 3], [4]),
        ([2, 2, 3, 4], [5, 6]),
    ]


def test_an_episode_that_repeats_the_text_so_far_begins_a_piece() -> None:
    steps = [(text(1), 2, True), (text(1, 2), 3, True)]
    assert pieces_of(filled(made(2), [steps])) == [([1], [2]), ([1, 2], [3])]


def test_a_rollout_remembers_nothing_of_the_one_before() -> None:
    buffer = filled(made(2), [[(text(1), 2, True), (text(1, 2), 3, False)]])
    assert pieces_of(buffer) == [([1], [2, 3])]
    buffer.reset()
    filled(buffer, [[(text(1, 2, 3), 4, False), (text(1, 2, 3, 4), 5, False)]])
    assert pieces_of(buffer) == [([1, 2, 3], [4, 5])]


def test_what_was_given_may_be_changed_afterwards() -> None:
    buffer = made(1)
    obs, actions = np.array([text(1, 2)]), np.array([[3]])
    number = torch.zeros(1)
    buffer.add(obs, actions, np.zeros(1), np.ones(1), number[:, None], number)
    obs[:], actions[:] = 8, 8
    assert pieces_of(buffer) == [([1, 2], [3])]


@pytest.mark.parametrize(("batch_size", "count"), [(1, None), (16, 12), (64, 3), (10_000, 1)])
def test_minibatches_hold_whole_pieces_and_every_token_once(
    batch_size: int, count: int | None
) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(12):
        steps: list[tuple[list[int], int, bool]] = []
        while len(steps) < 16:
            length = int(rng.integers(1, 5))
            steps += [(text(*range(1, n + 2)), n + 2, n == 0) for n in range(length)]
        rows.append(steps[:16])
    buffer = filled(made(16, 12), rows)
    seen: list[list[float]] = []
    for _ in range(2):
        batches = list(buffer.get(batch_size))
        tokens = [batch.old_values.tolist() for batch in batches]
        assert sorted(x for part in tokens for x in part) == sorted(
            10.0 * step + row + 0.25 for step in range(16) for row in range(12)
        )
        for batch in batches:
            assert batch.observations.num_tokens == len(batch.old_values) > 0
        if count is not None:
            assert len(batches) == count
            # No piece has more than 4 tokens, and a cut falls beside its place by half of one.
            assert all(abs(len(part) - 192 / count) <= 4 for part in tokens)
        seen.append(tokens[0])
    assert count == 1 or seen[0] != seen[1]  # another order each time


def test_advantages_are_those_of_the_base_class() -> None:
    steps = [(text(1), 2, True), (text(1, 2), 3, False)]  # rewards 0 and 10
    buffer = filled(made(2, gamma=0.5, gae_lambda=0.8), [steps])
    buffer.compute_returns_and_advantage(torch.tensor([4.0]), np.zeros(1))
    last = 10 + 0.5 * 4 - 10.25
    first = 0 + 0.5 * 10.25 - 0.25 + 0.5 * 0.8 * last
    (batch,) = buffer.get()
    np.testing.assert_allclose(batch.advantages, [first, last], rtol=1e-6)
    np.testing.assert_allclose(batch.returns, [first + 0.25, last + 10.25], rtol=1e-6)
