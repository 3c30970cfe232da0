"""TRL: an environment as a reward function of its trainers, and its reward functions as ours.

trl_dataset    the environment's prompts, for `train_dataset`
trl_reward     the environment as one of `reward_funcs`: plays each completion through it
trl_settings   what a GRPOConfig or RLOOConfig must say for the environment's own bandit
reward_of_trl  a reward function written for TRL as a reward here

`trl_reward` and `reward_of_trl` need no TRL; `trl_dataset` needs datasets, which comes with it.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from textrl_envs.core import FinishReason
from textrl_envs.errors import InvalidInputError
from textrl_envs.interop.extras import require
from textrl_envs.prompts import PromptTable
from textrl_envs.rewards.base import Reward
from textrl_envs.task import Task
from textrl_envs.vector_env import TextVectorEnv

__all__ = ["reward_of_trl", "trl_dataset", "trl_reward", "trl_settings"]


def trl_dataset(env: Any, *, rows: int = 1024) -> Any:  # noqa: ANN401 - a Dataset
    """Returns the prompts of an environment as a `datasets.Dataset`.

    Columns: `prompt`, the text; `prompt_index` and `prompt_ids`, by which `trl_reward` finds it
    again.

    Args:
        env: a text environment, wrapped or not.
        rows: all prompts are repeated until there are so many or more. TRL takes whole batches of
            rows, and trains nothing on a dataset that has fewer.

    Raises:
        InvalidInputError: datasets is not installed, or a prompt that TRL, which is given the
            text, would present by other tokens than the environment does.
    """
    task: Task = env.unwrapped.task
    _check_texts(task)
    table = task.prompts
    times = max(1, -(-rows // len(table)))
    columns: dict[str, list[Any]] = {
        "prompt": table.texts,
        "prompt_index": list(range(len(table))),
        "prompt_ids": [_ids(table, index) for index in range(len(table))],
    }
    return require("datasets", extra="trl").Dataset.from_dict(
        {name: values * times for name, values in columns.items()}
    )


def trl_settings(env: Any) -> dict[str, Any]:  # noqa: ANN401 - an environment, wrapped or not
    """Returns settings under which a trainer samples what the environment scores.

    Responses of the environment's length, drawn from the model's own distribution, and β. RLOO
    charges the KL in the reward, as `KLPenalty` does; GRPO in the loss. Where the environment has
    no reference there is no KL, and β is 0.
    """
    task: Task = env.unwrapped.task
    return {
        "max_completion_length": task.max_new_tokens,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "beta": task.kl_coefficient if task.load_reference else 0.0,
    }


def trl_reward(env: Any, *, seed: int = 0) -> Callable[..., list[float]]:  # noqa: ANN401
    """Returns a reward function for GRPOTrainer and RLOOTrainer that plays the environment.

    It presents the prompt of `prompt_index`, steps through `completion_ids` as they are, without
    decoding them and tokenising again, and returns what the environment pays. What else the
    environment's reward reports goes to `log_metric`, as a mean.

    Args:
        env: a text environment, scalar or vector; its task is played in a batch of its own.
        seed: of the environment's noise, if it has some.
    """
    task: Task = env.unwrapped.task
    players: dict[int, TextVectorEnv] = {}

    def environment_score(
        completion_ids: Sequence[Sequence[int]],
        prompt_index: Sequence[int],
        prompt_ids: Sequence[Sequence[int]],
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,  # noqa: ANN401 - whatever else TRL hands over
    ) -> list[float]:
        _check_prompts(task.prompts, prompt_index, prompt_ids)
        count = len(completion_ids)
        if count not in players:
            players[count] = TextVectorEnv(
                task, num_envs=count, autoreset_mode=AutoresetMode.DISABLED
            )
            players[count].reset(seed=seed)
        rewards, extras = _play(players[count], prompt_index, completion_ids)
        if log_metric is not None:
            for name, values in extras.items():
                log_metric(name, float(values.mean()))
        scores: list[float] = rewards.tolist()
        return scores

    return environment_score


def reward_of_trl(
    function: Callable[..., Sequence[float | None]], *, is_conversational: bool = False
) -> Reward:
    """Returns a reward function that was written for TRL's trainers as a reward of this suite.

    It gets `prompts`, `completions` and `completion_ids`, and of the prompts' metadata, `answer`
    and `category` included, each name that any of them has as a column. `trainer_state` is None,
    and what it logs is dropped. As under TRL, these come before metadata of the same name.

    Args:
        function: `fn(prompts, completions, completion_ids=..., **columns) -> list[float]`.
        is_conversational: hand over prompts and completions as lists of one message.

    Raises:
        InvalidInputError: an asynchronous function; from the reward, a score that is None.
    """
    if inspect.iscoroutinefunction(function):
        raise InvalidInputError("A reward function must not be asynchronous here; got a coroutine.")

    def reward(
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        prompt_ids: Sequence[NDArray[np.int64]],
        response_ids: Sequence[NDArray[np.int64]],
        metadata: Sequence[Mapping[str, Any]],
    ) -> Any:  # noqa: ANN401 - checked where rewards are called
        names = dict.fromkeys(name for about in metadata for name in about)
        columns = {name: [about.get(name) for about in metadata] for name in names}
        texts, completions = list(prompts), list(responses)
        given = {
            "prompts": _messages(texts, "user") if is_conversational else texts,
            "completions": (
                _messages(completions, "assistant") if is_conversational else completions
            ),
            "completion_ids": [ids.tolist() for ids in response_ids],
        }
        scores = function(**{**columns, **given, **LOGGING})
        _check_scored(scores, responses)
        return scores

    reward.__name__ = getattr(function, "__name__", type(function).__name__)
    return reward


def _check_scored(scores: Any, responses: Sequence[str]) -> None:  # noqa: ANN401
    """Checks that no score is None, by which TRL's functions say that they do not apply."""
    if not isinstance(scores, list | tuple):
        return
    # Other than one score a response is refused where rewards are called.
    for index, (score, response) in enumerate(zip(scores, responses, strict=False)):
        if score is None:
            raise InvalidInputError(
                f"The function returned None for response {index}, {response!r:.300}: to TRL, that "
                "it does not apply. Here every response needs a score: return one, such as 0.0."
            )


def _messages(texts: list[str], role: str) -> list[list[dict[str, str]]]:
    return [[{"role": role, "content": text}] for text in texts]


def _drop(_name: str, _value: Any) -> None:  # noqa: ANN401
    """Stands for what TRL logs by."""


LOGGING = {"trainer_state": None, "log_extra": _drop, "log_metric": _drop}
"""What TRL hands over beside texts and ids, where there is no trainer."""


def _ids(table: PromptTable, index: int) -> list[int]:
    """Returns the token ids of a prompt, without padding."""
    ids: list[int] = table.token_ids[index, : table.lengths[index]].tolist()
    return ids


def _check_texts(task: Task) -> None:
    """Checks that the text of every prompt is tokenised to what the environment presents."""
    for index, text in enumerate(task.prompts.texts):
        ids, theirs = _ids(task.prompts, index), list(task.tokenizer.encode(text))
        if ids != theirs:
            raise InvalidInputError(
                f"TRL would present prompt {index} as the tokens {theirs[-8:]}, the environment "
                f"presents {ids[-8:]} (the last 8). Give prompts as text, and a tokenizer that "
                "puts no EOS behind it."
            )


def _check_prompts(
    table: PromptTable, prompt_index: Sequence[int], prompt_ids: Sequence[Sequence[int]]
) -> None:
    """Checks that rows are from `trl_dataset` of this environment."""
    for index, ids in zip(prompt_index, prompt_ids, strict=True):
        if not 0 <= index < len(table) or _ids(table, index) != list(ids):
            raise InvalidInputError(
                f"Prompt {index} of the dataset is not prompt {index} of the environment. Use "
                "trl_dataset of the same environment."
            )


def _play(
    envs: TextVectorEnv, prompt_index: Sequence[int], responses: Sequence[Sequence[int]]
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Plays B responses, a row each, to their ends.

    Returns:
        rewards: what the environment paid, (B,).
        extras: further numbers of the ends, (B,) each.
    """
    lengths = np.array([len(response) for response in responses])
    tokens = np.zeros((len(responses), int(lengths.max(initial=0))), np.int64)
    tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = np.concatenate(responses)
    envs.reset(options={"prompt_index": np.asarray(prompt_index)})
    rewards = np.zeros(len(responses))
    ends = np.zeros(len(responses), np.int64)
    extras: dict[str, NDArray[np.float64]] = {}
    for column in range(tokens.shape[1]):
        _check_not_over(lengths, column, ends == 0)
        _, paid, ended, _, infos = envs.step(tokens[:, column])
        rewards += paid
        ends[ended] = column + 1
        if ended.any():
            _note(extras, infos, ended)
        if ends.all():
            break
    _check_not_over(lengths, tokens.shape[1], ends == 0)
    _check_not_beyond(envs, lengths, ends, infos["finish_reason"])
    return rewards, extras


def _note(
    extras: dict[str, NDArray[np.float64]], infos: Mapping[str, Any], ended: NDArray[np.bool_]
) -> None:
    """Notes what the infos report of rows that ended, beside their scores."""
    for name, values in infos.items():
        if not name.startswith("_") and name not in ("finish_reason", "prompt_index", "score"):
            extras.setdefault(name, np.zeros(len(ended)))[ended] = values[ended]


def _check_not_over(lengths: NDArray[np.int64], column: int, is_running: NDArray[np.bool_]) -> None:
    """Checks that every response which the environment waits for has a token in a column."""
    short = is_running & (lengths <= column)
    if short.any():
        row = int(short.argmax())
        raise InvalidInputError(
            f"Completion {row} of the batch stops after {lengths[row]} tokens, where the "
            "environment goes on: neither EOS nor its limit. Set max_completion_length to its "
            "max_new_tokens (trl_settings does), and no stopping of TRL's own."
        )


def _check_not_beyond(
    envs: TextVectorEnv,
    lengths: NDArray[np.int64],
    ends: NDArray[np.int64],
    finish_reason: NDArray[np.int64],
) -> None:
    """Checks that no response goes on behind its end; TRL knows no stop texts, and may there."""
    is_beyond = lengths > ends
    if envs.task.stop:
        is_beyond &= finish_reason == FinishReason.LENGTH
    if is_beyond.any():
        row = int(is_beyond.argmax())
        raise InvalidInputError(
            f"Completion {row} of the batch has {lengths[row]} tokens, and the environment ends it "
            f"after {ends[row]}. Set max_completion_length to its max_new_tokens (trl_settings "
            "does), and the model's EOS token to the tokenizer's."
        )
