"""The ids under which `gym.make` and `gym.make_vec` find the environments.

Entry points are strings, so that importing this loads neither torch nor transformers.
"""

import gymnasium as gym

__all__ = ["IDS", "register_all"]

IDS = {
    "textrl/Keyword-v0": (
        "keyword",
        "sparse credit: write a story that mentions two words in order",
    ),
    "textrl/KeywordDense-v0": ("keyword_dense", "dense credit: the same, and each word is paid"),
    "textrl/LongKeyword-v0": ("long_keyword", "a long horizon: two words many sentences apart"),
    "textrl/ExactLength-v0": ("exact_length", "EOS: end after exactly so many words"),
    "textrl/Brackets-v0": ("brackets", "structure: close all brackets"),
    "textrl/Parity-v0": ("parity", "no partial signal: ones a multiple of three"),
    "textrl/Passcode-v0": ("passcode", "exploration: one code among ten thousand"),
    "textrl/SumVerify-v0": ("sum_verify", "verified answers: another one to each prompt"),
    "textrl/Format-v0": ("format_records", "format: match a regular expression"),
    "textrl/LengthHack-v0": ("length_hack", "a degenerate optimum: length is the reward"),
    "textrl/Mixture-v0": ("mixture", "differences between prompts: easy to impossible"),
    "textrl/KLTrade-v0": ("kl_trade", "KL against reward: graded word weights"),
    "textrl/Classification-v0": ("classification", "classification: the sentiment of a review"),
    "textrl/Tagging-v0": ("tagging", "entity tagging: a tag for every word of the sentence"),
    "textrl/Noisy-v0": ("noisy", "noise: a judge who errs, the optimum unchanged"),
    "textrl/ProxyReward-v0": (
        "proxy_reward",
        "over-optimisation: a reward model, gold in the info",
    ),
    "textrl/Safe-v0": ("safe", "a constraint: reward subject to a cost"),
    "textrl/Imitate-v0": ("imitate", "demonstrations: rare success, but shown"),
    "textrl/TinyGPT-v0": ("tiny_gpt", "a Transformers reference (top-3), any reward"),
    "textrl/Dialogue-v0": ("dialogue", "two-turn dialogue: bounds, no exact optimum"),
    "textrl/TextBandit-v0": ("text_bandit", "your own tokenizer, prompts and reward"),
}
"""id -> (task in `textrl_envs.environments`, what the environment isolates)."""


def register_all() -> None:
    """Registers every id, once a process."""
    for name, (task, _) in IDS.items():
        if name not in gym.registry:
            gym.register(
                id=name,
                entry_point="textrl_envs.text_env:TextEnv",
                vector_entry_point="textrl_envs.vector_env:TextVectorEnv",
                kwargs={"task": task},
            )
