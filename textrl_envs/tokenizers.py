"""Tokenizers: those of Transformers, loaded once a process, and texts decoded when read."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError
from textrl_envs.files import check_not_missing, stamp

__all__ = [
    "DecodedTexts",
    "Tokenizer",
    "check_same_vocabulary",
    "check_tokenizer",
    "load_tokenizer",
    "word_tokenizer",
]


class Tokenizer(Protocol):
    """What the suite uses of a Transformers tokenizer."""

    eos_token_id: int
    pad_token_id: int | None

    def __len__(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Returns token ids."""

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> Any:  # noqa: ANN401
        """Returns the text of one sequence of ids."""


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> Tokenizer:
    """Loads a tokenizer from a folder, or from the hub where `name` is no folder.

    It is loaded once a process; a folder that has changed is loaded again.

    Raises:
        InvalidInputError: nothing can be loaded under that name, or it has no EOS token.
    """
    check_not_missing(name)
    return _load(name, stamp(name), trust_remote_code)


@functools.lru_cache(maxsize=64)
def word_tokenizer(words: tuple[str, ...]) -> Tokenizer:
    """Makes a tokenizer of whole words, each with its place as id.

    Args:
        words: "<pad>", "<eos>", and all others. Texts are cut at white space.

    >>> word_tokenizer(("<pad>", "<eos>", "a", "b")).encode("b a <eos>")
    [3, 2, 1]
    """
    import tokenizers
    from tokenizers import models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = tokenizers.Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0])
    )
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(list(words[:2]))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made,
        eos_token=words[1],
        pad_token=words[0],
        clean_up_tokenization_spaces=False,
    )


def check_same_vocabulary(folder: str, tokenizer: Any) -> None:  # noqa: ANN401 - any tokenizer
    """Checks that a model folder's own tokenizer, if it has one, has the same tokens.

    Two vocabularies of like size would otherwise be mixed in silence.

    Raises:
        InvalidInputError: the tokens differ.
    """
    if not (Path(folder) / "tokenizer.json").is_file() or not hasattr(tokenizer, "get_vocab"):
        return
    own: Any = load_tokenizer(folder)
    if own.get_vocab() != tokenizer.get_vocab():
        raise InvalidInputError(
            f"The vocabularies do not match: the model {folder} has a tokenizer of {len(own)} "
            f"tokens of its own, the environment another of {len(tokenizer)}. "
            "Use the tokenizer that belongs to the model."
        )


@functools.lru_cache(maxsize=32)
def _load(name: str, _stamp: object, trust_remote_code: bool) -> Tokenizer:
    from transformers import AutoTokenizer

    folder = Path(name)
    if folder.is_dir() and not list(folder.glob("*token*")):
        raise InvalidInputError(f"{name} holds no tokenizer: there is no tokenizer.json in it.")

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    # Whatever is wrong with a user's folder may come as any error; it is raised again.
    except Exception as error:
        hint = (
            "" if Path(name).exists() else " There is no such folder, and no such hub id in reach."
        )
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidInputError(
            f"Cannot load a tokenizer from {name!r}.{hint} Give a folder that holds "
            f"tokenizer.json, or a hub id ({reason})."
        ) from error
    return check_tokenizer(tokenizer, name)


def check_tokenizer(tokenizer: Any, name: str) -> Tokenizer:  # noqa: ANN401 - any user's object
    """Returns the tokenizer if the environment can use it.

    Raises:
        InvalidInputError: it has no EOS token, so that no response could ever end itself.
    """
    if getattr(tokenizer, "eos_token_id", None) is None:
        raise InvalidInputError(
            f"Tokenizer {name!r} has no EOS token, so a response could not end. "
            "Set one: tokenizer.eos_token = '<a token of its vocabulary>', and save it."
        )
    return tokenizer  # type: ignore[no-any-return]


class DecodedTexts(Sequence[str]):
    """Texts that are decoded when they are first read.

    Rewards over token ids never read them, and decoding would slow down every step of the
    environment.

    Args:
        tokenizer: decodes.
        rows: the token ids of each text; special tokens are left out of the text.
    """

    def __init__(self, tokenizer: Tokenizer, rows: Sequence[NDArray[np.int64]]) -> None:
        self._tokenizer = tokenizer
        self._rows = rows
        self._texts: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        if index not in self._texts:
            self._texts[index] = self._tokenizer.decode(self._rows[index], skip_special_tokens=True)
        return self._texts[index]

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return repr(list(self))
