"""LongKeyword: two words many sentences apart, in a story of up to 128 tokens. A long horizon."""

import functools

from textrl_envs.data.stories import VOCABULARY
from textrl_envs.environments.checks import check_count
from textrl_envs.environments.story_tasks import (
    keyword_ids,
    story_prompts,
    story_tokenizer,
    trigram,
)
from textrl_envs.prompts import PromptTable
from textrl_envs.rewards.automaton import Automaton, AutomatonReward, build_automaton
from textrl_envs.task import Task

__all__ = ["long_keyword"]


@functools.cache
def long_keyword(
    *,
    keywords: tuple[str, ...] = ("lantern", "harbour"),
    sentences_apart: int = 3,
    max_new_tokens: int = 128,
    kl_coefficient: float = 0.1,
) -> Task:
    """Mention the keywords in order, each some sentences after the one before, and end the story.

    Observation:
        A prompt such as "tell of lantern then harbour : the sailor", then the response.
    Action:
        One of 46 tokens: 44 words, EOS and padding.
    Reward:
        At the end 1 if all keywords were met in order, at least `sentences_apart` full stops
        between one and the next, and the story ended itself by EOS; else 0.
    Termination:
        EOS, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    The reference is a trigram model of stories of six sentences on average. What is done about the
    first keyword is paid some fifty tokens later.

    Args:
        keywords: words of the vocabulary, in the order wanted.
        sentences_apart: full stops between one keyword and the next.
        max_new_tokens: the limit of a response.
        kl_coefficient: β of the regularised return.

    Raises:
        InvalidInputError: no keyword, one that is no word of the vocabulary, or a negative
            distance.
    """
    check_count("sentences_apart", sentences_apart, least=0)
    tokenizer = story_tokenizer()
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable(story_prompts(f"tell of {' then '.join(keywords)} :"), tokenizer),
        reward=AutomatonReward(
            [_keywords_apart(keyword_ids(keywords), sentences_apart, tokenizer.eos_token_id)]
        ),
        max_new_tokens=max_new_tokens,
        load_reference=trigram,
        kl_coefficient=kl_coefficient,
    )


def _keywords_apart(wanted: list[int], apart: int, eos: int) -> Automaton:
    stop = VOCABULARY.index(".")

    def step(state: tuple[int, int, bool], token: int) -> tuple[int, int, bool]:
        met, stops, is_done = state  # full stops since the newest keyword, counted up to `apart`
        if is_done or token == eos:
            return met, 0, met == len(wanted)
        if met < len(wanted) and token == wanted[met] and stops == apart:
            return met + 1, 0, False
        return met, min(stops + (token == stop), apart), False

    # Nothing has to come before the first keyword.
    return build_automaton(
        (0, apart, False), step, lambda state: float(state[2]), vocabulary_size=len(VOCABULARY)
    )
