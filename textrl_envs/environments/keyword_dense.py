"""KeywordDense: the twin of Keyword that pays for each word. What differs is the credit alone."""

import functools
from dataclasses import replace

from textrl_envs.environments.keyword import keyword
from textrl_envs.environments.story_tasks import keyword_ids
from textrl_envs.rewards.automaton import AutomatonReward, ordered_keywords
from textrl_envs.task import Task

__all__ = ["keyword_dense"]


@functools.cache
def keyword_dense(
    *,
    keywords: tuple[str, ...] = ("lantern", "harbour"),
    max_new_tokens: int = 24,
    kl_coefficient: float = 0.1,
) -> Task:
    """Go on with a story, mention the keywords in order, and end it: each keyword is paid.

    Observation:
        A prompt such as "tell of lantern and harbour : the sailor", then the response.
    Action:
        One of 46 tokens: 44 words, EOS and padding.
    Reward:
        At the end, in [0, 1]: the share of the keywords mentioned in order if the story ended
        itself by EOS, else 0.
    Termination:
        EOS, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    Prompts, reference and limits are those of `textrl/Keyword-v0`. What an agent gains here and
    not there, it owes to the credit for the first word.

    Args:
        keywords: words of the vocabulary, in the order wanted.
        max_new_tokens: the limit of a response.
        kl_coefficient: β of the regularised return.

    Raises:
        InvalidInputError: no keyword, or one that is no word of the vocabulary.
    """
    task = keyword(keywords=keywords, max_new_tokens=max_new_tokens, kl_coefficient=kl_coefficient)
    automaton = ordered_keywords(
        keyword_ids(keywords),
        vocabulary_size=task.vocabulary_size,
        eos_token_id=task.tokenizer.eos_token_id,
        is_partial=True,
    )
    return replace(task, reward=AutomatonReward([automaton]))
