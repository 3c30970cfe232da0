"""Pages whose prose is written by hand, and whose tables are written between two comments."""

from collections.abc import Iterable, Iterator, Sequence

from textrl_envs.errors import InvalidInputError

__all__ = ["replaced", "table"]


def replaced(text: str, name: str, lines: Sequence[str]) -> str:
    """Returns the text with the lines between two comments, `<!-- name -->` and `<!-- end -->`.

    Raises:
        InvalidInputError: the text has no such place.
    """
    before, opening, rest = text.partition(f"<!-- {name} -->\n")
    _, closing, after = rest.partition("<!-- end -->")
    if not opening or not closing:
        raise InvalidInputError(f"The page has no place marked <!-- {name} -->.")
    return before + opening + "\n".join(lines) + "\n" + closing + after


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yields the lines of a table."""
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
