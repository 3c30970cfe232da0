"""A reward for school arithmetic: the share of a response's calculations that are right.

The solutions of GSM8K write every calculation between double angle brackets, as in
`48/2 = <<48/2=24>>24`. Nothing else of the text is looked at: not the way to the answer, not the
answer. A policy that is rewarded by this alone and not held near its reference soon finds that easy
calculations pay as much as the ones the question asks for.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["arithmetic", "is_right", "share_right"]

MAX_CHARACTERS = 80
"""Longest annotation that is read; the longest of the human solutions has 36 characters. It bounds
the digits of every number and the depth of parentheses, and so the time that a check can take."""

# From one "<<" to its ">>". One that the next "<<", a line's end or the text's end cuts off has no
# second group: a policy must not escape the check by leaving a wrong calculation open.
ANNOTATION = re.compile(r"<<((?:(?!<<|>>)[^\n])*)(>>)?")
# [0-9], not \d, which matches the digits of every script.
NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
RESULT = re.compile(r"-?(?:[0-9]+(?:\.([0-9]*))?|\.([0-9]+))")
COPY = re.compile(rf"[-+(]*(?:{NUMBER.pattern})\)*")
TOKEN = re.compile(rf"{NUMBER.pattern}|//|[-+*/()%]")


def arithmetic(
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    prompt_ids: Sequence[NDArray[np.int64]],
    response_ids: Sequence[NDArray[np.int64]],
    metadata: Sequence[Mapping[str, Any]],
) -> NDArray[np.float64]:
    """Scores responses by the arithmetic in their annotations.

    Args:
        prompts: not looked at, nor are the remaining arguments.
        responses: B texts.
        prompt_ids: B arrays of token ids.
        response_ids: B arrays of token ids.
        metadata: B mappings.

    Returns:
        The share of right annotations in each response, shape (B,), in [0, 1]; 0 where there is no
        annotation that calculates anything.
    """
    return np.array([share_right(response) for response in responses], dtype=np.float64)


def share_right(text: str) -> float:
    """Returns the share of a text's calculations that are right, 0.0 where it has none.

    >>> share_right("She sold 48/2 = <<48/2=24>>24 clips and 48+24 = <<48+24=73>>73 in all.")
    0.5
    >>> share_right("She sold 24 clips.")
    0.0

    An annotation that only repeats a number is passed over: that is always right and no arithmetic.
    One in seventy human annotations does so.

    >>> share_right("There are <<36=36>>36 rooms and <<36*2=72>>72 beds.")
    1.0
    >>> share_right("There are <<36=36>>36 rooms.")
    0.0

    One that is cut off, by the end of the text say, counts as wrong.

    >>> share_right("<<1+1=2>>2 and then <<2+2=4")
    0.5
    """
    checks = list(_checks(text))
    return sum(checks) / len(checks) if checks else 0.0


def _checks(text: str) -> Iterator[bool]:
    """Yields of each calculation in a text whether it is right."""
    for annotation, closing in ANNOTATION.findall(text):
        right = bool(closing) and is_right(annotation)
        if not (right and COPY.fullmatch(annotation.partition("=")[0])):
            yield right


def is_right(annotation: str) -> bool:
    """Tells whether what stands between the brackets is a calculation and its result.

    Numbers are exact fractions, so that 0.1+0.2=0.3 is right. The left side may hold `+ - * /`,
    `//` (division without remainder), parentheses, signs, and a percent sign behind a number.

    >>> is_right("30*(2/3)=20"), is_right("500*(30*.01)=150"), is_right("20%*50=10")
    (True, True, True)
    >>> is_right("2+2=5"), is_right("2+2"), is_right("2+2=4=4"), is_right("9**9**9=1")
    (False, False, False, False)

    A result with two decimals or more may be rounded: it is right if no number with as many
    decimals is nearer. With one decimal or none it must be exact: `7/2=4` is more often a mistake
    than meant.

    >>> is_right("2/3=0.67"), is_right("2/3=0.66"), is_right("2/3=0.7"), is_right("7/2=4")
    (True, False, False, False)

    And a part in a billion is forgiven, which floating-point calculators are off by.

    >>> is_right("1.87*9=16.830000000000002")
    True
    """
    left, equals, right = annotation.partition("=")
    result = RESULT.fullmatch(right.strip())
    if not equals or not result or len(annotation) > MAX_CHARACTERS:
        return False
    try:
        exact = _Calculation(left).value()
    except (ValueError, ZeroDivisionError):
        return False
    decimals = len(result[1] or result[2] or "")
    rounding = Fraction(1, 2 * 10**decimals) if decimals >= 2 else Fraction(0)
    return abs(exact - Fraction(result[0])) <= max(rounding, abs(exact) / 10**9)


class _Calculation:
    """Reads an arithmetic expression from left to right.

    There is no power and no other function, so a value has no more digits than the text.
    """

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._position = 0

    def value(self) -> Fraction:
        """Returns the value.

        Raises:
            ValueError: the text is no expression.
            ZeroDivisionError: it divides by zero.
        """
        value = self._sum()
        if self._position < len(self._tokens):
            raise ValueError(f"unexpected {self._tokens[self._position]!r}")
        return value

    def _sum(self) -> Fraction:
        value = self._product()
        while (operator := self._take("+", "-")) is not None:
            term = self._product()
            value = value + term if operator == "+" else value - term
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while (operator := self._take("*", "/", "//")) is not None:
            factor = self._signed()
            if operator == "*":
                value *= factor
            else:
                value = value / factor if operator == "/" else Fraction(value // factor)
        return value

    def _signed(self) -> Fraction:
        sign = 1
        while (operator := self._take("+", "-")) is not None:
            sign = -sign if operator == "-" else sign
        value = sign * self._atom()
        return value / 100 if self._take("%") else value

    def _atom(self) -> Fraction:
        if self._take("("):
            value = self._sum()
            if not self._take(")"):
                raise ValueError("a parenthesis is not closed")
            return value
        token = self._tokens[self._position] if self._position < len(self._tokens) else ""
        if not NUMBER.fullmatch(token):
            raise ValueError(f"expected a number; got {token!r}")
        self._position += 1
        return Fraction(token)

    def _take(self, *choices: str) -> str | None:
        """Moves on if the next token is one of `choices`, and returns it."""
        if self._position < len(self._tokens) and self._tokens[self._position] in choices:
            self._position += 1
            return self._tokens[self._position - 1]
        return None


def _tokens(text: str) -> list[str]:
    tokens = TOKEN.findall(text)
    if "".join(tokens) != text.replace(" ", ""):
        raise ValueError(f"not arithmetic: {text!r}")
    return tokens
