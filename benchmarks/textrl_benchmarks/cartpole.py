"""PPO's losses and advantages on CartPole-v1: evidence from outside text.

Losses and advantages are those by which `textrl_agents.ppo` learns from text, imported as they are.
What surrounds them here is as plain as can be: two small networks, and Gymnasium's environments,
whose rollouts are cut into fragments of episodes. Settings and measure are those of CleanRL.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import skip_init

from textrl_agents.advantages import generalised_advantages, standardise
from textrl_agents.losses import clipped_policy_loss, clipped_value_loss, entropy_loss

__all__ = [
    "GOAL",
    "LAST_EPISODES",
    "Returns",
    "Rollout",
    "Settings",
    "fragment_mask",
    "rollout_advantages",
    "train",
]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

LAST_EPISODES = 100
"""Over which a return is averaged, as in CleanRL's tables."""
GOAL = 475.0
"""The return at which CartPole-v1 counts as solved (`gymnasium.spec(...).reward_threshold`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the harness, those of CleanRL's ppo.py."""

    total_steps: int = 500_000
    """Steps of all environments together."""
    num_envs: int = 4
    """Environments side by side, N."""
    rollout_steps: int = 128
    """Steps of each environment between updates, T."""
    epochs: int = 4
    """Times that each rollout is gone through."""
    minibatches: int = 4
    """Parts of it, an optimiser's step each."""
    learning_rate: float = 2.5e-4
    """Adam's at the start; it falls linearly to 0."""
    discount: float = 0.99
    """γ."""
    gae_lambda: float = 0.95
    """λ of generalised advantage estimation."""
    clip: float = 0.2
    """ε of policy and value."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    max_gradient_norm: float = 0.5
    """Gradients are scaled down to this norm."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """N environments for T steps each. The first two axes are (N, T)."""

    obs: NDArray[np.float32]
    """Before the step, (N, T, 4)."""
    next_obs: NDArray[np.float32]
    """After it, before any reset, (N, T, 4)."""
    actions: NDArray[np.int64]
    log_probs: Floats
    """Of the actions when they were sampled, in nats."""
    rewards: Floats
    terminated: Flags
    """The pole fell: nothing more is to come."""
    truncated: Flags
    """The time limit: what would have come is the value's to say."""


class ActorCritic(nn.Module):
    """Two networks that share nothing, with tanh between their layers.

    Args:
        inputs: numbers of an observation.
        actions: how many there are.
        generator: of the weights, which are orthogonal.
    """

    def __init__(self, inputs: int, actions: int, generator: torch.Generator) -> None:
        super().__init__()
        # Small at first, so that every action is about as likely.
        self.actor = _network(inputs, actions, last_gain=0.01, generator=generator)
        self.critic = _network(inputs, 1, last_gain=1.0, generator=generator)

    def log_probs(self, obs: Tensor) -> Tensor:
        """Returns log π of all actions, [B, 4] -> [B, actions]."""
        logits: Tensor = self.actor(obs)
        return logits.log_softmax(-1)

    def values(self, obs: Tensor) -> Tensor:
        """Returns the values of observations, [..., 4] -> [...]."""
        values: Tensor = self.critic(obs)
        return values[..., 0]


def _network(
    inputs: int, outputs: int, *, last_gain: float, generator: torch.Generator
) -> nn.Sequential:
    widths, gains = (inputs, 64, 64, outputs), (2**0.5, 2**0.5, last_gain)
    layers: list[nn.Module] = []
    for (before, after), gain in zip(pairwise(widths), gains, strict=True):
        layer: nn.Linear = skip_init(nn.Linear, before, after)  # type: ignore[no-untyped-call]
        nn.init.orthogonal_(layer.weight, gain, generator=generator)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Player:
    """Plays CartPole-v1 on and on, and notes what each episode returned.

    Args:
        num_envs: environments side by side.
        seed: of their first states.
        generator: of the actions.
    """

    def __init__(self, num_envs: int, *, seed: int, generator: torch.Generator) -> None:
        # In SAME_STEP no step is lost on a reset, and the last observation is kept in the info.
        self.envs = gym.make_vec(
            "CartPole-v1",
            num_envs=num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        )
        self._generator = generator
        self._obs, _ = self.envs.reset(seed=seed)
        self._returns = np.zeros(num_envs)
        self._steps = 0
        self.finished: list[tuple[int, float]] = []
        """Of each episode so far: steps of all environments when it ended, and its return."""

    def play(self, model: ActorCritic, steps: int) -> Rollout:
        """Plays some steps in each environment with actions sampled from the model."""
        columns = [self._step(model) for _ in range(steps)]
        return Rollout(*(np.stack(column, axis=1) for column in zip(*columns, strict=True)))

    @torch.no_grad()
    def _step(self, model: ActorCritic) -> tuple[NDArray[Any], ...]:
        log_probs = model.log_probs(torch.from_numpy(self._obs))
        actions = torch.multinomial(log_probs.exp(), 1, generator=self._generator)
        chosen = log_probs.gather(1, actions)[:, 0].double().numpy()
        obs, picked = self._obs, actions[:, 0].numpy()
        self._obs, rewards, terminated, truncated, info = self.envs.step(picked)
        next_obs, has_ended = self._obs.copy(), terminated | truncated
        for i in np.flatnonzero(has_ended):
            next_obs[i] = info["final_obs"][i]
        self._note(rewards, has_ended)
        return obs, next_obs, picked, chosen, rewards, terminated, truncated

    def _note(self, rewards: Floats, has_ended: Flags) -> None:
        self._steps += len(rewards)
        self._returns += rewards
        self.finished += [(self._steps, float(total)) for total in self._returns[has_ended]]
        self._returns[has_ended] = 0.0


def fragment_mask(has_ended: Flags) -> Flags:
    """Lays N rollouts of T steps out as rows that hold steps of one episode each.

    Args:
        has_ended: the episode ended with this step, (N, T). The rollout ends with the last step.

    Returns:
        The mask (F, L) of F fragments, environment by environment, the longest of L steps. So
        `rows[mask] = array.ravel()` fills rows from an array (N, T), and `rows[mask]` reads them.

    >>> fragment_mask(np.array([[False, True, False], [False, False, False]])).astype(int)
    array([[1, 1, 0],
           [1, 0, 0],
           [1, 1, 1]])
    """
    lengths = np.diff(np.flatnonzero(_is_last(has_ended)), prepend=-1)
    mask: Flags = np.arange(lengths.max()) < lengths[:, None]
    return mask


def _is_last(has_ended: Flags) -> Flags:
    """Returns where a fragment ends, (N, T)."""
    is_last = has_ended.copy()
    is_last[:, -1] = True
    return is_last


def rollout_advantages(
    rollout: Rollout, values: Floats, next_values: Floats, *, settings: Settings
) -> tuple[Floats, Floats]:
    """Returns the advantages, scaled as PPO scales them, and the targets of the value, (N, T).

    Args:
        rollout: N environments, T steps.
        values: V of `rollout.obs`, (N, T).
        next_values: V of `rollout.next_obs`, (N, T); those at which a fragment ends are looked at,
            and count unless the episode terminated there.
        settings: γ and λ.
    """
    has_ended = rollout.terminated | rollout.truncated
    mask, is_last = fragment_mask(has_ended), _is_last(has_ended)

    def rows(array: Floats) -> Floats:
        laid = np.zeros(mask.shape)
        laid[mask] = array.ravel()
        return laid

    advantages = generalised_advantages(
        rows(rollout.rewards),
        rows(values),
        mask,
        bootstrap_values=np.where(rollout.terminated, 0.0, next_values)[is_last],
        smoothing=settings.gae_lambda,
        discount=settings.discount,
    )
    targets = advantages + rows(values)
    scaled = standardise(advantages, mask)
    return scaled[mask].reshape(values.shape), targets[mask].reshape(values.shape)


def update(
    model: ActorCritic,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    rng: np.random.Generator,
    *,
    settings: Settings,
) -> None:
    """Goes through a rollout several times, in minibatches."""
    with torch.no_grad():
        values, next_values = (
            model.values(torch.from_numpy(x)).double().numpy()
            for x in (rollout.obs, rollout.next_obs)
        )
    advantages, targets = rollout_advantages(rollout, values, next_values, settings=settings)
    columns = (rollout.log_probs, advantages, values, targets)
    obs = torch.from_numpy(rollout.obs.reshape(-1, rollout.obs.shape[-1]))
    actions = torch.from_numpy(rollout.actions.reshape(-1, 1))
    batch = (obs, actions, *(torch.from_numpy(x.ravel()).float() for x in columns))
    for _ in range(settings.epochs):
        order = torch.from_numpy(rng.permutation(len(obs)))
        for rows in order.tensor_split(settings.minibatches):
            optimizer.zero_grad()
            loss = _loss(model, *(column[rows] for column in batch), settings=settings)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
            optimizer.step()


def _loss(
    model: ActorCritic,
    obs: Tensor,
    actions: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    old_values: Tensor,
    targets: Tensor,
    *,
    settings: Settings,
) -> Tensor:
    """The loss that `textrl_agents.ppo.PPO` makes of the same parts."""
    log_probs, count = model.log_probs(obs), len(obs)
    policy = clipped_policy_loss(
        log_probs.gather(1, actions)[:, 0],
        old_log_probs,
        advantages,
        clip=settings.clip,
        num_tokens=count,
    )
    value = clipped_value_loss(
        model.values(obs), old_values, targets, clip=settings.clip, num_tokens=count
    )
    entropy = entropy_loss(-(log_probs.exp() * log_probs).sum(-1), num_tokens=count)
    return policy + settings.value_coefficient * value + settings.entropy_coefficient * entropy


@dataclass(frozen=True, slots=True)
class Returns:
    """What the episodes of a training run returned, in the order in which they ended, (E,)."""

    steps: NDArray[np.int64]
    """Steps of all environments until then."""
    returns: Floats

    def mean_at(self, step: int) -> float:
        """Returns the mean of the last episodes that had ended by a step."""
        return float(self.returns[self.steps <= step][-LAST_EPISODES:].mean())

    def solved_at(self) -> int | None:
        """Returns after how many steps the mean first was `GOAL`; None where it never was."""
        if len(self.returns) < LAST_EPISODES:
            return None
        sums = np.cumsum(np.pad(self.returns, (1, 0)))
        means = (sums[LAST_EPISODES:] - sums[:-LAST_EPISODES]) / LAST_EPISODES
        reached = np.flatnonzero(means >= GOAL)
        return int(self.steps[LAST_EPISODES - 1 :][reached[0]]) if reached.size else None


def train(seed: int, settings: Settings) -> Returns:
    """Trains once, on one thread: the same seed gives the same returns."""
    torch.set_num_threads(1)
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    player = Player(settings.num_envs, seed=seed, generator=generator)
    model = ActorCritic(4, 2, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, eps=1e-5)
    iterations = settings.total_steps // (settings.num_envs * settings.rollout_steps)
    for iteration in range(iterations):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - iteration / iterations)
        rollout = player.play(model, settings.rollout_steps)
        update(model, optimizer, rollout, rng, settings=settings)
    player.envs.close()
    steps, returns = zip(*player.finished, strict=True)
    return Returns(np.array(steps), np.array(returns))
