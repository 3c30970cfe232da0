"""ReferencePolicy: an ActorCriticPolicy of Stable-Baselines3 that starts at the reference."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor, nn

from textrl_agents.policies.base import PolicyStep
from textrl_agents.policies.distribution import TokenDistribution
from textrl_envs.language_models.base import LanguageModel
from textrl_envs.observations import FLAT_PADDING, read_observation

__all__ = ["ReferencePolicy", "in_form_of"]


class ReferencePolicy(ActorCriticPolicy):
    """logits = log π_ref(. | text) + network(text), the network's last layer being zero at first.

    So Stable-Baselines3's PPO and A2C begin where the suite's own agents begin. The policy answers
    what is asked of a policy here: `KLPenalty` can charge it, `Collector` and `evaluate` play it.

    Args:
        observation_space: of a text environment, either form.
        action_space: its tokens.
        lr_schedule: SB3's own.
        load_reference: gives the frozen model underneath, such as `Task.load_reference`, which a
            saved policy names; None starts at the uniform distribution.
        settings: of `ActorCriticPolicy`; the features extractor among them.
    """

    action_dist: CategoricalDistribution
    action_space: gym.spaces.Discrete

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.spaces.Discrete,
        lr_schedule: Schedule,
        *,
        load_reference: Callable[[], LanguageModel] | None = None,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        self._load_reference = load_reference
        self._reference = load_reference() if load_reference else None
        super().__init__(observation_space, action_space, lr_schedule, **settings)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        for head in (self.action_net, self.value_net):
            assert isinstance(head, nn.Linear)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "load_reference": self._load_reference}

    # --- what Stable-Baselines3 asks ---

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
        """Returns a token, the value and the token's log-probability for each observation."""
        distribution, values = self._read(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, values, distribution.log_prob(actions)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
        """Returns values, log-probabilities of the actions, and entropies, with gradients."""
        distribution, values = self._read(obs)
        return values, distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Any) -> CategoricalDistribution:  # noqa: ANN401
        """Returns the distribution of the next token of each observation."""
        return self._read(obs)[0]

    def _read(self, obs: Any) -> tuple[CategoricalDistribution, Tensor]:  # noqa: ANN401
        features: Any = self.extract_features(obs)  # a pair, where they are not shared
        shared = self.share_features_extractor
        for_policy, for_value = (features, features) if shared else features
        change = self.action_net(self.mlp_extractor.forward_actor(for_policy))
        values: Tensor = self.value_net(self.mlp_extractor.forward_critic(for_value))
        return self.action_dist.proba_distribution(self._base(obs, change) + change), values

    def _base(self, obs: Any, change: Tensor) -> Tensor:  # noqa: ANN401
        """Returns log π_ref of all next tokens, [B, V], in the reference's own precision."""
        if self._reference is None:
            return torch.zeros_like(change)
        ids, mask = _arrays(obs)
        if self.training:
            # Texts in random order: what is remembered of the last step is of no use.
            places = np.arange(len(ids)), mask.sum(1) - 1
            base = self._reference.log_probs_at(ids, mask, places)
        else:
            base = self._reference.next_log_probs({"input_ids": ids, "attention_mask": mask})
        return torch.from_numpy(base).to(change.device)

    # --- what this suite asks ---

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return int(self.action_space.n)

    @torch.no_grad()
    def step(self, obs: Any, rng: np.random.Generator, *, greedy: bool = False) -> PolicyStep:  # noqa: ANN401
        """Chooses a token in each of B observations of either form; `rng` gives one number each."""
        distribution, values = self._read_numpy(obs)
        if greedy:
            actions = distribution.argmax()
        else:
            actions = distribution.sample(torch.from_numpy(rng.random(len(distribution))))
        numbers = distribution.log_probs_of(actions), distribution.entropies(), values
        return PolicyStep(actions.cpu().numpy(), *(_float64(number) for number in numbers))

    @torch.no_grad()
    def log_probs(self, obs: Any, actions: NDArray[np.integer[Any]]) -> NDArray[np.float64]:  # noqa: ANN401
        """Returns the log-probability of each action in each observation, in nats, (B,)."""
        chosen = torch.as_tensor(np.asarray(actions), device=self.device)
        return _float64(self._read_numpy(obs)[0].log_probs_of(chosen))

    @torch.no_grad()
    def next_values(self, obs: Any) -> NDArray[np.float64]:  # noqa: ANN401 - either form
        """Returns the value of each observation, in units of the score, (B,)."""
        return _float64(self._read_numpy(obs)[1])

    def forget(self) -> None:
        """Drops what the reference remembers between calls."""
        if self._reference is not None:
            self._reference.forget()

    def _read_numpy(self, obs: Any) -> tuple[TokenDistribution, Tensor]:  # noqa: ANN401
        self.set_training_mode(False)
        tensors = obs_as_tensor(in_form_of(self.observation_space, obs), self.device)
        distribution, values = self._read(tensors)
        return TokenDistribution(distribution.distribution.logits), values[:, 0]


def _arrays(obs: Any) -> tuple[NDArray[np.int64], NDArray[np.int8]]:  # noqa: ANN401
    """Returns ids and mask, (B, L), of tensors in either form; 0 stands behind flat text."""
    if isinstance(obs, dict):
        return obs["input_ids"].cpu().numpy(), obs["attention_mask"].cpu().numpy()
    ids = obs.cpu().numpy()
    is_text = ids != FLAT_PADDING
    return np.where(is_text, ids, 0), is_text.astype(np.int8)


def in_form_of(space: gym.Space[Any], obs: Any) -> Any:  # noqa: ANN401 - either form
    """Returns observations, of either form, in the form of a space."""
    if isinstance(obs, dict) == isinstance(space, gym.spaces.Dict):
        return obs
    ids, lengths = read_observation(obs)
    is_text = np.arange(ids.shape[1]) < lengths[:, None]
    if isinstance(space, gym.spaces.Dict):
        return {"input_ids": np.where(is_text, ids, 0), "attention_mask": is_text.astype(np.int8)}
    return np.where(is_text, ids, FLAT_PADDING)


def _float64(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.double().cpu().numpy()
