"""MCTS: Monte-Carlo tree search over the tokens of a response.

Before each token the tree of the text so far is searched, and the token is drawn from the policy
that the tree holds; the node behind it is the next root. All is a function of seed and text: the
tokens of a roll-out are decided by both, so that the log-probability of a token is exactly that of
the distribution that it was drawn from, and texts met again need no second search.
"""

from functools import partial
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from textrl_agents.policies.base import PolicyStep
from textrl_agents.search.agent import SearchAgent, load_base
from textrl_agents.search.simulator import BasePolicy, Simulator
from textrl_agents.search.tree import Choice
from textrl_agents.search.tree_search import Leaf, Searched, TreeSearch
from textrl_envs.environments.checks import check_count
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.sampling import draw
from textrl_envs.observations import read_observation
from textrl_envs.task import Task

__all__ = ["MCTS", "MCTSPolicy"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class MCTSPolicy:
    """Draws each token from the policy of a search tree.

    Args:
        task: what is played.
        base: prior, and draws the roll-outs; None takes the task's reference.
        simulations: of the search before each token.
        c_puct: how much the prior counts beside the values, in units of the score.
        choice: "soft", for the return less its KL, or "visits" (`textrl_agents.search.tree`).
        leaf: a new text is worth what one "roll_out" of the base policy earns, less β times its
            log-ratio to the reference; or the "value" that the base policy gives it.
        prior_weight: visits that the base policy counts for, beside a token's own, in "soft": a
            single roll-out tells little.
        seed: of the roll-outs.

    Raises:
        InvalidInputError: a setting out of range, no base policy, "soft" without a reference and
            a positive β, or "value" of a base policy that has none.
    """

    def __init__(
        self,
        task: Task,
        base: BasePolicy | None = None,
        *,
        simulations: int = 32,
        c_puct: float = 1.0,
        choice: Choice = "soft",
        leaf: Leaf = "roll_out",
        prior_weight: float = 4.0,
        seed: int | tuple[int, ...] = 0,
    ) -> None:
        check_count("simulations", simulations)
        _check_number("c_puct", c_puct)
        _check_number("prior_weight", prior_weight)
        _check_name("choice", choice, get_args(Choice))
        _check_name("leaf", leaf, get_args(Leaf))
        self.simulator = Simulator(task, base)
        self.task = self.simulator.task
        if choice == "soft" and (self.simulator.reference is None or not task.kl_coefficient > 0):
            raise InvalidInputError(
                "choice='soft' needs a reference and a positive kl_coefficient; got "
                f"{task.kl_coefficient} as the latter. Take choice='visits'."
            )
        if leaf == "value" and not hasattr(self.simulator.base, "next_values"):
            raise InvalidInputError(
                "leaf='value' needs a base policy with values, and a reference has none. Give "
                "base, the folder of a trained policy, or take leaf='roll_out'."
            )
        self._new_search = partial(
            TreeSearch,
            self.simulator,
            simulations=simulations,
            c_puct=c_puct,
            choice=choice,
            leaf=leaf,
            prior_weight=prior_weight,
            seed=(seed,) if isinstance(seed, int) else seed,
        )
        self.tokens_spent = 0
        """Tokens of the searches of all tokens chosen so far; a search that several rows share is
        counted for each. `simulator.tokens_generated` counts each search once."""
        self.forget()

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.task.vocabulary_size

    def forget(self) -> None:
        """Drops all trees, and what the base policy remembers. Due when its weights change."""
        self._search = self._new_search()
        self.simulator.base.forget()

    # --- acting ---

    def choose(self, obs: Any, rng: np.random.Generator, *, greedy: bool = False) -> Ints:  # noqa: ANN401
        """Returns a token for each observation, (B,)."""
        return self._choose(self._read(obs), rng, greedy=greedy)

    def step(self, obs: Any, rng: np.random.Generator, *, greedy: bool = False) -> PolicyStep:  # noqa: ANN401
        """Chooses a token in each observation."""
        found = self._read(obs)
        actions = self._choose(found, rng, greedy=greedy)
        log_probs = np.array([one.log_policy for one in found])
        with np.errstate(invalid="ignore"):  # 0 log 0
            terms = np.where(np.isfinite(log_probs), np.exp(log_probs) * log_probs, 0.0)
        return PolicyStep(
            actions,
            log_probs[np.arange(len(actions)), actions],
            -terms.sum(axis=1),
            np.array([one.value for one in found]),
        )

    def next_log_probs(self, obs: Any) -> Floats:  # noqa: ANN401 - either form
        """Returns the log-probabilities of all next tokens, in nats, (B, V)."""
        return np.array([one.log_policy for one in self._read(obs)])

    def log_probs(self, obs: Any, actions: NDArray[np.integer[Any]]) -> Floats:  # noqa: ANN401
        """Returns the log-probability of each action in each observation, in nats, (B,)."""
        rows = self.next_log_probs(obs)
        found: Floats = rows[np.arange(len(rows)), np.asarray(actions)]
        return found

    def next_values(self, obs: Any) -> Floats:  # noqa: ANN401 - either form
        """Returns what the search of each observation found it to be worth, (B,)."""
        return np.array([one.value for one in self._read(obs)])

    def _read(self, obs: Any) -> list[Searched]:  # noqa: ANN401 - either form
        ids, lengths = read_observation(obs)
        return self._search.read([row[:n] for row, n in zip(ids, lengths, strict=True)])

    def _choose(self, found: list[Searched], rng: np.random.Generator, *, greedy: bool) -> Ints:
        self.tokens_spent += sum(one.tokens for one in found)
        log_probs = np.array([one.log_policy for one in found])
        return log_probs.argmax(axis=1) if greedy else draw(log_probs, rng)


class MCTS(SearchAgent):
    """Searches a tree before each token."""

    policy: MCTSPolicy

    @classmethod
    def make(
        cls,
        envs: Any,  # noqa: ANN401 - a vector environment, wrapped or not
        *,
        seed: int = 0,
        device: str = "auto",
        simulations: int = 32,
        c_puct: float = 1.0,
        choice: Choice = "soft",
        leaf: Leaf = "roll_out",
        prior_weight: float = 4.0,
        base: str = "reference",
    ) -> Self:
        """Makes the agent for an environment; `MCTSPolicy` has what the settings mean.

        Args:
            envs: gives the task.
            seed: of roll-outs and tokens.
            device: of a base policy from a folder.
            simulations: of the search before each token.
            c_puct: how much the prior counts beside the values.
            choice: "soft" or "visits".
            leaf: "roll_out" or "value".
            prior_weight: visits that the base policy counts for, in "soft".
            base: prior, and draws the roll-outs: "reference", or the folder of a trained policy.
        """
        policy = MCTSPolicy(
            envs.unwrapped.task,
            load_base(base, device=device),
            simulations=simulations,
            c_puct=c_puct,
            choice=choice,
            leaf=leaf,
            prior_weight=prior_weight,
            seed=seed,
        )
        return cls(policy, seed=seed)


def _check_number(name: str, value: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= float(value) < np.inf:  # type: ignore[arg-type]
        raise InvalidInputError(f"{name} must be a number of 0 or more; got {value!r}.")


def _check_name(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidInputError(f"{name} must be one of {known}; got {value!r}.")
