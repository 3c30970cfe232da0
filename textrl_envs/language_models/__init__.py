"""Language models: what gives the probability of the next token, for references and policies.

Import `CausalLanguageModel` from `textrl_envs.language_models.causal`: it loads torch.
"""

from textrl_envs.language_models.base import LanguageModel, TokenScorer
from textrl_envs.language_models.ngram import NGramModel

__all__ = ["LanguageModel", "NGramModel", "TokenScorer"]
