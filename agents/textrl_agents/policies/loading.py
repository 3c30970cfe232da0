"""Makes the policy that suits an environment, and reads saved ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from textrl_agents.policies.base import Policy
from textrl_agents.policies.causal_lm import CausalLMPolicy, load_value_model
from textrl_agents.policies.lora import Lora, LoraPolicy
from textrl_agents.policies.lstm import LSTMPolicy
from textrl_agents.policies.residual import ResidualPolicy
from textrl_agents.policies.sampling import PLAIN, Sampling
from textrl_agents.policies.table import TablePolicy
from textrl_envs.errors import InvalidInputError, nearest
from textrl_envs.language_models.causal import CausalLanguageModel, check_vocabulary
from textrl_envs.language_models.decoder import choose_device, load_causal_lm
from textrl_envs.tokenizers import check_same_vocabulary

__all__ = ["load_policy", "make_policy"]

KINDS: dict[str, type[Policy]] = {
    "causal_lm": CausalLMPolicy,
    "lora": LoraPolicy,
    "lstm": LSTMPolicy,
    "residual": ResidualPolicy,
    "table": TablePolicy,
}


def make_policy(
    envs: Any,  # noqa: ANN401 - a scalar or vector text environment, wrapped or not
    *,
    model: str | None = None,
    value_model: str | None = None,
    lora: Lora | Mapping[str, Any] | None = None,
    seed: int = 0,
    sampling: Sampling = PLAIN,
    device: str = "auto",
) -> Policy:
    """Makes a policy for an environment.

    With `model`, a Transformers folder, that model is trained; "table" stands for a `TablePolicy`,
    "lstm" for an `LSTMPolicy` over the reference, or by itself where there is none.
    Without, the environment's reference decides: a copy of it is trained if it is a Transformers
    model, and a small network over its logits if it is of another kind.

    With `lora`, such as `{"rank": 8}`, only adapters of the Transformers model are trained
    (`LoraPolicy`); the reference and the policy over it, or over the same folder, then have their
    weights in common.

    With `value_model`, the folder of a Transformers decoder, a Transformers policy has its values
    from that; where it is a reward model, they begin as its scores.

    Raises:
        InvalidInputError: neither model nor reference, vocabularies that do not match, or `lora`
            or `value_model` where no Transformers model is trained.
    """
    task, reference = envs.unwrapped.task, envs.unwrapped.reference
    is_causal = model not in (None, "table", "lstm") or (
        model is None and isinstance(reference, CausalLanguageModel)
    )
    if value_model is not None and (lora is not None or not is_causal):
        raise InvalidInputError(
            "value_model stands beside a Transformers policy that is trained as a whole. Give "
            "policy a Transformers folder and no lora, or leave value_model out."
        )
    if lora is not None:
        return _make_lora(envs, model, Lora.of(lora), seed, sampling, device)
    if model == "table":
        return TablePolicy.of(envs, sampling=sampling)
    if model == "lstm":
        return _make_lstm(envs, seed, sampling, device)
    if model is not None:
        check_same_vocabulary(model, task.tokenizer)
        policy: Policy = CausalLMPolicy(
            load_causal_lm(model),
            value_model=_value_model(value_model),
            vocabulary_size=task.vocabulary_size,
            sampling=sampling,
            reference=reference if sampling.reference_share else None,
            device=device,
        )
        policy.check_length(task.max_tokens)
        return policy
    if reference is None:
        raise InvalidInputError(
            "The environment has no reference to start from. Give the policy a model: a "
            "Transformers folder."
        )
    check_vocabulary(reference.vocabulary_size, task.vocabulary_size)
    if isinstance(reference, CausalLanguageModel):
        policy = CausalLMPolicy.of_reference(
            reference, value_model=_value_model(value_model), sampling=sampling
        )
        policy.check_length(task.max_tokens)
        return policy
    return ResidualPolicy(
        reference, max_tokens=task.max_tokens, seed=seed, sampling=sampling, device=device
    )


def _value_model(folder: str | None) -> Any:  # noqa: ANN401 - any Transformers decoder
    return None if folder is None else load_value_model(folder)


def _make_lstm(
    envs: Any,  # noqa: ANN401
    seed: int,
    sampling: Sampling,
    device: str,
) -> Policy:
    task, reference = envs.unwrapped.task, envs.unwrapped.reference
    if reference is not None:
        check_vocabulary(reference.vocabulary_size, task.vocabulary_size)
    return LSTMPolicy(
        vocabulary_size=task.vocabulary_size if reference is None else reference.vocabulary_size,
        reference=reference,
        seed=seed,
        sampling=sampling,
        device=device,
    )


def _make_lora(
    envs: Any,  # noqa: ANN401
    model: str | None,
    lora: Lora,
    seed: int,
    sampling: Sampling,
    device: str,
) -> Policy:
    task, reference = envs.unwrapped.task, envs.unwrapped.reference
    if isinstance(reference, CausalLanguageModel) and _is_same(reference, model, device):
        check_vocabulary(reference.vocabulary_size, task.vocabulary_size)
        policy = LoraPolicy.on_reference(reference, lora=lora, seed=seed, sampling=sampling)
    elif model is None or model in ("table", "lstm"):
        raise InvalidInputError(
            "LoRA adapts a Transformers model. Give the policy one, a folder: the environment's "
            "reference is none, and neither is a table or an LSTM."
        )
    else:
        check_same_vocabulary(model, task.tokenizer)
        policy = LoraPolicy(
            load_causal_lm(model),
            lora=lora,
            seed=seed,
            vocabulary_size=task.vocabulary_size,
            sampling=sampling,
            reference=reference if sampling.reference_share else None,
            device=device,
        )
    policy.check_length(task.max_tokens)
    return policy


def _is_same(reference: CausalLanguageModel, model: str | None, device: str) -> bool:
    """Tells whether a reference is the model that was asked for, so that both may share weights."""
    if model is None:
        return True
    weights, name = reference.model, str(reference.model.config.name_or_path)
    is_there = Path(model).is_dir() and Path(name).is_dir() and Path(model).samefile(name)
    # A policy's model is loaded in float32; a reference may be in other numbers.
    return (
        (is_there or model == name)
        and weights.dtype == torch.float32
        and weights.device.type == choose_device(device).type
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
