"""Short reviews from a small grammar: the text of KLTrade and of Classification.

A review is one to three sentences such as "the staff was quite awful and we disliked that pool ."
Words before a noun, after "was" and after "we" are kept apart, so that even a bigram model, which
sees one word at a time, writes sentences.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

__all__ = ["LEXICON", "SENTIMENTS", "VOCABULARY", "labelled_reviews", "review_prompts", "reviews"]

T = TypeVar("T")

SENTIMENTS = {"positive": (1, 2), "neutral": (0,), "negative": (-2, -1)}
"""Name of a sentiment -> weights of the words that show it."""

ATTRIBUTES = {
    2: ("superb", "splendid"),
    1: ("good", "nice"),
    0: ("typical", "plain"),
    -1: ("poor", "mediocre"),
    -2: ("horrible", "dreadful"),
}
PREDICATES = {
    2: ("wonderful", "perfect"),
    1: ("pleasant", "fine"),
    0: ("ordinary", "average"),
    -1: ("dull", "disappointing"),
    -2: ("awful", "terrible"),
}
VERBS = {
    2: ("loved", "adored"),
    1: ("liked", "enjoyed"),
    0: ("noticed", "remember"),
    -1: ("disliked", "regretted"),
    -2: ("hated", "loathed"),
}
LEXICON = {
    word: weight
    for words_by_weight in (ATTRIBUTES, PREDICATES, VERBS)
    for weight, words in words_by_weight.items()
    for word in words
}
"""Sentiment word -> its weight, -2 to 2. All other words weigh nothing."""

PLACES = {
    "restaurant": (("food", "menu", "service"), ("soup", "steak", "wine")),
    "hotel": (("staff", "service", "location"), ("pool", "bed", "view")),
    "film": (("acting", "music", "story"), ("plot", "scene", "ending")),
}
"""What is reviewed -> what is said to be good or bad about it, and what it has."""

DEGREES = ("quite", "really", "simply")
OPENERS = ("overall", "frankly")
JOINERS = ("and", "but", "although")
"""What counts of two clauses: both, the one after "but", the one before "although"."""

OPPOSITE = {"positive": "negative", "neutral": "neutral", "negative": "positive"}
FUNCTION_WORDS = ("review", "label", ":", "the", "a", "we", "was", "had", "that", "with", ".")

NOUNS = tuple(dict.fromkeys(word for kinds in PLACES.values() for kind in kinds for word in kind))

MAX_PROMPT_WORDS = 15
"""Of a sentence to be labelled, its full stop included."""

PAD, EOS = "<pad>", "<eos>"
VOCABULARY = (
    PAD,
    EOS,
    *FUNCTION_WORDS,
    *SENTIMENTS,
    *PLACES,
    *NOUNS,
    *DEGREES,
    *OPENERS,
    *JOINERS,
    *LEXICON,
)
"""Every word, its id being its place."""


def reviews(rng: np.random.Generator, number: int) -> Iterator[list[str]]:
    """Yields reviews as lists of words, with the ":" that precedes a review and the EOS after it.

    Seven in ten are negative: those who are displeased write most.

    Args:
        rng: decides the words.
        number: of reviews.
    """
    for _ in range(number):
        sentiment = str(rng.choice(list(SENTIMENTS), p=[0.1, 0.2, 0.7]))
        place = _pick(rng, tuple(PLACES))
        count = 1 + int(rng.binomial(2, 0.5))
        sentences = [_sentence(rng, sentiment, place) for _ in range(count)]
        yield [":", *(word for sentence in sentences for word in sentence), EOS]


def labelled_reviews(rng: np.random.Generator, number: int) -> Iterator[list[str]]:
    """Yields a sentence, "label :", its sentiment and EOS, all sentiments equally often.

    One label in five is hedged by a word of degree.

    Args:
        rng: decides the words.
        number: of reviews.
    """
    for _ in range(number):
        sentiment = _pick(rng, tuple(SENTIMENTS))
        hedge = [_pick(rng, DEGREES)] if rng.random() < 0.2 else []
        sentence = _sentence(rng, sentiment, _pick(rng, tuple(PLACES)))
        yield [*sentence, "label", ":", *hedge, sentiment, EOS]


def review_prompts(rng: np.random.Generator, number: int) -> Iterator[dict[str, str]]:
    """Yields distinct prompts, each with its sentiment as answer; the sentiments come in turn.

    A prompt is a sentence of two clauses and "label :", such as "the food was dull but we adored
    that wine . label :", which is positive.

    Args:
        rng: decides the words.
        number: of prompts.
    """
    seen: set[str] = set()
    sentiments = tuple(SENTIMENTS)
    while len(seen) < number:
        sentiment = sentiments[len(seen) % len(sentiments)]
        sentence = _sentence(rng, sentiment, _pick(rng, tuple(PLACES)), two_clauses=1)
        text = " ".join([*sentence, "label", ":"])
        if len(sentence) <= MAX_PROMPT_WORDS and text not in seen:
            seen.add(text)
            yield {"prompt": text, "answer": sentiment}


def _sentence(
    rng: np.random.Generator, sentiment: str, place: str, *, two_clauses: float = 0.4
) -> list[str]:
    """Returns a sentence that names nothing twice; `two_clauses` is the chance that it has two."""
    while True:
        words = [_pick(rng, OPENERS)] if rng.random() < 0.2 else []
        write = _two_clauses if rng.random() < two_clauses else _clause
        words += write(rng, sentiment, place)
        content = [word for word in words if word not in FUNCTION_WORDS]
        if len(set(content)) == len(content):
            return [*words, "."]


def _two_clauses(rng: np.random.Generator, sentiment: str, place: str) -> list[str]:
    """Returns clauses that agree, or one that counts and one that says the opposite."""
    joiner = _pick(rng, JOINERS)
    first = OPPOSITE[sentiment] if joiner == "but" else sentiment
    second = OPPOSITE[sentiment] if joiner == "although" else sentiment
    return [*_clause(rng, first, place), joiner, *_clause(rng, second, place)]


def _clause(rng: np.random.Generator, sentiment: str, place: str) -> list[str]:
    topics, things = PLACES[place]
    kind = rng.random()
    if kind < 0.4:
        degree = [_pick(rng, DEGREES)] if rng.random() < 0.3 else []
        return ["the", _pick(rng, topics), "was", *degree, _weighted(rng, PREDICATES, sentiment)]
    if kind < 0.7:
        words = ["the", place, "had", *_thing(rng, sentiment, things)]
    else:
        words = ["we", _weighted(rng, VERBS, sentiment), "that", _pick(rng, things)]
    if rng.random() < 0.3:
        words += ["with", *_thing(rng, sentiment, things)]
    return words


def _thing(rng: np.random.Generator, sentiment: str, things: tuple[str, ...]) -> list[str]:
    return ["a", _weighted(rng, ATTRIBUTES, sentiment), _pick(rng, things)]


def _weighted(
    rng: np.random.Generator, words_by_weight: Mapping[int, tuple[str, ...]], sentiment: str
) -> str:
    return _pick(rng, words_by_weight[_pick(rng, SENTIMENTS[sentiment])])


def _pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]
