"""Requests in the ten categories of InstructGPT, in the shares in which users made them.

The prompts of InstructGPT were never published; its paper gives their categories and how often each
came. These are written anew: hand-made templates (`instruction_templates`) filled with drawn words.

CATEGORIES      category -> its share
instructions    -> list of Prompt
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from textrl_envs.data.instruction_records import RECORDS
from textrl_envs.data.instruction_templates import TEMPLATES, Template
from textrl_envs.data.instruction_words import PHRASES
from textrl_envs.errors import InvalidInputError
from textrl_envs.prompts import Prompt

__all__ = ["CATEGORIES", "instructions"]

CATEGORIES: Mapping[str, float] = {
    "Generation": 0.456,
    "Open QA": 0.124,
    "Brainstorming": 0.112,
    "Chat": 0.084,
    "Rewrite": 0.066,
    "Summarization": 0.042,
    "Classification": 0.035,
    "Other": 0.035,
    "Closed QA": 0.026,
    "Extract": 0.019,
}
"""Category -> its share of the prompts of InstructGPT's users: Ouyang et al. (2022), "Training
language models to follow instructions with human feedback", arXiv:2203.02155, table 1. As printed
they sum to 0.999."""

SLOTS: Mapping[str, Any] = {**PHRASES, **RECORDS}
MAX_DRAWS = 100
"""Times that a prompt is drawn again while it repeats another one."""


def instructions(number: int = 1000, *, seed: int = 0) -> list[Prompt]:
    """Returns requests such as users make of an assistant, in shuffled order.

    The categories come as often as `CATEGORIES` says, up to rounding. A prompt has an `answer`
    where there is one right answer: for Closed QA words of its passage, for Extract things found in
    the text and separated by ", ", for Classification one of `metadata["labels"]`, and for some of
    the Open QA and Other. Prompts are distinct as long as there are enough of a category.

    Args:
        number: how many prompts, at least 1.
        seed: decides the prompts and their order; 0 or more.

    Raises:
        InvalidInputError: `number` or `seed` is no integer of that kind.
    """
    _check_integer("number", number, at_least=1)
    _check_integer("seed", seed, at_least=0)
    rng = np.random.default_rng(seed)
    counts = _apportion(number)
    prompts = [prompt for category in counts for prompt in _draw(rng, category, counts[category])]
    return [prompts[index] for index in rng.permutation(number)]


def _check_integer(name: str, value: Any, *, at_least: int) -> None:  # noqa: ANN401 - from a user
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise InvalidInputError(
            f"{name} must be an integer of at least {at_least}; got {value!r}. "
            "Give one such as instructions(1000, seed=0)."
        )


def _apportion(number: int) -> dict[str, int]:
    """Returns category -> count, by largest remainder; the counts sum to `number`."""
    total = sum(CATEGORIES.values())
    quotas = {category: number * share / total for category, share in CATEGORIES.items()}
    counts = {category: int(quota) for category, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda category: counts[category] - quotas[category])
    for category in by_remainder[: number - sum(counts.values())]:
        counts[category] += 1
    return counts


def _draw(rng: np.random.Generator, category: str, count: int) -> Iterator[Prompt]:
    """Yields prompts of one category, distinct unless it has too few."""
    seen: set[str | None] = set()
    for _ in range(count):
        for _ in range(MAX_DRAWS):
            prompt = _draw_one(rng, category)
            if prompt.text not in seen:
                break
        seen.add(prompt.text)
        yield prompt


def _draw_one(rng: np.random.Generator, category: str) -> Prompt:
    templates = TEMPLATES[category]
    template: Template = templates[int(rng.integers(len(templates)))]
    words = _Words(rng)
    return Prompt(
        text=template.text.format_map(words),
        category=category,
        answer=None if template.answer is None else template.answer.format_map(words),
        metadata={"labels": list(template.labels)} if template.labels else {},
    )


class _Words(dict[str, Any]):
    """The words of one prompt: each field is drawn when it is first asked for, and then stays.

    Fields that differ by a number at their end, such as "city" and "city2", get different words.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self._rng = rng
        self._rest: dict[str, list[Any]] = {}

    def __missing__(self, name: str) -> Any:  # noqa: ANN401 - a phrase or a record
        slot = name.rstrip("0123456789")
        if slot not in self._rest:
            order = self._rng.permutation(len(SLOTS[slot]))
            self._rest[slot] = [SLOTS[slot][index] for index in order]
        word = self._rest[slot].pop()
        self[name] = self._fill(word)
        return self[name]

    def _fill(self, word: str | Mapping[str, str]) -> str | dict[str, str]:
        """Returns a phrase or a record with its own fields filled in."""
        if isinstance(word, str):
            return word.format_map(self)
        return {key: text.format_map(self) for key, text in word.items()}
