"""Makes the reward model of `textrl/ProxyReward-v0`: readers rank stories, weights are fitted."""

import numpy as np
from numpy.typing import NDArray

from textrl_envs.data.ranking import fit_pair_weights, rank
from textrl_envs.data.stories import EOS, VOCABULARY
from textrl_envs.environments.proxy_reward import MAX_NEW_TOKENS, gold_automaton
from textrl_envs.environments.story_tasks import OPENINGS
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.language_models.sampling import draw

__all__ = ["draw_rankings", "fit_proxy"]

RANKED = 4
"""Responses to a prompt that are ranked together, K."""
NOISE = 0.15
"""Of a reader, in units of the gold score."""
LEVELS = 64
"""Weights are whole multiples of 1/64, so that the law of their sums can be computed."""

Ints = NDArray[np.int64]


def fit_proxy(reference: NGramModel, number: int = 2000, *, seed: int = 0) -> NDArray[np.float64]:
    """Fits the weights of pairs of tokens, (V + 1, V), and scales them.

    The scale puts all but the lowest and the highest thousandth of the reference's stories into
    [0, 1], up to rounding.

    Args:
        reference: writes the stories.
        number: of rankings.
        seed: of stories and readers.
    """
    rng = np.random.default_rng(seed)
    rankings = draw_rankings(reference, number, rng)
    size = len(VOCABULARY)
    weights = fit_pair_weights(rankings, vocabulary_size=size)
    fresh = [_story(reference, last, rng) for last in np.resize(_last_tokens(), 20_000).tolist()]
    sums = [weights[np.concatenate([[size], ids[:-1]]), ids].sum() for ids in fresh]
    low, high = np.quantile(sums, [0.001, 0.999])
    weights[size] -= low  # every response has exactly one first token
    scaled: NDArray[np.float64] = np.rint(weights / (high - low) * LEVELS) / LEVELS
    return scaled


def draw_rankings(reference: NGramModel, number: int, rng: np.random.Generator) -> list[list[Ints]]:
    """Draws prompts, four stories of the reference for each, and ranks them, the best first."""
    gold = gold_automaton()
    rankings = []
    for last in np.resize(_last_tokens(), number).tolist():
        stories = [_story(reference, last, rng) for _ in range(RANKED)]
        scores = np.array([gold.score(ids) for ids in stories])
        rankings.append([stories[place] for place in rank(scores, noise=NOISE, rng=rng)])
    return rankings


def _last_tokens() -> Ints:
    return np.array([VOCABULARY.index(opening.split()[-1]) for opening in OPENINGS])


def _story(reference: NGramModel, last: int, rng: np.random.Generator) -> Ints:
    """Draws a story of the reference, from the token before it."""
    ids: list[int] = []
    while len(ids) < MAX_NEW_TOKENS and last != VOCABULARY.index(EOS):
        last = int(draw(reference.table[last : last + 1], rng)[0])
        ids.append(last)
    return np.array(ids)
