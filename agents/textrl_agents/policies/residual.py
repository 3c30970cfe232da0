"""ResidualPolicy: a small network added to the reference's logits, zero at the start.

Training starts exactly at the reference, so that an agent's score starts at 0 and every nat of KL
was paid for by learning.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import skip_init

from textrl_agents.episodes import Episodes
from textrl_agents.policies.network import (
    NetworkPolicy,
    Places,
    load_reference,
    save_reference,
)
from textrl_agents.policies.sampling import PLAIN, Sampling, read_sampling
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.base import LanguageModel
from textrl_envs.language_models.decoder import Decoder, choose_device
from textrl_envs.language_models.prefix_reader import PrefixReader

__all__ = ["ResidualPolicy"]


class ResidualPolicy(NetworkPolicy):
    """logits = log π_ref(. | text) + head(trunk(text)), the head being zero at first.

    Args:
        reference: the frozen model underneath.
        max_tokens: L of the environment, the positions of the network.
        layers: transformer blocks.
        width: hidden size.
        heads: attention heads.
        seed: of the network's first weights.
        sampling: how the distribution is made of the logits.
        device: "auto", "cpu", "cuda", ...

    Raises:
        InvalidInputError: a width that the heads do not divide.
    """

    default_learning_rate: ClassVar[float] = 1e-3
    reference: LanguageModel

    def __init__(
        self,
        reference: LanguageModel,
        *,
        max_tokens: int,
        layers: int = 2,
        width: int = 64,
        heads: int = 4,
        seed: int = 0,
        sampling: Sampling = PLAIN,
        device: str = "auto",
    ) -> None:
        if width % heads:
            raise InvalidInputError(f"width must be a multiple of heads; got {width} and {heads}.")
        self._shape = {"max_tokens": max_tokens, "layers": layers, "width": width, "heads": heads}
        decoder = _small_decoder(reference.vocabulary_size, self._shape, seed, device)
        super().__init__(
            decoder,
            vocabulary_size=reference.vocabulary_size,
            sampling=sampling,
            reference=reference,
        )
        assert isinstance(decoder.head, nn.Linear)
        self.head = decoder.head

    def next_logits(self, hidden: Tensor, obs: Any, rows: slice | Tensor) -> Tensor:  # noqa: ANN401
        """Returns the logits after some of the observations, [R, V]."""
        # Of all rows: a reference that remembers texts knows each by its row.
        base = torch.from_numpy(self.reference.next_log_probs(obs)).to(hidden)
        logits: Tensor = base[rows] + self.head(hidden[rows])
        return logits

    def episode_logits(self, hidden: Tensor, episodes: Episodes, places: Places) -> Tensor:
        """Returns the logits after M places, [M, H] -> [M, V]."""
        base = self.reference.log_probs_at(episodes.input_ids, episodes.attention_mask, places)
        logits: Tensor = torch.from_numpy(base).to(hidden) + self.head(hidden)
        return logits

    def save(self, folder: Path) -> None:
        """Writes network and reference, so that the folder stands alone."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "residual.safetensors")
        save_reference(self.reference, folder)
        self.write_about(
            folder, kind="residual", vocabulary_size=self.vocabulary_size, **self._shape
        )

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Reads what `save` wrote."""
        about = json.loads((folder / "policy.json").read_text())
        about.pop("kind")
        reference = load_reference(folder, about.pop("vocabulary_size"))
        policy = cls(reference, sampling=read_sampling(about), device=device, **about)
        policy.load_state_dict(load_file(folder / "residual.safetensors"))
        return policy


def _small_decoder(vocabulary_size: int, shape: dict[str, int], seed: int, device: str) -> Decoder:
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(
        vocab_size=vocabulary_size,
        n_positions=shape["max_tokens"],
        n_layer=shape["layers"],
        n_embd=shape["width"],
        n_head=shape["heads"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    # The global generator is lent to the initialisation alone, and given back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = GPT2Model(config)
    head = skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, shape["width"], vocabulary_size, bias=False
    )
    nn.init.zeros_(head.weight)
    place = choose_device(device)
    nn.Module.to(trunk, place)
    head.to(place)
    return Decoder(trunk, head, PrefixReader(trunk), vocabulary_size)
