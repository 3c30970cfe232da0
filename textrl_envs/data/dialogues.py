"""Two-turn dialogues from a small grammar: facts, a question, a follow-up.

    user : the sailor lost a ring behind the tower . where is the ring ?
    assistant : it is behind the tower .
    user : thank you . and who lost the ring ?
    assistant : the sailor lost it . glad to help .

The first answer is always right. The second is that of a careless assistant, which often does not
know, often guesses, and is seldom polite: a model of these texts has something left to learn.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from textrl_envs.data.stories import ACTIONS, EOS, PEOPLE, PLACES, PREPOSITIONS, THINGS
from textrl_envs.data.stories import VOCABULARY as STORY_WORDS

__all__ = ["CLOSINGS", "KINDS", "VOCABULARY", "Dialogue", "dialogues"]

CLOSINGS = ("you are welcome .", "glad to help .", "any time .")
"""Polite ways to end a reply."""

KINDS = {"who": PEOPLE, "what": THINGS, "where": PLACES}
"""Question word -> the nouns that can answer it."""

VOCABULARY = (
    *STORY_WORDS,
    *("user", "assistant", "?", "who", "what", "where", "is", "it", "there", "thank"),
    *("you", "i", "do", "not", "know", "are", "welcome", "glad", "to", "help", "any", "time"),
)
"""Every word of stories and dialogues, its id being its place."""

UNKNOWING, GUESSING, POLITE = 0.3, 0.5, 0.3
"""Chances that the second answer is "i do not know .", that the noun of any other is a blind guess,
and that it closes politely."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A dialogue up to the assistant's second turn, and how that goes on, as lists of words."""

    opening: list[str]
    """Both turns of the user and the assistant's first, "assistant :" last."""
    answer: str
    """The noun that answers the second question."""
    reply: list[str]
    """The assistant's second turn, EOS last."""


def dialogues(rng: np.random.Generator, number: int) -> Iterator[Dialogue]:
    """Yields dialogues about one fact or two.

    Args:
        rng: decides the words.
        number: of dialogues.
    """
    for _ in range(number):
        facts = _facts(rng, 1 + int(rng.integers(2)))
        kinds = rng.permutation(list(KINDS)).tolist()
        first, second = (facts[int(rng.integers(len(facts)))] for _ in range(2))
        told = " and then ".join(fact.told(_pick(rng, ("a", "his", "her"))) for fact in facts)
        opening = (
            f"user : {told} . {first.question(kinds[0])} "
            f"assistant : {first.reply(kinds[0], first.answer(kinds[0]))} "
            f"user : thank you . and {second.question(kinds[1])} assistant :"
        )
        reply = _careless_reply(rng, second, kinds[1])
        yield Dialogue(opening.split(), second.answer(kinds[1]), [*reply.split(), EOS])


@dataclass(frozen=True, slots=True)
class _Fact:
    """Somebody did something with a thing, somewhere."""

    person: str
    action: str
    thing: str
    preposition: str
    place: str

    def told(self, article: str) -> str:
        what = f"{self.action} {article} {self.thing}"
        return f"the {self.person} {what} {self.preposition} the {self.place}"

    def question(self, kind: str) -> str:
        return {
            "who": f"who {self.action} the {self.thing} ?",
            "what": f"what is {self.preposition} the {self.place} ?",
            "where": f"where is the {self.thing} ?",
        }[kind]

    def answer(self, kind: str) -> str:
        return {"who": self.person, "what": self.thing, "where": self.place}[kind]

    def reply(self, kind: str, noun: str) -> str:
        return {
            "who": f"the {noun} {self.action} it .",
            "what": f"the {noun} is there .",
            "where": f"it is {self.preposition} the {noun} .",
        }[kind]


def _facts(rng: np.random.Generator, number: int) -> list[_Fact]:
    """Returns facts of which no two share a noun, a verb or a preposition."""
    fields = (PEOPLE, ACTIONS, THINGS, PREPOSITIONS, PLACES)
    columns = [rng.permutation(list(words))[:number].tolist() for words in fields]
    return [_Fact(*row) for row in zip(*columns, strict=True)]


def _careless_reply(rng: np.random.Generator, fact: _Fact, kind: str) -> str:
    closing = f" {_pick(rng, CLOSINGS)}" if rng.random() < POLITE else ""
    if rng.random() < UNKNOWING:
        return f"i do not know .{closing}"
    noun = _pick(rng, KINDS[kind]) if rng.random() < GUESSING else fact.answer(kind)
    return fact.reply(kind, noun) + closing


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]
