"""TopKModel: a language model cut down to its likeliest tokens, so that few texts are possible."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.base import LanguageModel
from textrl_envs.language_models.ngram import NGramModel

__all__ = ["TopKModel"]

Floats = NDArray[np.float64]


class TopKModel:
    """Keeps the k likeliest tokens of each distribution and renormalises; all others get −inf.

    Of equally likely tokens those with the lowest ids are kept. Put a Transformers model in float64
    (`model.double()`) underneath: which token comes k-th must not hang on how a text was read,
    token by token or whole, and in float32 it sometimes does.

    Args:
        language_model: what is cut down.
        k: tokens kept, 1 to V.

    Raises:
        InvalidInputError: a k out of range.

    >>> table = np.log([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    >>> model = TopKModel(NGramModel(table), k=2)
    >>> np.exp(model.next_log_probs(np.array([[0, -1], [1, -1], [0, 2]]))).round(3)
    array([[0.625, 0.375, 0.   ],
           [0.111, 0.889, 0.   ],
           [0.25 , 0.   , 0.75 ]])
    """

    def __init__(self, language_model: LanguageModel, k: int) -> None:
        size = language_model.vocabulary_size
        if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= size:
            raise InvalidInputError(
                f"k must be an integer of 1 to {size}, the vocabulary's size; got {k!r}."
            )
        self.language_model = language_model
        self.k = k

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.language_model.vocabulary_size

    def next_log_probs(self, obs: Any) -> Floats:  # noqa: ANN401 - either form
        """Returns the log-probabilities of all next tokens, in nats, (B, V)."""
        return self._cut(self.language_model.next_log_probs(obs))

    def log_probs(self, obs: Any, actions: NDArray[np.integer[Any]]) -> Floats:  # noqa: ANN401
        """Returns the log-probability of each action in each observation, in nats, (B,)."""
        rows = self.next_log_probs(obs)
        return rows[np.arange(len(rows)), np.asarray(actions)]

    def log_probs_at(
        self,
        input_ids: NDArray[np.integer[Any]],
        attention_mask: NDArray[np.integer[Any]],
        places: tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]],
    ) -> Floats:
        """Returns log p(. | tokens up to and with a place) for M places, (M, V), in nats."""
        return self._cut(self.language_model.log_probs_at(input_ids, attention_mask, places))

    def score(
        self, input_ids: NDArray[np.integer[Any]], attention_mask: NDArray[np.integer[Any]]
    ) -> Floats:
        """Returns the log-probability of every token given those before it, (B, L), in nats.

        0 in column 0, which nothing precedes, and behind the text.
        """
        scores = np.zeros(np.shape(input_ids))
        rows, columns = np.nonzero(np.asarray(attention_mask)[:, 1:])
        following = self.log_probs_at(input_ids, attention_mask, (rows, columns))  # [M, V]
        tokens = np.asarray(input_ids)[rows, columns + 1]
        scores[rows, columns + 1] = following[np.arange(len(rows)), tokens]
        return scores

    def forget(self) -> None:
        """Drops what the model underneath remembers between calls."""
        self.language_model.forget()

    def save(self, folder: str | Path) -> None:
        """Writes k, and the model underneath, into a folder that stands alone."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        about: dict[str, Any] = {"k": self.k, "vocabulary_size": self.vocabulary_size}
        if isinstance(self.language_model, NGramModel):
            self.language_model.save(folder / "ngram.safetensors")
        else:
            about["dtype"] = str(self.language_model.model.dtype).removeprefix("torch.")  # type: ignore[attr-defined]
            self.language_model.save(folder / "model")  # type: ignore[attr-defined]
        (folder / "top_k.json").write_text(json.dumps(about, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "TopKModel":
        """Reads what `save` wrote; a Transformers model computes in the precision that it had."""
        folder = Path(folder)
        about = json.loads((folder / "top_k.json").read_text())
        if (folder / "ngram.safetensors").exists():
            return cls(NGramModel.load(folder / "ngram.safetensors"), about["k"])
        import torch

        from textrl_envs.language_models.causal import CausalLanguageModel
        from textrl_envs.language_models.decoder import load_causal_lm

        model = load_causal_lm(str(folder / "model")).to(getattr(torch, about["dtype"]))
        return cls(CausalLanguageModel(model, vocabulary_size=about["vocabulary_size"]), about["k"])

    def _cut(self, log_probs: NDArray[np.floating[Any]]) -> Floats:
        """Keeps k tokens of each row, [M, V] -> [M, V]."""
        rows = log_probs.astype(np.float64)
        # Stable, so that ties are broken by id and not by the sorting algorithm.
        kept = np.argsort(-rows, axis=-1, kind="stable")[:, : self.k]  # [M, k], likeliest first
        values = np.take_along_axis(rows, kept, axis=-1)
        top = values[:, :1]
        total = top + np.log(np.exp(values - top).sum(axis=-1, keepdims=True))
        cut = np.full(rows.shape, -np.inf)
        np.put_along_axis(cut, kept, values - total, axis=-1)
        return cut
