"""NetworkPolicy: a Transformers trunk with two heads, its last forward remembered."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.utils.checkpoint import checkpoint

from textrl_agents.episodes import Episodes
from textrl_agents.policies.base import Policy, TokenEvaluation, response_tokens
from textrl_agents.policies.distribution import TokenDistribution, token_log_probs
from textrl_agents.policies.sampling import PLAIN, Sampling
from textrl_envs.language_models.base import LanguageModel
from textrl_envs.language_models.decoder import Decoder
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.language_models.prefix_reader import weights_version
from textrl_envs.language_models.top_k import TopKModel

__all__ = ["NetworkPolicy", "Places", "load_reference", "new_value_head", "save_reference"]

Places = tuple[NDArray[np.int64], NDArray[np.int64]]

KEPT_LOGITS = 1 << 25
"""Logits kept for the gradients at once: 128 MiB in float32."""


MOST_ROWS_ALONE = 0.9
"""With a larger share of rows that have changed, the logits of all are made in one product."""


@dataclass(frozen=True, slots=True)
class _Memo:
    """The last forward: asked again about an observation, a policy answers from it."""

    key: Any
    stamps: NDArray[np.int64]
    logits: Tensor
    distribution: TokenDistribution
    values: Tensor


class NetworkPolicy(Policy):
    """Base of the policies that are networks. A subclass says how logits come from hidden states.

    Asked again about the observation it has just acted on, it answers from memory.

    Args:
        decoder: trunk and head.
        vocabulary_size: V of the environment; logits beyond it are left out.
        sampling: how the distribution is made of the logits, in drawing and in every
            log-probability alike.
        reference: what `sampling` mixes in, if it does. It is shared, and not trained.

    Raises:
        InvalidInputError: a share of the reference, and no reference.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        vocabulary_size: int,
        sampling: Sampling = PLAIN,
        reference: LanguageModel | None = None,
    ) -> None:
        sampling.check_reference(reference)
        super().__init__(vocabulary_size=vocabulary_size, sampling=sampling)
        self.reference = reference
        self.trunk = decoder.trunk
        width: int = decoder.trunk.config.hidden_size  # type: ignore[assignment, union-attr]
        self.value_head = new_value_head(width, decoder.device)
        self.to(decoder.device)
        self._decoder = decoder
        self._memo: _Memo | None = None
        self._weights: tuple[nn.Parameter, ...] = ()
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.value_head.weight.device

    @abstractmethod
    def next_logits(self, hidden: Tensor, obs: Any, rows: slice | Tensor) -> Tensor:  # noqa: ANN401
        """Returns the logits after some of the observations, [R, V], a fresh tensor.

        Args:
            hidden: the hidden states after all of them, [B, H].
            obs: all of them, in either form.
            rows: which R of them.
        """

    @abstractmethod
    def episode_logits(self, hidden: Tensor, episodes: Episodes, places: Places) -> Tensor:
        """Returns the logits after M places, [M, H] -> [M, V], a fresh tensor, with gradients.

        Args:
            hidden: the hidden states at the places.
            episodes: whose texts they are.
            places: row and column in `episodes.input_ids`, shape (M,) both.
        """

    def check_length(self, length: int) -> None:
        """Raises InvalidInputError if texts of that many tokens are too long for the network."""
        self._decoder.reader.check_length(length)

    def forget(self) -> None:
        """Drops what is remembered between calls: the next numbers are fresh, to the last bit."""
        self._decoder.forget()
        if self.reference is not None:
            self.reference.forget()
        self._memo = None
        self._weights = ()  # layers may have been exchanged

    def _read(self, obs: Any) -> tuple[TokenDistribution, Tensor]:  # noqa: ANN401 - either form
        hidden = self._decoder.reader.read(obs)
        stamps = self._decoder.reader.stamps[: len(hidden)].copy()
        key = (len(hidden), self._weights_version(), self.sampling)
        memo = self._memo if self._memo is not None and self._memo.key == key else None
        if memo is not None and np.array_equal(memo.stamps, stamps):
            return memo.distribution, memo.values
        logits = self._fresh_logits(hidden, obs, stamps, memo)
        self._memo = _Memo(key, stamps, logits, TokenDistribution(logits), self._value_of(hidden))
        return self._memo.distribution, self._memo.values

    def _fresh_logits(
        self,
        hidden: Tensor,
        obs: Any,  # noqa: ANN401 - either form
        stamps: NDArray[np.int64],
        memo: "_Memo | None",
    ) -> Tensor:
        """Returns the logits [B, V]; rows that wait keep those they had."""
        if memo is not None and hidden.device.type == "cpu":
            rows = np.flatnonzero(memo.stamps != stamps)
            if len(rows) <= MOST_ROWS_ALONE * len(stamps):
                some = torch.from_numpy(rows)
                memo.logits[some] = self._next_sampled(hidden, obs, some)
                return memo.logits
        return self._next_sampled(hidden, obs, slice(None))

    def _next_sampled(self, hidden: Tensor, obs: Any, rows: slice | Tensor) -> Tensor:  # noqa: ANN401
        """Returns the logits of what is drawn from, after some of the observations, [R, V]."""
        logits = _promoted(self.next_logits(hidden, obs, rows))
        ref_log_probs = None
        if self.sampling.reference_share:
            assert self.reference is not None
            ref_log_probs = torch.from_numpy(self.reference.next_log_probs(obs)).to(logits)[rows]
        return self.sampling.apply(logits, ref_log_probs=ref_log_probs)

    def evaluate(self, episodes: Episodes, *, with_entropies: bool = True) -> TokenEvaluation:
        """Returns log-prob, entropy and value of the M response tokens, with gradients.

        Logits are made at these tokens alone. Where they are many, a part at a time: it is made
        again for the gradients, and never are all of them held.
        """
        rows, columns = episodes.response_places()
        # A token is predicted from the column before it: the last of the prompt, for the first.
        before = (rows, columns - 1)
        hidden = self._decoder.hidden_at(
            episodes.input_ids, before, is_checkpointed=self.is_checkpointed
        )
        tokens = response_tokens(episodes, self.device)
        size = max(1, KEPT_LOGITS // self.vocabulary_size)
        if len(tokens) <= size:
            log_probs, entropies = self._token_log_probs(
                hidden, episodes, before, tokens, with_entropies
            )
        else:
            parts = [slice(start, start + size) for start in range(0, len(tokens), size)]
            found = [
                checkpoint(
                    self._token_log_probs,
                    hidden[part],
                    episodes,
                    (before[0][part], before[1][part]),
                    tokens[part],
                    with_entropies,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
                for part in parts
            ]
            log_probs, entropies = (torch.cat(column) for column in zip(*found, strict=True))
        return TokenEvaluation(log_probs, entropies, self._episode_value_of(hidden, episodes))

    def _token_log_probs(
        self,
        hidden: Tensor,
        episodes: Episodes,
        places: Places,
        tokens: Tensor,
        with_entropies: bool,
    ) -> tuple[Tensor, Tensor]:
        logits = _promoted(self.episode_logits(hidden, episodes, places))
        ref_log_probs = None
        if self.sampling.reference_share:
            assert self.reference is not None
            found = self.reference.log_probs_at(episodes.input_ids, episodes.attention_mask, places)
            ref_log_probs = torch.from_numpy(found).to(logits)
        logits = self.sampling.apply(logits, ref_log_probs=ref_log_probs, tokens=tokens)
        return token_log_probs(logits, tokens, with_entropies=with_entropies)

    def _value_of(self, hidden: Tensor) -> Tensor:
        """Returns values [N] from hidden states [N, H]."""
        values: Tensor = self.value_head(hidden.to(self.value_head.weight.dtype))[:, 0]
        return values

    def _episode_value_of(self, hidden: Tensor, episodes: Episodes) -> Tensor:
        """Returns the values before the response tokens, from the hidden states there, [M]."""
        return self._value_of(hidden)

    def _weights_version(self) -> tuple[int, ...]:
        if not self._weights:
            self._weights = tuple(self.parameters())
        return weights_version(self._weights)


def _promoted(tensor: Tensor) -> Tensor:
    """Half precision is too coarse for a log-ratio; float64 stays what it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def new_value_head(width: int, device: torch.device) -> nn.Linear:
    """Returns a head that gives 0, so that the first advantages are no noise of a random value."""
    # Not initialised, so that no generator is drawn from.
    head: nn.Linear = skip_init(nn.Linear, width, 1, device=device)  # type: ignore[no-untyped-call]
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def save_reference(reference: LanguageModel, folder: Path) -> None:
    """Writes a reference beside its policy."""
    is_table = isinstance(reference, NGramModel)
    reference.save(folder / ("ngram.safetensors" if is_table else "reference"))  # type: ignore[attr-defined]


def load_reference(folder: Path, vocabulary_size: int) -> LanguageModel:
    """Reads what `save_reference` wrote."""
    if (folder / "ngram.safetensors").exists():
        return NGramModel.load(folder / "ngram.safetensors")
    if (folder / "reference" / "top_k.json").exists():
        return TopKModel.load(folder / "reference")
    from textrl_envs.language_models.causal import CausalLanguageModel

    return CausalLanguageModel.load(str(folder / "reference"), vocabulary_size=vocabulary_size)
