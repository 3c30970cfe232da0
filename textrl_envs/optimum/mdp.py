"""TextMDP: an environment as a finite graph, where its exact values can be computed.

A node is all that matters of a text beside the number of tokens written. `product.py` builds the
graph of an n-gram reference and automata, `prefix_tree.py` that of any reference and any reward,
where few enough texts are possible.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError
from textrl_envs.observations import read_observation
from textrl_envs.task import Task

__all__ = ["TextMDP", "check_prompts", "find_prompts"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextMDP:
    """N nodes, V tokens, P prompts. A token leads from node to node, or ends the response.

    All log-probabilities are in nats, all scores in units of the reward.
    """

    task: Task
    starts: Ints
    """Node of each prompt, (P,)."""
    next_nodes: Ints
    """Node after each token, (N, V)."""
    log_ref: Floats
    """log π_ref of each token, (N, V)."""
    token_scores: Floats
    """What each token adds to the score at once, (N, V)."""
    end_scores: Floats
    """What is added where the response ends with this token, (N, V)."""
    end_measures: dict[str, Floats]
    """Further numbers of a response that ends with this token, (N, V) each."""

    @property
    def limit(self) -> int:
        """T, the longest response."""
        return self.task.max_new_tokens

    def payoff(self, time: int, following: Floats, token_values: Floats, ends: Floats) -> Floats:
        """Returns what each token is worth at each node, (N, V).

        Args:
            time: tokens written before it.
            following: worth of each node after it, (N,).
            token_values: what the token itself is worth, (N, V).
            ends: what it is worth to end with it, (N, V).
        """
        if time + 1 == self.limit:
            return token_values + ends
        later = following[self.next_nodes]
        eos = self.task.tokenizer.eos_token_id
        later[:, eos] = ends[:, eos]
        later += token_values
        return later

    def walk(self, prompt_index: Ints, response_ids: Ints) -> Ints:
        """Returns the node before each token of whole responses, (B, T).

        Args:
            prompt_index: (B,).
            response_ids: (B, T); the nodes behind an end mean nothing.
        """
        nodes = np.zeros(response_ids.shape, np.int64)
        node = self.starts[prompt_index]
        for time in range(response_ids.shape[1]):
            nodes[:, time] = node
            node = self.next_nodes[node, response_ids[:, time]]
        return nodes

    def locate(self, obs: Any) -> tuple[Ints, Ints, NDArray[np.bool_], Floats]:  # noqa: ANN401
        """Finds observations on the graph.

        Args:
            obs: a batch of B observations of either form.

        Returns:
            time: tokens written, (B,).
            node: where the text stands, (B,).
            has_ended: the response is over, (B,); its time and node mean nothing.
            earned: by the tokens written, (B,). The environment pays it when the response ends.

        Raises:
            InvalidInputError: a text that begins with no prompt of the task, or that the reference
                cannot write.
        """
        ids, lengths = read_observation(obs)
        prompt = find_prompts(self.task, ids, lengths)
        begins = self.task.prompts.lengths[prompt]
        time = lengths - begins
        node, eos = self.starts[prompt].copy(), self.task.tokenizer.eos_token_id
        has_ended, earned = time >= self.limit, np.zeros(len(ids))
        for step in range(int(time.max(initial=0))):
            rows = np.flatnonzero((step < time) & ~has_ended)
            tokens = ids[rows, begins[rows] + step]
            if np.isneginf(self.log_ref[node[rows], tokens]).any():
                raise InvalidInputError(
                    "Expected texts that the reference can write; got one with a token that it "
                    "gives no chance, of which no value is known."
                )
            has_ended[rows[tokens == eos]] = True
            earned[rows] += self.token_scores[node[rows], tokens]
            node[rows] = self.next_nodes[node[rows], tokens]
        return np.minimum(time, self.limit - 1), node, has_ended, earned


def check_prompts(task: Task) -> None:
    """Checks that a text always shows where its prompt ends.

    Raises:
        InvalidInputError: a prompt begins another, or is another. The same text could then be
            reached at two times or be scored in two ways, and no policy could be best for both.
    """
    table = task.prompts
    rows = [table.token_ids[i, :n].tobytes() for i, n in enumerate(table.lengths.tolist())]
    order = sorted(range(len(rows)), key=lambda i: rows[i])
    for one, other in itertools.pairwise(order):  # a beginning sorts right before what it begins
        if rows[other].startswith(rows[one]):
            raise InvalidInputError(
                f"Expected prompts of which none begins another; {table.texts[one]!r} begins "
                f"{table.texts[other]!r}. A policy could not tell them apart; no optimum is known."
            )


def find_prompts(task: Task, ids: Ints, lengths: Ints) -> Ints:
    """Returns the prompt that each text begins with, (B,).

    Args:
        task: whose prompts, of which none begins another.
        ids: texts from column 0, (B, L).
        lengths: tokens of each, (B,).

    Raises:
        InvalidInputError: a text that begins with no prompt.
    """
    table = task.prompts
    found = np.full(len(ids), -1)
    for length in np.unique(table.lengths).tolist():
        rows = np.flatnonzero((lengths >= length) & (found < 0))
        prompts = np.flatnonzero(table.lengths == length)
        places = {table.token_ids[p, :length].tobytes(): p for p in prompts.tolist()}
        texts = ids[rows, :length].astype(table.token_ids.dtype)
        found[rows] = [places.get(text.tobytes(), -1) for text in texts]
    if (found < 0).any():
        raise InvalidInputError(
            "Expected texts that begin with a prompt of the task; got one that does not."
        )
    return found
