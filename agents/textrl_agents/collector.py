"""Collector: policy x vector environment -> Episodes. A row that ends is refilled at once.

It starts a given number of episodes and finishes every one of them. Stopping once enough have ended
would be biased: short responses end first. Rows without a further episode wait for the last.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from textrl_agents.episodes import Episodes
from textrl_agents.policies.base import PolicyStep
from textrl_envs.errors import InvalidInputError
from textrl_envs.observations import read_observation
from textrl_envs.vector_env import TextVectorEnv
from textrl_envs.wrappers.kl_charge import KLCharge
from textrl_envs.wrappers.vector import KLPenalty

__all__ = ["ActingPolicy", "Collector", "native_envs"]


class ActingPolicy(Protocol):
    """What the collector asks of a policy."""

    def step(self, obs: Any, rng: np.random.Generator, *, greedy: bool = False) -> PolicyStep:  # noqa: ANN401
        """Chooses a token in each observation."""

    def forget(self) -> None:
        """Drops what is remembered between calls."""

    def next_values(self, obs: Any) -> NDArray[np.float64]:  # noqa: ANN401
        """Returns the value of each observation, (B,)."""


def native_envs(envs: Any) -> TextVectorEnv:  # noqa: ANN401 - any stack of vector wrappers
    """Returns the native text vector environment within.

    Raises:
        InvalidInputError: another kind of vector environment.
    """
    base = getattr(envs, "unwrapped", envs)
    if not isinstance(base, TextVectorEnv):
        raise InvalidInputError(
            f"Agents collect from native text vector environments; got {type(base).__name__}. "
            "Make it by gym.make_vec(id, num_envs=...)."
        )
    return base


class Collector:
    """Collects whole episodes.

    Where the outermost wrapper is `KLPenalty`, its charge is put off and made for all episodes by
    one forward of the reference: the same numbers, at a fraction of the cost.

    Args:
        envs: a `TextVectorEnv`, wrapped or not, in any autoreset mode.

    Raises:
        InvalidInputError: another kind of vector environment.
    """

    def __init__(self, envs: Any) -> None:  # noqa: ANN401 - any stack of vector wrappers
        self.envs = envs
        self._base = native_envs(envs)

    def collect(
        self,
        policy: ActingPolicy,
        num_episodes: int,
        *,
        seed: Sequence[int],
        group_size: int = 1,
        greedy: bool = False,
        is_balanced: bool = False,
    ) -> Episodes:
        """Plays `num_episodes` episodes to their ends.

        Args:
            policy: chooses the tokens.
            num_episodes: at least the number of rows, and a multiple of `group_size`.
            seed: decides prompts, environment and sampling; nothing is carried from call to call.
            group_size: that many episodes in a row share a prompt.
            greedy: take the likeliest token each time.
            is_balanced: present every prompt once before any is presented again, rather than draw
                each independently.

        Raises:
            InvalidInputError: a number of episodes that does not fit.
        """
        num_envs: int = self.envs.num_envs
        if num_episodes < num_envs or num_episodes % group_size:
            raise InvalidInputError(
                f"Expected at least {num_envs} episodes, one a row, and a multiple of the group "
                f"size {group_size}; got {num_episodes}."
            )
        rng = np.random.default_rng(list(seed))
        prompts = _draw(rng, len(self._base.prompts), num_episodes // group_size, is_balanced)
        return self._play(policy, np.repeat(prompts, group_size), rng, greedy=greedy)

    def collect_greedy(
        self, policy: ActingPolicy, prompts: NDArray[np.int64], *, seed: Sequence[int]
    ) -> Episodes:
        """Plays the likeliest response to each of some prompts, and no more.

        Args:
            policy: chooses the tokens.
            prompts: one or more. Where they are fewer than the rows, the others wait as they are:
                each must have played before.
            seed: decides what is random in the environment.
        """
        return self._play(policy, prompts, np.random.default_rng(list(seed)), greedy=True)

    def _play(
        self,
        policy: ActingPolicy,
        prompts: NDArray[np.int64],
        rng: np.random.Generator,
        *,
        greedy: bool,
    ) -> Episodes:
        """Plays an episode to each of the prompts.

        An adaptive coefficient whose charge was put off is told of sampled episodes alone: it
        steers their KL.
        """
        policy.forget()  # so that a resumed run repeats this to the last bit
        record = _Record(prompts, self._base)
        with _resets_by_hand(self._base), self._charge_later() as charge:
            env_seed = int(rng.integers(2**31))
            obs, _ = self.envs.reset(seed=env_seed, options=record.first())
            while record.is_playing.any():
                step = policy.step(obs, rng, greedy=greedy)
                obs, rewards, terminated, truncated, infos = self.envs.step(step.actions)
                record.note(step, rewards, infos)
                ended = np.flatnonzero((terminated | truncated) & record.is_playing)
                if not ended.size:
                    continue
                cut = truncated[ended] & ~terminated[ended]
                values = policy.next_values(obs)[ended] if cut.any() else np.zeros(len(ended))
                record.finish(ended, obs, np.where(cut, values, 0.0), infos)
                options = record.refill(ended)
                if options is not None:
                    obs, _ = self.envs.reset(options=options)
        episodes = _charged(_valued(record.episodes(), policy), charge)
        if charge is not None and not greedy:
            charge.observe(episodes.kl)
        return episodes

    @contextlib.contextmanager
    def _charge_later(self) -> Iterator[KLCharge | None]:
        if isinstance(self.envs, KLPenalty):
            with self.envs.deferred() as charge:
                yield charge
        else:
            yield None


def _draw(
    rng: np.random.Generator, number: int, count: int, is_balanced: bool
) -> NDArray[np.int64]:
    if not is_balanced:
        return rng.integers(number, size=count)
    rounds = [rng.permutation(number) for _ in range(-(-count // number))]
    return np.concatenate(rounds)[:count]


@contextlib.contextmanager
def _resets_by_hand(base: TextVectorEnv) -> Iterator[None]:
    """Lets finished rows wait: the collector says when, and with which prompt, they begin again."""
    mode = base.autoreset_mode
    base.autoreset_mode = AutoresetMode.DISABLED
    try:
        yield
    finally:
        base.autoreset_mode = mode


def _valued(episodes: Episodes, policy: ActingPolicy) -> Episodes:
    """Asks a policy that values whole episodes for the values that its steps did not give."""
    if not getattr(policy, "values_episodes", False):
        return episodes
    return replace(episodes, values=policy.episode_values(episodes))  # type: ignore[attr-defined]


def _charged(episodes: Episodes, charge: KLCharge | None) -> Episodes:
    """Subtracts the KL penalty of whole episodes."""
    if charge is None:
        return episodes
    log_ratio = charge.episode_log_ratio(episodes)
    return replace(
        episodes,
        ref_log_probs=episodes.log_probs - log_ratio,
        rewards=episodes.task_rewards - charge.coefficient * log_ratio,
    )


class _Record:
    """Episodes in the making: which row plays which, and what has been seen of each.

    Args:
        prompts: the prompt of each episode to be played, (B,).
        base: the environment; its rows play episodes 0..N-1 first.
    """

    def __init__(self, prompts: NDArray[np.int64], base: TextVectorEnv) -> None:
        task, count = base.task, len(prompts)
        self._prompts = prompts
        self._table = task.prompts
        self._next = min(base.num_envs, count)
        self._episode = np.minimum(np.arange(base.num_envs), count - 1)
        self._time = np.zeros(base.num_envs, np.int64)
        self.is_playing: NDArray[np.bool_] = np.arange(base.num_envs) < count
        self._tokens = {
            name: np.zeros((count, task.max_new_tokens))
            for name in ("log_probs", "values", "entropies", "rewards", "log_ratio")
        }
        self._is_charged = False
        self._response_mask = np.zeros((count, task.max_new_tokens), np.bool_)
        self._input_ids = np.zeros((count, task.max_tokens), np.int64)
        self._attention_mask = np.zeros((count, task.max_tokens), np.int8)
        self._scores = np.zeros(count)
        self._bootstrap_values = np.zeros(count)
        self._finish_reason = np.zeros(count, np.int64)
        self._gold: NDArray[np.float64] | None = None

    def first(self) -> dict[str, Any]:
        """Returns the options of the first reset."""
        options: dict[str, Any] = {"prompt_index": self._prompts[self._episode]}
        return (
            options if self.is_playing.all() else {"reset_mask": self.is_playing.copy(), **options}
        )

    def note(self, step: PolicyStep, rewards: NDArray[np.float64], infos: dict[str, Any]) -> None:
        """Writes one step of every row that plays."""
        rows = np.flatnonzero(self.is_playing)
        place = self._episode[rows], self._time[rows]
        self._tokens["log_probs"][place] = step.log_probs[rows]
        self._tokens["values"][place] = step.values[rows]
        self._tokens["entropies"][place] = step.entropies[rows]
        self._tokens["rewards"][place] = rewards[rows]
        if "log_ratio" in infos:  # a KL wrapper further in has charged the step already
            self._is_charged = True
            self._tokens["log_ratio"][place] = infos["log_ratio"][rows]
        self._response_mask[place] = True
        self._time[rows] += 1

    def finish(
        self,
        rows: NDArray[np.int64],
        obs: Any,  # noqa: ANN401 - either form
        bootstrap_values: NDArray[np.float64],
        infos: dict[str, Any],
    ) -> None:
        """Writes the last observation of the rows that ended."""
        ids, lengths = read_observation(obs)
        episodes = self._episode[rows]
        is_text = np.arange(ids.shape[1]) < lengths[rows, None]
        self._input_ids[episodes] = np.where(is_text, ids[rows], 0)
        self._attention_mask[episodes] = is_text
        self._bootstrap_values[episodes] = bootstrap_values
        self._finish_reason[episodes] = infos["finish_reason"][rows]
        if "score" in infos:
            self._scores[episodes] = infos["score"][rows]
        if "gold" in infos:
            if self._gold is None:
                self._gold = np.zeros(len(self._prompts))
            self._gold[episodes] = infos["gold"][rows]
        self.is_playing[rows] = False

    def refill(self, rows: NDArray[np.int64]) -> dict[str, Any] | None:
        """Gives the next episodes to rows that ended; returns the options of their reset."""
        rows = rows[: len(self._prompts) - self._next]
        if not rows.size:
            return None
        self._episode[rows] = np.arange(self._next, self._next + len(rows))
        self._next += len(rows)
        self._time[rows] = 0
        self.is_playing[rows] = True
        mask = np.zeros(len(self.is_playing), np.bool_)
        mask[rows] = True
        return {"reset_mask": mask, "prompt_index": self._prompts[self._episode]}

    def episodes(self) -> Episodes:
        """Returns all episodes, in the order in which they were started."""
        tokens, mask = self._tokens, self._response_mask
        task_rewards = tokens["rewards"]
        if self._is_charged:
            is_last = mask & ~np.pad(mask[:, 1:], ((0, 0), (0, 1)))
            task_rewards = np.where(is_last, self._scores[:, None], 0.0)
        episodes = Episodes(
            input_ids=self._input_ids,
            attention_mask=self._attention_mask,
            prompt_lengths=self._table.lengths[self._prompts],
            response_mask=mask,
            log_probs=tokens["log_probs"],
            ref_log_probs=tokens["log_probs"] - tokens["log_ratio"] if self._is_charged else None,
            values=tokens["values"],
            entropies=tokens["entropies"],
            task_rewards=task_rewards,
            rewards=tokens["rewards"],
            bootstrap_values=self._bootstrap_values,
            prompt_index=self._prompts,
            finish_reason=self._finish_reason,
            gold=self._gold,
        )
        return episodes.select(np.arange(len(episodes)))
