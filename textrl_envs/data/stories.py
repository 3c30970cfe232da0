"""Short stories from a small grammar: the text that the Keyword environments are made of.

A story is one to three sentences such as "the tall sailor found a lantern near the harbour ."
"""

from collections.abc import Iterator

import numpy as np

__all__ = ["VOCABULARY", "stories"]

ARTICLES = ("the", "a")
ADJECTIVES = ("tall", "young", "quiet", "bright", "cold", "small")
PEOPLE = ("sailor", "child", "farmer", "baker")
ACTIONS = ("saw", "found", "carried", "painted", "lost")
THINGS = ("lantern", "letter", "boat", "ring")
PREPOSITIONS = ("near", "under", "behind", "beyond")
PLACES = ("harbour", "forest", "tower", "garden")
STATES = ("slept", "sang", "waited")
TIMES = ("morning", "evening")
FUNCTION_WORDS = ("tell", "of", ":", "and", "then", "while", "in", "his", "her", ".")

PAD, EOS = "<pad>", "<eos>"
VOCABULARY = (
    PAD,
    EOS,
    *FUNCTION_WORDS,
    *ARTICLES,
    *ADJECTIVES,
    *PEOPLE,
    *ACTIONS,
    *THINGS,
    *PREPOSITIONS,
    *PLACES,
    *STATES,
    *TIMES,
)
"""Every word, its id being its place."""


def stories(
    rng: np.random.Generator, number: int, *, mean_sentences: float | None = None
) -> Iterator[list[str]]:
    """Yields stories as lists of words, with the ":" that precedes a story and the EOS after it.

    Args:
        rng: decides the words.
        number: of stories.
        mean_sentences: of a long story, whose length is geometric; None for short ones of one to
            three sentences.
    """
    for _ in range(number):
        if mean_sentences is None:
            count = 1 + int(rng.binomial(2, 0.3))
        else:
            count = int(rng.geometric(1 / mean_sentences))
        sentences = [_sentence(rng) for _ in range(count)]
        yield [":", *(word for sentence in sentences for word in sentence), EOS]


def _sentence(rng: np.random.Generator) -> list[str]:
    words = _noun_phrase(rng, PEOPLE)
    if rng.random() < 0.2:
        words += [_pick(rng, STATES), "in", "the", _pick(rng, TIMES), "and", "then"]
    words += [_pick(rng, ACTIONS), *_noun_phrase(rng, THINGS)]
    if rng.random() < 0.7:
        words += [_pick(rng, PREPOSITIONS), *_noun_phrase(rng, PLACES)]
    if rng.random() < 0.15:
        words += ["while", *_noun_phrase(rng, PEOPLE), _pick(rng, STATES)]
    return [*words, "."]


def _noun_phrase(rng: np.random.Generator, nouns: tuple[str, ...]) -> list[str]:
    owners = ("his", "her") if nouns is THINGS else ()
    words = [_pick(rng, ARTICLES + owners)]
    if rng.random() < 0.4:
        words.append(_pick(rng, ADJECTIVES))
    return [*words, _pick(rng, nouns)]


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]
