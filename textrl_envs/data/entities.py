"""Sentences about people, places and organisations, every word tagged: the text of Tagging.

A sentence has four to seven words, such as "today clara of northwind met boris". Three names are
borne by people and by places alike, so that their tag depends on the words around them.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

__all__ = ["TAGS", "VOCABULARY", "tagged_prompts", "tagged_sentences"]

T = TypeVar("T")

TAGS = ("PER", "LOC", "ORG", "O")
"""Person, place, organisation, and all other words."""

SHARED_NAMES = ("florence", "jordan", "victoria")
PEOPLE = ("anna", "boris", "clara", "david", "emil", *SHARED_NAMES)
PLACES = ("lima", "oslo", "cairo", "kyoto", "dublin", *SHARED_NAMES)
ORGANISATIONS = ("northwind", "bluestone", "silverline", "redwood")
VERBS = {
    "PER": ("met", "called", "praised"),
    "LOC": ("visited", "left", "liked"),
    "ORG": ("joined", "founded", "trusted"),
}
"""Tag of the object -> verbs that take it."""

TIMES = (("yesterday",), ("today",), ("last", "week"), ("this", "week"))
FUNCTION_WORDS = ("tags", ":", "of", "from", "in", "last", "this", "week", "yesterday", "today")

PAD, EOS = "<pad>", "<eos>"
VOCABULARY = (
    PAD,
    EOS,
    *FUNCTION_WORDS,
    *TAGS,
    *SHARED_NAMES,
    *(name for name in PEOPLE + PLACES if name not in SHARED_NAMES),
    *ORGANISATIONS,
    *(verb for verbs in VERBS.values() for verb in verbs),
)
"""Every word, its id being its place."""

NAMES = {"PER": PEOPLE, "LOC": PLACES, "ORG": ORGANISATIONS}
SHORTEST, LONGEST = 4, 7
Tagged = list[tuple[str, str]]


def tagged_sentences(rng: np.random.Generator, number: int) -> Iterator[list[str]]:
    """Yields a sentence, "tags :", a tag for every word, and EOS.

    Args:
        rng: decides the words.
        number: of sentences.
    """
    for _ in range(number):
        words, tags = zip(*_sentence(rng), strict=True)
        yield [*words, "tags", ":", *tags, EOS]


def tagged_prompts(rng: np.random.Generator, number: int) -> Iterator[dict[str, str]]:
    """Yields distinct prompts such as "anna visited lima today tags :", with their tags.

    Args:
        rng: decides the words.
        number: of prompts. Lengths come in turn, so that all are equally frequent.
    """
    seen: set[str] = set()
    lengths = range(SHORTEST, LONGEST + 1)
    while len(seen) < number:
        words, tags = zip(*_sentence(rng), strict=True)
        text = " ".join([*words, "tags", ":"])
        if len(words) == lengths[len(seen) % len(lengths)] and text not in seen:
            seen.add(text)
            yield {"prompt": text, "answer": " ".join(tags)}


def _sentence(rng: np.random.Generator) -> Tagged:
    """Returns a sentence of the right length in which no name occurs twice."""
    while True:
        sentence = _any_sentence(rng)
        is_distinct = len({word for word, _ in sentence}) == len(sentence)
        if is_distinct and SHORTEST <= len(sentence) <= LONGEST:
            return sentence


def _any_sentence(rng: np.random.Generator) -> Tagged:
    time = [(word, "O") for word in _pick(rng, TIMES)]
    kind = _pick(rng, tuple(VERBS))
    sentence = [*_subject(rng), (_pick(rng, VERBS[kind]), "O"), _name(rng, kind)]
    if kind != "LOC" and rng.random() < 0.5:
        sentence += [("in", "O"), _name(rng, "LOC")]
    place = rng.random()
    if place < 0.3:
        return [*time, *sentence]
    return [*sentence, *time] if place < 0.6 else sentence


def _subject(rng: np.random.Generator) -> Tagged:
    if rng.random() < 0.25:
        return [_name(rng, "ORG")]
    subject = [_name(rng, "PER")]
    if rng.random() < 0.5:
        link, kind = _pick(rng, (("of", "ORG"), ("from", "LOC")))
        subject += [(link, "O"), _name(rng, kind)]
    return subject


def _name(rng: np.random.Generator, tag: str) -> tuple[str, str]:
    return _pick(rng, NAMES[tag]), tag


def _pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]
