"""Prompts: what the environment presents. Read from a file or built in code, tokenised once.

Prompt       one prompt: text or token ids, and what a reward may want to know about it
read_prompts a JSONL file -> list of Prompt
PromptTable  all prompts of an environment as one padded array of token ids
"""

import json
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError, nearest

if TYPE_CHECKING:
    from textrl_envs.tokenizers import Tokenizer

__all__ = ["REWARD_FIELDS", "Prompt", "PromptTable", "read_prompts"]

REWARD_FIELDS = ("category", "answer")
"""What a reward sees of a prompt beside its metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt, given as text or as token ids.

    Args:
        text: the prompt as the user reads it; decoded from `token_ids` where only those are given.
        token_ids: the prompt as the model reads it; tokenised from `text` where only that is given.
        category: a label for reports, such as "Open QA".
        answer: a reference answer for rewards that compare.
        metadata: anything else, handed to the reward with the two.

    Raises:
        InvalidInputError: neither text nor token ids were given, or category or answer in the
            metadata.
    """

    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    category: str | None = None
    answer: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.text is None and self.token_ids is None:
            raise InvalidInputError("A prompt needs text or token_ids; got neither.")
        for name in REWARD_FIELDS:
            if name in self.metadata:
                raise InvalidInputError(
                    f"The metadata of a prompt has {name!r}, which stands by itself: give "
                    f"Prompt({name}=...)."
                )

    def reward_metadata(self) -> dict[str, Any]:
        """Returns what the reward sees of this prompt: category, answer and the metadata."""
        return {**self.metadata, "category": self.category, "answer": self.answer}


def read_prompts(path: str | Path, *, prompt_field: str = "prompt") -> list[Prompt]:
    """Reads a JSONL file: every line a JSON string, or an object with `prompt_field`.

    Of an object, "category" and "answer" keep their meaning; every other key goes to the metadata.

    Raises:
        InvalidInputError: the file is missing, empty, not UTF-8, or a line is malformed; the
            message names the line.
    """
    path = Path(path)
    prompts = [
        _parse_line(line, f"{path}, line {number}", prompt_field)
        for number, line in enumerate(_read_lines(path), start=1)
        if line.strip()
    ]
    if not prompts:
        raise InvalidInputError(f"Prompts file {path} is empty; expected one JSON value a line.")
    return prompts


def _read_lines(path: Path) -> list[str]:
    try:
        # Not str.splitlines: it also cuts at characters that JSON strings may hold, such as U+2028.
        return path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InvalidInputError(
            f"Cannot read prompts file {path}: {error.strerror}. Give a readable JSONL file."
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"Prompts file {path} is not UTF-8 at byte {error.start}. Save it as UTF-8."
        ) from error


def _parse_line(line: str, place: str, prompt_field: str) -> Prompt:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidInputError(
            f"{place}: not valid JSON ({error.msg} at column {error.colno}); "
            f'expected a JSON string or an object such as {{"{prompt_field}": "..."}}.'
        ) from error
    if isinstance(value, str):
        value = {prompt_field: value}
    if not isinstance(value, dict):
        raise InvalidInputError(
            f"{place}: expected a JSON string or object; got {type(value).__name__}."
        )
    if prompt_field not in value:
        raise InvalidInputError(
            f"{place}: no field {prompt_field!r}. {nearest(prompt_field, value)} "
            "Choose one with prompt_field."
        )
    text = value.pop(prompt_field)
    if not isinstance(text, str) or not text.strip():
        raise InvalidInputError(f"{place}: {prompt_field!r} must be non-empty text; got {text!r}.")
    category, answer = (_optional_text(value, key, place) for key in ("category", "answer"))
    return Prompt(text=text, category=category, answer=answer, metadata=value)


def _optional_text(value: dict[str, Any], key: str, place: str) -> str | None:
    text = value.pop(key, None)
    if text is not None and not isinstance(text, str):
        raise InvalidInputError(f"{place}: {key!r} must be text; got {text!r}.")
    return text


class PromptTable(Sequence[Prompt]):
    """All prompts of an environment, tokenised once.

    Args:
        prompts: at least one prompt.
        tokenizer: turns text into ids. Special tokens that it puts in front (BOS) are kept; an EOS
            that it puts behind is dropped, since the response follows.
        template: how a prompt's text is presented; `{prompt}` is the text, `{{` a brace.
        max_prompt_tokens: the longest prompt allowed; None takes the longest there is.

    Raises:
        InvalidInputError: no prompt at all, a template without `{prompt}`, a prompt without
            tokens, with an id outside the vocabulary, or longer than allowed.
    """

    def __init__(
        self,
        prompts: Iterable[Prompt | str],
        tokenizer: "Tokenizer",
        *,
        template: str = "{prompt}",
        max_prompt_tokens: int | None = None,
    ) -> None:
        _check_template(template)
        _check_limit(max_prompt_tokens)
        given = [_as_prompt(p) for p in prompts]
        if not given:
            raise InvalidInputError("Expected at least one prompt; got none.")
        rows = [_encode(prompt, tokenizer, template) for prompt in given]
        self._prompts = given
        self.lengths: NDArray[np.int64] = np.array([len(row) for row in rows], dtype=np.int64)
        """Tokens of each prompt, shape (P,)."""
        _check_rows(rows, self.lengths, len(tokenizer), max_prompt_tokens)
        self.max_prompt_tokens = max_prompt_tokens or int(self.lengths.max())
        # int32 halves the memory of long tables; an id always fits.
        self.token_ids: NDArray[np.int32] = np.zeros((len(rows), int(self.lengths.max())), np.int32)
        """Token ids, right-padded with 0, shape (P, longest)."""
        for row, ids in zip(self.token_ids, rows, strict=True):
            row[: len(ids)] = ids
        self.texts: list[str] = [
            tokenizer.decode(row) if prompt.text is None else template.format(prompt=prompt.text)
            for prompt, row in zip(given, rows, strict=True)
        ]
        """What is presented, with the template filled in."""
        self.metadata: list[dict[str, Any]] = [prompt.reward_metadata() for prompt in given]
        """What the reward sees of each prompt."""

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - int gives a Prompt, slice a list
        return self._prompts[index]


def _check_limit(limit: Any) -> None:  # noqa: ANN401 - whatever a user gives
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise InvalidInputError(
            f"max_prompt_tokens must be an integer of at least 1, or None; got {limit!r}."
        )


def _as_prompt(given: Any) -> Prompt:  # noqa: ANN401 - whatever a user's iterable holds
    if isinstance(given, Prompt):
        return given
    if isinstance(given, str):
        return Prompt(text=given)
    raise InvalidInputError(f"A prompt must be a text or a Prompt; got {given!r:.200}.")


def _check_template(template: str) -> None:
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        template.format(prompt="")
    except (ValueError, KeyError, IndexError, AttributeError):
        fields = set()
    if fields != {"prompt"}:
        raise InvalidInputError(
            f"Expected a template with {{prompt}} and no other field; got {template!r}."
        )


def _encode(prompt: Prompt, tokenizer: "Tokenizer", template: str) -> list[int]:
    if prompt.token_ids is not None:
        return list(prompt.token_ids)
    assert prompt.text is not None
    ids: list[int] = tokenizer.encode(template.format(prompt=prompt.text))
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def _check_rows(
    rows: list[list[int]],
    lengths: NDArray[np.int64],
    vocabulary_size: int,
    max_prompt_tokens: int | None,
) -> None:
    longest = int(lengths.argmax())
    if max_prompt_tokens is not None and lengths[longest] > max_prompt_tokens:
        raise InvalidInputError(
            f"Prompt {longest} has {lengths[longest]} tokens; max_prompt_tokens is "
            f"{max_prompt_tokens}. Raise it or shorten the prompt."
        )
    for index, row in enumerate(rows):
        if not row:
            raise InvalidInputError(f"Prompt {index} has no tokens; a model needs at least one.")
        if min(row) < 0 or max(row) >= vocabulary_size:
            raise InvalidInputError(
                f"Prompt {index} has token ids outside 0..{vocabulary_size - 1}: "
                f"{min(row)}..{max(row)}. Use the environment's tokenizer."
            )
