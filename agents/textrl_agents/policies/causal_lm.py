"""CausalLMPolicy: a Transformers causal LM with a value head on its trunk."""

import copy
import json
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from textrl_agents.episodes import Episodes
from textrl_agents.policies.network import NetworkPolicy, Places
from textrl_envs.language_models.causal import CausalLanguageModel, check_vocabulary
from textrl_envs.language_models.decoder import Decoder, choose_device, load_causal_lm

__all__ = ["CausalLMPolicy"]


class CausalLMPolicy(NetworkPolicy):
    """The whole language model is trained; a linear value head reads its last hidden state.

    Args:
        model: any Transformers causal LM. It is trained in place.
        vocabulary_size: V of the environment; None takes the model's.
        temperature: divides the logits.
        device: "auto", "cpu", "cuda", ...

    Raises:
        InvalidInputError: a model that cannot be taken apart, or with too small a vocabulary.
    """

    default_learning_rate: ClassVar[float] = 1e-4

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - any Transformers causal LM
        *,
        vocabulary_size: int | None = None,
        temperature: float = 1.0,
        device: str = "auto",
    ) -> None:
        model = model.to(choose_device(device)).requires_grad_(True)
        decoder = Decoder.of(model)
        check_vocabulary(decoder.vocabulary_size, vocabulary_size)
        super().__init__(
            decoder,
            vocabulary_size=vocabulary_size or decoder.vocabulary_size,
            temperature=temperature,
        )
        self.model = model

    @classmethod
    def of_reference(
        cls, reference: CausalLanguageModel, *, temperature: float = 1.0
    ) -> "CausalLMPolicy":
        """Returns a policy that starts as a copy of the reference: their KL is 0."""
        return cls(
            copy.deepcopy(reference.model),
            vocabulary_size=reference.vocabulary_size,
            temperature=temperature,
            device=str(next(reference.model.parameters()).device),
        )

    def next_logits(self, hidden: Tensor, obs: Any) -> Tensor:  # noqa: ANN401
        """Returns the logits after each observation, [B, H] -> [B, V]."""
        return self._decoder.next_logits(hidden)[..., : self.vocabulary_size]

    def episode_logits(self, hidden: Tensor, episodes: Episodes, places: Places) -> Tensor:
        """Returns the logits after M places, [M, H] -> [M, V]."""
        logits: Tensor = self._decoder.head(hidden)[..., : self.vocabulary_size]
        return logits

    def save(self, folder: Path) -> None:
        """Writes an ordinary Transformers folder, the value head in a file beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder)
        save_file(self.value_head.state_dict(), folder / "value_head.safetensors")
        about = {
            "kind": "causal_lm",
            "vocabulary_size": self.vocabulary_size,
            "temperature": self.temperature,
        }
        (folder / "policy.json").write_text(json.dumps(about, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Reads what `save` wrote."""
        about = json.loads((folder / "policy.json").read_text())
        policy = cls(
            load_causal_lm(str(folder)),
            vocabulary_size=about["vocabulary_size"],
            temperature=about["temperature"],
            device=device,
        )
        head = load_file(folder / "value_head.safetensors", device=str(torch.device(policy.device)))
        policy.value_head.load_state_dict(head)
        return policy
