"""Keyword: a story that mentions two given words in order. Sparse credit, nothing else."""

import functools

from textrl_envs.data import data_file
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.prompts import Prompt, PromptTable
from textrl_envs.rewards.automaton import AutomatonReward, ordered_keywords
from textrl_envs.task import Task
from textrl_envs.tokenizers import Tokenizer

__all__ = ["keyword"]

KEYWORDS = (
    ("lantern", "harbour"),
    ("letter", "forest"),
    ("basket", "river"),
    ("boat", "tower"),
    ("garden", "ring"),
    ("bridge", "drum"),
    ("sailor", "letter"),
    ("child", "garden"),
)
"""First and second word of each of the eight prompts."""


@functools.cache
def keyword(*, max_new_tokens: int = 20, kl_coefficient: float = 0.1) -> Task:
    """Write a story that mentions two words in order, and end it.

    Observation:
        A prompt such as "tell of lantern and harbour :" (6 tokens), then the response.
    Action:
        One of 50 tokens: 48 words, EOS and padding.
    Reward:
        At the end 1 if both words were mentioned in order and the story ended itself by EOS, else 0.
    Termination:
        EOS, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    The reference is a bigram model of short stories (`textrl_envs.data.stories`). It succeeds about
    once in 150 tries, and nothing is paid for one word alone: what is hard is to find the second
    word while the first has not paid yet.

    Args:
        max_new_tokens: the limit of a response.
        kl_coefficient: β of the regularised return.
    """
    tokenizer = _tokenizer()
    ids = {word: tokenizer.encode(word)[0] for pair in KEYWORDS for word in pair}
    prompts = [
        Prompt(text=f"tell of {first} and {second} :", metadata={"automaton": index})
        for index, (first, second) in enumerate(KEYWORDS)
    ]
    automata = [
        ordered_keywords(
            [ids[word] for word in pair],
            vocabulary_size=len(tokenizer),
            eos_token_id=tokenizer.eos_token_id,
        )
        for pair in KEYWORDS
    ]
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable(prompts, tokenizer),
        reward=AutomatonReward(automata),
        max_new_tokens=max_new_tokens,
        load_reference=_reference,
        kl_coefficient=kl_coefficient,
    )


@functools.cache
def _tokenizer() -> Tokenizer:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call, no-any-return]
        tokenizer_file=str(data_file("keyword/tokenizer.json")),
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


@functools.cache
def _reference() -> NGramModel:
    return NGramModel.load(data_file("keyword/bigram.safetensors"))
