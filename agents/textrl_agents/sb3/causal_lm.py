"""CausalLMPolicy: an ActorCriticPolicy of Stable-Baselines3 that is a language model.

It reads a text on from where it stopped, and whole episodes in one pass; the networks of
`textrl_agents.policies` do both. What a saved policy holds is weights, and a function that makes
the network they belong to, such as `NetworkAtReference`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor

from textrl_agents.episodes import Episodes
from textrl_agents.policies.base import PolicyStep
from textrl_agents.policies.causal_lm import CausalLMPolicy as TrainedCausalLM
from textrl_agents.policies.distribution import TokenDistribution
from textrl_agents.policies.network import NetworkPolicy
from textrl_agents.policies.residual import ResidualPolicy
from textrl_agents.sb3.texts import as_arrays, next_tokens
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.base import LanguageModel
from textrl_envs.language_models.causal import CausalLanguageModel

__all__ = ["CausalLMPolicy", "NetworkAtReference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkAtReference:
    """Makes the network that begins at a reference, as `make_policy` does for the other agents.

    A copy of it is trained if it is a Transformers model, and a small network over its logits if it
    is of another kind.

    Args:
        load_reference: gives the reference, such as `Task.load_reference`.
        max_tokens: L of the environment, the positions of a small network.
        layers: transformer blocks of a small network.
        width: its hidden size.
        heads: its attention heads.
        seed: of its first weights.
    """

    load_reference: Callable[[], LanguageModel]
    max_tokens: int
    layers: int = 2
    width: int = 64
    heads: int = 4
    seed: int = 0

    @property
    def default_learning_rate(self) -> float:
        """What suits the network that is made."""
        is_model = isinstance(self.load_reference(), CausalLanguageModel)
        return (TrainedCausalLM if is_model else ResidualPolicy).default_learning_rate

    def __call__(self) -> NetworkPolicy:
        """Returns a new network."""
        reference = self.load_reference()
        if isinstance(reference, CausalLanguageModel):
            return TrainedCausalLM.of_reference(reference)
        return ResidualPolicy(
            reference,
            max_tokens=self.max_tokens,
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            seed=self.seed,
            device="cpu",  # Stable-Baselines3 moves it to where it is wanted
        )


class CausalLMPolicy(ActorCriticPolicy):
    """A network of `textrl_agents.policies`, as PPO and A2C of Stable-Baselines3 ask for it.

    In a rollout, a row whose observation is what it remembers plus one token costs one token. What
    is remembered is dropped when the weights have changed. An update reads each observation of a
    stock rollout buffer by itself, and each episode of an `EpisodeRolloutBuffer` once.

    The policy also answers what is asked of a policy here: `KLPenalty` can charge it, `Collector`
    and `evaluate` play it.

    Args:
        observation_space: of a text environment, either form.
        action_space: its tokens.
        lr_schedule: SB3's own.
        load_network: makes the network. It is called again when a saved policy is loaded, and the
            saved weights take the place of its own.
        settings: of `ActorCriticPolicy`; of them the optimiser's alone matter.

    Raises:
        InvalidInputError: a network of another vocabulary, or with too few positions.
    """

    action_dist: CategoricalDistribution
    action_space: gym.spaces.Discrete

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.spaces.Discrete,
        lr_schedule: Schedule,
        *,
        load_network: Callable[[], NetworkPolicy],
        **settings: Any,  # noqa: ANN401
    ) -> None:
        self._load_network = load_network
        super().__init__(observation_space, action_space, lr_schedule, **settings)

    def _build(self, lr_schedule: Schedule) -> None:
        """Makes network and optimiser. The extractor of the base class has no weights."""
        network = self._load_network()
        if network.vocabulary_size != self.vocabulary_size:
            raise InvalidInputError(
                f"The environment has {self.vocabulary_size} tokens, the network "
                f"{network.vocabulary_size}. Make it with vocabulary_size={self.vocabulary_size}."
            )
        network.check_length(_length(self.observation_space))
        self.network = network
        trained = [weight for weight in network.parameters() if weight.requires_grad]
        self.optimizer = self.optimizer_class(
            trained,
            lr=lr_schedule(1),
            **self.optimizer_kwargs,  # type: ignore[call-arg]
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "load_network": self._load_network}

    # --- what Stable-Baselines3 asks ---

    def set_training_mode(self, mode: bool) -> None:
        """Drops what is remembered where a training ends. Dropout stays off in either mode."""
        if self.training and not mode:
            self.forget()
        super().set_training_mode(mode)

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
        """Returns a token, the value and the token's log-probability for each observation.

        Tokens are drawn by torch's global generator, which Stable-Baselines3 seeds: a number each.
        """
        distribution, values = self._read(as_arrays(obs))
        if deterministic:
            actions = distribution.argmax()
        else:
            actions = distribution.sample(torch.rand(len(distribution), dtype=torch.float64))
        return actions, values, distribution.log_probs_of(actions)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
        """Returns values, log-probabilities of the actions, and entropies, with gradients.

        Args:
            obs: observations in tensors; or `Episodes`, as `EpisodeRolloutBuffer` gives them: the
                actions are then their response tokens, row by row.
            actions: token ids, [M].
        """
        episodes = obs if isinstance(obs, Episodes) else next_tokens(as_arrays(obs), actions)
        found = self.network.evaluate(episodes)
        return found.values[:, None], found.log_probs, found.entropies

    def get_distribution(self, obs: Any) -> CategoricalDistribution:  # noqa: ANN401
        """Returns the distribution of the next token of each observation, without gradients."""
        return self.action_dist.proba_distribution(self._read(as_arrays(obs))[0].log_probs())

    def predict_values(self, obs: Any) -> Tensor:  # noqa: ANN401
        """Returns the value of each observation, [B, 1], without gradients."""
        return self._read(as_arrays(obs))[1]

    @torch.no_grad()
    def _read(self, obs: Any) -> tuple[TokenDistribution, Tensor]:  # noqa: ANN401 - either form
        distribution, values = self.network._read(obs)
        if self.network.values_episodes:  # a value model of its own
            values = torch.from_numpy(self.network.next_values(obs)).to(self.device)
        return distribution, values[:, None]

    # --- what this suite asks ---

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return int(self.action_space.n)

    def step(self, obs: Any, rng: np.random.Generator, *, greedy: bool = False) -> PolicyStep:  # noqa: ANN401
        """Chooses a token in each of B observations of either form; `rng` gives one number each."""
        return self.network.step(obs, rng, greedy=greedy)

    def log_probs(self, obs: Any, actions: NDArray[np.integer[Any]]) -> NDArray[np.float64]:  # noqa: ANN401
        """Returns the log-probability of each action in each observation, in nats, (B,)."""
        return self.network.log_probs(obs, actions)

    def next_values(self, obs: Any) -> NDArray[np.float64]:  # noqa: ANN401 - either form
        """Returns the value of each observation, in units of the score, (B,)."""
        return self.network.next_values(obs)

    def forget(self) -> None:
        """Drops what is remembered between calls: the next numbers are fresh, to the last bit."""
        self.network.forget()


def _length(space: gym.Space[Any]) -> int:
    """Returns L of a space of either form."""
    texts = space["input_ids"] if isinstance(space, gym.spaces.Dict) else space
    assert texts.shape is not None
    return int(texts.shape[0])
