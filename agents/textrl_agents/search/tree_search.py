"""TreeSearch: searches texts, many trees at once.

A text is searched after all texts that it goes on from: the node behind its last token is its root.
All is a function of seed and text, which decide the tokens of a roll-out, so that a search that was
dropped can be made again, and finds the same.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from textrl_agents.search.simulator import Simulator
from textrl_agents.search.tree import Choice, Level, Tree
from textrl_envs.core import FinishReason, TextCore
from textrl_envs.optimum.mdp import find_prompts

__all__ = ["Leaf", "Searched", "TreeSearch"]

Leaf = Literal["roll_out", "value"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_NUMBERS = 4_000_000
"""Nodes times V beyond which the trees of texts that nobody stands in are dropped."""


@dataclass(frozen=True, slots=True)
class Searched:
    """What the search of a text found."""

    log_policy: Floats
    """Log-probabilities of the next token, in nats, (V,)."""
    value: float
    """In units of the score."""
    tokens: int
    """What the search cost."""


class TreeSearch:
    """Searches texts of a task.

    Args:
        simulator: tries the texts.
        simulations: of the search of a text.
        c_puct: how much the prior counts beside the values, in units of the score.
        choice: what a node is worth (`textrl_agents.search.tree`).
        leaf: what a new text is worth: a "roll_out", or the base policy's "value".
        prior_weight: visits that the base policy counts for, in "soft".
        seed: of the roll-outs.
    """

    def __init__(
        self,
        simulator: Simulator,
        *,
        simulations: int,
        c_puct: float,
        choice: Choice,
        leaf: Leaf,
        prior_weight: float,
        seed: tuple[int, ...],
    ) -> None:
        self._simulator = simulator
        self._task = simulator.task
        self._simulations = simulations
        self._c_puct = c_puct
        self._leaf = leaf
        self._seed = seed
        self._tree = Tree(
            self._task.vocabulary_size,
            choice=choice,
            kl_coefficient=self._task.kl_coefficient,
            prior_weight=prior_weight,
        )
        self._searched: dict[bytes, Searched] = {}
        """Text -> what its search found."""
        self._roots: dict[bytes, int] = {}
        """Text that was searched -> its node, while that is kept."""
        self._room = MAX_NUMBERS // self._task.vocabulary_size

    def read(self, texts: list[Ints]) -> list[Searched]:
        """Returns what is found in each text, after searching those that are new.

        Of a text that has ended it is what the reference says of it, and value 0.

        Args:
            texts: token ids, prompts included, (length,) each.
        """
        keys = [text.tobytes() for text in texts]
        new = {
            key: text for key, text in zip(keys, texts, strict=True) if key not in self._searched
        }
        self._note_ended(new)
        if self._tree.size > self._room:
            self._drop(texts)
        while new:
            # Of each text the first beginning that is unknown; mostly that is the text itself.
            due = {text.tobytes(): text for text in map(self._next_due, new.values())}
            self._search(list(due.values()))
            new = {key: text for key, text in new.items() if key not in self._roots}
        return [self._searched[key] for key in keys]

    def _note_ended(self, new: dict[bytes, Ints]) -> None:
        """Takes from `new` the texts that have ended: what the reference says of them will do."""
        if not new:
            return
        core = self._simulator.place(*_stacked(list(new.values())))
        ended = np.flatnonzero(core.finish_reason != FinishReason.RUNNING).tolist()
        if not ended:
            return
        (_, log_ref), keys = self._simulator.distributions(core), list(new)
        for row in ended:
            self._searched[keys[row]] = Searched(log_ref[row], 0.0, 0)
            del new[keys[row]]

    def _next_due(self, text: Ints) -> Ints:
        """Returns the shortest beginning of a text that is to be searched before all others."""
        begin = self._begin(text)
        length = next(
            (n for n in range(len(text) - 1, begin - 1, -1) if text[:n].tobytes() in self._roots),
            begin - 1,
        )
        return text[: length + 1]

    def _begin(self, text: Ints) -> int:
        prompt = find_prompts(self._task, text[None], np.array([len(text)]))[0]
        return int(self._task.prompts.lengths[prompt])

    def _search(self, texts: list[Ints]) -> None:
        """Searches R texts that differ, the last tokens of which follow roots that are known."""
        ids, lengths = _stacked(texts)
        rngs = [np.random.default_rng([*self._seed, *text.tolist()]) for text in texts]
        limit = self._task.max_new_tokens
        uniforms = np.array(
            [rng.random((self._simulations + 1, limit)) for rng in rngs]
        )  # [R, S, T]
        roots, tokens = self._root_nodes(texts, ids, lengths, uniforms[:, -1])
        for number in range(self._simulations):
            rows = np.arange(len(roots))
            if self._tree.choice == "soft":
                rows = np.flatnonzero(~self._tree.are_solved(roots))
            if not rows.size:
                break
            spent = self._simulate(roots[rows], ids[rows], lengths[rows], uniforms[rows, number])
            tokens[rows] += spent
        log_policies, values = self._tree.log_policy(roots), self._tree.values(roots)
        for row, text in enumerate(texts):
            key = text.tobytes()
            self._roots[key] = int(roots[row])
            self._searched[key] = Searched(log_policies[row], float(values[row]), int(tokens[row]))

    def _root_nodes(
        self, texts: list[Ints], ids: Ints, lengths: Ints, uniforms: Floats
    ) -> tuple[Ints, Ints]:
        """Returns the node of each text, added where no search has met it, and what it cost."""
        roots, tokens = np.full(len(texts), -1), np.zeros(len(texts), np.int64)
        for row, text in enumerate(texts):
            parent = self._roots.get(text[:-1].tobytes())
            if parent is not None:
                roots[row] = self._tree.children[parent, text[-1]]
        new = np.flatnonzero(roots < 0)
        if new.size:
            core = self._simulator.place(ids[new], lengths[new])
            distributions = self._simulator.distributions(core)
            evaluations, tokens[new] = self._evaluate(core, uniforms[new])
            roots[new] = self._tree.add_roots(*distributions, evaluations)
        return roots, tokens

    def _simulate(self, roots: Ints, ids: Ints, lengths: Ints, uniforms: Floats) -> Ints:
        """Makes one simulation in each of R trees; returns the tokens that each cost, (R,)."""
        tree = self._tree
        levels = tree.descend(roots, self._c_puct)
        ids, lengths = _followed(levels, ids, lengths)
        parents, actions = np.zeros((2, len(roots)), np.int64)
        for level in levels:
            parents[level.rows], actions[level.rows] = level.nodes, level.actions
        evaluations, tokens = tree.edge_values[parents, actions], np.zeros(len(roots), np.int64)
        new = np.flatnonzero(tree.visits[parents, actions] == 0)  # else it ends, and is known
        if new.size:
            edges = parents[new], actions[new]
            found = self._expand(edges, ids[new], lengths[new], uniforms[new])
            evaluations[new], tokens[new] = found
        tree.back_up(levels, evaluations)
        return tokens

    def _expand(
        self, edges: tuple[Ints, Ints], ids: Ints, lengths: Ints, uniforms: Floats
    ) -> tuple[Floats, Ints]:
        """Adds the nodes behind some edges where the text goes on.

        Returns:
            What each text is worth, and the tokens that it cost, (n,) both.
        """
        core = self._simulator.place(ids, lengths)
        goes_on = core.finish_reason == FinishReason.RUNNING
        log_prior, log_ref = self._simulator.distributions(core)
        evaluations, drawn = self._evaluate(core, uniforms)
        self._simulator.tokens_generated += len(ids)  # those of the edges themselves
        parents, actions = (each[goes_on] for each in edges)
        self._tree.add_leaves(
            parents, actions, log_prior[goes_on], log_ref[goes_on], evaluations[goes_on]
        )
        return evaluations, drawn + 1

    def _evaluate(self, core: TextCore, uniforms: Floats) -> tuple[Floats, Ints]:
        """Returns what each text is worth, its score where it has ended, and the tokens drawn."""
        if self._leaf == "roll_out":
            played = self._simulator.roll_out(core, uniforms)
            return played.scores - self._task.kl_coefficient * played.log_ratios, played.tokens
        values = self._simulator.next_values(core)
        ended = np.flatnonzero(core.finish_reason != FinishReason.RUNNING)
        if ended.size:
            values[ended], _ = core.score(ended)
        return values, np.zeros(len(values), np.int64)

    def _drop(self, texts: list[Ints]) -> None:
        """Keeps the trees of some texts alone; what was found stays known."""
        kept = {self._roots[key] for text in texts if (key := self._known(text)) in self._roots}
        numbers = self._tree.keep(np.array(sorted(kept), np.int64))
        self._roots = {key: int(numbers[n]) for key, n in self._roots.items() if numbers[n] >= 0}
        self._room = max(self._room, 2 * self._tree.size)

    def _known(self, text: Ints) -> bytes:
        """Returns the longest beginning of a text whose tree is kept, if there is one."""
        keys = (text[:n].tobytes() for n in range(len(text), 0, -1))
        return next((key for key in keys if key in self._roots), b"")


def _stacked(texts: list[Ints]) -> tuple[Ints, Ints]:
    """Returns texts as rows, 0 behind them, and their lengths."""
    lengths = np.array([len(text) for text in texts])
    ids = np.zeros((len(texts), int(lengths.max())), np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
    return ids, lengths


def _followed(levels: list[Level], ids: Ints, lengths: Ints) -> tuple[Ints, Ints]:
    """Returns the texts of R searches with the tokens of their ways down, (R, L), and (R,)."""
    ids, lengths = np.pad(ids, ((0, 0), (0, len(levels)))), lengths.copy()
    for level in levels:
        ids[level.rows, lengths[level.rows]] = level.actions
        lengths[level.rows] += 1
    return ids, lengths
