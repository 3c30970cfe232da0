"""What the environments that tell stories share: words, openings, references."""

import functools

from textrl_envs.data import data_file
from textrl_envs.data.stories import VOCABULARY
from textrl_envs.errors import InvalidInputError, nearest
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.prompts import Prompt
from textrl_envs.tokenizers import Tokenizer

__all__ = ["OPENINGS", "bigram", "keyword_ids", "story_prompts", "story_tokenizer", "trigram"]

OPENINGS = (
    "the cold",
    "a bright",
    "the sailor",
    "a child",
    "the tall farmer",
    "a quiet baker",
    "the young",
    "a small",
)
"""How a story begins in each of eight prompts.

None begins another: else the same text could be reached at two times, and would not show how many
tokens remain."""


def story_prompts(request: str, *, automaton: int = 0) -> list[Prompt]:
    """Returns a prompt for each opening, such as "tell of boat : the cold"."""
    return [
        Prompt(text=f"{request} {opening}", metadata={"automaton": automaton})
        for opening in OPENINGS
    ]


def keyword_ids(keywords: tuple[str, ...]) -> list[int]:
    """Returns the token ids of words.

    Raises:
        InvalidInputError: no word at all, or one that the stories have not.
    """
    words = VOCABULARY[2:]  # without padding and EOS
    if not isinstance(keywords, tuple):
        raise InvalidInputError(f"keywords must be a sequence of words; got {keywords!r}.")
    if not keywords:
        raise InvalidInputError("keywords needs at least one word; got none.")
    for word in keywords:
        if word not in words:
            raise InvalidInputError(f"{word!r} is no word of the stories. {nearest(word, words)}")
    return [VOCABULARY.index(word) for word in keywords]


@functools.cache
def story_tokenizer() -> Tokenizer:
    """Returns the tokenizer of the stories: a word a token."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(data_file("stories/tokenizer.json")),
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


@functools.cache
def bigram() -> NGramModel:
    """Returns the bigram model of short stories."""
    return NGramModel.load(data_file("stories/bigram.safetensors"))


@functools.cache
def trigram() -> NGramModel:
    """Returns the trigram model of long stories."""
    return NGramModel.load(data_file("stories/trigram.safetensors"))
