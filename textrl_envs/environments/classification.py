"""Classification: name the sentiment of a review. A right answer has to be read from the prompt."""

import functools
from dataclasses import replace

from textrl_envs.data import data_file
from textrl_envs.data.reviews import EOS, SENTIMENTS, VOCABULARY
from textrl_envs.environments.checks import check_count
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.prompts import Prompt, PromptTable, read_prompts
from textrl_envs.rewards.automaton import Automaton, AutomatonReward, build_automaton
from textrl_envs.task import Task
from textrl_envs.tokenizers import word_tokenizer

__all__ = ["classification"]


@functools.cache
def classification(
    *,
    labels: tuple[str, ...] = ("positive", "neutral", "negative"),
    max_new_tokens: int = 4,
    kl_coefficient: float = 0.1,
) -> Task:
    """Name the sentiment of a review by one word, and end.

    Observation:
        A prompt such as "we hated that wine but the food was perfect . label :", then the response.
    Action:
        One of 74 tokens: 72 words, EOS and padding.
    Reward:
        At the end 1 if the response is the right label and EOS, and nothing else; else 0.
    Termination:
        EOS, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    There are 48 reviews of each sentiment, of two clauses each. Clauses joined by "and" agree; of
    others, the one after "but" or before "although" has the sentiment of the review, and the other
    has the opposite one. The reference is a bigram model of reviews with their labels: it has the
    form of an answer, but sees no further back than the colon, and is right about once in four
    tries. What is hard is to find out on which words of the prompt the answer depends.

    Args:
        labels: only reviews of these sentiments are presented; two or three of "positive",
            "neutral" and "negative".
        max_new_tokens: the limit of a response, at least the 2 tokens of an answer.
        kl_coefficient: β of the regularised return.

    Raises:
        InvalidInputError: fewer than two labels, one given twice, or an unknown one; a limit that
            leaves no room for an answer.
    """
    _check_labels(labels)
    check_count("max_new_tokens", max_new_tokens, least=2)
    tokenizer = word_tokenizer(VOCABULARY)
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable(_prompts(labels), tokenizer),
        reward=AutomatonReward([_exactly(label) for label in labels]),
        max_new_tokens=max_new_tokens,
        load_reference=_bigram,
        kl_coefficient=kl_coefficient,
    )


def _exactly(label: str) -> Automaton:
    """Returns the automaton of "this label and EOS, and nothing else"."""
    answer = (label, EOS)
    wrong = -1

    def step(right: int, token: int) -> int:
        is_next = 0 <= right < len(answer) and VOCABULARY[token] == answer[right]
        return right + 1 if is_next else wrong

    return build_automaton(
        0, step, lambda right: float(right == len(answer)), vocabulary_size=len(VOCABULARY)
    )


def _check_labels(labels: tuple[str, ...]) -> None:
    if (
        not isinstance(labels, tuple)
        or len(set(labels)) < max(2, len(labels))
        or not set(labels) <= set(SENTIMENTS)
    ):
        raise InvalidInputError(
            f"labels must be two or three different ones of {', '.join(SENTIMENTS)}; "
            f"got {labels!r}."
        )


def _prompts(labels: tuple[str, ...]) -> list[Prompt]:
    """Returns the reviews of these sentiments; the automaton of each has the label's place."""
    return [
        replace(prompt, category=prompt.answer, metadata={"automaton": labels.index(prompt.answer)})
        for prompt in read_prompts(data_file("reviews/prompts.jsonl"))
        if prompt.answer in labels
    ]


@functools.cache
def _bigram() -> NGramModel:
    return NGramModel.load(data_file("reviews/labelled_bigram.safetensors"))
