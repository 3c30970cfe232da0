"""SumVerify: write the sum of two numbers. Another right answer to each prompt, verified."""

import functools

from textrl_envs.environments.checks import check_count
from textrl_envs.environments.symbol_tasks import bigram_of, words_of
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.prompts import Prompt, PromptTable
from textrl_envs.rewards.automaton import Automaton, AutomatonReward, build_automaton
from textrl_envs.task import Task
from textrl_envs.tokenizers import word_tokenizer

__all__ = ["sum_verify"]

WORDS = words_of("0 1 2 3 4 5 6 7 8 9 + =")


@functools.cache
def sum_verify(*, largest: int = 9, kl_coefficient: float = 0.1) -> Task:
    """Write the sum of two numbers.

    Observation:
        A prompt such as "7 + 8 =", then the response, such as "1 5 <eos>".
    Action:
        One of 14 tokens: ten digits, plus, equals, EOS and padding.
    Reward:
        At the end 1 for the sum without leading zeros and EOS behind it, else 0.
    Termination:
        EOS, or 3 tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    The reference knows how sums look, and nothing of what was added. Every prompt has an answer of
    its own, so that it is generalisation that saves samples.

    Args:
        largest: both numbers are from 0 to this, at most 9.
        kl_coefficient: β of the regularised return.

    Raises:
        InvalidInputError: a largest number outside 1..9.
    """
    check_count("largest", largest, most=9)
    tokenizer = word_tokenizer(WORDS)
    numbers = range(largest + 1)
    prompts = [
        Prompt(text=f"{a} + {b} =", answer=" ".join(str(a + b)), metadata={"automaton": a + b})
        for a in numbers
        for b in numbers
    ]
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable(prompts, tokenizer),
        reward=AutomatonReward([_equals(total) for total in range(2 * largest + 1)]),
        max_new_tokens=3,
        load_reference=_reference,
        kl_coefficient=kl_coefficient,
    )


def _equals(total: int) -> Automaton:
    wanted = [*(WORDS.index(digit) for digit in str(total)), WORDS.index("<eos>")]
    wrong = -1

    def step(right: int, token: int) -> int:
        is_next = 0 <= right < len(wanted) and token == wanted[right]
        return right + 1 if is_next else wrong

    return build_automaton(
        0, step, lambda right: float(right == len(wanted)), vocabulary_size=len(WORDS)
    )


@functools.cache
def _reference() -> NGramModel:
    """Single digits end; a first 1 is often followed by another digit."""
    digits = [str(digit) for digit in range(10)]
    after_one = {**dict.fromkeys(digits, 1.0), "<eos>": 6.0}
    after_others = {**dict.fromkeys(digits, 0.3), "<eos>": 12.0}
    return bigram_of(
        WORDS,
        {
            "=": {**dict.fromkeys(digits, 1.0), "1": 5.0},
            **dict.fromkeys(digits, after_others),
            "1": after_one,
        },
    )
