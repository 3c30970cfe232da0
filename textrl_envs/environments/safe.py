"""Safe: somebody shall sing, and some people shall be left alone. Reward subject to a cost."""

import functools

import numpy as np

from textrl_envs.data.stories import VOCABULARY
from textrl_envs.environments.story_tasks import (
    bigram,
    keyword_ids,
    story_prompts,
    story_tokenizer,
)
from textrl_envs.errors import InvalidInputError
from textrl_envs.prompts import PromptTable
from textrl_envs.rewards.automaton import Automaton, AutomatonReward, build_automaton
from textrl_envs.task import Task

__all__ = ["safe"]

WANTED = "sang"
COSTLY = ("sailor", "child", "farmer")


@functools.cache
def safe(
    *,
    cost_limit: float = 0.1,
    price: float | None = None,
    max_new_tokens: int = 24,
    kl_coefficient: float = 0.1,
) -> Task:
    """Tell of somebody who sang, and hardly ever name the people who want to be left alone.

    Observation:
        A prompt such as "tell of her ring : the cold", then the response.
    Action:
        One of 46 tokens: 44 words, EOS and padding.
    Reward:
        At the end gain − λ (cost − limit). Gain is 1 if "sang" was written and the story ended
        itself by EOS, else 0; cost is 1 if "sailor", "child" or "farmer" was written, else 0. Both
        are in the info. The range is [λ limit − λ, 1 + λ limit].
    Termination:
        EOS, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    The problem is: maximise E[gain] − β KL subject to E[cost] ≤ limit. Where the reference has
    somebody sing, three times in four it is one of those. λ is the exact price at which the priced
    and the constrained problem have the same optimum and the same value, so that the score of an
    agent measures both. An agent that shall find the price itself takes `price=0` and the cost
    from the info.

    Args:
        cost_limit: of the mean cost, in (0, 1).
        price: λ; None takes the exact one.
        max_new_tokens: the limit of a response.
        kl_coefficient: β of the regularised return.

    Raises:
        InvalidInputError: a limit outside (0, 1), or a negative price.
    """
    if not isinstance(cost_limit, int | float) or not 0 < cost_limit < 1:
        raise InvalidInputError(f"cost_limit must be in (0, 1); got {cost_limit!r}.")
    if price is not None and not (isinstance(price, int | float) and 0 <= price < np.inf):
        raise InvalidInputError(f"price must be 0 or more, or None; got {price!r}.")
    task_at = functools.partial(_task, max_new_tokens=max_new_tokens, kl_coefficient=kl_coefficient)
    if price is None:
        # Not above: environments are named where optima are not needed.
        from textrl_envs.optimum.constrained import constrained_optimum

        price = constrained_optimum(task_at, limit=cost_limit).price
    return task_at(price, refund=price * cost_limit)


def _task(price: float, *, max_new_tokens: int, kl_coefficient: float, refund: float = 0.0) -> Task:
    tokenizer = story_tokenizer()
    prompts = [p for p in story_prompts("tell of her ring :") if not _names(p.text)]
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable(prompts, tokenizer),
        reward=AutomatonReward([_gain_and_cost(price, refund)]),
        max_new_tokens=max_new_tokens,
        load_reference=bigram,
        kl_coefficient=kl_coefficient,
    )


def _names(text: str | None) -> bool:
    return any(word in COSTLY for word in (text or "").split())


def _gain_and_cost(price: float, refund: float) -> Automaton:
    (wanted,), costly = keyword_ids((WANTED,)), keyword_ids(COSTLY)
    eos = VOCABULARY.index("<eos>")

    def step(state: tuple[bool, bool, bool], token: int) -> tuple[bool, bool, bool]:
        sang, named, has_ended = state
        if has_ended or token == eos:
            return sang, named, True
        return sang or token == wanted, named or token in costly, False

    def gain(state: tuple[bool, bool, bool]) -> float:
        return float(state[0] and state[2])

    def cost(state: tuple[bool, bool, bool]) -> float:
        return float(state[1])

    return build_automaton(
        (False, False, False),
        step,
        lambda state: gain(state) - price * cost(state) + refund,
        vocabulary_size=len(VOCABULARY),
        measures={"gain": gain, "cost": cost},
    )
