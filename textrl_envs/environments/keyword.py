"""Keyword: a story that mentions given words in order. Sparse credit, nothing else."""

import functools

from textrl_envs.environments.story_tasks import (
    bigram,
    keyword_ids,
    story_prompts,
    story_tokenizer,
)
from textrl_envs.prompts import PromptTable
from textrl_envs.rewards.automaton import AutomatonReward, ordered_keywords
from textrl_envs.task import Task

__all__ = ["keyword"]


@functools.cache
def keyword(
    *,
    keywords: tuple[str, ...] = ("lantern", "harbour"),
    max_new_tokens: int = 24,
    kl_coefficient: float = 0.1,
) -> Task:
    """Go on with a story, mention the keywords in order, and end it.

    Observation:
        A prompt such as "tell of lantern and harbour : the sailor", then the response.
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

    The reference is a bigram model of short stories (`textrl_envs.data.stories`). It succeeds about
    once in fifty tries, and nothing is paid for one word alone: what is hard is that the first
    keyword is worth nothing until the second has been found.

    Args:
        keywords: words of the vocabulary, in the order wanted.
        max_new_tokens: the limit of a response.
        kl_coefficient: β of the regularised return.

    Raises:
        InvalidInputError: no keyword, or one that is no word of the vocabulary.
    """
    tokenizer = story_tokenizer()
    automaton = ordered_keywords(
        keyword_ids(keywords),
        vocabulary_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
    )
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable(story_prompts(f"tell of {' and '.join(keywords)} :"), tokenizer),
        reward=AutomatonReward([automaton]),
        max_new_tokens=max_new_tokens,
        load_reference=bigram,
        kl_coefficient=kl_coefficient,
    )
