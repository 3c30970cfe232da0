"""Evaluation: fresh episodes of a policy, and their means with standard errors."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_agents.collector import Collector
from textrl_agents.episodes import Episodes
from textrl_agents.policies import TablePolicy
from textrl_benchmarks.agent_policy import AgentPolicy
from textrl_envs.core import FinishReason
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import has_exact_optimum, optimum
from textrl_envs.task import Task
from textrl_envs.wrappers.vector import KLPenalty

__all__ = ["Estimate", "Evaluation", "Sample", "evaluate"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over episodes and its standard error.

    >>> print(Estimate.of(np.array([1.0, 2.0, 3.0])))
    2.000 ± 0.577
    """

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Estimate":
        """Returns the estimate from independent values, one an episode, at least two."""
        deviation = float(np.std(values, ddof=1))
        return cls(float(np.mean(values)), deviation / float(np.sqrt(len(values))))

    def __str__(self) -> str:
        if np.isnan(self.mean):
            return "-"
        mean = round(self.mean, 3) + 0.0  # never "-0.000"
        return f"{mean:.3f} ± {self.standard_error:.3f}"

    @property
    def interval(self) -> tuple[float, float]:
        """The normal interval of 95 %."""
        width = 1.96 * self.standard_error
        return self.mean - width, self.mean + width


UNKNOWN = Estimate(float("nan"), float("nan"))


@dataclass(frozen=True, slots=True)
class Sample:
    """One episode as text."""

    prompt: str
    response: str
    score: float
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a policy reached.

    Args:
        episodes: how many were played.
        reward: the score of an episode.
        kl: log π − log π_ref summed over a response, in nats; NaN where there is no reference, and
            for greedy play, whose own KL is not measured.
        regularised_return: reward − β KL.
        length: tokens of a response.
        kl_coefficient: β, NaN where there is no reference.
        normalised_score: (J − J_ref) / (J* − J_ref) with the exact J_ref and J* at this β: 0 is the
            reference, 1 the optimum; NaN where no optimum is exact, for a KL from another reference
            than the environment's, and for greedy play.
        is_exact: reward, KL, regularised return and score were computed, not sampled.
        samples: the first episodes as text.
    """

    episodes: int
    reward: Estimate
    kl: Estimate
    regularised_return: Estimate
    length: Estimate
    kl_coefficient: float
    normalised_score: Estimate
    is_exact: bool = False
    samples: tuple[Sample, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Returns all numbers, without the samples; NaN as None, as JSON has none."""
        numbers = asdict(self)
        del numbers["samples"]
        return {key: _without_nan(value) for key, value in numbers.items()}


def evaluate(
    agent: Any,  # noqa: ANN401 - an agent with a policy, or a policy
    envs: Any,  # noqa: ANN401 - a text vector environment, in KLPenalty or not
    *,
    episodes: int = 512,
    seed: int = 0,
    greedy: bool = False,
    samples: int = 8,
) -> Evaluation:
    """Plays fresh episodes, every prompt once before any again.

    Nothing is learnt, and an adaptive coefficient stays as it is.

    Args:
        agent: an agent (its `policy` is taken), a policy, or whatever has `act`; one that has no
            `log_probs` besides has no KL, no regularised return and no normalised score.
        envs: where it plays. In `KLPenalty`, KL and regularised return are measured too; without
            it, where the environment carries a reference and β, those are taken.
        episodes: at least the number of rows, and at least 2.
        seed: of prompts and sampling; apart from those of training, whatever their seed.
        greedy: take the likeliest token each time.
        samples: how many episodes to return as text.

    Raises:
        InvalidInputError: too few episodes, or what cannot play.
    """
    if episodes < 2:
        raise InvalidInputError(f"A standard error needs at least 2 episodes; got {episodes}.")
    policy = _playing(agent)
    charged = _with_fixed_penalty(envs, policy)
    played = Collector(charged).collect(
        policy, episodes, seed=[seed, 4], greedy=greedy, is_balanced=True
    )
    beta = charged.charge.coefficient if isinstance(charged, KLPenalty) else float("nan")
    reward, kl = Estimate.of(played.scores), Estimate.of(played.kl)
    regularised_return = Estimate.of(played.returns)
    if greedy:  # the log-probs are those of sampling, so that the KL would be of another policy
        kl = regularised_return = UNKNOWN
    # Greedy play is another policy, whose KL nobody asked for; and the optimum is that of the
    # environment's own reference.
    is_objective = not greedy and _has_own_reference(charged)
    is_exact = is_objective and isinstance(policy, TablePolicy) and policy.mdp.task is _task(envs)
    if is_exact:
        found = policy.exact()
        reward, kl = (Estimate(float(x.mean()), 0.0) for x in (found.rewards, found.kls))
        regularised_return = Estimate(float(found.values(beta).mean()), 0.0)
    return Evaluation(
        episodes=episodes,
        reward=reward,
        kl=kl,
        regularised_return=regularised_return,
        length=Estimate.of(played.lengths.astype(np.float64)),
        kl_coefficient=beta,
        normalised_score=_normalised(regularised_return, envs, beta) if is_objective else UNKNOWN,
        is_exact=is_exact,
        samples=tuple(_sample(envs, played, row) for row in range(min(samples, episodes))),
    )


def _task(envs: Any) -> Task:  # noqa: ANN401
    task: Task = envs.unwrapped.task
    return task


def _has_own_reference(envs: Any) -> bool:  # noqa: ANN401
    return isinstance(envs, KLPenalty) and envs.charge.reference is envs.unwrapped.reference  # type: ignore[attr-defined]


def _normalised(value: Estimate, envs: Any, beta: float) -> Estimate:  # noqa: ANN401
    if not has_exact_optimum(envs) or not beta > 0:
        return UNKNOWN
    best = optimum(envs, kl_coefficient=beta)
    if not best.is_worth_having:
        return UNKNOWN
    width = best.value - best.reference_value
    return Estimate(best.normalise(value.mean), value.standard_error / width)


def _playing(agent: Any) -> Any:  # noqa: ANN401
    policy = getattr(agent, "policy", agent)
    if hasattr(policy, "step"):
        return policy
    if not hasattr(agent, "act"):
        raise InvalidInputError(
            f"Expected an agent or a policy, with `act` or `step`; got {type(agent).__name__}."
        )
    return AgentPolicy(type(agent).__name__, agent)


def _with_fixed_penalty(envs: Any, policy: Any) -> Any:  # noqa: ANN401
    if isinstance(policy, AgentPolicy) and policy.scorer is None:
        return envs.env if isinstance(envs, KLPenalty) else envs
    if isinstance(envs, KLPenalty):
        reference, coefficient = envs.charge.reference, envs.charge.coefficient
        return KLPenalty(envs.env, policy=policy, reference=reference, coefficient=coefficient)
    if envs.unwrapped.reference is not None:
        return KLPenalty(envs, policy=policy)
    return envs


def _sample(envs: Any, played: Episodes, row: int) -> Sample:  # noqa: ANN401
    table, tokenizer = envs.unwrapped.prompts, envs.unwrapped.task.tokenizer
    ids = played.response_ids[row, : played.lengths[row]]
    return Sample(
        prompt=table.texts[played.prompt_index[row]],
        response=str(tokenizer.decode(ids, skip_special_tokens=True)),
        score=float(played.scores[row]),
        finish_reason=FinishReason(int(played.finish_reason[row])).name.lower(),
    )


def _without_nan(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
