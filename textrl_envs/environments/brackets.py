"""Brackets: close what the prompt has opened, and open and close some more. Structure."""

import functools

from textrl_envs.environments.checks import check_count
from textrl_envs.environments.symbol_tasks import bigram_of, words_of
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.prompts import Prompt, PromptTable
from textrl_envs.rewards.automaton import Automaton, AutomatonReward, build_automaton
from textrl_envs.task import Task
from textrl_envs.tokenizers import word_tokenizer

__all__ = ["brackets"]

WORDS = words_of("close : ( ) a b")


@functools.cache
def brackets(
    *,
    pairs: int = 2,
    depth: int = 6,
    max_new_tokens: int = 16,
    kl_coefficient: float = 0.1,
) -> Task:
    """Write brackets so that all are closed, those of the prompt too.

    Observation:
        A prompt such as "close ( ( :", then the response, such as "a ) ( b ) ) <eos>".
    Action:
        One of 8 tokens: two brackets, two letters, two words of the prompt, EOS and padding.
    Reward:
        At the end 1 if the brackets of prompt and response balance, never close what is not open
        nor open more than `depth`, at least `pairs` were closed, and EOS follows; else 0.
    Termination:
        EOS, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    The reference is a bigram model, which cannot count what is open.

    Args:
        pairs: brackets to be closed at least.
        depth: brackets open at once, at most; at least 3.
        max_new_tokens: the limit of a response.
        kl_coefficient: β of the regularised return.

    Raises:
        InvalidInputError: a number of pairs below 0 or a depth below 3.
    """
    check_count("pairs", pairs, least=0)
    check_count("depth", depth, least=3)
    tokenizer = word_tokenizer(WORDS)
    prompts = [
        Prompt(text=f"close {'( ' * opened}:", metadata={"automaton": opened})
        for opened in range(4)
    ]
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable(prompts, tokenizer),
        reward=AutomatonReward([_balanced(opened, pairs, depth) for opened in range(4)]),
        max_new_tokens=max_new_tokens,
        load_reference=_reference,
        kl_coefficient=kl_coefficient,
    )


def _balanced(opened: int, pairs: int, depth: int) -> Automaton:
    eos, left, right = (WORDS.index(word) for word in ("<eos>", "(", ")"))

    def step(state: tuple[int, int] | str, token: int) -> tuple[int, int] | str:
        if isinstance(state, str):
            return state
        is_open, closed = state  # brackets open, and closed so far, counted up to `pairs`
        if token == eos:
            return "right" if is_open == 0 and closed == pairs else "wrong"
        if token == left:
            return (is_open + 1, closed) if is_open < depth else "wrong"
        if token == right:
            return (is_open - 1, min(closed + 1, pairs)) if is_open else "wrong"
        return state

    first: tuple[int, int] | str = (opened, 0)
    return build_automaton(first, step, _is_right, vocabulary_size=len(WORDS))


def _is_right(state: object) -> float:
    return float(state == "right")


@functools.cache
def _reference() -> NGramModel:
    return bigram_of(
        WORDS,
        {
            ":": {"(": 4, ")": 2, "a": 2, "b": 2},
            "(": {"(": 3, ")": 3, "a": 2, "b": 2},
            ")": {"(": 3, ")": 3, "a": 1, "b": 1, "<eos>": 2},
            "a": {"(": 2, ")": 3, "b": 3, "<eos>": 2},
            "b": {"(": 3, ")": 2, "a": 3, "<eos>": 2},
        },
    )
