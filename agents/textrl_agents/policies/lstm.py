"""LSTMPolicy: a recurrent language model, added to the reference's logits where there is one.

The state of an LSTM (Hochreiter and Schmidhuber 1997) stands for the whole text, so that a token
costs the same however long the text is.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.nn.utils.rnn import pack_padded_sequence

from textrl_agents.episodes import Episodes
from textrl_agents.policies.network import NetworkPolicy, Places, load_reference, save_reference
from textrl_agents.policies.sampling import PLAIN, Sampling, read_sampling
from textrl_envs.language_models.base import LanguageModel
from textrl_envs.language_models.decoder import Decoder, choose_device
from textrl_envs.language_models.prefix_reader import PrefixReader
from textrl_envs.observations import read_observation

__all__ = ["LSTMPolicy"]

State = tuple[Tensor, Tensor]
"""h and c of some rows, [layers, B, H] both."""


class LSTMPolicy(NetworkPolicy):
    """logits = log π_ref(. | text) + head(LSTM(text)), the head being zero at first.

    Training begins exactly at the reference. Without one it begins with equal chances for all
    tokens, and the network is a language model by itself.

    Args:
        vocabulary_size: V.
        reference: the frozen model underneath, or None.
        layers: of the LSTM.
        width: of embedding and state.
        seed: of the network's first weights.
        sampling: how the distribution is made of the logits.
        device: "auto", "cpu", "cuda", ...
    """

    default_learning_rate: ClassVar[float] = 2e-3

    def __init__(
        self,
        *,
        vocabulary_size: int,
        reference: LanguageModel | None = None,
        layers: int = 1,
        width: int = 64,
        seed: int = 0,
        sampling: Sampling = PLAIN,
        device: str = "auto",
    ) -> None:
        self._shape = {"layers": layers, "width": width}
        # The global generator is lent to the initialisation alone, and given back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            trunk = _Trunk(vocabulary_size, layers, width)
        head = skip_init(  # type: ignore[no-untyped-call]
            nn.Linear, width, vocabulary_size, bias=False
        )
        nn.init.zeros_(head.weight)
        place = choose_device(device)
        decoder = Decoder(trunk.to(place), head.to(place), _StateReader(trunk), vocabulary_size)
        super().__init__(
            decoder, vocabulary_size=vocabulary_size, sampling=sampling, reference=reference
        )
        self.head = head

    def next_logits(self, hidden: Tensor, obs: Any, rows: slice | Tensor) -> Tensor:  # noqa: ANN401
        """Returns the logits after some of the observations, [R, V]."""
        logits: Tensor = self.head(hidden[rows])
        if self.reference is None:
            return logits
        # Of all rows: a reference that remembers texts knows each by its row.
        return logits + torch.from_numpy(self.reference.next_log_probs(obs)).to(hidden)[rows]

    def episode_logits(self, hidden: Tensor, episodes: Episodes, places: Places) -> Tensor:
        """Returns the logits after M places, [M, H] -> [M, V]."""
        logits: Tensor = self.head(hidden)
        if self.reference is None:
            return logits
        base = self.reference.log_probs_at(episodes.input_ids, episodes.attention_mask, places)
        return logits + torch.from_numpy(base).to(hidden)

    def save(self, folder: Path) -> None:
        """Writes network and reference, so that the folder stands alone."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "lstm.safetensors")
        if self.reference is not None:
            save_reference(self.reference, folder)
        self.write_about(
            folder,
            kind="lstm",
            vocabulary_size=self.vocabulary_size,
            has_reference=self.reference is not None,
            **self._shape,
        )

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Reads what `save` wrote."""
        about = json.loads((folder / "policy.json").read_text())
        about.pop("kind")
        reference = None
        if about.pop("has_reference"):
            reference = load_reference(folder, about["vocabulary_size"])
        policy = cls(reference=reference, sampling=read_sampling(about), device=device, **about)
        policy.load_state_dict(load_file(folder / "lstm.safetensors"))
        return policy


class _Trunk(nn.Module):
    """Token ids -> hidden states, called as a trunk of Transformers is."""

    def __init__(self, vocabulary_size: int, layers: int, width: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=width)
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)

    def forward(self, input_ids: Tensor, *, use_cache: bool = False) -> SimpleNamespace:
        """[B, L] -> [B, L, H]. Padding lies behind every token, and so changes none."""
        hidden, _ = self.lstm(self.embedding(input_ids))
        return SimpleNamespace(last_hidden_state=hidden)

    def read_texts(self, input_ids: Tensor, lengths: Tensor) -> State:
        """Returns the state after whole texts, int64 [B, L] and [B]."""
        texts = pack_padded_sequence(
            self.embedding(input_ids), lengths, batch_first=True, enforce_sorted=False
        )
        state: State = self.lstm(texts)[1]
        return state

    def read_tokens(self, tokens: Tensor, state: State) -> State:
        """Returns the state after one more token a row, int64 [B]."""
        after: State = self.lstm(self.embedding(tokens[:, None]), state)[1]
        return after


class _StateReader(PrefixReader):
    """Remembers the state of each row: one token more costs one token.

    A row asked again costs nothing, and any other text is read afresh.
    """

    _trunk: _Trunk

    def forget(self) -> None:
        """Drops everything remembered."""
        super().forget()
        self._state: State | None = None

    @torch.no_grad()
    def read(self, obs: Any) -> Tensor:  # noqa: ANN401 - either form of an observation
        """Returns the hidden state of the last token of each row, shape (B, H)."""
        ids, lengths = read_observation(obs)
        self._notice_new_weights()
        self._make_room(*ids.shape)
        known = self._common_prefix(ids, lengths)
        is_intact = known == self._lengths[: len(ids)]
        is_next = is_intact & (known > 0) & (lengths == known + 1)
        is_new = ~(is_intact & (lengths == known)) & ~is_next
        for rows, read in (
            (np.flatnonzero(is_next), self._read_next),
            (np.flatnonzero(is_new), self._read_afresh_rows),
        ):
            if rows.size:
                self._keep_state(rows, read(rows, ids, lengths))
                self._ids[rows, : ids.shape[1]] = ids[rows]
                self._lengths[rows] = lengths[rows]
        assert self._state is not None
        return self._state[0][-1, : len(ids)]

    def _read_next(
        self, rows: NDArray[np.int64], ids: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> State:
        assert self._state is not None
        h, c = self._state
        tokens = torch.from_numpy(ids[rows, lengths[rows] - 1]).to(h.device)
        places = torch.from_numpy(rows).to(h.device)
        return self._trunk.read_tokens(tokens, (h[:, places], c[:, places]))

    def _read_afresh_rows(
        self, rows: NDArray[np.int64], ids: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> State:
        width = int(lengths[rows].max())
        # What stands behind the text may be no token at all: -1 in the flat form.
        texts = np.where(np.arange(width) < lengths[rows, None], ids[rows, :width], 0)
        return self._trunk.read_texts(
            torch.from_numpy(texts).to(self._device), torch.from_numpy(lengths[rows])
        )

    def _keep_state(self, rows: NDArray[np.int64], state: State) -> None:
        self.version += 1
        self.stamps[rows] = self.version
        if self._state is None:
            shape = (len(state[0]), len(self._lengths), state[0].shape[-1])
            self._state = state[0].new_zeros(shape), state[1].new_zeros(shape)
        places = torch.from_numpy(rows).to(state[0].device)
        # Not in place: an answer may still be looked at.
        h, c = (old.index_copy(1, places, new) for old, new in zip(self._state, state, strict=True))
        self._state = h, c

    def _make_room(self, num_rows: int, num_columns: int) -> None:
        """Takes more rows or columns, and keeps nothing of what was known."""
        slots, columns = self._ids.shape
        if num_rows <= slots and num_columns <= columns:
            return
        slots, columns = max(slots, num_rows), max(columns, num_columns)
        self._ids = np.full((slots, columns), -1, np.int64)
        self._lengths = np.zeros(slots, np.int64)
        self.stamps = np.zeros(slots, np.int64)
        self._state = None
