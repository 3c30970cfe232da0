"""ExactLength: end the story after exactly as many words as the prompt says. EOS, nothing else."""

import functools

from textrl_envs.data.stories import VOCABULARY
from textrl_envs.environments.checks import check_count
from textrl_envs.environments.story_tasks import OPENINGS, bigram
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.prompts import Prompt, PromptTable
from textrl_envs.rewards.automaton import Automaton, AutomatonReward, build_automaton
from textrl_envs.task import Task
from textrl_envs.tokenizers import word_tokenizer

__all__ = ["exact_length"]

NUMBERS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"),
)
WORDS = (*VOCABULARY, *NUMBERS, "words")


@functools.cache
def exact_length(
    *,
    lengths: tuple[int, ...] = (5, 8, 11, 14),
    max_new_tokens: int = 20,
    kl_coefficient: float = 0.1,
) -> Task:
    """Go on with a story for exactly so many words, and end it.

    Observation:
        A prompt such as "tell in eight words : the sailor", then the response.
    Action:
        One of 63 tokens: words, numbers, EOS and padding.
    Reward:
        At the end 1 if exactly the number of words asked for stand before EOS, else 0.
    Termination:
        EOS, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    The reference is a bigram model of short stories, which ends where a sentence ends. To end at a
    given word it has to be counted how many were written, and the sentence led there.

    Args:
        lengths: words wanted, from 1 to 16; every second opening of a story comes with each.
        max_new_tokens: the limit of a response.
        kl_coefficient: β of the regularised return.

    Raises:
        InvalidInputError: no length, one given twice, or one for which there is no number or no
            room.
    """
    if not isinstance(lengths, tuple) or not lengths:
        raise InvalidInputError(f"lengths must be a sequence of integers; got {lengths!r}.")
    if len(set(lengths)) < len(lengths):
        raise InvalidInputError(f"lengths must be different; got {lengths!r}.")
    check_count("max_new_tokens", max_new_tokens)
    for length in lengths:
        check_count("Each of lengths", length, most=min(len(NUMBERS), max_new_tokens - 1))
    tokenizer = word_tokenizer(WORDS)
    prompts = [
        Prompt(
            text=f"tell in {NUMBERS[length - 1]} words : {opening}", metadata={"automaton": place}
        )
        for place, length in enumerate(lengths)
        for opening in OPENINGS[::2]
    ]
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable(prompts, tokenizer),
        reward=AutomatonReward([_length(n, tokenizer.eos_token_id) for n in lengths]),
        max_new_tokens=max_new_tokens,
        load_reference=_reference,
        kl_coefficient=kl_coefficient,
    )


def _length(wanted: int, eos: int) -> Automaton:
    def step(state: tuple[int, bool], token: int) -> tuple[int, bool]:
        words, is_done = state  # counted up to one too many
        if is_done or token == eos:
            return 0, is_done or words == wanted
        return min(words + 1, wanted + 1), False

    return build_automaton(
        (0, False), step, lambda state: float(state[1]), vocabulary_size=len(WORDS)
    )


@functools.cache
def _reference() -> NGramModel:
    return bigram().with_more_tokens(len(WORDS) - len(VOCABULARY))
