"""Tagging: the kind of entity of every word. The response follows the prompt word by word."""

import functools
from dataclasses import replace

from textrl_envs.data import data_file
from textrl_envs.data.entities import EOS, LONGEST, TAGS, VOCABULARY
from textrl_envs.environments.checks import check_count
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.prompts import PromptTable, read_prompts
from textrl_envs.rewards.automaton import Automaton, AutomatonReward, build_automaton
from textrl_envs.task import Task
from textrl_envs.tokenizers import word_tokenizer

__all__ = ["tagging"]


@functools.cache
def tagging(*, max_new_tokens: int = 10, kl_coefficient: float = 0.05) -> Task:
    """Write a tag for every word of the sentence, and end.

    Observation:
        A prompt such as "anna visited oslo today tags :", then the response.
    Action:
        One of 42 tokens: 40 words, of which 4 are tags, EOS and padding.
    Reward:
        At the end the share of words that got their right tag, in [0, 1], if the response is
        exactly one tag a word and EOS; else 0.
    Termination:
        EOS, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    The tags are PER, LOC, ORG and O; the 32 sentences have four to seven words. The reference is a
    bigram model of tagged sentences: it writes tags, and ends after about as many as a sentence has
    words, but it neither reads nor counts. What is hard is the number of tags, without which no
    single tag earns anything.

    Args:
        max_new_tokens: the limit of a response, at least the 8 tokens of the longest answer.
        kl_coefficient: β of the regularised return.

    Raises:
        InvalidInputError: a limit that leaves no room for the longest answer.
    """
    check_count("max_new_tokens", max_new_tokens, least=LONGEST + 1)
    tokenizer = word_tokenizer(VOCABULARY)
    prompts = [
        replace(prompt, metadata={"automaton": place})
        for place, prompt in enumerate(read_prompts(data_file("entities/prompts.jsonl")))
    ]
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable(prompts, tokenizer),
        reward=AutomatonReward([_share_of(str(prompt.answer).split()) for prompt in prompts]),
        max_new_tokens=max_new_tokens,
        load_reference=_bigram,
        kl_coefficient=kl_coefficient,
    )


def _share_of(answer: list[str]) -> Automaton:
    """Returns the automaton of the share of right tags; its state counts tokens and right tags."""
    number = len(answer)
    lost = (-1, 0)

    def step(state: tuple[int, int], token: int) -> tuple[int, int]:
        written, right = state
        word = VOCABULARY[token]
        if 0 <= written < number and word in TAGS:
            return written + 1, right + (word == answer[written])
        return (written + 1, right) if written == number and word == EOS else lost

    def score(state: tuple[int, int]) -> float:
        written, right = state
        return right / number if written == number + 1 else 0.0

    return build_automaton((0, 0), step, score, vocabulary_size=len(VOCABULARY))


@functools.cache
def _bigram() -> NGramModel:
    return NGramModel.load(data_file("entities/bigram.safetensors"))
