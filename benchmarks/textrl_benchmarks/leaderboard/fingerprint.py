"""Fingerprint of an environment: another reward, reference, prompt or limit makes another one.

The optimum and the reference's value are computed from reward, reference and β, so that a change of
any of them shows there, wherever the change was made.
"""

from typing import Any

from textrl_benchmarks.leaderboard.cell import canonical_json, sha256
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import optimum

__all__ = ["check_fingerprint", "fingerprint", "ingredients"]

DIGITS = 12
"""Significant digits of the exact values: rounding of another machine stays below."""


def ingredients(envs: Any) -> dict[str, Any]:  # noqa: ANN401 - any text environment
    """Returns what the fingerprint is made of, short enough to be read.

    Raises:
        InvalidInputError: no optimum is exact.
    """
    task, best = envs.unwrapped.task, optimum(envs)
    table, tokenizer = task.prompts, task.tokenizer
    prompts = [table.token_ids[i, :n].tolist() for i, n in enumerate(table.lengths)]
    words = [tokenizer.decode([token]) for token in range(task.vocabulary_size)]
    return {
        "prompts": sha256(canonical_json(prompts)),
        "vocabulary": sha256(canonical_json([words, int(tokenizer.eos_token_id)])),
        "max_new_tokens": task.max_new_tokens,
        "stop": list(task.stop),
        "kl_coefficient": _rounded(task.kl_coefficient),
        "reference_value": _rounded(best.reference_value),
        "optimum_value": _rounded(best.value),
    }


def fingerprint(envs: Any) -> str:  # noqa: ANN401 - any text environment
    """Returns the SHA-256 of the ingredients' canonical JSON.

    Raises:
        InvalidInputError: no optimum is exact.
    """
    return sha256(canonical_json(ingredients(envs)))


def check_fingerprint(envs: Any, expected: str, name: str) -> None:  # noqa: ANN401
    """Checks that an environment is the one that a cell was planned with.

    Raises:
        InvalidInputError: it is another; the message has all that this one is made of.
    """
    found = fingerprint(envs)
    if found == expected:
        return
    made_of = ", ".join(f"{key} {str(value)[:16]}" for key, value in ingredients(envs).items())
    raise InvalidInputError(
        f"{name} is not the environment that the cell was planned with: expected the fingerprint "
        f"{expected[:12]}, got {found[:12]}, made of {made_of}. Install the version that it was "
        "planned with, or plan again."
    )


def _rounded(value: float) -> str:
    return f"{value:.{DIGITS}g}"
