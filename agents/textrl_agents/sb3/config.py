"""Settings of the Stable-Baselines3 agents, by the names that Stable-Baselines3 gives them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from textrl_agents.config import check_types
from textrl_envs.errors import InvalidInputError, nearest

__all__ = [
    "SB3A2CConfig",
    "SB3ActorCriticConfig",
    "SB3Config",
    "SB3DQNConfig",
    "SB3ExtractorConfig",
    "SB3LanguageModelA2CConfig",
    "SB3LanguageModelConfig",
    "SB3LanguageModelPPOConfig",
    "SB3PPOConfig",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SB3Config:
    """What every agent is told.

    Raises:
        InvalidInputError: a number outside its range.
    """

    learning_rate: float | None = None
    """Adam's, at the start."""
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """How the learning rate falls over the budget: linearly to 0, or not."""
    gamma: float = 1.0
    """The discount."""

    def __post_init__(self) -> None:
        check_types(self)
        rate = self.learning_rate
        self.check("learning_rate", rate is None or rate > 0, "positive")
        schedule = self.learning_rate_schedule
        self.check(
            "learning_rate_schedule", schedule in ("linear", "constant"), "linear or constant"
        )
        self.check("gamma", 0 < self.gamma <= 1, "in (0, 1]")

    @classmethod
    def read(cls, agent: str, settings: Mapping[str, Any]) -> Self:
        """Returns the config of an agent with some settings.

        Raises:
            InvalidInputError: an unknown setting, or a value outside its range.
        """
        known = [field.name for field in fields(cls)]
        for key in settings:
            if key not in known:
                raise InvalidInputError(f"{agent} has no setting {key!r}. {nearest(key, known)}")
        return cls(**settings)

    def check(self, name: str, is_right: bool, expected: str) -> None:
        """Raises InvalidInputError unless the field is right."""
        if not is_right:
            raise InvalidInputError(f"{name} must be {expected}; got {getattr(self, name)!r}.")

    def check_sign(
        self,
        *,
        at_least_1: tuple[str, ...] = (),
        at_least_0: tuple[str, ...] = (),
        above_0: tuple[str, ...] = (),
    ) -> None:
        """Raises InvalidInputError unless these fields are."""
        for name in at_least_1:
            self.check(name, getattr(self, name) >= 1, "at least 1")
        for name in at_least_0:
            self.check(name, getattr(self, name) >= 0, "0 or more")
        for name in above_0:
            self.check(name, getattr(self, name) > 0, "positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class SB3ExtractorConfig(SB3Config):
    """What agents over `TokenEmbeddingExtractor` are told."""

    learning_rate: float = 2e-3
    """Adam's, at the start."""
    window: int = 4
    """Last tokens that the features extractor tells apart."""
    heads: int = 4
    """Of the attention by which it looks back at all tokens."""
    embedding_dim: int = 32
    """Numbers an embedding, in the features extractor; a multiple of `heads`."""
    width: int = 128
    """Of the two hidden layers behind it, in policy and value network each."""

    def __post_init__(self) -> None:
        SB3Config.__post_init__(self)
        self.check_sign(at_least_1=("window", "heads", "embedding_dim", "width"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SB3ActorCriticConfig(SB3ExtractorConfig):
    """What PPO and A2C are told."""

    n_steps: int = 32
    """Tokens a row that are collected before each update."""
    gae_lambda: float = 0.95
    """λ of generalised advantage estimation."""
    normalize_advantage: bool = True
    """Shift and scale the advantages of a minibatch to mean 0 and deviation 1."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this norm."""

    def __post_init__(self) -> None:
        SB3ExtractorConfig.__post_init__(self)
        self.check("gae_lambda", 0 <= self.gae_lambda <= 1, "in [0, 1]")
        self.check_sign(
            at_least_1=("n_steps",), at_least_0=("ent_coef", "vf_coef"), above_0=("max_grad_norm",)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SB3PPOConfig(SB3ActorCriticConfig):
    """Settings of PPO. The defaults of all three are measured: Keyword-v0 and ExactLength-v0."""

    learning_rate: float = 3e-3
    """Adam's, at the start."""
    n_epochs: int = 4
    """Times that each rollout is gone through."""
    minibatches: int = 4
    """Parts of a rollout, an optimiser's step each; they divide its tokens."""
    clip_range: float = 0.2
    """ε: the ratio of new and old policy is followed within 1 ± ε."""
    target_kl: float | None = None
    """Stop the epochs of a rollout once KL(old ‖ new) exceeds 1.5 times this, in nats a token."""

    def __post_init__(self) -> None:
        SB3ActorCriticConfig.__post_init__(self)
        self.check_sign(at_least_1=("n_epochs", "minibatches"), above_0=("clip_range",))
        is_right = self.target_kl is None or self.target_kl > 0
        self.check("target_kl", is_right, "positive or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class SB3A2CConfig(SB3ActorCriticConfig):
    """Settings of A2C."""

    learning_rate: float = 5e-3
    """The optimiser's, at the start."""
    n_steps: int = 8
    """Tokens a row that are collected before each update."""
    use_rms_prop: bool = False
    """RMSprop, as in the original; else Adam."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SB3DQNConfig(SB3ExtractorConfig):
    """Settings of DQN. Steps are tokens of all rows together, but for `train_freq`."""

    buffer_size: int = 50_000
    """Tokens that are remembered."""
    learning_starts: int = 2_000
    """Tokens drawn uniformly before the first update."""
    batch_size: int = 256
    """Tokens of an optimiser's step."""
    train_freq: int = 1
    """Tokens a row between updates."""
    gradient_steps: int = 1
    """Optimiser's steps of an update."""
    target_update_interval: int = 2_000
    """Tokens between copies to the target network; at least the number of rows."""
    exploration_fraction: float = 0.5
    """Share of the budget over which ε falls to its end."""
    exploration_final_eps: float = 0.05
    """ε at the end: the chance of a token drawn uniformly, while it learns."""
    max_grad_norm: float = 10.0
    """Gradients are scaled down to this norm."""

    def __post_init__(self) -> None:
        SB3ExtractorConfig.__post_init__(self)
        counts = ("buffer_size", "batch_size", "train_freq", "gradient_steps")
        self.check_sign(
            at_least_1=(*counts, "target_update_interval"),
            at_least_0=("learning_starts",),
            above_0=("max_grad_norm",),
        )
        for name in ("exploration_fraction", "exploration_final_eps"):
            self.check(name, 0 <= getattr(self, name) <= 1, "in [0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class SB3LanguageModelConfig(SB3Config):
    """What PPO and A2C over a language model are told.

    The defaults are those of the suite's own agents; SB3's value loss has no factor 1/2, so that
    `vf_coef` is half of theirs.
    """

    learning_rate: float | None = None
    """Adam's, at the start; None takes what suits the network, as for the suite's own agents."""
    n_steps: int = 64
    """Tokens a row that are collected before each update."""
    gae_lambda: float = 1.0
    """λ of generalised advantage estimation."""
    normalize_advantage: bool = True
    """Shift and scale the advantages of a minibatch to mean 0 and deviation 1."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.25
    """Weight of the value loss."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    layers: int = 2
    """Transformer blocks of the network over the reference, where that is no Transformers model."""
    width: int = 64
    """Its hidden size; a multiple of `heads`."""
    heads: int = 4
    """Its attention heads."""

    def __post_init__(self) -> None:
        SB3Config.__post_init__(self)
        self.check("gae_lambda", 0 <= self.gae_lambda <= 1, "in [0, 1]")
        self.check_sign(
            at_least_1=("n_steps", "layers", "width", "heads"),
            at_least_0=("ent_coef", "vf_coef"),
            above_0=("max_grad_norm",),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SB3LanguageModelPPOConfig(SB3LanguageModelConfig):
    """Settings of PPO over a language model."""

    n_epochs: int = 4
    """Times that each rollout is gone through."""
    minibatches: int = 4
    """Parts of a rollout, an optimiser's step each; they divide its tokens."""
    clip_range: float = 0.2
    """ε: the ratio of new and old policy is followed within 1 ± ε."""
    clip_range_vf: float | None = 0.2
    """ε of the value, in units of the score; None does not clip it."""
    target_kl: float | None = None
    """Stop the epochs of a rollout once KL(old ‖ new) exceeds 1.5 times this, in nats a token."""

    def __post_init__(self) -> None:
        SB3LanguageModelConfig.__post_init__(self)
        self.check_sign(at_least_1=("n_epochs", "minibatches"), above_0=("clip_range",))
        for name in ("clip_range_vf", "target_kl"):
            value = getattr(self, name)
            self.check(name, value is None or value > 0, "positive or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class SB3LanguageModelA2CConfig(SB3LanguageModelConfig):
    """Settings of A2C over a language model."""

    n_steps: int = 24
    """Tokens a row that are collected before each update."""
    use_rms_prop: bool = False
    """RMSprop, as in the original; else Adam."""
