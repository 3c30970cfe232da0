"""CausalLanguageModel: any Transformers causal LM, as a frozen language model."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textrl_envs.errors import InvalidInputError
from textrl_envs.files import stamp
from textrl_envs.language_models.decoder import Decoder, choose_device, load_causal_lm

__all__ = ["CausalLanguageModel"]

CHUNK_ELEMENTS = 1 << 22
"""Logits held at once when whole sequences are scored: 16 MiB in float32."""


class CausalLanguageModel:
    """A frozen Transformers causal LM, on CPU or GPU.

    Args:
        model: a Transformers causal LM. It is put into evaluation mode and frozen.
        vocabulary_size: V of the tokenizer, where the model's embedding is padded beyond it; the
            distribution is then over the first V tokens alone.
        device: "auto", "cpu", "cuda", ...
        use_cache: keep keys and values between calls; the numbers are the same without.

    Raises:
        InvalidInputError: the tokenizer's vocabulary is larger than the model's, or the model
            cannot be taken apart (`Decoder.of`).
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - any Transformers causal LM
        *,
        vocabulary_size: int | None = None,
        device: str = "auto",
        use_cache: bool = True,
    ) -> None:
        self.model = model.to(choose_device(device)).eval().requires_grad_(False)
        self._decoder = Decoder.of(self.model, use_cache=use_cache)
        check_vocabulary(self._decoder.vocabulary_size, vocabulary_size)
        self._vocabulary_size = vocabulary_size or self._decoder.vocabulary_size

    @classmethod
    def load(
        cls,
        path: str,
        *,
        vocabulary_size: int | None = None,
        device: str = "auto",
        trust_remote_code: bool = False,
    ) -> "CausalLanguageModel":
        """Loads a folder or a hub id, once a process; a folder that has changed is loaded again.

        Raises:
            InvalidInputError: as `load_causal_lm` and the class.
        """
        return _load(path, stamp(path), vocabulary_size, device, trust_remote_code)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self._vocabulary_size

    def forget(self) -> None:
        """Drops the cache: what is read next is read afresh, to the last bit."""
        self._decoder.forget()

    @torch.no_grad()
    def next_log_probs(self, obs: Any) -> NDArray[np.float32]:  # noqa: ANN401 - either form
        """Returns the log-probabilities of all next tokens, in nats, float32 (B, V)."""
        return _to_numpy(self._next_log_probs(obs))

    @torch.no_grad()
    def log_probs(self, obs: Any, actions: NDArray[np.integer[Any]]) -> NDArray[np.float32]:  # noqa: ANN401
        """Returns the log-probability of each action in each observation, in nats, (B,)."""
        log_probs = self._next_log_probs(obs)
        chosen = torch.as_tensor(np.asarray(actions), device=log_probs.device)[:, None]
        return _to_numpy(log_probs.gather(1, chosen)[:, 0])

    @torch.no_grad()
    def score(
        self, input_ids: NDArray[np.integer[Any]], attention_mask: NDArray[np.integer[Any]]
    ) -> NDArray[np.float32]:
        """Returns the log-probability of every token given those before it, (B, L), in nats.

        0 in column 0, which nothing precedes, and behind the text.
        """
        is_text = _right_padded(attention_mask)
        self._decoder.reader.check_length(int(is_text.sum(axis=1).max()))
        rows, columns = np.nonzero(is_text[:, 1:])  # each token but the first, from the one before
        hidden = self._decoder.hidden_at(input_ids, (rows, columns))  # [M, H]
        tokens = torch.from_numpy(np.asarray(input_ids)[rows, columns + 1]).to(hidden.device)
        size = max(1, CHUNK_ELEMENTS // self._decoder.vocabulary_size)
        parts = [
            self._log_softmax(h).gather(1, t[:, None])[:, 0]
            for h, t in zip(torch.split(hidden, size), torch.split(tokens, size), strict=True)
        ]
        scores = np.zeros(np.shape(input_ids), np.float32)
        scores[rows, columns + 1] = _to_numpy(torch.cat(parts))
        return scores

    @torch.no_grad()
    def log_probs_at(
        self,
        input_ids: NDArray[np.integer[Any]],
        attention_mask: NDArray[np.integer[Any]],
        places: tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]],
    ) -> NDArray[np.float32]:
        """Returns log p(. | tokens up to and with a place) for M places, (M, V), in nats."""
        _right_padded(attention_mask)
        hidden = self._decoder.hidden_at(input_ids, places)
        return _to_numpy(self._log_softmax(hidden))

    def save(self, folder: str | Path) -> None:
        """Writes an ordinary Transformers folder."""
        self.model.save_pretrained(folder)

    def _next_log_probs(self, obs: Any) -> Tensor:  # noqa: ANN401 - either form
        return self._normalised(self._decoder.next_logits(self._decoder.reader.read(obs)))

    def _log_softmax(self, hidden: Tensor) -> Tensor:
        return self._normalised(self._decoder.head(hidden))

    def _normalised(self, logits: Tensor) -> Tensor:
        logits = logits[..., : self._vocabulary_size]
        # Half precision is too coarse for a log-ratio; float64 stays what it is.
        log_probs: Tensor = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(
            -1
        )
        return log_probs


def _right_padded(attention_mask: Any) -> NDArray[np.bool_]:  # noqa: ANN401
    is_text: NDArray[np.bool_] = np.asarray(attention_mask) != 0
    if (is_text[:, 1:] & ~is_text[:, :-1]).any() or not is_text[:, 0].all():
        raise InvalidInputError("Whole sequences must be right-padded, with text in column 0.")
    return is_text


@functools.lru_cache(maxsize=8)
def _load(
    path: str, _stamp: object, vocabulary_size: int | None, device: str, trust_remote_code: bool
) -> CausalLanguageModel:
    model = load_causal_lm(path, trust_remote_code=trust_remote_code)
    return CausalLanguageModel(model, vocabulary_size=vocabulary_size, device=device)


def check_vocabulary(model_size: int, wanted: int | None) -> None:
    """Checks that a model can speak a tokenizer's vocabulary.

    Raises:
        InvalidInputError: the tokenizer has tokens that the model has no row for.
    """
    if wanted is not None and wanted > model_size:
        raise InvalidInputError(
            f"The vocabularies do not match: the environment has {wanted} tokens, the model "
            f"{model_size}. Use the tokenizer that belongs to the model."
        )


def _to_numpy(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.cpu().numpy()
    return array
