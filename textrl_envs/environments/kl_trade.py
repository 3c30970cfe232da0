"""KLTrade: a friendlier review. Words have graded weights, so that reward is bought with KL."""

import functools

from textrl_envs.data import data_file
from textrl_envs.data.reviews import LEXICON, VOCABULARY
from textrl_envs.environments.checks import check_count
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.prompts import Prompt, PromptTable
from textrl_envs.rewards.automaton import Automaton, AutomatonReward, build_automaton
from textrl_envs.task import Task
from textrl_envs.tokenizers import word_tokenizer

__all__ = ["kl_trade"]

OPENINGS = (
    "the food was",
    "the service was really",
    "frankly the staff was quite",
    "overall the",
    "the film",
    "the restaurant had",
    "the hotel had a",
    "we",
)
"""How a review begins in each of eight prompts, of which none begins another."""


@functools.cache
def kl_trade(
    *,
    bound: int = 4,
    max_new_tokens: int = 16,
    kl_coefficient: float = 0.15,
) -> Task:
    """Go on with a review, and sound pleased without leaving the language of the reviews.

    Observation:
        A prompt such as "review : the hotel had a", then the response.
    Action:
        One of 74 tokens: 72 words, EOS and padding.
    Reward:
        At the end a number in [-1, 1]: a count of the response's sentiment words, divided by
        `bound`. Each word of `textrl_envs.data.reviews.LEXICON` adds its weight, -2 to 2, and the
        count never leaves [-bound, bound]. How the response ends does not matter.
    Termination:
        EOS, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    The reference is a bigram model of reviews, most of which complain. Every sentiment word is paid
    for at once, so that credit is easy; what is hard is to stop where a better word would cost more
    KL than it earns.

    Args:
        bound: the count at which the score is 1; a larger one makes every word worth less.
        max_new_tokens: the limit of a response.
        kl_coefficient: β of the regularised return.

    Raises:
        InvalidInputError: a bound that is no integer of at least 1.
    """
    check_count("bound", bound)
    tokenizer = word_tokenizer(VOCABULARY)
    prompts = [
        Prompt(text=f"review : {opening}", metadata={"automaton": 0}) for opening in OPENINGS
    ]
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable(prompts, tokenizer),
        reward=AutomatonReward([_counter(bound)]),
        max_new_tokens=max_new_tokens,
        load_reference=_bigram,
        kl_coefficient=kl_coefficient,
    )


def _counter(bound: int) -> Automaton:
    """Returns the automaton whose state is the count of sentiment words."""
    weights = [LEXICON.get(word, 0) for word in VOCABULARY]

    def step(count: int, token: int) -> int:
        return max(-bound, min(bound, count + weights[token]))

    return build_automaton(0, step, lambda count: count / bound, vocabulary_size=len(VOCABULARY))


@functools.cache
def _bigram() -> NGramModel:
    return NGramModel.load(data_file("reviews/bigram.safetensors"))
