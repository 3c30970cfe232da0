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
