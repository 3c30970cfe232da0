"""What the environments over symbols share: a tokenizer of the symbols, and a bigram of weights."""

from collections.abc import Mapping

import numpy as np

from textrl_envs.language_models.ngram import NGramModel

__all__ = ["bigram_of", "words_of"]


def words_of(symbols: str) -> tuple[str, ...]:
    """Returns padding, EOS, and symbols given with spaces between.

    >>> words_of("( )")
    ('<pad>', '<eos>', '(', ')')
    """
    return ("<pad>", "<eos>", *symbols.split())


def bigram_of(
    words: tuple[str, ...],
    weights: Mapping[str, Mapping[str, float]],
    *,
    uniform_weight: float = 1e-3,
) -> NGramModel:
    """Returns a bigram model written by hand.

    Args:
        words: the vocabulary.
        weights: of the words that follow each word, in proportion. What is left out has none.
        uniform_weight: share of the uniform distribution in each row, so that no log-ratio against
            the model is infinite. Rows that are left out are uniform.
    """
    size = len(words)
    table = np.full((size, size), 1 / size)
    for word, following in weights.items():
        row = np.zeros(size)
        for other, weight in following.items():
            row[words.index(other)] = weight
        table[words.index(word)] = (1 - uniform_weight) * row / row.sum() + uniform_weight / size
    return NGramModel(np.log(table))
