"""Takes a Transformers causal LM apart: a trunk that gives hidden states, a head that gives logits.

Between them stand the slot cache, the choice of positions that need logits, and a value head.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.prefix_reader import PrefixReader

__all__ = ["Decoder", "choose_device", "load_causal_lm"]

PROBE_TOLERANCE = 1e-3


def choose_device(name: str = "auto") -> torch.device:
    """Returns the device of that name; "auto" is CUDA where there is one.

    Raises:
        InvalidInputError: no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidInputError(f"Device {name!r} cannot be used: {reason} Try 'cpu'.") from error


def load_causal_lm(path: str, *, trust_remote_code: bool = False) -> Any:  # noqa: ANN401
    """Loads a Transformers causal LM in float32 from a folder or a hub id, from safetensors alone.

    Raises:
        InvalidInputError: nothing there, weights that are pickled, or no causal LM.
    """
    from transformers import AutoModelForCausalLM

    folder = Path(path)
    if folder.is_dir():
        _check_folder(folder)
    try:
        return AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidInputError(
            f"Cannot load a causal LM from {path!r}. Give a Transformers folder with "
            f"model.safetensors, or a hub id ({reason})."
        ) from error


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").exists():
        raise InvalidInputError(
            f"{folder} has no config.json: it is not a Transformers model folder."
        )
    pickled = sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    if not list(folder.glob("*.safetensors")):
        found = (
            f"; it has {pickled[0].name}, which is pickled and could run code" if pickled else ""
        )
        raise InvalidInputError(
            f"{folder} has no safetensors weights{found}. "
            "Save it again with save_pretrained(safe_serialization=True)."
        )


@dataclass(frozen=True, slots=True)
class Decoder:
    """A causal LM, taken apart.

    Args:
        trunk: token ids -> hidden states.
        head: hidden states [..., H] -> logits [..., V].
        reader: the trunk with its memory, for one token at a time.
        vocabulary_size: V, the rows of the head.
    """

    trunk: nn.Module
    head: Callable[[Tensor], Tensor]
    reader: PrefixReader
    vocabulary_size: int

    @classmethod
    def of(cls, model: Any, *, use_cache: bool = True) -> "Decoder":  # noqa: ANN401 - any causal LM
        """Takes a model apart, and checks on two short texts that the parts do what it does.

        Raises:
            InvalidInputError: the model's logits cannot be had from its hidden states.
        """
        trunk, linear = model.base_model, model.get_output_embeddings()
        if linear is None or trunk is model:
            raise InvalidInputError(f"{type(model).__name__} is no causal LM with an output layer.")
        head = _find_head(model, trunk, linear)
        size = int(linear.weight.shape[0])
        reader = PrefixReader(trunk, use_cache=use_cache and _cache_agrees(trunk, size))
        return cls(trunk, head, reader, size)

    def hidden(self, input_ids: Tensor) -> Tensor:
        """Returns the hidden states of whole right-padded texts, [B, L] -> [B, L, H].

        Padding lies behind every token, so the causal mask alone keeps it out.
        """
        hidden: Tensor = self.trunk(input_ids=input_ids, use_cache=False).last_hidden_state
        return hidden

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.trunk.parameters()).device


def _probe(vocabulary_size: int) -> Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(vocabulary_size, size=(2, 6)))


@torch.no_grad()
def _find_head(model: Any, trunk: nn.Module, linear: Any) -> Callable[[Tensor], Tensor]:  # noqa: ANN401
    """Finds what the model does to its output layer's logits: nothing, a scale, or a soft cap."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    ids = _probe(int(linear.weight.shape[0])).to(device)
    expected = model(input_ids=ids, use_cache=False).logits
    hidden = trunk(input_ids=ids, use_cache=False).last_hidden_state
    model.train(was_training)
    scale = getattr(model.config, "logit_scale", None) or 1.0
    divisor = getattr(model.config, "logits_scaling", None) or 1.0
    cap = getattr(model.config, "final_logit_softcapping", None) or math.inf
    candidates: list[Callable[[Tensor], Tensor]] = [
        linear,
        lambda x: linear(x) * scale,
        lambda x: linear(x) / divisor,
        lambda x: torch.tanh(linear(x) / cap) * cap,
    ]
    for head in candidates:
        if torch.allclose(head(hidden), expected, rtol=0, atol=PROBE_TOLERANCE):
            return head
    raise InvalidInputError(
        f"The logits of {type(model).__name__} are not its output layer applied to its last hidden "
        "state, nor that scaled or capped. Such a model cannot be used here."
    )


def _cache_agrees(trunk: nn.Module, vocabulary_size: int) -> bool:
    """Tells whether reading token by token through the slot cache gives what a full pass gives."""
    ids = _probe(vocabulary_size).numpy()
    cached, plain = PrefixReader(trunk), PrefixReader(trunk, use_cache=False)
    try:
        for length in (4, 5, 6):
            obs = np.where(np.arange(6) < length, ids, -1)
            obs[1, length - 1] = -1  # a ragged pair
            if not torch.allclose(cached.read(obs), plain.read(obs), rtol=0, atol=PROBE_TOLERANCE):
                break
        else:
            return True
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        reason = f" ({error})"
    else:
        reason = ""
    warnings.warn(
        f"{type(trunk).__name__} does not agree with its key-value cache by slots{reason}: "
        "every text is read afresh, which is right but slow.",
        stacklevel=4,
    )
    return False
