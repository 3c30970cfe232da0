"""Makes the policy that suits an environment, and reads saved ones."""

import json
from pathlib import Path
from typing import Any

from textrl_agents.policies.base import Policy
from textrl_agents.policies.causal_lm import CausalLMPolicy
from textrl_agents.policies.residual import ResidualPolicy
from textrl_agents.policies.table import TablePolicy
from textrl_envs.errors import InvalidInputError, nearest
from textrl_envs.language_models.causal import CausalLanguageModel, check_vocabulary
from textrl_envs.language_models.decoder import load_causal_lm
from textrl_envs.tokenizers import check_same_vocabulary

__all__ = ["load_policy", "make_policy"]

KINDS: dict[str, type[Policy]] = {
    "causal_lm": CausalLMPolicy,
    "residual": ResidualPolicy,
    "table": TablePolicy,
}


def make_policy(
    envs: Any,  # noqa: ANN401 - a scalar or vector text environment, wrapped or not
    *,
    model: str | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    device: str = "auto",
) -> Policy:
    """Makes a policy for an environment.

    With `model`, a Transformers folder, that model is trained; "table" stands for a `TablePolicy`.
    Without, the environment's reference decides: a copy of it is trained if it is a Transformers
    model, and a small network over its logits if it is of another kind.

    Raises:
        InvalidInputError: neither model nor reference, or vocabularies that do not match.
    """
    task = envs.unwrapped.task
    if model == "table":
        return TablePolicy.of(envs, temperature=temperature)
    if model is not None:
        check_same_vocabulary(model, task.tokenizer)
        policy: Policy = CausalLMPolicy(
            load_causal_lm(model),
            vocabulary_size=task.vocabulary_size,
            temperature=temperature,
            device=device,
        )
        policy.check_length(task.max_tokens)
        return policy
    reference = envs.unwrapped.reference
    if reference is None:
        raise InvalidInputError(
            "The environment has no reference to start from. Give the policy a model: a "
            "Transformers folder."
        )
    check_vocabulary(reference.vocabulary_size, task.vocabulary_size)
    if isinstance(reference, CausalLanguageModel):
        policy = CausalLMPolicy.of_reference(reference, temperature=temperature)
        policy.check_length(task.max_tokens)
        return policy
    return ResidualPolicy(
        reference, max_tokens=task.max_tokens, seed=seed, temperature=temperature, device=device
    )


def load_policy(folder: str | Path, *, device: str = "auto") -> Policy:
    """Reads a policy that was saved.

    Raises:
        InvalidInputError: the folder holds none.
    """
    folder = Path(folder)
    path = folder / "policy.json"
    if not path.is_file():
        raise InvalidInputError(f"{folder} holds no policy: there is no policy.json.")
    kind = json.loads(path.read_text())["kind"]
    if kind not in KINDS:
        raise InvalidInputError(f"{path} has the unknown kind {kind!r}. {nearest(kind, KINDS)}")
    return KINDS[kind].load(folder, device=device)
