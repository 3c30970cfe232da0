"""Every response of a small task, one by one.

Of the code under test nothing is used but the reward and the reference's own numbers: what is
computed here by sums over all texts, the optimum has to find by going backwards in time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.envs.optimum.exact import task_of
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.language_models.top_k import TopKModel
from textrl_envs.prompts import Prompt, PromptTable
from textrl_envs.rewards.automaton import Automaton, AutomatonReward
from textrl_envs.task import Task
from textrl_envs.tokenizers import word_tokenizer

__all__ = ["SMALL", "Texts", "all_texts", "next_probs", "random_task", "some_prompts"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Texts:
    """All R responses to one prompt that have a chance."""

    responses: list[tuple[int, ...]]
    probs: Floats
    """Under the reference, (R,)."""
    scores: Floats
    measures: dict[str, Floats]

    def tilted(self, beta: float) -> Floats:
        """Returns the chance of each response under the optimal policy, q ∝ p e^{r/β}."""
        weights = self.probs * np.exp((self.scores - self.scores.max()) / beta)
        return np.asarray(weights / weights.sum())

    def best_of_two(self) -> Floats:
        """Returns the chance of each response to be the best of two, by going through all pairs."""
        chance = np.zeros(len(self.probs))
        for one, score in enumerate(self.scores):
            # It may come first or second, and wins every pair that it leads, half of those it ties.
            wins = np.where(score > self.scores, 1.0, np.where(score == self.scores, 0.5, 0.0))
            chance[one] = self.probs[one] * 2 * float(self.probs @ wins)
        return chance

    def kl(self, chosen: Floats) -> float:
        """Returns Σ q log q/p."""
        kept = chosen > 0
        return float((chosen[kept] * np.log(chosen[kept] / self.probs[kept])).sum())


def next_probs(task: Task, ids: list[int]) -> list[float]:
    """Returns the reference's chance of each token after a text."""
    assert task.load_reference is not None
    reference = task.load_reference()
    if isinstance(reference, NGramModel):
        before = reference.table.ndim - 1
        context = ([ids[0]] * before + ids)[-before:]
        return [math.exp(x) for x in reference.table[tuple(context)].tolist()]
    assert isinstance(reference, TopKModel)
    whole = np.exp(reference.language_model.next_log_probs(np.array([ids]))[0]).tolist()
    kept = sorted(range(len(whole)), key=lambda token: -whole[token])[: reference.k]
    total = sum(whole[token] for token in kept)
    return [p / total if token in kept else 0.0 for token, p in enumerate(whole)]


def all_texts(task: Task, prompt: int) -> Texts:
    """Writes down every response, with its chance and its score."""
    table = task.prompts
    ids = table.token_ids[prompt, : table.lengths[prompt]]
    eos, limit = task.tokenizer.eos_token_id, task.max_new_tokens
    seen: dict[tuple[int, ...], list[float]] = {}
    order = getattr(task.load_reference(), "order", None)  # type: ignore[misc]
    ended: list[tuple[tuple[int, ...], float]] = []
    level: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
    for length in range(1, limit + 1):
        longer: list[tuple[tuple[int, ...], float]] = []
        for response, prob in level:
            text = [*ids.tolist(), *response]
            context = tuple(text[-order + 1 :]) if order and order <= len(text) else tuple(text)
            if context not in seen:
                seen[context] = next_probs(task, text)
            for token, chance in enumerate(seen[context]):
                if chance > 0:
                    is_end = token == eos or length == limit
                    (ended if is_end else longer).append(((*response, token), prob * chance))
        level = longer
    responses = [response for response, _ in ended]
    scores, measures = _scored(task, prompt, responses)
    return Texts(responses, np.array([prob for _, prob in ended]), scores, measures)


def _scored(
    task: Task, prompt: int, responses: list[tuple[int, ...]]
) -> tuple[Floats, dict[str, Floats]]:
    table, count = task.prompts, len(responses)
    decode = task.tokenizer.decode
    # Automata read ids alone; to decode a hundred thousand texts would take long.
    is_read = not isinstance(task.reward, AutomatonReward)
    output: Any = task.reward(
        [table.texts[prompt]] * count,
        [decode(list(r), skip_special_tokens=True) if is_read else "" for r in responses],
        prompt_ids=[table.token_ids[prompt, : table.lengths[prompt]].astype(np.int64)] * count,
        response_ids=[np.array(response) for response in responses],
        metadata=[table.metadata[prompt]] * count,
    )
    scores, extras = output if isinstance(output, tuple) else (output, {})
    return np.asarray(scores, float), {k: np.asarray(x, float) for k, x in extras.items()}


def random_task(
    seed: int, *, order: int = 2, has_token_scores: bool = True, limit: int = 4, keep: int = 0
) -> Task:
    """Returns random automata with measures over a random n-gram model of four or five tokens.

    Args:
        seed: of everything.
        order: of the n-gram model.
        has_token_scores: tokens earn something too.
        limit: the longest response.
        keep: tokens that each context of the reference keeps; 0 for all.
    """
    rng = np.random.default_rng(seed)
    size = 5 if order == 2 else 4
    tokenizer = word_tokenizer(("<pad>", "<eos>", "a", "b", "c")[:size])
    logits = rng.normal(size=(size,) * order)
    if keep:
        logits = np.where(logits < np.sort(logits)[..., -keep, None], -np.inf, logits)
    reference = NGramModel(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))
    automata = [_random_automaton(rng, states, size, has_token_scores) for states in (3, 4)]
    prompts = [
        Prompt(text=text, metadata={"automaton": place})
        for text, place in (("a", 0), ("b a", 1), ("b b a", 0))
    ]
    return Task(
        tokenizer=tokenizer,
        prompts=PromptTable(prompts, tokenizer),
        reward=AutomatonReward(automata),
        max_new_tokens=limit,
        load_reference=lambda: reference,
        kl_coefficient=float(rng.uniform(0.2, 1)),
    )


def _random_automaton(
    rng: np.random.Generator, states: int, size: int, has_token_scores: bool
) -> Automaton:
    # Eighths, so that the law of the score can be computed, and equal scores are equal.
    return Automaton(
        rng.integers(states, size=(states, size)),
        rng.integers(-4, 9, states) / 8,
        token_scores=rng.integers(-2, 3, (states, size)) / 8 if has_token_scores else None,
        measures={"one": rng.normal(size=states), "two": rng.normal(size=states)},
    )


def some_prompts(task: Task, *places: int) -> Task:
    """Returns the task with some of its prompts alone."""
    prompts = PromptTable([task.prompts[place] for place in places], task.tokenizer)
    return replace(task, prompts=prompts)


def _keeping(task: Task, number: int) -> Task:
    """Keeps the likeliest tokens of an n-gram reference, so that long texts can be enumerated."""
    assert task.load_reference is not None
    reference = task.load_reference()
    assert isinstance(reference, NGramModel)
    table = reference.table
    places = np.argsort(-table, axis=-1, kind="stable")[..., :number]
    cut = np.full(table.shape, -np.inf)
    np.put_along_axis(cut, places, np.take_along_axis(table, places, -1), -1)
    model = NGramModel(cut - np.log(np.exp(cut).sum(axis=-1, keepdims=True)))
    return replace(task, load_reference=lambda: model)


SMALL: dict[str, Callable[[], Task]] = {
    "textrl/Keyword-v0": lambda: some_prompts(task_of("textrl/Keyword-v0", max_new_tokens=3), 5),
    "textrl/KeywordDense-v0": lambda: some_prompts(
        task_of("textrl/KeywordDense-v0", max_new_tokens=2), 0, 1, 4
    ),
    "textrl/LongKeyword-v0": lambda: _keeping(
        some_prompts(
            task_of(
                "textrl/LongKeyword-v0",
                keywords=("the", "."),
                sentences_apart=0,
                max_new_tokens=8,
            ),
            *(1, 4),
        ),
        3,
    ),
    "textrl/ExactLength-v0": lambda: task_of(
        "textrl/ExactLength-v0", lengths=(1,), max_new_tokens=2
    ),
    "textrl/Brackets-v0": lambda: task_of("textrl/Brackets-v0", pairs=1, depth=3, max_new_tokens=4),
    "textrl/Parity-v0": lambda: task_of("textrl/Parity-v0", least=2, max_new_tokens=5),
    "textrl/Passcode-v0": lambda: task_of("textrl/Passcode-v0", length=3, digits=4),
    "textrl/SumVerify-v0": lambda: task_of("textrl/SumVerify-v0", largest=3),
    "textrl/Format-v0": lambda: _keeping(task_of("textrl/Format-v0", max_new_tokens=7), 3),
    "textrl/LengthHack-v0": lambda: _keeping(task_of("textrl/LengthHack-v0", max_new_tokens=7), 3),
    "textrl/Mixture-v0": lambda: some_prompts(
        task_of("textrl/Mixture-v0", max_new_tokens=2), 2, 11, 39
    ),
    "textrl/KLTrade-v0": lambda: some_prompts(task_of("textrl/KLTrade-v0", max_new_tokens=2), 0, 3),
    "textrl/Classification-v0": lambda: some_prompts(
        task_of("textrl/Classification-v0", max_new_tokens=2), 0, 60, 140
    ),
    "textrl/Tagging-v0": lambda: _keeping(
        some_prompts(task_of("textrl/Tagging-v0", max_new_tokens=8), 0, 7), 2
    ),
    "textrl/Noisy-v0": lambda: some_prompts(
        task_of("textrl/Noisy-v0", keywords=("boat",), max_new_tokens=2), 1
    ),
    "textrl/ProxyReward-v0": lambda: some_prompts(
        task_of("textrl/ProxyReward-v0", max_new_tokens=2), 2, 6
    ),
    "textrl/Safe-v0": lambda: task_of("textrl/Safe-v0", price=0.4, max_new_tokens=2),
    "textrl/Imitate-v0": lambda: some_prompts(
        task_of("textrl/Imitate-v0", keywords=("child",), max_new_tokens=2), 3, 6
    ),
    "textrl/TinyGPT-v0": lambda: task_of("textrl/TinyGPT-v0", top_k=2, max_new_tokens=6),
}
"""A task of every family of which all responses can be written down."""
