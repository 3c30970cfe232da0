"""Passcode: one string among many. Exploration, nothing else; how rare it is can be chosen."""

import functools

from textrl_envs.environments.checks import check_count
from textrl_envs.environments.symbol_tasks import bigram_of, words_of
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.prompts import Prompt, PromptTable
from textrl_envs.rewards.automaton import Automaton, AutomatonReward, build_automaton
from textrl_envs.task import Task
from textrl_envs.tokenizers import word_tokenizer

__all__ = ["passcode"]

CODE = (3, 1, 4, 1, 5, 9, 2, 6)
"""The code, of which the first `length` digits count, modulo `digits`."""


@functools.cache
def passcode(*, length: int = 4, digits: int = 10, kl_coefficient: float = 0.05) -> Task:
    """Write the one code that opens the door.

    Observation:
        The prompt "code :", then the digits so far.
    Action:
        One of `digits` + 4 tokens: the digits, two words of the prompt, EOS and padding.
    Reward:
        At the end 1 for the code, else 0.
    Termination:
        EOS, or `length` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    The reference draws digits uniformly and finds the code about once in digits^length tries, p0.
    The optimum has the closed form V* = β log(1 + p0 (e^{1/β} − 1)). Nothing hints at the code, so
    an agent that learns from its own samples has to find it by chance.

    Args:
        length: of the code, from 1 to 8.
        digits: how many there are, from 2 to 10.
        kl_coefficient: β of the regularised return.

    Raises:
        InvalidInputError: a length or number of digits out of range.
    """
    check_count("length", length, most=len(CODE))
    check_count("digits", digits, least=2, most=10)
    words = words_of("code : " + " ".join(str(digit) for digit in range(digits)))
    tokenizer = word_tokenizer(words)
    code = tuple(words.index(str(digit % digits)) for digit in CODE[:length])
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable([Prompt(text="code :", metadata={"automaton": 0})], tokenizer),
        reward=AutomatonReward([_exactly(code, len(words))]),
        max_new_tokens=length,
        load_reference=functools.partial(_reference, words),
        kl_coefficient=kl_coefficient,
    )


def _exactly(code: tuple[int, ...], vocabulary_size: int) -> Automaton:
    wrong = -1

    def step(right: int, token: int) -> int:
        is_next = 0 <= right < len(code) and token == code[right]
        return right + 1 if is_next else wrong

    return build_automaton(
        0, step, lambda right: float(right == len(code)), vocabulary_size=vocabulary_size
    )


@functools.cache
def _reference(words: tuple[str, ...]) -> NGramModel:
    digits = dict.fromkeys(words[4:], 1.0)
    return bigram_of(words, {":": digits, **dict.fromkeys(digits, digits)})
