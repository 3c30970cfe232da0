"""ClassifierReward: a Transformers sequence classifier with one output, as a reward model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.decoder import Decoder, choose_device
from textrl_envs.observations import FLAT_PADDING

__all__ = ["ClassifierReward"]


class ClassifierReward:
    """Scores prompt and response by the classifier's output at the last token.

    The token ids are the environment's own: nothing is decoded and encoded again, and EOS is read
    where it was written. Use the tokenizer that belongs to the model.

    Args:
        model: a decoder with a linear head `score` of one output, such as
            `GPT2ForSequenceClassification` or `LlamaForSequenceClassification` with num_labels=1.
            It is put into evaluation mode and frozen.
        device: "auto", "cpu", "cuda", ...

    Raises:
        InvalidInputError: a model without such a head.
    """

    def __init__(self, model: Any, *, device: str = "auto") -> None:  # noqa: ANN401 - any of them
        head = getattr(model, "score", None)
        if not isinstance(head, nn.Linear) or head.out_features != 1:
            raise InvalidInputError(
                f"Expected a sequence classifier with a linear head `score` of one output; got "
                f"{type(model).__name__}. Make it with num_labels=1."
            )
        self.model = model.to(choose_device(device)).eval().requires_grad_(False)
        self._head = head
        self._reader = Decoder.of_trunk(model.base_model, head).reader

    @torch.no_grad()
    def __call__(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        prompt_ids: Sequence[NDArray[np.int64]],
        response_ids: Sequence[NDArray[np.int64]],
        metadata: Sequence[Mapping[str, Any]],
    ) -> NDArray[np.float64]:
        """Returns the scores of B responses, (B,).

        Raises:
            InvalidInputError: texts longer than the model's positions.
        """
        texts = [np.concatenate(pair) for pair in zip(prompt_ids, response_ids, strict=True)]
        lengths = np.array([len(text) for text in texts])
        obs = np.full((len(texts), lengths.max()), FLAT_PADDING, np.int64)
        obs[np.arange(lengths.max()) < lengths[:, None]] = np.concatenate(texts)
        scores: NDArray[np.float64] = (
            self._head(self._reader.read(obs))[:, 0].double().cpu().numpy()
        )
        return scores
