"""Mixture: prompts from easy to impossible. What differs between prompts, not within one."""

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

__all__ = ["mixture"]

LEVELS = (
    ("boat",),
    ("ring", "tower"),
    ("lantern", "harbour"),
    ("letter", "garden", "child"),
    ("tell", "tell", "tell"),
)
"""Words wanted, from easy to impossible: no story says "tell"."""


@functools.cache
def mixture(*, max_new_tokens: int = 24, kl_coefficient: float = 0.1) -> Task:
    """Go on with a story, mention the words of the prompt in order, and end it.

    Observation:
        A prompt such as "tell of ring and tower : the sailor", then the response.
    Action:
        One of 46 tokens: 44 words, EOS and padding.
    Reward:
        At the end 1 if all words of the prompt were mentioned in order and the story ended itself
        by EOS, else 0.
    Termination:
        EOS, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    Five requests, each before eight openings. The reference grants the first one time in six, and
    the last practically never, so that a baseline which is the same for all prompts is wrong for
    most of them.

    Args:
        max_new_tokens: the limit of a response.
        kl_coefficient: β of the regularised return.
    """
    tokenizer = story_tokenizer()
    automata = [
        ordered_keywords(
            keyword_ids(words),
            vocabulary_size=len(tokenizer),
            eos_token_id=tokenizer.eos_token_id,
        )
        for words in LEVELS
    ]
    prompts = [
        prompt
        for place, words in enumerate(LEVELS)
        for prompt in story_prompts(f"tell of {' and '.join(words)} :", automaton=place)
    ]
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable(prompts, tokenizer),
        reward=AutomatonReward(automata),
        max_new_tokens=max_new_tokens,
        load_reference=bigram,
        kl_coefficient=kl_coefficient,
    )
