"""Texts that the policy did not sample, as episodes that it can evaluate.

demonstration_episodes  the demonstrations of an environment
text_episodes           a text file, cut into blocks
Mix                     such episodes beside an agent's own objective
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_agents.episodes import Episodes
from textrl_envs.errors import InvalidInputError
from textrl_envs.prompts import read_prompts
from textrl_envs.task import Task

__all__ = ["Mix", "demonstration_episodes", "text_episodes", "written_episodes"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Mix:
    """Episodes whose likelihood is raised beside an agent's own objective.

    Args:
        name: of their loss in the log, "NAME_loss".
        episodes: all that there are.
        coefficient: weight of the negative log-likelihood a token.
    """

    name: str
    episodes: Episodes
    coefficient: float

    def draw(self, count: int, rng: np.random.Generator) -> Ints:
        """Returns `count` of the rows, or as many as there are, none twice."""
        total = len(self.episodes)
        return np.sort(rng.choice(total, size=min(count, total), replace=False))


def demonstration_episodes(envs: Any) -> Episodes:  # noqa: ANN401 - a text environment, wrapped or not
    """Returns an environment's demonstrations, one row each; what was never sampled is 0.

    Raises:
        InvalidInputError: the environment has none.
    """
    shown, task = envs.unwrapped.demonstrations, envs.unwrapped.task
    if shown is None:
        raise InvalidInputError(
            "The environment has no demonstrations to learn from; textrl/Imitate-v0 has. "
            "Set demonstration_coefficient to 0, or take an agent that needs none."
        )
    return written_episodes(task, shown.prompt_index, shown.response_ids)


def written_episodes(
    task: Task, prompt_index: Ints, response_ids: Sequence[NDArray[np.integer[Any]]]
) -> Episodes:
    """Returns responses to prompts of a task, one row each; what was never sampled is 0.

    Args:
        task: gives prompts and limits.
        prompt_index: the prompt of each, (B,).
        response_ids: B arrays of at most T token ids, EOS included.
    """
    table = task.prompts
    prompts = [table.token_ids[i, : table.lengths[i]] for i in prompt_index]
    shape = task.max_tokens, task.max_new_tokens
    return _laid_out(prompts, response_ids, prompt_index, shape)


def text_episodes(path: Path, task: Task) -> Episodes:
    """Returns a text file in blocks as long as the environment's texts, one row each.

    The first token of a block stands as its prompt, the others as its response; EOS ends a text.
    `prompt_index` is 0, so that a policy that knows a text by its prompt cannot read them.

    Args:
        path: a JSONL file (.jsonl: a JSON string a line, or an object with "text"), each line a
            text of its own; or a plain text file (any other suffix), which is one text.
        task: gives the tokenizer, and L, the length of a block.

    Raises:
        InvalidInputError: a file that cannot be read, or without any token to learn.
    """
    tokenizer, length = task.tokenizer, task.max_tokens
    blocks = []
    for text in _texts(path):
        ids = tokenizer.encode(text)
        # Some tokenizers end every text with EOS, and others do not.
        ids = [*ids, tokenizer.eos_token_id] if ids[-1:] != [tokenizer.eos_token_id] else ids
        blocks += [np.array(ids[i : i + length]) for i in range(0, len(ids), length)]
    blocks = [block for block in blocks if len(block) > 1]  # the first token is not learnt
    if not blocks:
        raise InvalidInputError(f"{path} has no token that the tokenizer knows. Give other text.")
    prompts, responses = [block[:1] for block in blocks], [block[1:] for block in blocks]
    return _laid_out(prompts, responses, np.zeros(len(blocks), np.int64), (length, length - 1))


def _texts(path: Path) -> list[str]:
    if path.suffix.lower() == ".jsonl":
        return [str(prompt.text) for prompt in read_prompts(path, prompt_field="text")]
    # Not above: it loads Transformers, which nothing else here needs.
    from textrl_agents.supervised_data import read_text

    return [read_text(path)]


def _laid_out(
    prompts: Sequence[NDArray[np.integer[Any]]],
    responses: Sequence[NDArray[np.integer[Any]]],
    prompt_index: Ints,
    shape: tuple[int, int],
) -> Episodes:
    """Lays B texts out in L columns, and their responses in T."""
    length, response_columns = shape
    begins = np.array([len(ids) for ids in prompts])
    lengths = np.array([len(ids) for ids in responses])
    input_ids = np.zeros((len(prompts), length), np.int64)
    pairs = zip(prompts, responses, strict=True)
    is_text = np.arange(length) < (begins + lengths)[:, None]
    input_ids[is_text] = np.concatenate([ids for pair in pairs for ids in pair])
    return Episodes.of_texts(
        input_ids,
        begins,
        lengths,
        response_columns=response_columns,
        prompt_index=prompt_index,
    )
