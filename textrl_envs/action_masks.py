"""Which tokens may be chosen, for algorithms that mask actions, such as MaskablePPO."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from textrl_envs.core import TextCore
from textrl_envs.tokenizers import Tokenizer

__all__ = ["allowed_tokens"]


def allowed_tokens(core: TextCore, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns which tokens may come next in some rows, (len(rows), V).

    All but padding and the other special tokens, EOS aside; and of these the ones that the
    reference, where there is one, gives a probability above 0: a cut reference such as that of
    TinyGPT-v0 leaves few, and any other token has an infinite KL. A reference that says special
    tokens alone is followed.
    """
    task = core.task
    plain = np.ones((len(rows), task.vocabulary_size), np.bool_)
    plain[:, _special_ids(task.tokenizer)] = False
    if task.load_reference is None or not len(rows):
        return plain
    obs = {"input_ids": core.input_ids[rows], "attention_mask": core.attention_mask[rows]}
    possible = task.load_reference().next_log_probs(obs)[:, : task.vocabulary_size] > -np.inf
    both: NDArray[np.bool_] = plain & possible
    return np.where(both.any(axis=1, keepdims=True), both, possible)


def _special_ids(tokenizer: Tokenizer) -> list[int]:
    """Returns the ids of padding, BOS and the like: special tokens that are no EOS."""
    special: Any = getattr(tokenizer, "all_special_ids", [tokenizer.pad_token_id])
    return [i for i in special if i is not None and i != tokenizer.eos_token_id]
