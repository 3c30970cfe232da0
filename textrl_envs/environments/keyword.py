"""Keyword: a story that mentions given words in order. Sparse credit, nothing else."""

import functools

from textrl_envs.data import data_file
from textrl_envs.data.stories import VOCABULARY
from textrl_envs.errors import InvalidInputError, nearest
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.prompts import Prompt, PromptTable
from textrl_envs.rewards.automaton import AutomatonReward, ordered_keywords
from textrl_envs.task import Task
from textrl_envs.tokenizers import Tokenizer

__all__ = ["keyword"]

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
"""How the story begins in each of the eight prompts.

None begins another: else the same text could be reached at two times, and would not show how many
tokens remain."""


@functools.cache
def keyword(
    *,
    keywords: tuple[str, ...] = ("lantern", "harbour"),
    max_new_tokens: int = 24,
    kl_coefficient: float = 0.1,
) -> Task:
    """Go on with a story, mention the keywords in order, and end it.

    Observation:
        A prompt such as "tell of lantern and harbour : the sailor", then the response.
    Action:
        One of 46 tokens: 44 words, EOS and padding.
    Reward:
        At the end 1 if all keywords were mentioned in order and the story ended itself by EOS,
        else 0.
    Termination:
        EOS, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    The reference is a bigram model of short stories (`textrl_envs.data.stories`). It succeeds about
    once in fifty tries, and nothing is paid for one word alone: what is hard is that the first
    keyword is worth nothing until the second has been found.

    Args:
        keywords: words of the vocabulary, in the order wanted.
        max_new_tokens: the limit of a response.
        kl_coefficient: β of the regularised return.

    Raises:
        InvalidInputError: no keyword, or one that is no word of the vocabulary.
    """
    if not isinstance(keywords, tuple):
        raise InvalidInputError(f"keywords must be a sequence of words; got {keywords!r}.")
    tokenizer = _tokenizer()
    automaton = ordered_keywords(
        _keyword_ids(keywords, tokenizer),
        vocabulary_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
    )
    request = f"tell of {' and '.join(keywords)} :"
    prompts = [
        Prompt(text=f"{request} {opening}", metadata={"automaton": 0}) for opening in OPENINGS
    ]
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable(prompts, tokenizer),
        reward=AutomatonReward([automaton]),
        max_new_tokens=max_new_tokens,
        load_reference=_reference,
        kl_coefficient=kl_coefficient,
    )


def _keyword_ids(keywords: tuple[str, ...], tokenizer: Tokenizer) -> list[int]:
    words = VOCABULARY[2:]  # without padding and EOS
    if not keywords:
        raise InvalidInputError("keywords needs at least one word; got none.")
    for word in keywords:
        if word not in words:
            raise InvalidInputError(f"{word!r} is no word of the stories. {nearest(word, words)}")
    return [tokenizer.encode(word)[0] for word in keywords]


@functools.cache
def _tokenizer() -> Tokenizer:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(data_file("keyword/tokenizer.json")),
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


@functools.cache
def _reference() -> NGramModel:
    return NGramModel.load(data_file("keyword/bigram.safetensors"))
