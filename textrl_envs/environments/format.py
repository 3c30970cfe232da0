"""Format: records such as "anna : 4 2 ;". Following a format, told by a regular expression."""

import functools

from textrl_envs.environments.symbol_tasks import bigram_of, words_of
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.prompts import Prompt, PromptTable
from textrl_envs.rewards.automaton import Automaton, AutomatonReward, build_automaton
from textrl_envs.task import Task
from textrl_envs.tokenizers import word_tokenizer

__all__ = ["format_records"]

COUNTS = ("one", "two", "three")
NAMES = ("anna", "boris", "clara", "david", "emma", "felix")
DIGITS = tuple("0123456789")
WORDS = words_of(f"write {' '.join(COUNTS)} records {' '.join(NAMES)} {' '.join(DIGITS)} : ; , and")


@functools.cache
def format_records(*, max_new_tokens: int = 20, kl_coefficient: float = 0.1) -> Task:
    """Write as many records as asked for, each a name, a colon, two digits and a semicolon.

    Observation:
        A prompt such as "write two records", then the response, such as
        "anna : 4 2 ; emma : 1 7 ; <eos>".
    Action:
        One of 27 tokens.
    Reward:
        At the end 1 if the response is, for n records asked for, a full match of
        `((anna|boris|clara|david|emma|felix) : [0-9] [0-9] ;){n}` followed by EOS; else 0.
    Termination:
        EOS, or `max_new_tokens` tokens.
    Truncation:
        Never.
    Version history:
        v0: first version.

    The reference writes records carelessly: it forgets colons, writes a digit or three, and stops
    when it likes.

    Args:
        max_new_tokens: the limit of a response; three records need 16.
        kl_coefficient: β of the regularised return.
    """
    tokenizer = word_tokenizer(WORDS)
    prompts = [
        Prompt(text=f"write {count} records", metadata={"automaton": place})
        for place, count in enumerate(COUNTS)
    ]
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable(prompts, tokenizer),
        reward=AutomatonReward([_records(place + 1) for place in range(len(COUNTS))]),
        max_new_tokens=max_new_tokens,
        load_reference=_reference,
        kl_coefficient=kl_coefficient,
    )


def _records(number: int) -> Automaton:
    record = (NAMES, (":",), DIGITS, DIGITS, (";",))
    wanted = [*record * number, ("<eos>",)]  # words allowed at each place
    wrong = -1

    def step(right: int, token: int) -> int:
        is_next = 0 <= right < len(wanted) and WORDS[token] in wanted[right]
        return right + 1 if is_next else wrong

    return build_automaton(
        0, step, lambda right: float(right == len(wanted)), vocabulary_size=len(WORDS)
    )


@functools.cache
def _reference() -> NGramModel:
    names = dict.fromkeys(NAMES, 1.0)
    digits = dict.fromkeys(DIGITS, 1.0)
    after_name = {":": 8.0, ",": 1.0, "and": 1.0}
    after_digit = {**digits, ";": 8.0, ",": 1.0, "and": 1.0}
    return bigram_of(
        WORDS,
        {
            "records": names,
            **dict.fromkeys(NAMES, after_name),
            ":": digits,
            **dict.fromkeys(DIGITS, after_digit),
            ";": {**names, "<eos>": 4.0},
            ",": names,
            "and": names,
        },
    )
