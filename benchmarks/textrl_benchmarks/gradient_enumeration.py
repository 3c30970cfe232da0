"""Every response of a small environment, and what gradient estimators expect and vary over them.

The gradient is that of a table of logits, one for each token at each time and node of the graph
(`TablePolicy`). At two times or nodes it has no number in common: so the square of an episode's
gradient is a sum over its tokens, and everything below is exact.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textrl_agents.kl import k2, k3
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum.mdp import TextMDP

__all__ = ["KL_USES", "AllResponses", "gradient_variances", "kl_gradients"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class AllResponses:
    """R responses of up to T tokens: all that the reference can write to S kinds of prompts."""

    mdp: TextMDP
    start_chances: Floats
    """Chance of each kind of prompt, (S,): prompts that begin at one node are of one kind."""
    start: Ints
    """Kind of the prompt, (R,)."""
    nodes: Ints
    """Node before each token, (R, T)."""
    tokens: Ints
    """(R, T), 0 where there is none."""
    mask: Mask
    """True where there is a token, (R, T)."""
    scores: Floats
    """(R,)."""

    @classmethod
    def of(cls, mdp: TextMDP) -> Self:
        """Writes out every response on a graph.

        Raises:
            InvalidInputError: single tokens are scored, so that a node does not tell the return.
        """
        if mdp.token_scores.any():
            raise InvalidInputError("Expected a score at the end alone; this task scores tokens.")
        starts, counts = np.unique(mdp.starts, return_counts=True)
        eos, can_be = mdp.task.tokenizer.eos_token_id, np.isfinite(mdp.log_ref)
        start, node = np.arange(len(starts)), starts
        paths = np.zeros((len(starts), 0, 2), np.int64)  # (node, token) of each step
        ended: list[tuple[Ints, Ints]] = []
        for time in range(mdp.limit):
            row, token = np.nonzero(can_be[node])
            step = np.stack([node[row], token], axis=1)[:, None]
            start, paths = start[row], np.concatenate([paths[row], step], axis=1)
            node = mdp.next_nodes[node[row], token]
            is_end = (token == eos) | (time + 1 == mdp.limit)
            ended.append((start[is_end], paths[is_end]))
            start, paths, node = start[~is_end], paths[~is_end], node[~is_end]
        padded = [
            np.pad(path, ((0, 0), (0, mdp.limit - path.shape[1]), (0, 0)), constant_values=-1)
            for _, path in ended
        ]
        path = np.concatenate(padded)
        mask = path[..., 1] >= 0
        last = path[np.arange(len(path)), mask.sum(axis=1) - 1]
        return cls(
            mdp=mdp,
            start_chances=counts / counts.sum(),
            start=np.concatenate([start for start, _ in ended]),
            nodes=np.maximum(path[..., 0], 0),
            tokens=np.maximum(path[..., 1], 0),
            mask=mask,
            scores=mdp.end_scores[last[:, 0], last[:, 1]],
        )

    def token_log_ref(self) -> Floats:
        """Returns log π_ref of every token, (R, T), in nats, 0 where there is none."""
        return np.where(self.mask, self.mdp.log_ref[self.nodes, self.tokens], 0.0)

    def chances(self) -> Floats:
        """Returns the chance of each prompt and response under the reference, (R,)."""
        found: Floats = self.start_chances[self.start] * np.exp(self.token_log_ref().sum(axis=1))
        return found


# --- variance at the reference ---


def gradient_variances(
    responses: AllResponses, *, group_sizes: tuple[int, ...] = (2, 4, 8)
) -> dict[str, tuple[float, float]]:
    """Returns the trace of the variance of REINFORCE's gradient at the reference, by baseline.

    At the reference no token is charged anything, so that every return to go is the score R.

    Args:
        responses: of an environment.
        group_sizes: K of leave-one-out.

    Returns:
        Of each baseline two traces, times the number of episodes: given the prompts, and with the
        prompts drawn too. In groups of K the second is within + K x between: at equal numbers of
        episodes there are fewer prompts.
    """
    moments = _Moments.of(responses)
    found = {name: moments.variance(baseline) for name, baseline in _baselines(responses, moments)}
    mean = moments.of_start(responses.scores)[responses.start][:, None]
    within, _ = moments.variance(mean)
    for size in group_sizes:
        more = within + moments.leave_one_out_excess() / (size - 1)
        found[f"leave-one-out, K = {size}"] = (more, more + size * moments.between)
    return found


@dataclass(frozen=True, slots=True)
class _Moments:
    """What the variances of all baselines have in common."""

    responses: AllResponses
    chances: Floats  # (R,)
    squares: Floats  # |∇ log π(a_t|s_t)|², (R, T), 0 where there is no token
    gradients: Floats  # squared norm of the expected gradient given each kind of prompt, (S,)
    between: float  # trace of the variance over prompts of the expected gradient

    @classmethod
    def of(cls, responses: AllResponses) -> Self:
        chances, starts = responses.chances(), responses.start_chances
        pi = np.exp(responses.mdp.log_ref)  # [N, V]
        chosen = pi[responses.nodes, responses.tokens]
        norms = (pi**2).sum(axis=1)[responses.nodes]
        squares = np.where(responses.mask, 1 - 2 * chosen + norms, 0.0)
        expected = np.stack(
            [_expected_gradient(responses, chances, kind) for kind in range(len(starts))]
        )  # [S, numbers of the table], not divided by the chance of the kind
        gradients = (expected**2).sum(axis=1) / starts**2
        between = float(starts @ gradients - (expected.sum(axis=0) ** 2).sum())
        return cls(responses, chances, squares, gradients, between)

    def of_start(self, values: Floats) -> Floats:
        """Returns the mean of numbers (R,) given each kind of prompt, (S,)."""
        start, kinds = self.responses.start, self.responses.start_chances
        return np.bincount(start, self.chances * values, len(kinds)) / kinds

    def variance(self, baseline: Floats) -> tuple[float, float]:
        """Returns both traces for a baseline, broadcastable to (R, T)."""
        advantages = self.responses.scores[:, None] - baseline
        second = (self.squares * advantages**2).sum(axis=1)
        within = float(self.chances @ second - self.responses.start_chances @ self.gradients)
        return within, within + self.between

    def leave_one_out_excess(self) -> float:
        """Returns what K − 1 others cost beside the exact mean of the prompt, times K − 1.

        Leave-one-out is the sample covariance of Σ_t ∇ log π and R, whose variance is known:
        (|g|² + E|Σ_t ∇ log π|² Var R) / (K − 1) more than with the mean itself.
        """
        scores = self.responses.scores
        spread = self.of_start(scores**2) - self.of_start(scores) ** 2
        lengths = self.of_start(self.squares.sum(axis=1))
        return float(self.responses.start_chances @ (self.gradients + lengths * spread))


def _expected_gradient(responses: AllResponses, chances: Floats, kind: int) -> Floats:
    """Returns E[1{kind} R Σ_t ∇ log π(a_t|s_t)] as one vector over the table."""
    mdp = responses.mdp
    rows = responses.start == kind
    time = np.broadcast_to(np.arange(mdp.limit), responses.mask.shape)[rows]
    mask = responses.mask[rows]
    place = time[mask], responses.nodes[rows][mask]
    earned = np.broadcast_to((chances * responses.scores)[rows, None], mask.shape)[mask]
    gradient = np.zeros((mdp.limit, *mdp.log_ref.shape))
    np.add.at(gradient, (*place, responses.tokens[rows][mask]), earned)
    gradient -= gradient.sum(axis=2, keepdims=True) * np.exp(mdp.log_ref)
    return gradient.reshape(-1)


def _baselines(responses: AllResponses, moments: _Moments) -> list[tuple[str, Floats]]:
    """Returns name and baseline, broadcastable to (R, T)."""
    scores, start = responses.scores, responses.start
    squares = moments.squares.sum(axis=1)
    value, best = _of_states(responses, moments)
    optimal = moments.chances @ (squares * scores) / (moments.chances @ squares)
    return [
        ("none", np.zeros((1, 1))),
        ("constant: the mean return", np.full((1, 1), moments.chances @ scores)),
        ("optimal constant", np.full((1, 1), optimal)),
        ("greedy response", _greedy_scores(responses)[start][:, None]),
        ("mean of the prompt", moments.of_start(scores)[start][:, None]),
        ("exact value of the text", value),
        ("optimal for each text", best),
    ]


def _of_states(responses: AllResponses, moments: _Moments) -> tuple[Floats, Floats]:
    """Returns V(s_t) and E[|∇ log π|² R | s_t] / E[|∇ log π|² | s_t], (R, T)."""
    size = len(responses.mdp.log_ref)
    state = np.arange(responses.mdp.limit) * size + responses.nodes  # time and node
    reach = np.where(responses.mask, moments.chances[:, None], 0.0)

    def conditional(weights: Floats) -> Floats:
        count = responses.mdp.limit * size
        sums = np.bincount(state.ravel(), (weights * responses.scores[:, None]).ravel(), count)
        totals = np.bincount(state.ravel(), weights.ravel(), count)
        means: Floats = (sums / np.where(totals > 0, totals, 1.0))[state]
        return means

    return conditional(reach), conditional(reach * moments.squares)


def _greedy_scores(responses: AllResponses) -> Floats:
    """Returns what the likeliest token each time earns, (S,)."""
    mdp = responses.mdp
    likeliest = mdp.log_ref.argmax(axis=1)[responses.nodes]
    is_greedy = np.where(responses.mask, responses.tokens == likeliest, True).all(axis=1)
    found = np.zeros(len(responses.start_chances))
    found[responses.start[is_greedy]] = responses.scores[is_greedy]
    return found


# --- what a use of the KL does to the gradient ---

KL_USES = (
    "k1 in the reward",
    "k2 of the whole response as loss",
    "k3 in the reward and as loss",
    "whole KL of each text in the reward and as loss",
    "whole KL of each text as loss",
    "k2 of each token as loss",
    "k3 of each token as loss",
    "whole KL of each text in the reward",
    "k1 as loss",
    "k3 in the reward",
)


def kl_gradients(responses: AllResponses, table: Tensor) -> tuple[float, dict[str, Floats]]:
    """Returns the KL of a table policy, and the expected gradient of each use of an estimator.

    Args:
        responses: of an environment.
        table: logits beside those of the reference, float64 [T, N, V], with gradients.

    Returns:
        KL(π ‖ π_ref) in nats; and for each of `KL_USES` the gradient that it stands for, as one
        vector, with that of the KL itself under "KL".
    """
    log_ref = torch.from_numpy(responses.mdp.log_ref)
    log_pi = (log_ref + table).log_softmax(-1)  # [T, N, V]
    time = np.arange(responses.mdp.limit)
    mask = torch.from_numpy(responses.mask)
    log_prob = torch.where(mask, log_pi[time, responses.nodes, responses.tokens], 0.0)  # [R, T]
    ratio = log_prob - torch.from_numpy(responses.token_log_ref())
    whole = (log_pi.exp() * (log_pi - log_ref)).nan_to_num().sum(-1)[time, responses.nodes]
    whole = torch.where(mask, whole, 0.0)
    starts = torch.from_numpy(responses.start_chances[responses.start])
    chances = starts * log_prob.sum(1).exp()
    weights = chances.detach()

    def as_loss(of_token: Tensor) -> Tensor:
        return (weights * of_token.sum(1)).sum()

    def in_reward(of_token: Tensor) -> Tensor:
        to_go = of_token.detach().flip(1).cumsum(1).flip(1)
        return (weights * (log_prob * to_go).sum(1)).sum()

    kl = (chances * ratio.sum(1)).sum()
    surrogates = (
        in_reward(ratio),
        (weights * k2(ratio.sum(1))).sum(),
        in_reward(k3(ratio)) + as_loss(k3(ratio)),
        in_reward(whole) + as_loss(whole),
        as_loss(whole),
        as_loss(k2(ratio)),
        as_loss(k3(ratio)),
        in_reward(whole),
        as_loss(ratio),
        in_reward(k3(ratio)),
    )
    named = dict(zip(("KL", *KL_USES), (kl, *surrogates), strict=True))
    gradients = {
        name: torch.autograd.grad(value, table, retain_graph=True)[0].reshape(-1).numpy()
        for name, value in named.items()
    }
    return float(kl.detach()), gradients
