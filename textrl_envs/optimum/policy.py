"""OptimalPolicy: π* as something that acts in the environment, and its values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_envs.language_models.sampling import draw
from textrl_envs.optimum.mdp import TextMDP

__all__ = ["OptimalPolicy"]

Floats = NDArray[np.float64]


class OptimalPolicy:
    """π*(a|s) = π_ref(a|s) exp(A*(s, a) / β), read off the exact values.

    It answers what is asked of a policy: the KL wrapper can charge it, and it can be rolled out.
    Of a text that has ended it says what the reference says of its last node, and value 0.

    Args:
        mdp: the environment's graph, N nodes.
        values: V*_t of each node, (T + 1, N).
        kl_coefficient: β.
    """

    def __init__(self, mdp: TextMDP, values: Floats, kl_coefficient: float) -> None:
        self._mdp = mdp
        self._values = values
        self._kl_coefficient = kl_coefficient

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return int(self._mdp.log_ref.shape[1])

    def advantages(self, obs: Any) -> Floats:  # noqa: ANN401 - either form
        """Returns A*(s, a) = r(s, a) + V*(s') − V*(s), (B, V), in units of the score.

        Then log π* − log π_ref = A* / β: what each token is worth before its KL is paid. 0 for a
        text that has ended.
        """
        time, node, has_ended, _ = self._mdp.locate(obs)
        return self._advantages(time, node, has_ended)

    def next_log_probs(self, obs: Any) -> Floats:  # noqa: ANN401 - either form
        """Returns log π* of all next tokens, in nats, (B, V)."""
        time, node, has_ended, _ = self._mdp.locate(obs)
        advantages = self._advantages(time, node, has_ended)
        return self._mdp.log_ref[node] + advantages / self._kl_coefficient

    def log_probs(self, obs: Any, actions: NDArray[np.integer[Any]]) -> Floats:  # noqa: ANN401
        """Returns log π* of each action in each observation, in nats, (B,)."""
        rows = self.next_log_probs(obs)
        return rows[np.arange(len(rows)), np.asarray(actions)]

    def next_values(self, obs: Any) -> Floats:  # noqa: ANN401 - either form
        """Returns V* of each observation, (B,): the most that is still to be paid, on average.

        What the tokens written have earned is in it, since the environment pays all at the end.
        """
        time, node, has_ended, earned = self._mdp.locate(obs)
        return np.where(has_ended, 0.0, earned + self._values[time, node])

    def act(self, obs: Any, rng: np.random.Generator) -> NDArray[np.int64]:  # noqa: ANN401
        """Draws a token for each observation, (B,)."""
        return draw(self.next_log_probs(obs), rng)

    def forget(self) -> None:
        """Does nothing: nothing is remembered."""

    def _advantages(
        self, time: NDArray[np.int64], node: NDArray[np.int64], has_ended: NDArray[np.bool_]
    ) -> Floats:
        mdp, eos = self._mdp, self._mdp.task.tokenizer.eos_token_id
        payoff = self._values[time[:, None] + 1, mdp.next_nodes[node]]
        is_end = np.arange(self.vocabulary_size) == eos
        is_end = is_end | (time + 1 == mdp.limit)[:, None]
        payoff = np.where(is_end, mdp.end_scores[node], payoff) + mdp.token_scores[node]
        payoff -= self._values[time, node][:, None]
        payoff[has_ended] = 0.0
        return payoff
