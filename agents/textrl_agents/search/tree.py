"""Tree: what a search knows of texts. A node is a text, an edge the token that follows it.

A simulation goes down to an edge that was never tried, adds the text behind it, and carries what
that text is worth back up. Which way it goes is PUCT (Rosin 2011; Silver et al. 2017, "Mastering
the game of Go without human knowledge", Methods):

    argmax_a  Q(s, a) + c π_base(a|s) √(Σ_b N(s, b)) / (1 + N(s, a))

What a node is worth is one of

    "soft"     V(s) = β log Σ_a π_ref(a|s) exp(Q(s, a) / β), the most that E[score] − β KL can be,
               if every Q is; the policy that belongs to it is π(a|s) ∝ π_ref(a|s) exp(Q(s, a) / β)
    "visits"   the mean of all evaluations at and below it; the policy is N(s, a) / Σ_b N(s, b)

The first is the regularised policy that the second approximates (Grill et al. 2020,
arXiv:2007.12509, section 3), with the KL that the agent is charged in place of PUCT's own.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Choice", "Level", "Tree"]

Choice = Literal["soft", "visits"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Level:
    """One step down of those of R searches that go so deep, n of them. All have the shape (n,)."""

    rows: Ints
    """Which search."""
    nodes: Ints
    actions: Ints


class Tree:
    """Nodes in arrays, all searches in one: a search is known by the node that is its root.

    For "soft", an edge that was never tried counts as the base policy has it: worth the mean of its
    node, and so much more as the base policy likes it better than the reference. An edge that was
    tried is drawn towards that, since a few roll-outs tell little. So without a simulation the
    policy is the base policy itself, and once all is tried it is the optimum.

    Args:
        vocabulary_size: V.
        choice: what a node is worth, and which policy belongs to it.
        kl_coefficient: β of "soft".
        prior_weight: visits that the base policy counts for, beside an edge's own, in "soft".
    """

    log_prior: Floats
    """log π_base, (N, V)."""
    log_ref: Floats
    """log π_ref, (N, V)."""
    edge_values: Floats
    """Q, (N, V); 0 where the edge was never tried."""
    visits: Ints
    """(N, V)."""
    children: Ints
    """Node behind each edge, (N, V); -1 where there is none."""
    is_solved: NDArray[np.bool_]
    """Whether all texts behind an edge are known, (N, V)."""
    totals: Floats
    """Sum of the evaluations at and below each node, (N,)."""
    counts: Floats
    """Their number, (N,)."""

    _EDGES: ClassVar[dict[str, tuple[type, float]]] = {
        "log_prior": (np.float64, 0),
        "log_ref": (np.float64, 0),
        "edge_values": (np.float64, 0),
        "visits": (np.int64, 0),
        "children": (np.int64, -1),
        "is_solved": (np.bool_, False),
    }
    _NODES: ClassVar[tuple[str, ...]] = ("totals", "counts")

    def __init__(
        self,
        vocabulary_size: int,
        *,
        choice: Choice = "soft",
        kl_coefficient: float = 0.0,
        prior_weight: float = 4.0,
    ) -> None:
        self.vocabulary_size = vocabulary_size
        self.choice = choice
        self.kl_coefficient = kl_coefficient
        self.prior_weight = prior_weight
        self.size = 0
        """N."""
        for name, (dtype, _) in self._EDGES.items():
            setattr(self, name, np.zeros((0, vocabulary_size), dtype))
        for name in self._NODES:
            setattr(self, name, np.zeros(0))

    # --- what nodes are worth ---

    def means(self, nodes: Ints) -> Floats:
        """Returns the mean evaluation at and below each node, (n,)."""
        found: Floats = self.totals[nodes] / self.counts[nodes]
        return found

    def values(self, nodes: Ints) -> Floats:
        """Returns what each node is worth, (n,)."""
        if self.choice == "visits":
            return self.means(nodes)
        return self.kl_coefficient * _log_sum_exp(self._log_weights(nodes))

    def log_policy(self, nodes: Ints) -> Floats:
        """Returns the log-probabilities of the tokens after each node, in nats, (n, V)."""
        if self.choice == "visits":
            with np.errstate(divide="ignore"):  # what was never tried is never said
                weights = np.log(self.visits[nodes])
        else:
            weights = self._log_weights(nodes)
        found: Floats = weights - _log_sum_exp(weights)[:, None]
        return found

    def _log_weights(self, nodes: Ints) -> Floats:
        """Returns log π_ref + Q / β of each token, (n, V).

        Q is the mean of the N visits of its edge and of `prior_weight` more, which find what the
        base policy and the mean of the node say; the edge's own where all behind it is known.
        """
        visits, beta = self.visits[nodes], self.kl_coefficient
        given = self.log_prior[nodes] + (self.means(nodes) / beta)[:, None]
        own = self.log_ref[nodes] + self.edge_values[nodes] / beta
        weight = np.where(self.is_solved[nodes], 0.0, self.prior_weight)
        share = visits / np.maximum(visits + weight, 1)
        with np.errstate(invalid="ignore"):  # 0 times infinite: impossible tokens, never tried
            drawn = (1 - share) * given + share * own
        return np.where(share > 0, drawn, given)

    def are_solved(self, nodes: Ints) -> NDArray[np.bool_]:
        """Tells whether every text below a node is known, so that its worth is exact, (n,)."""
        is_impossible = np.isneginf(self.log_prior[nodes])
        found: NDArray[np.bool_] = np.all(self.is_solved[nodes] | is_impossible, axis=1)
        return found

    # --- a simulation ---

    def descend(self, roots: Ints, c_puct: float) -> list[Level]:
        """Goes down from each root to an edge without a node behind it.

        Args:
            roots: R nodes that lie in different trees; none solved, where the choice is "soft".
            c_puct: how much an edge's prior counts beside its value.

        Returns:
            The steps, from the roots down. Searches end at different depths.
        """
        levels = []
        rows, nodes = np.arange(len(roots)), roots
        while rows.size:
            actions = self.puct(nodes, c_puct).argmax(axis=1)
            levels.append(Level(rows, nodes, actions))
            below = self.children[nodes, actions]
            rows, nodes = rows[below >= 0], below[below >= 0]
        return levels

    def puct(self, nodes: Ints, c_puct: float) -> Floats:
        """Returns what is maximised on the way down, (n, V).

        An edge that was never tried has the mean of its node for a value. Minus infinity are tokens
        that are impossible and, for "soft", those behind which all is known: it needs nothing more.
        """
        visits, log_prior = self.visits[nodes], self.log_prior[nodes]
        values = np.where(visits > 0, self.edge_values[nodes], self.means(nodes)[:, None])
        # Before the first visit the likeliest token comes first.
        total = np.maximum(visits.sum(axis=1, keepdims=True), 1)
        scores: Floats = values + c_puct * np.exp(log_prior) * np.sqrt(total) / (1 + visits)
        scores[np.isneginf(log_prior)] = -np.inf
        if self.choice == "soft":
            scores[self.is_solved[nodes]] = -np.inf
        return scores

    def back_up(self, levels: list[Level], evaluations: Floats) -> None:
        """Carries what R searches found at the end of their ways up to their roots.

        Args:
            levels: of `descend`, after the nodes of texts that go on were added (`add_leaves`). A
                text without a node has ended, and its evaluation is its score.
            evaluations: of the texts found, (R,).
        """
        for level in reversed(levels):
            rows, nodes, actions = level.rows, level.nodes, level.actions
            below = self.children[nodes, actions]
            is_end, inner = below < 0, np.maximum(below, 0)
            worth = np.where(is_end, evaluations[rows], self.values(inner))
            self.edge_values[nodes, actions] = worth
            self.is_solved[nodes, actions] = is_end | self.are_solved(inner)
            self.visits[nodes, actions] += 1
            self.totals[nodes] += evaluations[rows]
            self.counts[nodes] += 1

    # --- nodes ---

    def add_roots(self, log_prior: Floats, log_ref: Floats, evaluations: Floats) -> Ints:
        """Adds nodes that have no parent, and returns their numbers, (n,)."""
        nodes = np.arange(self.size, self.size + len(evaluations))
        self.size += len(evaluations)
        if self.size > len(self.totals):
            self._grow(2 * self.size)
        self.log_prior[nodes], self.log_ref[nodes] = log_prior, log_ref
        self.totals[nodes], self.counts[nodes] = evaluations, 1
        return nodes

    def add_leaves(
        self, parents: Ints, actions: Ints, log_prior: Floats, log_ref: Floats, evaluations: Floats
    ) -> Ints:
        """Adds the nodes behind some edges, and returns their numbers, (n,).

        Args:
            parents: (n,).
            actions: (n,).
            log_prior: (n, V).
            log_ref: (n, V).
            evaluations: what each new text was found to be worth, (n,).
        """
        nodes = self.add_roots(log_prior, log_ref, evaluations)
        self.children[parents, actions] = nodes
        return nodes

    def keep(self, roots: Ints) -> Ints:
        """Drops every node that is not at or below one of some.

        Returns:
            The new number of each old node, -1 for those dropped, (N,).
        """
        kept = newest = np.unique(roots)
        while newest.size:
            below = self.children[newest]
            newest = np.setdiff1d(below[below >= 0], kept)
            kept = np.union1d(kept, newest)
        numbers = np.full(self.size + 1, -1)  # the last is that of no node
        numbers[kept] = np.arange(len(kept))
        for name in (*self._EDGES, *self._NODES):
            setattr(self, name, getattr(self, name)[kept])
        self.children = numbers[self.children]
        self.size = len(kept)
        return numbers[:-1]

    def _grow(self, capacity: int) -> None:
        old = len(self.totals)
        for name, (dtype, fill) in self._EDGES.items():
            array: NDArray[Any] = np.full((capacity, self.vocabulary_size), fill, dtype)
            array[:old] = getattr(self, name)
            setattr(self, name, array)
        for name in self._NODES:
            setattr(self, name, np.append(getattr(self, name), np.zeros(capacity - old)))


def _log_sum_exp(exponents: Floats) -> Floats:
    """Returns log Σ exp over the last axis, (n, V) -> (n,)."""
    top = exponents.max(axis=-1)
    found: Floats = top + np.log(np.exp(exponents - top[:, None]).sum(axis=-1))
    return found
