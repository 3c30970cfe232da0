"""Noisy: Keyword with a judge who errs. The optimum is the same, the signal is not."""

import functools
from dataclasses import replace

from textrl_envs.environments.keyword import keyword
from textrl_envs.rewards.noise import LabelNoise
from textrl_envs.task import Task

__all__ = ["noisy"]


@functools.cache
def noisy(
    *,
    flip_rate: float = 0.2,
    keywords: tuple[str, ...] = ("lantern", "harbour"),
    max_new_tokens: int = 24,
    kl_coefficient: float = 0.1,
) -> Task:
    """Go on with a story, mention the keywords in order, and end it, before a judge who errs.

    Observation:
        A prompt such as "tell of lantern and harbour : the sailor", then the response.
    Action:
        One of 46 tokens: 44 words, EOS and padding.
    Reward:
        At the end the label of `textrl/Keyword-v0`, 1 or 0, flipped with chance η and corrected to
        the right mean: (1 − η) / (1 − 2η) or −η / (1 − 2η), here 4/3 or −1/3. The info has the
        true label as `noiseless_score`.
    Termination:
        EOS, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    The noise is fresh in every episode and unbiased, so that reference and optimum are worth what
    they are worth in `textrl/Keyword-v0`, and only the variance differs.

    Args:
        flip_rate: η, in [0, 0.5).
        keywords: words of the vocabulary, in the order wanted.
        max_new_tokens: the limit of a response.
        kl_coefficient: β of the regularised return.

    Raises:
        InvalidInputError: a rate outside its range, or as `textrl/Keyword-v0`.
    """
    task = keyword(keywords=keywords, max_new_tokens=max_new_tokens, kl_coefficient=kl_coefficient)
    return replace(task, noise=LabelNoise(flip_rate))
