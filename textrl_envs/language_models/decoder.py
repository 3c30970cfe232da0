"""Takes a Transformers causal LM apart: a trunk that gives hidden states, a head that gives logits.

Between them stand the slot cache, the choice of positions that need logits, and a value head.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from textrl_envs.errors import InvalidInputError
from textrl_envs.files import check_not_missing
from textrl_envs.language_models.agreement import agrees
from textrl_envs.language_models.fast.linear import LinearWeights
from textrl_envs.language_models.fast.linear import linear as fast_linear
from textrl_envs.language_models.fast.operations import fast_operations
from textrl_envs.language_models.fast.packing import Packing, packing_agrees, read_packed
from textrl_envs.language_models.fast.threads import threads_for
from textrl_envs.language_models.prefix_reader import PrefixReader

__all__ = ["Decoder", "choose_device", "load_causal_lm"]


def choose_device(name: str = "auto") -> torch.device:
    """Returns the device of that name; "auto" is CUDA where there is one.

    Raises:
        InvalidInputError: no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        probe = torch.zeros(1, device=name)
        probe.item()  # "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0].partition(" device type at start")[0]
        raise InvalidInputError(
            f"Device {name!r} cannot be used ({reason:.120}). Try 'cpu' or 'cuda'."
        ) from error
    return probe.device


def load_causal_lm(path: str, *, trust_remote_code: bool = False) -> Any:  # noqa: ANN401
    """Loads a Transformers causal LM in float32 from a folder or a hub id, from safetensors alone.

    Raises:
        InvalidInputError: nothing there, weights that are pickled, or no causal LM.
    """
    from transformers import AutoModelForCausalLM

    folder = Path(path)
    check_not_missing(path)
    if folder.is_dir():
        _check_folder(folder)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    # Whatever is wrong with a user's folder may come as any error; it is raised again.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidInputError(
            f"Cannot load a causal LM from {path!r}. Give a Transformers folder with "
            f"model.safetensors, or a hub id ({reason})."
        ) from error
    model, found = loaded
    if found["missing_keys"]:
        raise InvalidInputError(
            f"{path} lacks the weights {', '.join(sorted(found['missing_keys'])[:3])}: it holds no "
            "whole causal LM, and random ones would stand in for them."
        )
    return model


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
        packs: whole texts can be read without padding.
    """

    trunk: nn.Module
    head: nn.Module
    reader: PrefixReader
    vocabulary_size: int
    packs: bool = False

    @classmethod
    def of(cls, model: Any, *, use_cache: bool = True) -> "Decoder":  # noqa: ANN401 - any causal LM
        """Takes a model apart, and checks on two short texts that the parts do what it does.

        Raises:
            InvalidInputError: the model's logits cannot be had from its hidden states.
        """
        trunk, linear = model.base_model, model.get_output_embeddings()
        if not isinstance(linear, nn.Linear) or trunk is model:
            raise InvalidInputError(f"{type(model).__name__} is no causal LM with an output layer.")
        head = _find_head(model, trunk, linear)
        size = int(linear.weight.shape[0])
        reader = PrefixReader(trunk, use_cache=use_cache and _cache_agrees(trunk, size))
        return cls(trunk, head, reader, size, packing_agrees(trunk, size))

    @classmethod
    def of_trunk(cls, trunk: Any, head: nn.Module) -> "Decoder":  # noqa: ANN401
        """Takes a trunk and a head of any kind that reads its hidden states."""
        size = int(trunk.get_input_embeddings().weight.shape[0])
        reader = PrefixReader(trunk, use_cache=_cache_agrees(trunk, size))
        return cls(trunk, head, reader, size, packing_agrees(trunk, size))

    def hidden(self, input_ids: Tensor, *, is_checkpointed: bool = False) -> Tensor:
        """Returns the hidden states of whole right-padded texts, [B, L] -> [B, L, H].

        Padding lies behind every token, so the causal mask alone keeps it out.

        Raises:
            InvalidInputError: texts longer than the model's positions.
        """
        self.reader.check_length(input_ids.shape[1])
        with fast_operations(self.trunk, is_checkpointed=is_checkpointed):
            hidden: Tensor = self.trunk(input_ids=input_ids, use_cache=False).last_hidden_state
        return hidden

    def hidden_at(
        self,
        input_ids: NDArray[np.integer[Any]],
        places: tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]],
        *,
        is_checkpointed: bool = False,
    ) -> Tensor:
        """Returns the hidden states of M places in whole texts, [M, H], with gradients.

        Nothing is read behind the last place of a row, and padding not at all, where the model can
        be read without.

        Args:
            input_ids: right-padded, shape (B, L).
            places: row and column of each place, in the text and each once; shape (M,) both.
            is_checkpointed: keep the inputs of the layers alone for the gradients, and compute the
                rest again: less memory, a third slower.

        Raises:
            InvalidInputError: texts longer than the model's positions.
        """
        rows, columns = places
        lengths = np.ones(len(input_ids), np.int64)
        np.maximum.at(lengths, rows, columns + 1)
        if self.packs and lengths.max() <= self.reader.window:
            self.reader.check_length(int(lengths.max()))
            ids = np.asarray(input_ids, np.int64)
            packing = Packing.of(lengths, self.device, ids, _multiplications(self.trunk))
            at = packing.places(rows, columns, self.device)
            return read_packed(self.trunk, ids, packing, at, is_checkpointed=is_checkpointed)
        is_read = np.arange(int(lengths.max())) < lengths[:, None]
        ids = np.where(is_read, np.asarray(input_ids)[:, : is_read.shape[1]], 0)
        padded = torch.from_numpy(ids).to(self.device)
        return self.hidden(padded, is_checkpointed=is_checkpointed)[rows, columns]

    @torch.no_grad()
    def next_logits(self, hidden: Tensor) -> Tensor:
        """Returns the logits of a token a row, without gradients, [B, H] -> [B, V]."""
        if isinstance(self.head, _Head):
            return self.head.next_logits(hidden)
        logits: Tensor = self.head(hidden)
        return logits

    def forget(self) -> None:
        """Drops what is remembered between calls."""
        self.reader.forget()
        if isinstance(self.head, _Head):
            self.head.forget()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.trunk.parameters()).device


def _multiplications(trunk: Any) -> int:  # noqa: ANN401
    """Returns about how many a token takes; 0 where the config does not say."""
    layers, width = (
        getattr(trunk.config, name, None) or 0 for name in ("num_hidden_layers", "hidden_size")
    )
    return 12 * int(layers) * int(width) ** 2


def _probe(vocabulary_size: int) -> Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(vocabulary_size, size=(2, 6)))


class _Head(nn.Module):
    """An output layer, and what some models do to its logits: a scale, a divisor, a soft cap."""

    def __init__(self, linear: nn.Linear, config: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.linear = linear
        self.scale = float(getattr(config, "logit_scale", None) or 1.0)
        self.divisor = float(getattr(config, "logits_scaling", None) or 1.0)
        self.cap: float | None = getattr(config, "final_logit_softcapping", None)
        self.forget()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # a copy packs its own

    def forget(self) -> None:
        """Drops the packed weights."""
        self._packed: LinearWeights | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        return self._shaped(fast_linear(hidden, self.linear.weight, self.linear.bias))

    def next_logits(self, hidden: Tensor) -> Tensor:
        """Returns the same for a token a row, without gradients, by packed weights."""
        if self._packed is None:
            self._packed = LinearWeights([(self.linear.weight, self.linear.bias)], len(hidden))
        with threads_for(len(hidden) * self.linear.weight.numel()):
            return self._shaped(self._packed(hidden))

    def _shaped(self, logits: Tensor) -> Tensor:
        if self.scale != 1.0 or self.divisor != 1.0:
            logits = logits * (self.scale / self.divisor)
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


@torch.no_grad()
def _find_head(model: Any, trunk: nn.Module, linear: Any) -> nn.Module:  # noqa: ANN401
    """Returns what turns hidden states into the model's logits, tried on two short texts."""
    was_training = model.training
    model.eval()
    ids = _probe(int(linear.weight.shape[0])).to(linear.weight.device)
    expected = model(input_ids=ids, use_cache=False).logits
    hidden = trunk(input_ids=ids, use_cache=False).last_hidden_state
    model.train(was_training)
    # What the config declares comes first: a soft cap may be too far off to show in small logits.
    for head in (_Head(linear, model.config), _Head(linear, None)):
        if agrees(head(hidden), expected):
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
            if not agrees(cached.read(obs), plain.read(obs)):
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
