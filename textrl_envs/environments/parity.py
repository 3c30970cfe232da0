"""Parity: bring the number of ones to a multiple of three. No part of it is worth anything."""

import functools

from textrl_envs.environments.checks import check_count
from textrl_envs.environments.symbol_tasks import bigram_of, words_of
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.prompts import Prompt, PromptTable
from textrl_envs.rewards.automaton import Automaton, AutomatonReward, build_automaton
from textrl_envs.task import Task
from textrl_envs.tokenizers import word_tokenizer

__all__ = ["parity"]

WORDS = words_of(": 0 1")
PROMPTS = ("0 1 0 0", "1 1 0 1", "0 1 1 0", "1 0 1 1 0 1", "0 0 1 0 1", "1 1 1 1 1 0")


@functools.cache
def parity(
    *, modulus: int = 3, least: int = 6, max_new_tokens: int = 16, kl_coefficient: float = 0.1
) -> Task:
    """Write bits until the ones of prompt and response are a multiple of `modulus`, and end.

    Observation:
        A prompt such as "0 1 1 0 :", then the response, such as "1 0 0 1 0 0 1 1 <eos>".
    Action:
        One of 5 tokens: two bits, a colon, EOS and padding.
    Reward:
        At the end 1 if prompt and response together have a multiple of `modulus` ones, the response
        has at least `least` bits, and EOS follows; else 0.
    Termination:
        EOS, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    The reference writes fair bits. No bit is better than another until the end, and each one
    changes which end is right.

    Args:
        modulus: of which the ones shall be a multiple.
        least: bits of a response, at least.
        max_new_tokens: the limit of a response.
        kl_coefficient: β of the regularised return.

    Raises:
        InvalidInputError: a modulus below 2, or a negative number of bits.
    """
    check_count("modulus", modulus, least=2)
    check_count("least", least, least=0)
    tokenizer = word_tokenizer(WORDS)
    prompts = [
        Prompt(text=f"{bits} :", metadata={"automaton": bits.count("1") % modulus})
        for bits in PROMPTS
    ]
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable(prompts, tokenizer),
        reward=AutomatonReward([_multiple(ones, modulus, least) for ones in range(modulus)]),
        max_new_tokens=max_new_tokens,
        load_reference=_reference,
        kl_coefficient=kl_coefficient,
    )


def _multiple(ones: int, modulus: int, least: int) -> Automaton:
    eos, zero, one = (WORDS.index(word) for word in ("<eos>", "0", "1"))

    def step(state: tuple[int, int] | str, token: int) -> tuple[int, int] | str:
        if isinstance(state, str):
            return state
        counted, bits = state
        if token == eos:
            return "right" if counted == 0 and bits == least else "wrong"
        if token not in (zero, one):
            return state
        return (counted + (token == one)) % modulus, min(bits + 1, least)

    first: tuple[int, int] | str = (ones, 0)
    return build_automaton(first, step, _is_right, vocabulary_size=len(WORDS))


def _is_right(state: object) -> float:
    return float(state == "right")


@functools.cache
def _reference() -> NGramModel:
    bits = {"0": 9, "1": 9, "<eos>": 2}
    return bigram_of(WORDS, {":": {"0": 1, "1": 1}, "0": bits, "1": bits})
