"""TokenEmbeddingExtractor: features from padded token ids, for any policy of Stable-Baselines3."""

from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from textrl_envs.errors import InvalidInputError
from textrl_envs.observations import FLAT_PADDING

__all__ = ["TokenEmbeddingExtractor"]


class TokenEmbeddingExtractor(BaseFeaturesExtractor):
    """Sees the last tokens as they stand, and looks back at all tokens from there.

    Features: embeddings of the last `window` tokens and of the length of the text, which says how
    much room is left; and what some heads of attention find, asked by the last token and the
    length: means of the embeddings of all tokens, weighted by what each is and where it stands. It
    is one transformer layer at the last place alone, since SB3 gives each text afresh.

    Args:
        observation_space: of a text environment, either form.
        window: last tokens that are told apart.
        heads: of the attention.
        embedding_dim: numbers an embedding, a multiple of `heads`.

    Raises:
        InvalidInputError: an `embedding_dim` that the heads do not divide.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        *,
        window: int = 4,
        heads: int = 4,
        embedding_dim: int = 32,
    ) -> None:
        if embedding_dim % heads:
            raise InvalidInputError(
                f"embedding_dim must be a multiple of heads; got {embedding_dim} and {heads}."
            )
        super().__init__(observation_space, features_dim=(window + 2) * embedding_dim)
        is_dict = isinstance(observation_space, gym.spaces.Dict)
        ids: Any = observation_space["input_ids"] if is_dict else observation_space  # type: ignore[index]
        self.window = window
        self.heads = heads
        self.padding = int(ids.high.max()) + 1
        self.tokens = nn.Embedding(self.padding + 1, embedding_dim, padding_idx=self.padding)
        self.places = nn.Embedding(ids.shape[0] + 1, embedding_dim)
        self.query = nn.Linear(2 * embedding_dim, embedding_dim)
        self.key = nn.Linear(embedding_dim, embedding_dim)
        self.value = nn.Linear(embedding_dim, embedding_dim)

    def forward(self, observations: Any) -> Tensor:  # noqa: ANN401 - either form
        """Returns the features of B texts, [B, (window + 2) embedding_dim]."""
        ids, lengths = self.read(observations)
        columns = lengths[:, None] - 1 - torch.arange(self.window, device=ids.device)
        last = ids.gather(1, columns.clamp(min=0)).masked_fill(columns < 0, self.padding)
        last = self.tokens(last)
        room = self.places(lengths)
        texts = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        query = self.query(torch.cat([last[:, 0], room], dim=1))[:, None]
        found = scaled_dot_product_attention(
            self._split(query),
            self._split(self.key(texts)),
            self._split(self.value(texts)),
            attn_mask=(ids != self.padding)[:, None, None],
        )
        return torch.cat([last.flatten(1), room, found.flatten(1)], dim=1)

    def _split(self, numbers: Tensor) -> Tensor:
        """Returns the heads' parts, [B, L, d] -> [B, heads, L, d / heads]."""
        return numbers.view(*numbers.shape[:2], self.heads, -1).transpose(1, 2)

    def read(self, observations: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - either form
        """Returns ids int64 [B, L], `padding` behind the text, and lengths int64 [B]."""
        if isinstance(observations, dict):
            ids, is_text = observations["input_ids"], observations["attention_mask"] > 0
        else:
            ids, is_text = observations, observations != FLAT_PADDING
        return ids.long().masked_fill(~is_text, self.padding), is_text.sum(1)
