"""GEM: its environments of a single turn as prompts and reward.

gem_prompts   what an environment presents, as prompts
score         reward: what its step pays for the response

By name, prompts are "gem:rg:chain_sum?size=100&seed=0" and the reward is
"textrl_envs.interop.gem:score".
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_envs.environments.checks import check_count
from textrl_envs.errors import InvalidInputError, nearest
from textrl_envs.interop.extras import UNREADABLE, check_seed, global_generators_seeded, require
from textrl_envs.prompts import Prompt
from textrl_envs.rewards.base import RewardOutput

__all__ = ["gem_prompts", "score"]

EXTRA = "gem"


def gem_prompts(env: Any, *, size: int = 100, **settings: Any) -> list[Prompt]:  # noqa: ANN401
    """Returns what an environment presents at its next `size` resets.

    Args:
        env: an id such as "rg:chain_sum" or "math:GSM8K", or an environment of GEM's; it must have
            `get_state` and `set_state`, by which a response is scored later.
        size: number of prompts.
        settings: for `gem.make`, such as `seed`. Environments that draw from the global generators
            find them seeded by it, or by 0.

    Raises:
        InvalidInputError: GEM is not installed, an unknown id or setting, or an environment of more
            than one turn, or without states.
    """
    check_count("size", size)
    seed = settings.get("seed", 0)
    check_seed(seed)
    with global_generators_seeded(seed):
        made = _make(env, settings) if isinstance(env, str) else env
        _check_states(made)
        states = [_reset(made) for _ in range(size)]
        _check_single_turn(made)
    return [
        Prompt(text=text, category=getattr(made, "env_id", None), metadata={"gem": (made, state)})
        for text, state in states
    ]


def score(
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    prompt_ids: Sequence[NDArray[np.int64]],
    response_ids: Sequence[NDArray[np.int64]],
    metadata: Sequence[Mapping[str, Any]],
) -> RewardOutput:
    """Scores each response by the step of its prompt's environment, put back to its state.

    The info has `unreadable`: 1 where the step raised on the response, which then scores 0.

    Raises:
        InvalidInputError: prompts of another kind, or an environment that goes on after the step.
    """
    read = [_score_one(text, about) for text, about in zip(responses, metadata, strict=True)]
    return [value for value, _ in read], {"unreadable": [float(not is_read) for _, is_read in read]}


def _make(env: str, settings: dict[str, Any]) -> Any:  # noqa: ANN401
    gem = _import()
    known = gem.envs.registration.ENV_REGISTRY
    if env not in known:
        raise InvalidInputError(f"GEM has no environment {env!r}. {nearest(env, known)}")
    try:
        return gem.make(env, **settings)
    except ImportError as error:
        raise InvalidInputError(
            f"GEM cannot make {env}: {error} Install what it needs: "
            f'pip install "textrl-envs[{EXTRA}]".'
        ) from error
    except (AssertionError, OSError, TypeError, ValueError) as error:
        raise InvalidInputError(f"GEM cannot make {env} with {settings}: {error}") from error


def _import() -> Any:  # noqa: ANN401
    """Imports GEM, which sets up the root logger when it is; gives that back as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        return require("gem", extra=EXTRA)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _check_states(env: Any) -> None:  # noqa: ANN401
    missing = [name for name in ("get_state", "set_state") if not hasattr(env, name)]
    if missing:
        env.reset()
        _check_single_turn(env)  # if it has more turns, that is what to say
        raise InvalidInputError(
            f"{_name(env)} has no {' and no '.join(missing)}, so that a response could not be "
            "scored after another prompt was read. Add them."
        )


def _check_single_turn(env: Any) -> None:  # noqa: ANN401
    """Plays one answer of the environment's own, or none, and looks whether that ends it.

    An environment that cannot read it is accepted: each response is looked at when it is scored.
    """
    try:
        answer = env.sample_random_action()
    except NotImplementedError:
        answer = ""
    _try_step(env, answer)


def _reset(env: Any) -> tuple[str, Any]:  # noqa: ANN401
    text, _ = env.reset()
    # A copy: nothing says that the next reset leaves this one's state alone.
    return text, copy.deepcopy(env.get_state())


def _score_one(response: str, about: Mapping[str, Any]) -> tuple[float, bool]:
    if "gem" not in about:
        raise InvalidInputError(
            "This reward scores prompts of GEM alone. Make them by gem_prompts, or name them "
            '"gem:ID".'
        )
    env, state = about["gem"]
    env.set_state(copy.deepcopy(state))
    return _try_step(env, response)


def _try_step(env: Any, action: str) -> tuple[float, bool]:  # noqa: ANN401
    """Returns the score, and whether the environment could read the action."""
    try:
        return _step(env, action), True
    except UNREADABLE as error:
        if isinstance(error, InvalidInputError):  # a ValueError, and our own
            raise
        return 0.0, False


def _step(env: Any, action: str) -> float:  # noqa: ANN401
    _, reward, terminated, truncated, _ = env.step(action)
    if not (terminated or truncated):
        raise InvalidInputError(
            f"{_name(env)} goes on after the first response: it has more than one turn. Take one "
            "that has a single turn, such as those of rg:, math:, code:, qa: and logic:."
        )
    return float(reward)


def _name(env: Any) -> str:  # noqa: ANN401
    return str(getattr(env, "env_id", type(env).__name__))
