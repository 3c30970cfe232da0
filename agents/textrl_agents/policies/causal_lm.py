"""CausalLMPolicy: a Transformers causal LM with a value head on its trunk."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from textrl_agents.episodes import Episodes
from textrl_agents.policies.network import (
    NetworkPolicy,
    Places,
    load_reference,
    new_value_head,
    save_reference,
)
from textrl_agents.policies.sampling import PLAIN, Sampling, read_sampling
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.base import LanguageModel
from textrl_envs.language_models.causal import CausalLanguageModel, check_vocabulary
from textrl_envs.language_models.decoder import Decoder, choose_device, load_causal_lm

__all__ = ["CausalLMPolicy", "load_value_model"]


class CausalLMPolicy(NetworkPolicy):
    """The whole language model is trained; a linear value head reads its last hidden state.

    With a value model, the head reads that model's hidden states instead: policy and value share
    nothing, and a roll-out is valued by one forward when it is finished.

    Args:
        model: any Transformers causal LM. It is trained in place.
        value_model: a Transformers decoder of the same vocabulary, trained in place too. Where it
            has a head `score` of one output, as reward models have, the value begins as its score.
        vocabulary_size: V of the environment; None takes the model's.
        sampling: how the distribution is made of the logits.
        reference: what `sampling` mixes in, if it does. It is shared, and not trained.
        device: "auto", "cpu", "cuda", ...

    Raises:
        InvalidInputError: a model that cannot be taken apart, or with too small a vocabulary; a
            share of the reference, and no reference.
    """

    default_learning_rate: ClassVar[float] = 1e-4

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - any Transformers causal LM
        *,
        value_model: Any | None = None,  # noqa: ANN401
        vocabulary_size: int | None = None,
        sampling: Sampling = PLAIN,
        reference: LanguageModel | None = None,
        device: str = "auto",
    ) -> None:
        model = model.to(choose_device(device)).requires_grad_(True)
        decoder = Decoder.of(model)
        check_vocabulary(decoder.vocabulary_size, vocabulary_size)
        super().__init__(
            decoder,
            vocabulary_size=vocabulary_size or decoder.vocabulary_size,
            sampling=sampling,
            reference=reference,
        )
        self.model = model
        self._value_decoder: Decoder | None = None
        if value_model is not None:
            self._take_value_model(value_model)

    def _take_value_model(self, value_model: Any) -> None:  # noqa: ANN401
        self.value_trunk = value_model.base_model.to(self.device).requires_grad_(True).eval()
        width: int = self.value_trunk.config.hidden_size
        self.value_head = new_value_head(width, self.device)
        score = getattr(value_model, "score", None)
        if isinstance(score, torch.nn.Linear) and score.out_features == 1:
            with torch.no_grad():
                self.value_head.weight.copy_(score.weight)
                if score.bias is not None:
                    self.value_head.bias.copy_(score.bias)
        self._value_decoder = Decoder.of_trunk(self.value_trunk, self.value_head)
        check_vocabulary(self._value_decoder.vocabulary_size, self.vocabulary_size)
        self.values_episodes = True

    @classmethod
    def of_reference(
        cls,
        reference: CausalLanguageModel,
        *,
        value_model: Any | None = None,  # noqa: ANN401
        sampling: Sampling = PLAIN,
    ) -> "CausalLMPolicy":
        """Returns a policy that starts as a copy of the reference: their KL is 0."""
        return cls(
            copy.deepcopy(reference.model),
            value_model=value_model,
            vocabulary_size=reference.vocabulary_size,
            sampling=sampling,
            reference=reference if sampling.reference_share else None,
            device=str(next(reference.model.parameters()).device),
        )

    def next_logits(self, hidden: Tensor, obs: Any, rows: slice | Tensor) -> Tensor:  # noqa: ANN401
        """Returns the logits after some of the observations, [R, V]."""
        return self._decoder.next_logits(hidden[rows])[..., : self.vocabulary_size]

    def episode_logits(self, hidden: Tensor, episodes: Episodes, places: Places) -> Tensor:
        """Returns the logits after M places, [M, H] -> [M, V]."""
        logits: Tensor = self._decoder.head(hidden)[..., : self.vocabulary_size]
        return logits

    def forget(self) -> None:
        """Drops what is remembered between calls: the next numbers are fresh, to the last bit."""
        super().forget()
        if self._value_decoder is not None:
            self._value_decoder.forget()

    @torch.no_grad()
    def next_values(self, obs: Any) -> NDArray[np.float64]:  # noqa: ANN401 - either form
        """Returns the value of each observation, shape (B,)."""
        if self._value_decoder is None:
            return super().next_values(obs)
        values = super()._value_of(self._value_decoder.reader.read(obs))
        return values.double().cpu().numpy()

    def _episode_values(self, episodes: Episodes) -> Tensor:
        if self._value_decoder is None:
            return super()._episode_values(episodes)
        return self._separate_values(episodes)  # the policy's own trunk is not needed

    def _value_of(self, hidden: Tensor) -> Tensor:
        if self._value_decoder is not None:
            return hidden.new_full((len(hidden),), torch.nan)
        return super()._value_of(hidden)

    def _episode_value_of(self, hidden: Tensor, episodes: Episodes) -> Tensor:
        if self._value_decoder is not None:
            return self._separate_values(episodes)
        return super()._episode_value_of(hidden, episodes)

    def _separate_values(self, episodes: Episodes) -> Tensor:
        assert self._value_decoder is not None
        rows, columns = episodes.response_places()
        hidden = self._value_decoder.hidden_at(
            episodes.input_ids, (rows, columns - 1), is_checkpointed=self.is_checkpointed
        )
        return super()._value_of(hidden)

    def save(self, folder: Path) -> None:
        """Writes an ordinary Transformers folder, the value head in a file beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder)
        save_file(self.value_head.state_dict(), folder / "value_head.safetensors")
        shutil.rmtree(folder / "value_model", ignore_errors=True)
        if self._value_decoder is not None:
            self.value_trunk.save_pretrained(folder / "value_model")
        if self.sampling.reference_share and self.reference is not None:
            save_reference(self.reference, folder)
        self.write_about(folder, kind="causal_lm", vocabulary_size=self.vocabulary_size)

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Reads what `save` wrote."""
        about = json.loads((folder / "policy.json").read_text())
        path = folder / "value_model"
        value_model = load_value_model(str(path)) if path.is_dir() else None
        sampling, reference = read_sampling(about), None
        if sampling.reference_share:
            reference = load_reference(folder, about["vocabulary_size"])
        policy = cls(
            load_causal_lm(str(folder)),
            value_model=value_model,
            vocabulary_size=about["vocabulary_size"],
            sampling=sampling,
            reference=reference,
            device=device,
        )
        head = load_file(folder / "value_head.safetensors", device=str(torch.device(policy.device)))
        policy.value_head.load_state_dict(head)
        return policy


def load_value_model(path: str) -> Any:  # noqa: ANN401 - any Transformers decoder
    """Loads a Transformers decoder in float32, a sequence classifier with its head.

    Raises:
        InvalidInputError: no such model there.
    """
    try:
        names = AutoConfig.from_pretrained(path).architectures or [""]
        is_classifier = names[0].endswith("ForSequenceClassification")
        kind: Any = AutoModelForSequenceClassification if is_classifier else AutoModel
        return kind.from_pretrained(path, dtype=torch.float32, use_safetensors=True)
    # Whatever is wrong with a user's folder may come as either; it is raised again.
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"Cannot load a value model from {path!r}. Give a Transformers folder with "
            f"model.safetensors ({str(error).strip().splitlines()[0]})."
        ) from error
