"""The errors a user can cause. Each message says what was expected, what came, and what to do.

TextRLError                 everything below; the command line prints it in one line
├── InvalidInputError       an argument, a file or a folder that cannot be used
└── RewardError             a reward that raised, or returned something other than finite numbers
"""

import difflib
from collections.abc import Iterable

__all__ = ["InvalidInputError", "RewardError", "TextRLError", "nearest"]


class TextRLError(Exception):
    """Base of all errors that the user can mend."""


class InvalidInputError(TextRLError, ValueError):
    """An argument, a file or a folder cannot be used as it is."""


class RewardError(TextRLError, RuntimeError):
    """A reward raised, or returned something other than one finite number a response."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a hint for a misspelt name.

    >>> nearest("pqo", ["ppo", "reinforce"])
    "Did you mean 'ppo'? Known: ppo, reinforce."
    >>> nearest("xyz", ["ppo", "reinforce"])
    'Known: ppo, reinforce.'
    """
    names = sorted(known)
    matches = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {matches[0]!r}? " if matches else ""
    return f"{hint}Known: {', '.join(names)}."
