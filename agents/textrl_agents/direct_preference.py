"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290), on one's own responses.

β log(π / π_ref) of a whole response stands for its score, and is fitted to preferences between
responses to one prompt. There is neither value nor advantage, and the responses may be anybody's;
here they are the policy's own of each iteration, compared by their scores.

Where a response is preferred with probability σ(r − r'), the model of Bradley and Terry, the loss
is least at π* ∝ π_ref e^{r/β}, the optimum of E[r] − β KL(π ‖ π_ref), whatever is sampled. Ranks
keep no scale: where the better one always wins the loss is least at an infinite log-ratio, and only
the end of training leaves the policy near the reference (Azar et al. 2023, arXiv:2310.12036).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from textrl_agents.collector import Collector
from textrl_agents.episodes import Episodes
from textrl_agents.losses import preference_loss
from textrl_agents.objective import kl_coefficient
from textrl_agents.on_policy import OnPolicyAgent, OnPolicyConfig
from textrl_agents.policies.base import Policy
from textrl_agents.rankings import ranked_episodes
from textrl_envs.errors import InvalidInputError

__all__ = ["DirectPreferenceConfig", "DirectPreferenceOptimisation", "preferences"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Labels = Literal["soft", "bradley_terry", "ranked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectPreferenceConfig(OnPolicyConfig):
    """Settings of direct preference optimisation."""

    group_size: int = 16
    """Responses a prompt in each batch, all of them compared with each other."""
    labels: Labels = "soft"
    """Which of two is preferred: the first with weight σ(r − r') and the second with the rest; one
    of them, drawn with this probability; or that with the higher score, and neither of equals."""
    epochs: int = 4
    """Times that each batch is gone through."""
    minibatches: int = 8
    """Parts of a batch, an optimiser's step each; responses to one prompt stay together."""

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        self.check("group_size", self.group_size >= 2, "at least 2")
        self.check("labels", self.labels in get_args(Labels), f"one of {get_args(Labels)}")
        self.check("epochs", self.epochs >= 1, "at least 1")
        groups = self.episodes_per_batch // self.group_size
        self.check("minibatches", 1 <= self.minibatches <= groups, f"in 1..{groups}, the prompts")
        self.check("entropy_coefficient", self.entropy_coefficient == 0, "0: there is no bonus")


class DirectPreferenceOptimisation(OnPolicyAgent):
    """Makes the preferred response of each pair likelier against the other, as seen from π_ref.

    β is that of the KL wrapper.

    Args:
        policy: what is trained.
        config: a `DirectPreferenceConfig`.
        seed: decides prompts, sampling, drawn labels and minibatches.
    """

    name: ClassVar[str] = "direct_preference_optimisation"
    config_class: ClassVar[type[OnPolicyConfig]] = DirectPreferenceConfig
    config: DirectPreferenceConfig

    kl_coefficient: float = float("nan")
    """β, once something was collected."""

    def __init__(
        self, policy: Policy, *, config: DirectPreferenceConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__(policy, config=config, seed=seed)
        self.group_size = self.config.group_size

    def collect(self, collector: Collector) -> Episodes:
        """Plays the episodes of an iteration, `group_size` a prompt.

        Raises:
            InvalidInputError: no KL penalty, or one of nothing.
        """
        self._take_coefficient(collector.envs)
        return super().collect(collector)

    def learn_ranked(self, path: Path, envs: Any, *, epochs: int) -> dict[str, float]:  # noqa: ANN401
        """Trains on completions that somebody has ranked; nothing is generated.

        Args:
            path: a JSONL file; see `textrl_agents.rankings`.
            envs: within `KLPenalty`; gives prompts, tokenizer, reference and β.
            epochs: times that the file is gone through, in `minibatches` steps each.

        Returns:
            What `update` returns.

        Raises:
            InvalidInputError: a file that cannot be used, or no KL penalty.
        """
        self._take_coefficient(envs)
        episodes, lines = ranked_episodes(path, envs)
        rng = np.random.default_rng([self.seed, 3, self.iteration])
        weights = preferences(lines, episodes.scores, "ranked", rng)
        self.iteration += 1
        return self._go_through(episodes, lines, weights, rng, epochs=epochs)

    def _take_coefficient(self, envs: Any) -> None:  # noqa: ANN401
        self.kl_coefficient = kl_coefficient(envs)
        if not self.kl_coefficient > 0:
            raise InvalidInputError(
                f"{self.name} needs the β of a KL penalty, above 0; got {self.kl_coefficient}. "
                "Wrap the environment: KLPenalty(envs, policy=agent.policy)."
            )

    def update(self, episodes: Episodes, rng: np.random.Generator) -> dict[str, float]:
        """Compares the responses to each prompt, and takes `epochs` x `minibatches` steps."""
        groups = np.arange(len(episodes)) // self.group_size
        weights = preferences(groups, episodes.scores, self.config.labels, rng)
        return self._go_through(episodes, groups, weights, rng, epochs=self.config.epochs)

    def _go_through(
        self,
        episodes: Episodes,
        groups: Ints,
        weights: Floats,
        rng: np.random.Generator,
        *,
        epochs: int,
    ) -> dict[str, float]:
        steps: list[dict[str, float]] = []
        for _ in range(epochs):
            order = rng.permutation(int(groups.max()) + 1)
            for part in np.array_split(order, min(self.config.minibatches, len(order))):
                # Equals alone leave nothing to learn, and no step: momentum would take one.
                if weights[np.isin(groups, part)].any():
                    steps.append(self._step(episodes, groups, part, weights))
        names = ("loss", "accuracy", "gradient_norm")
        means = {name: float(np.mean([s[name] for s in steps])) if steps else 0.0 for name in names}
        return {**means, "optimizer_steps": len(steps)}

    def _step(
        self, episodes: Episodes, groups: Ints, part: Ints, weights: Floats
    ) -> dict[str, float]:
        """Takes one optimiser's step on the comparisons within some groups."""
        found = [
            self._add_gradients(episodes.select(rows), weights[np.ix_(rows, rows)], len(part))
            for rows in self._rows_of(groups, part)
        ]
        loss, right = (sum(column) for column in zip(*found, strict=True))
        return {"loss": loss, "accuracy": right, "gradient_norm": self.step_optimizer()}

    def _rows_of(self, groups: Ints, part: Ints) -> Iterator[Ints]:
        """Yields the rows of some groups, as many whole groups at once as fit into a forward."""
        count = int(np.isin(groups, part).sum())
        num_parts = min(len(part), -(-count // self.config.micro_batch_size))
        for some in np.array_split(part, num_parts):
            yield np.flatnonzero(np.isin(groups, some))

    def _add_gradients(
        self, episodes: Episodes, weights: Floats, num_groups: int
    ) -> tuple[float, float]:
        """Adds those of some groups to a step's; returns their parts of loss and accuracy."""
        assert episodes.ref_log_probs is not None
        found = self.policy.evaluate(episodes, with_entropies=False).log_probs
        rows = torch.from_numpy(np.nonzero(episodes.response_mask)[0]).to(found.device)
        log_probs = found.new_zeros(len(episodes)).index_add(0, rows, found)
        log_ratios = log_probs - torch.from_numpy(episodes.ref_log_probs.sum(axis=1)).to(found)
        wins = torch.from_numpy(weights).to(found)
        loss = preference_loss(
            log_ratios, wins, kl_coefficient=self.kl_coefficient, num_groups=num_groups
        )
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            is_likelier = log_ratios[:, None] > log_ratios
            right = (wins * is_likelier).sum() / num_groups
        return float(loss.detach()), float(right)


def preferences(groups: Ints, scores: Floats, labels: Labels, rng: np.random.Generator) -> Floats:
    """Weighs how often each of B responses is preferred to each other of its group.

    Args:
        groups: of each response, (B,), two or more in each.
        scores: r of each, (B,).
        labels: see `DirectPreferenceConfig`.
        rng: draws, where labels are drawn.

    Returns:
        (B, B): the weight of "row is preferred to column". Those of a group of K sum up to 1 over
        its K (K − 1) / 2 pairs, equals that are left out counting as 0.

    >>> preferences(np.array([0, 0, 1, 1]), np.array([1.0, 0, 5, 5]), "ranked", None)[:2, :2]
    array([[0., 1.],
           [0., 0.]])
    """
    is_pair = (groups[:, None] == groups) & ~np.eye(len(groups), dtype=np.bool_)
    gain = scores[:, None] - scores
    wins: Floats = (gain > 0).astype(np.float64) if labels == "ranked" else expit(gain)
    if labels == "bradley_terry":
        is_first = np.triu(rng.random(gain.shape) < wins, 1)
        wins = (is_first | np.tril(~is_first.T, -1)).astype(np.float64)
    others = is_pair.sum(axis=1, keepdims=True)
    weights: Floats = np.where(is_pair, wins, 0.0) * 2 / (others * (others + 1))
    return weights
