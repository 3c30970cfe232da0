"""Null agents: they learn nothing and read next to nothing, and belong at the bottom of a board.

A board on which one of them stands above a trained agent measures something else than learning.

Empty      EOS at once
Constant   one response to every prompt, the reference's likeliest to the first
Repeat     one token until the limit
Echo       the prompt back
Uniform    any token of the vocabulary, all with the same chance
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from textrl_agents.agent import Progress, TrainingLog
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.base import LanguageModel
from textrl_envs.observations import read_observation
from textrl_envs.optimum.mdp import find_prompts
from textrl_envs.task import Task
from textrl_envs.vector_env import TextVectorEnv

__all__ = ["Constant", "Echo", "Empty", "NullAgent", "Repeat", "Uniform"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class NullAgent(ABC):
    """Base of the null agents: learns nothing, and knows its own log-probabilities.

    Args:
        task: of the environment; no prompt of it may begin another, or a text would not tell how
            much of it is response.
        seed: of what is drawn.

    Raises:
        InvalidInputError: an agent that needs a reference, and a task without one.
    """

    name: ClassVar[str]

    def __init__(self, task: Task, *, seed: int = 0) -> None:
        self.task = task
        self.rng = np.random.default_rng([seed, 1])

    @classmethod
    def make(cls, envs: Any, *, seed: int = 0, device: str = "auto") -> Self:  # noqa: ANN401
        """Makes the agent for an environment, wrapped or not; no device is needed."""
        return cls(envs.unwrapped.task, seed=seed)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.task.vocabulary_size

    @abstractmethod
    def act(self, obs: Any, *, greedy: bool = False) -> Ints:  # noqa: ANN401 - either form
        """Returns a token for each observation, (B,)."""

    @abstractmethod
    def log_probs(self, obs: Any, actions: NDArray[np.integer[Any]]) -> Floats:  # noqa: ANN401
        """Returns the log-probability of each action in each observation, in nats, (B,)."""

    def learn(
        self,
        envs: Any,  # noqa: ANN401 - a vector environment
        *,
        total_tokens: int,
        progress: Progress | None = None,
    ) -> TrainingLog:
        """Does nothing, and generates nothing; the log is empty."""
        return TrainingLog()


class _Certain(NullAgent):
    """A null agent that draws nothing: each text has one next token, of probability 1."""

    @abstractmethod
    def next_tokens(self, ids: Ints, lengths: Ints) -> Ints:
        """Returns the token that follows each text, (B,).

        Args:
            ids: the texts from column 0, (B, L).
            lengths: tokens of each, (B,).
        """

    def act(self, obs: Any, *, greedy: bool = False) -> Ints:  # noqa: ANN401 - either form
        """Returns a token for each observation, (B,)."""
        return self.next_tokens(*read_observation(obs))

    def log_probs(self, obs: Any, actions: NDArray[np.integer[Any]]) -> Floats:  # noqa: ANN401
        """Returns 0 for the token that the agent says, minus infinity for any other, (B,)."""
        return np.where(self.act(obs) == np.asarray(actions), 0.0, -np.inf)

    def _places(self, ids: Ints, lengths: Ints) -> tuple[Ints, Ints]:
        """Returns the prompt of each text, and the tokens of response written, (B,) both."""
        prompts = find_prompts(self.task, ids, lengths)
        return prompts, lengths - self.task.prompts.lengths[prompts]


class Empty(_Certain):
    """Says EOS at once."""

    name: ClassVar[str] = "null_empty"

    def next_tokens(self, ids: Ints, lengths: Ints) -> Ints:
        """Returns EOS for each text, (B,)."""
        return np.full(len(ids), self.task.tokenizer.eos_token_id, np.int64)


class Constant(_Certain):
    """Says one response to every prompt: the reference's to the first, decoded greedily."""

    name: ClassVar[str] = "null_constant"

    def __init__(self, task: Task, *, seed: int = 0) -> None:
        super().__init__(task, seed=seed)
        # What is read behind its end belongs to rows that wait: EOS will do.
        self.response: Ints = np.append(_greedy_response(task), task.tokenizer.eos_token_id)

    def next_tokens(self, ids: Ints, lengths: Ints) -> Ints:
        """Returns the next token of the response for each text, (B,)."""
        _, written = self._places(ids, lengths)
        return self.response[np.minimum(written, len(self.response) - 1)]


class Repeat(_Certain):
    """Says one token until the limit: what the reference likes best at the start, but for EOS."""

    name: ClassVar[str] = "null_repeat"

    def __init__(self, task: Task, *, seed: int = 0) -> None:
        super().__init__(task, seed=seed)
        first = _first_log_probs(task)
        first[task.tokenizer.eos_token_id] = -np.inf
        self.token = int(first.argmax())

    def next_tokens(self, ids: Ints, lengths: Ints) -> Ints:
        """Returns the token for each text, (B,)."""
        return np.full(len(ids), self.token, np.int64)


class Echo(_Certain):
    """Says the prompt's tokens again, and EOS."""

    name: ClassVar[str] = "null_echo"

    def next_tokens(self, ids: Ints, lengths: Ints) -> Ints:
        """Returns the prompt's next token for each text, (B,)."""
        prompts, written = self._places(ids, lengths)
        table = self.task.prompts
        columns = np.minimum(written, table.token_ids.shape[1] - 1)
        said = table.token_ids[prompts, columns].astype(np.int64)
        return np.where(written < table.lengths[prompts], said, self.task.tokenizer.eos_token_id)


class Uniform(NullAgent):
    """Draws every token with the same chance, EOS among them."""

    name: ClassVar[str] = "null_uniform"

    def act(self, obs: Any, *, greedy: bool = False) -> Ints:  # noqa: ANN401 - either form
        """Returns a random token for each observation, (B,); greedy play knows no better."""
        ids, _ = read_observation(obs)
        return self.rng.integers(self.vocabulary_size, size=len(ids))

    def log_probs(self, obs: Any, actions: NDArray[np.integer[Any]]) -> Floats:  # noqa: ANN401
        """Returns −log V for each action, in nats, (B,)."""
        return np.full(len(np.asarray(actions)), -np.log(self.vocabulary_size))


def _reference(task: Task) -> LanguageModel:
    if task.load_reference is None:
        raise InvalidInputError(
            "null_constant and null_repeat say what a reference says, and the environment has "
            "none. Give it one."
        )
    reference = task.load_reference()
    reference.forget()  # so that the numbers do not hang on what was read before
    return reference


def _first_log_probs(task: Task) -> Floats:
    """Returns the reference's log-probabilities of the first token after the first prompt, (V,)."""
    envs = TextVectorEnv(task, num_envs=1)
    obs, _ = envs.reset(seed=0, options={"prompt_index": 0})
    return np.array(_reference(task).next_log_probs(obs)[0], np.float64)


def _greedy_response(task: Task) -> Ints:
    """Returns what the reference says to the first prompt, always taking the likeliest token."""
    reference, envs = _reference(task), TextVectorEnv(task, num_envs=1)
    obs, _ = envs.reset(seed=0, options={"prompt_index": 0})
    said: list[int] = []
    has_ended = np.zeros(1, np.bool_)
    while not has_ended.any():
        action = np.asarray(reference.next_log_probs(obs)).argmax(axis=1)
        said.append(int(action[0]))
        obs, _, has_ended, _, _ = envs.step(action)
    return np.array(said, np.int64)
