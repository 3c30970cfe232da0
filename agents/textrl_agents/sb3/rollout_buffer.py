"""EpisodeRolloutBuffer: a rollout buffer of Stable-Baselines3 that keeps each text once.

A text grows by one token a step, so the observations of an episode are the prefixes of its last.
"""

from collections.abc import Generator, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples
from torch import Tensor

from textrl_agents.episodes import Episodes
from textrl_envs.observations import read_observation

__all__ = ["EpisodeRolloutBuffer"]

Ints = NDArray[np.int64]


class EpisodeRolloutBuffer(DictRolloutBuffer):
    """Keeps the pieces of episodes that a rollout holds, and gives them whole.

    A piece is a text and the tokens that were added to it in one row, in the rollout: an episode,
    or what lies in the rollout of one that began before it or goes on behind it. It is kept as the
    first observation and the actions. `get` yields `Episodes` in place of observations, whose
    prompts are the first observations and whose responses are the actions, so that a policy that
    can read them (`CausalLMPolicy`) evaluates a piece in one pass.

    A minibatch has whole pieces, and so about `batch_size` tokens.

    Args:
        buffer_size: steps of a rollout.
        observation_space: of a text environment, either form.
        action_space: its tokens.
        device: where tensors are given.
        gae_lambda: λ of generalised advantage estimation.
        gamma: the discount.
        n_envs: N, rows of the environment.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        device: torch.device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
    ) -> None:
        # The base class is told of no observations, and keeps none: neither form is kept padded.
        nothing = gym.spaces.Dict({})
        super().__init__(
            buffer_size, nothing, action_space, device, gae_lambda=gae_lambda, gamma=gamma,
            n_envs=n_envs,
        )  # fmt: skip
        self.observation_space = observation_space  # type: ignore[assignment]

    def reset(self) -> None:
        """Drops the rollout."""
        super().reset()
        self._is_first: NDArray[np.bool_] = np.zeros((self.n_envs, self.buffer_size), np.bool_)
        self._first_texts: list[list[Ints]] = [[] for _ in range(self.n_envs)]
        # What each row's next observation is, if it goes on; no text has the length -1.
        self._next_ids: Ints = np.zeros((self.n_envs, 0), np.int64)
        self._next_lengths: Ints = np.full(self.n_envs, -1)

    def add(
        self,
        obs: Any,  # noqa: ANN401 - either form
        action: NDArray[np.int64],
        reward: NDArray[np.floating[Any]],
        episode_start: NDArray[Any],
        value: Tensor,
        log_prob: Tensor,
    ) -> None:
        """Takes one step of all rows.

        A row begins a piece where it begins an episode, and where its observation is not the last
        one and its action.
        """
        ids, lengths = read_observation(obs)
        is_first = np.asarray(episode_start, np.bool_) | ~self._goes_on(ids, lengths)
        for row in np.flatnonzero(is_first).tolist():
            self._first_texts[row].append(ids[row, : lengths[row]].astype(np.int64))
        self._is_first[:, self.pos] = is_first
        self._expect(ids, lengths, action)
        super().add(obs, action, reward, episode_start, value, log_prob)

    def _goes_on(self, ids: Ints, lengths: Ints) -> NDArray[np.bool_]:
        """Tells which rows hold their last observation and their last action, and no more."""
        if self._next_ids.shape[1] < ids.shape[1]:  # nothing was added yet
            return np.zeros(len(ids), np.bool_)
        is_behind = np.arange(ids.shape[1]) >= lengths[:, None]
        is_same = ((self._next_ids[:, :-1] == ids) | is_behind).all(axis=1)
        found: NDArray[np.bool_] = is_same & (self._next_lengths == lengths)
        return found

    def _expect(self, ids: Ints, lengths: Ints, action: NDArray[np.int64]) -> None:
        self._next_ids = np.pad(ids, ((0, 0), (0, 1)))
        self._next_ids[np.arange(len(ids)), lengths] = action.reshape(-1)
        self._next_lengths = lengths + 1

    def get(  # type: ignore[override]
        self, batch_size: int | None = None
    ) -> Generator[DictRolloutBufferSamples, None, None]:
        """Yields all pieces once in random order, in minibatches.

        Args:
            batch_size: about how many tokens a minibatch has; None yields all at once.
        """
        assert self.full
        if not self.generator_ready:
            self._lay_out()
        # From the generator that Stable-Baselines3 seeds and its own buffers draw from.
        order = np.random.permutation(len(self._counts))  # noqa: NPY002
        for pieces in _cut(order, self._counts, batch_size):
            yield self._samples(np.sort(pieces))

    def _lay_out(self) -> None:
        """Writes the pieces row by row as padded texts, when the rollout is complete."""
        self._rows, self._steps = np.nonzero(self._is_first)
        is_last = np.append(self._rows[1:] != self._rows[:-1], True)
        ends = np.where(is_last, self.buffer_size, np.append(self._steps[1:], 0))
        self._counts: Ints = ends - self._steps
        texts = [text for row in self._first_texts for text in row]
        begins = np.array([len(text) for text in texts])
        input_ids = np.zeros((len(texts), int((begins + self._counts).max())), np.int64)
        input_ids[np.arange(input_ids.shape[1]) < begins[:, None]] = np.concatenate(texts)
        rows, steps = self._places(np.arange(len(texts)))
        piece = np.repeat(np.arange(len(texts)), self._counts)
        columns = begins[piece] + steps - self._steps[piece]
        input_ids[piece, columns] = self.actions[steps, rows, 0]
        self._episodes = Episodes.of_texts(input_ids, begins, self._counts)
        self.generator_ready = True

    def _places(self, pieces: Ints) -> tuple[Ints, Ints]:
        """Returns row and step of each token of some pieces, piece by piece."""
        counts = self._counts[pieces]
        before = np.repeat(counts.cumsum() - counts, counts)
        steps = np.repeat(self._steps[pieces], counts) + np.arange(len(before)) - before
        return np.repeat(self._rows[pieces], counts), steps

    def _samples(self, pieces: Ints) -> DictRolloutBufferSamples:
        rows, steps = self._places(pieces)
        numbers = (
            self.to_torch(column[steps, rows])
            for column in (self.actions, self.values, self.log_probs, self.advantages, self.returns)
        )
        # Not tensors by name, as declared, but what goes to `evaluate_actions` as it is.
        return DictRolloutBufferSamples(self._episodes.select(pieces), *numbers)  # type: ignore[arg-type]


def _cut(order: Ints, counts: Ints, batch_size: int | None) -> Iterator[Ints]:
    """Cuts pieces, in an order, into parts of about so many tokens, none of them empty."""
    ends = counts[order].cumsum()
    number = 1 if batch_size is None else max(1, round(ends[-1] / batch_size))
    # A piece belongs to the part that its middle falls in; doubled, so that it is a whole number.
    parts = (2 * ends - counts[order]) * number // (2 * ends[-1])
    return (order[parts == part] for part in np.unique(parts))
