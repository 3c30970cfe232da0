"""Best-of-n: draws n whole responses, scores them, and says the best.

Its sequence law is known. Ties being broken evenly, with F the distribution function of the score
r(y) of a response to the prompt under the base policy, and p its probability function,

    π(y) = π_base(y) w(r(y)),    w(r) = [F(r)^n − F(r−)^n] / p(r)

(Beirami et al. 2024, arXiv:2401.01879, Lemma 1). The law of a token is that of a tilted chain:

    π(a | s) = π_base(a | s) W(sa) / W(s),    W(s) = E_base[w(r(y)) | y begins with s]

and W is found by the dynamic programming of an optimum at β = 1 with log w as the score.
"""

from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from textrl_agents.policies.base import PolicyStep
from textrl_agents.search.agent import SearchAgent, load_base
from textrl_agents.search.simulator import BasePolicy, Simulator
from textrl_envs.core import FinishReason
from textrl_envs.environments.checks import check_count
from textrl_envs.errors import InvalidInputError
from textrl_envs.observations import read_observation
from textrl_envs.optimum.dynamic_programming import reward_law, soft_values
from textrl_envs.optimum.law import RewardLaw
from textrl_envs.optimum.mdp import TextMDP, find_prompts
from textrl_envs.optimum.policy import OptimalPolicy
from textrl_envs.optimum.solve import build_mdp
from textrl_envs.task import Task

__all__ = ["BestOfN", "BestOfNPolicy"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROWS = 8192
"""Responses sampled at once."""


class BestOfNPolicy:
    """Decides a whole response when it begins, and then says it token by token.

    Log-probabilities are exact where the base policy is the reference and the law of its scores is
    known (`textrl_envs.optimum`), and paid by how a response ends. Elsewhere they are a bound: a
    response is at most n times as likely as under the base policy, and never likelier than 1, so
    that a KL is never understated. Its first tokens carry the log n.

    Args:
        task: what is played.
        base: draws the responses; None takes the task's reference.
        samples: n.

    Raises:
        InvalidInputError: n below 1, or no base policy.
    """

    def __init__(self, task: Task, base: BasePolicy | None = None, *, samples: int = 16) -> None:
        check_count("samples", samples)
        self.simulator = Simulator(task, base)
        self.task = self.simulator.task
        self.samples = samples
        self.tokens_spent = 0
        """Tokens of all samples so far."""
        self._plans: dict[int, Ints] = {}
        """Row -> prompt and response."""

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.task.vocabulary_size

    @property
    def is_exact(self) -> bool:
        """Whether log-probabilities are exact, and not a bound."""
        return self._law is not None

    @cached_property
    def _law(self) -> list[OptimalPolicy] | None:
        """π of each prompt; None where it is not known."""
        if not self.simulator.is_reference:
            return None
        try:
            mdp = build_mdp(self.task)
            return None if mdp.token_scores.any() else _tilted(mdp, self.samples)
        except InvalidInputError:  # by which both say that the task is not solved exactly
            return None

    def choose(self, obs: Any, rng: np.random.Generator, *, greedy: bool = False) -> Ints:  # noqa: ANN401
        """Returns the next token of each row's response, (B,); EOS behind its end.

        Args:
            obs: a batch of B observations. A row keeps its place from its prompt to its end.
            rng: draws the samples.
            greedy: makes no difference: the search has no likeliest response.

        Raises:
            InvalidInputError: a text that has begun elsewhere.
        """
        ids, lengths = read_observation(obs)
        begins = self.task.prompts.lengths[find_prompts(self.task, ids, lengths)]
        new = np.flatnonzero(lengths == begins)
        size = max(1, ROWS // self.samples)
        for rows in (new[i : i + size] for i in range(0, len(new), size)):
            self._plan(rows, ids, lengths, rng)
        return np.array([self._next(i, ids[i, :n]) for i, n in enumerate(lengths.tolist())])

    def step(self, obs: Any, rng: np.random.Generator, *, greedy: bool = False) -> PolicyStep:  # noqa: ANN401
        """Chooses a token in each observation; entropies and values are 0."""
        actions = self.choose(obs, rng, greedy=greedy)
        nothing = np.zeros(len(actions))
        return PolicyStep(actions, self.log_probs(obs, actions), nothing, nothing)

    def log_probs(self, obs: Any, actions: NDArray[np.integer[Any]]) -> Floats:  # noqa: ANN401
        """Returns the log-probability of each action in each observation, in nats, (B,)."""
        ids, lengths = read_observation(obs)
        actions = np.asarray(actions)
        if self._law is None:
            return self._bound(ids, lengths, actions)
        found = np.zeros(len(ids))
        prompts = find_prompts(self.task, ids, lengths)
        for prompt in np.unique(prompts).tolist():
            rows = np.flatnonzero(prompts == prompt)
            part = _observation(ids[rows], lengths[rows])
            found[rows] = self._law[prompt].log_probs(part, actions[rows])
        return found

    def next_values(self, obs: Any) -> Floats:  # noqa: ANN401 - either form
        """Returns 0 for each observation: nothing is expected, (B,)."""
        return np.zeros(len(read_observation(obs)[0]))

    def forget(self) -> None:
        """Drops the responses that were begun, and what the base policy remembers."""
        self._plans = {}
        self.simulator.base.forget()

    def _plan(self, rows: Ints, ids: Ints, lengths: Ints, rng: np.random.Generator) -> None:
        """Draws n responses for each of some rows, and keeps the best."""
        each = np.repeat(rows, self.samples)
        core = self.simulator.place(ids[each], lengths[each])
        uniforms = rng.random((len(each), self.task.max_new_tokens))
        played = self.simulator.roll_out(core, uniforms)
        self.tokens_spent += int(played.tokens.sum())
        # The first of the best: the samples being alike, that breaks ties evenly.
        best = played.scores.reshape(len(rows), self.samples).argmax(axis=1)
        for row, place in zip(rows, np.arange(len(rows)) * self.samples + best, strict=True):
            self._plans[int(row)] = core.input_ids[place, : core.lengths[place]].copy()

    def _next(self, row: int, text: Ints) -> int:
        plan, eos = self._plans.get(row, text[:0]), int(self.task.tokenizer.eos_token_id)
        if np.array_equal(plan[: len(text)], text):
            return int(plan[len(text)]) if len(text) < len(plan) else eos
        core = self.simulator.place(text[None], np.array([len(text)]))
        if core.finish_reason[0] == FinishReason.RUNNING:
            raise InvalidInputError(
                "best_of_n decides a response when it begins; got a text that it has not begun in "
                "that row. Let it act from the prompt on, every row at its place."
            )
        return eos

    def _bound(self, ids: Ints, lengths: Ints, actions: NDArray[Any]) -> Floats:
        """Returns min(0, log π_base(a|s) + what earlier tokens have left of log n), (B,)."""
        begins = self.task.prompts.lengths[find_prompts(self.task, ids, lengths)]
        left = np.full(len(ids), np.log(self.samples))
        rows = np.arange(len(ids))
        for time in range(int((lengths - begins).max())):
            ends = np.minimum(begins + time, lengths)
            is_written = (ends < lengths) & (left > 0)
            if not is_written.any():
                break
            said = ids[rows, np.minimum(ends, ids.shape[1] - 1)]
            log_probs = self._base_log_probs(ids, ends)[rows, np.where(is_written, said, 0)]
            left = np.where(is_written, np.maximum(left + log_probs, 0), left)
        found: Floats = self._base_log_probs(ids, lengths)[rows, actions] + left
        return np.minimum(found, 0)

    def _base_log_probs(self, ids: Ints, lengths: Ints) -> Floats:
        obs = _observation(ids, lengths)
        return np.asarray(self.simulator.base.next_log_probs(obs), np.float64)


class BestOfN(SearchAgent):
    """Says the best of n responses."""

    policy: BestOfNPolicy

    @classmethod
    def make(
        cls,
        envs: Any,  # noqa: ANN401 - a vector environment, wrapped or not
        *,
        seed: int = 0,
        device: str = "auto",
        samples: int = 16,
        base: str = "reference",
    ) -> Self:
        """Makes the agent for an environment.

        Args:
            envs: gives the task.
            seed: of the samples.
            device: of a base policy from a folder.
            samples: n.
            base: draws the responses: "reference", or the folder of a trained policy.
        """
        policy = BestOfNPolicy(envs.unwrapped.task, load_base(base, device=device), samples=samples)
        return cls(policy, seed=seed)


def _tilted(mdp: TextMDP, samples: int) -> list[OptimalPolicy]:
    return [_tilted_by(mdp, law, samples) for law in reward_law(mdp)]


def _tilted_by(mdp: TextMDP, law: RewardLaw, samples: int) -> OptimalPolicy:
    """Returns the law of the best of n for a prompt with that law of scores."""
    # The nearest of the law's scores, which are the graph's up to rounding.
    places = np.searchsorted((law.scores[1:] + law.scores[:-1]) / 2, mdp.end_scores)
    tilted = replace(mdp, end_scores=law.best_of_log_ratios(samples)[places])
    return OptimalPolicy(tilted, soft_values(tilted, 1.0), 1.0)


def _observation(ids: Ints, lengths: Ints) -> dict[str, NDArray[Any]]:
    mask = np.arange(ids.shape[1]) < lengths[:, None]
    return {"input_ids": np.where(mask, ids, 0), "attention_mask": mask.astype(np.int8)}
