"""reasoning-gym: any of its tasks as prompts, and its own scorers as reward.

reasoning_gym_prompts   items of a task as prompts
score, score_tagged     rewards: the whole response is the answer, or what stands in its answer tag

By name, prompts are "reasoning_gym:chain_sum?size=100&seed=0" and the reward is
"textrl_envs.interop.reasoning_gym:score".
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_envs.environments.checks import check_count
from textrl_envs.errors import InvalidInputError, nearest
from textrl_envs.interop.extras import UNREADABLE, check_seed, global_generators_seeded, require
from textrl_envs.prompts import Prompt
from textrl_envs.rewards.base import RewardOutput

__all__ = ["HASH_SEED_TASKS", "reasoning_gym_prompts", "score", "score_tagged"]

HASH_SEED_TASKS = frozenset(
    {
        "intermediate_integration",
        "isomorphic_strings",
        "knight_swap",
        "polynomial_multiplication",
        "ransom_note",
        "word_ladder",
    }
)
"""Tasks whose items are others in a process with another PYTHONHASHSEED: they walk through sets.

Found by generating 60 items of each of the 105 tasks of version 0.1.25 for two seeds under three
hash seeds, and comparing question, answer and metadata: five tasks differ in most items,
intermediate_integration in the answer of 1 of 60, which SymPy writes in another form.
`tests/interop/test_reasoning_gym.py` does it again for one seed and two hash seeds.
"""

Ids = Sequence[NDArray[np.int64]]
Metadata = Sequence[Mapping[str, Any]]


def reasoning_gym_prompts(task: Any, **settings: Any) -> list[Prompt]:  # noqa: ANN401
    """Returns the items of a task as prompts, in order.

    Text is the question, `answer` the item's own, `category` the task's. `score` and `score_tagged`
    find the item in the metadata.

    Args:
        task: a task's name such as "chain_sum", or a dataset that `reasoning_gym` has made.
        settings: of the named task: `size`, how many; `seed`, 0 unless given; and its own.

    Raises:
        InvalidInputError: reasoning-gym is not installed, an unknown task or setting, or one that
            the task does not take.
    """
    dataset = _make(task, {"seed": 0, **settings}) if isinstance(task, str) else task
    # Three tasks draw from the global generators: codeio, list_functions and pool_matrix.
    with global_generators_seeded(dataset.seed):
        items = [dataset[index] for index in range(len(dataset))]
    _check_scorer(dataset, items)
    return [
        Prompt(
            text=item["question"],
            answer=item["answer"],
            category=dataset.category,
            metadata={"dataset": dataset, "item": item},
        )
        for item in items
    ]


def score(
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    prompt_ids: Ids,
    response_ids: Ids,
    metadata: Metadata,
) -> RewardOutput:
    """Scores each response, white space at its ends aside, by the scorer of its prompt's task.

    The info has `unreadable`: 1 where the scorer raised on the response, which then scores 0.

    Raises:
        InvalidInputError: prompts of another kind.
    """
    return _scores([response.strip() for response in responses], metadata)


def score_tagged(
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    prompt_ids: Ids,
    response_ids: Ids,
    metadata: Metadata,
) -> RewardOutput:
    """Scores as `score`, of each response what stands between its last <answer> and </answer>.

    Without them there is no answer, and the score is what the task gives for none.
    """
    extract = require("reasoning_gym.utils", extra="reasoning-gym").extract_answer
    return _scores([extract(response) for response in responses], metadata)


def _make(task: str, settings: dict[str, Any]) -> Any:  # noqa: ANN401
    """Returns a dataset of the library."""
    factory = require("reasoning_gym.factory", extra="reasoning-gym")
    require("reasoning_gym", extra="reasoning-gym")  # registers the tasks
    if task not in factory.DATASETS:
        raise InvalidInputError(
            f"reasoning-gym has no task {task!r}. {nearest(task, factory.DATASETS)}"
        )
    known = [field.name for field in fields(factory.DATASETS[task][1])]
    for name in settings:
        if name not in known:
            raise InvalidInputError(f"{task} has no setting {name!r}. {nearest(name, known)}")
    check_count("size", settings.get("size", 1))
    check_seed(settings["seed"])
    _warn_of_hashing(task)
    try:
        with global_generators_seeded(settings["seed"]):
            return factory.create_dataset(task, **settings)
    except (AssertionError, TypeError, ValueError) as error:
        raise InvalidInputError(f"{task} does not take {settings}: {error}") from error


def _warn_of_hashing(task: str) -> None:
    if task in HASH_SEED_TASKS and os.environ.get("PYTHONHASHSEED", "random") == "random":
        warnings.warn(
            f"The items of {task} depend on PYTHONHASHSEED, which is not set: another process will "
            "have others for the same seed. Start Python with PYTHONHASHSEED=0.",
            stacklevel=4,
        )


def _check_scorer(dataset: Any, items: list[dict[str, Any]]) -> None:  # noqa: ANN401
    """Scores an answer of the task's own, which must not raise: all others may."""
    answers = [item for item in items if item["answer"] is not None]
    for item in answers[:1]:
        dataset.score_answer(item["answer"], item)


def _scores(answers: Sequence[str | None], metadata: Metadata) -> RewardOutput:
    read = [_score_one(answer, about) for answer, about in zip(answers, metadata, strict=True)]
    return [value for value, _ in read], {"unreadable": [float(not is_read) for _, is_read in read]}


def _score_one(answer: str | None, about: Mapping[str, Any]) -> tuple[float, bool]:
    """Returns the score, and whether the scorer could read the answer."""
    if "dataset" not in about or "item" not in about:
        raise InvalidInputError(
            "This reward scores prompts of reasoning-gym alone. Make them by "
            'reasoning_gym_prompts, or name them "reasoning_gym:TASK".'
        )
    try:
        return float(about["dataset"].score_answer(answer, about["item"])), True
    except UNREADABLE:
        return 0.0, False
