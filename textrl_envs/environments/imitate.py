"""Imitate: too rare to be found, but shown. Demonstrations beside reward."""

import functools
from dataclasses import replace

from textrl_envs.demonstrations import Demonstrations
from textrl_envs.environments.checks import check_count
from textrl_envs.environments.keyword import keyword
from textrl_envs.task import Task

__all__ = ["imitate"]


@functools.cache
def imitate(
    *,
    keywords: tuple[str, ...] = ("letter", "garden", "child", "slept"),
    demonstrations: int = 256,
    demonstration_seed: int = 0,
    max_new_tokens: int = 32,
    kl_coefficient: float = 0.06,
) -> Task:
    """Go on with a story, mention the keywords in order, and end it; some are shown how.

    Observation:
        A prompt such as "tell of letter and garden and child and slept : the sailor", then the
        response.
    Action:
        One of 46 tokens: 44 words, EOS and padding.
    Reward:
        At the end 1 if all keywords were mentioned in order and the story ended itself by EOS,
        else 0.
    Termination:
        EOS, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    The reference succeeds about once in 3,500 tries. `env.unwrapped.demonstrations` are drawn
    from the optimal policy itself, so that the best imitator is the optimum, and its cross-entropy
    on them the optimum's entropy. They may be learnt from, alone or beside the reward.

    Args:
        keywords: words of the vocabulary, in the order wanted.
        demonstrations: how many there are.
        demonstration_seed: of their drawing.
        max_new_tokens: the limit of a response.
        kl_coefficient: β of the regularised return.

    Raises:
        InvalidInputError: no keyword, one that is no word of the vocabulary, or fewer than one
            demonstration.
    """
    check_count("demonstrations", demonstrations)
    check_count("demonstration_seed", demonstration_seed, least=0)
    task = keyword(keywords=keywords, max_new_tokens=max_new_tokens, kl_coefficient=kl_coefficient)
    drawn = functools.partial(_draw, task, demonstrations, demonstration_seed)
    return replace(task, load_demonstrations=drawn)


@functools.cache
def _draw(task: Task, number: int, seed: int) -> Demonstrations:
    # Not above: environments are named where optima are not needed.
    from textrl_envs.optimum.roll_out import roll_out
    from textrl_envs.optimum.solve import optimum

    played = roll_out(task, optimum(task).policy, number, seed=seed)
    return Demonstrations(played.prompt_index, played.response_ids)
