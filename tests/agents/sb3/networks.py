"""Networks, policies and rollouts for the tests of the language model in Stable-Baselines3."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from tests.agents.tiny import (
    EOS,
    causal_policy,
    causal_reference,
    ngram_of,
    random_ngram,
    residual,
    tiny_gpt2,
    tiny_llama,
    tiny_task,
    vector_env,
)
from textrl_agents.policies import LSTMPolicy, NetworkPolicy
from textrl_agents.sb3 import CausalLMPolicy, SB3VecEnv
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.observations import ObsMode
from textrl_envs.rewards import response_length
from textrl_envs.task import Task

ROWS = 6


def endless_ngram(size: int = 4) -> NGramModel:
    """Returns a bigram model that hardly ever says EOS: every episode has full length."""
    table = random_ngram(size).table.copy()
    table[:, EOS] = -40.0
    return NGramModel(table - np.log(np.exp(table).sum(-1, keepdims=True)))


def long_task(limit: int = 16, *, ends: bool = True, reference: Any = None) -> Task:
    """Returns a task of episodes of up to 16 tokens, or of just so many."""
    reference = reference or (random_ngram() if ends else endless_ngram())
    return tiny_task(
        limit=limit, prompts=("a", "b a c"), reference=reference, reward=response_length
    )


def _with_value(policy: NetworkPolicy) -> NetworkPolicy:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.value_head.parameters():
            weight.normal_(0, 0.5, generator=generator)
    return policy


def _lstm(task: Task) -> LSTMPolicy:
    policy = LSTMPolicy(vocabulary_size=4, reference=ngram_of(task), width=8, device="cpu")
    with torch.no_grad():
        policy.head.weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(2))
    return policy


NETWORKS: dict[str, Callable[[Task], NetworkPolicy]] = {
    "residual": lambda task: residual(task, away=0.5),
    "residual over gpt2": lambda task: residual(
        long_task(reference=causal_reference(tiny_gpt2())), away=0.5
    ),
    "gpt2": lambda task: causal_policy(tiny_gpt2()),
    "llama": lambda task: causal_policy(tiny_llama(seed=1)),
    "larger vocabulary": lambda task: causal_policy(tiny_gpt2(11), vocabulary_size=4),
    "value model": lambda task: causal_policy(tiny_gpt2(), value_model=tiny_llama(seed=2)),
    "lstm": _lstm,
}


def network(kind: str, task: Task) -> NetworkPolicy:
    """Returns a network that is far from uniform, with values that are not 0."""
    return _with_value(NETWORKS[kind](task))


def model(
    task: Task,
    kind: str = "residual",
    *,
    algorithm: Any = PPO,
    obs: ObsMode = "dict",
    optimizer: dict[str, Any] | None = None,
    envs: Any = None,
    **settings: Any,
) -> Any:
    """Returns PPO or A2C of SB3 over a network, with the stock buffer unless told otherwise."""
    policy_settings = {"load_network": lambda: network(kind, task), **(optimizer or {})}
    if algorithm is PPO:
        settings = {"batch_size": ROWS * settings.get("n_steps", 7), **settings}
    with torch.random.fork_rng(devices=[]):
        made = algorithm(
            CausalLMPolicy,
            SB3VecEnv(envs if envs is not None else vector_env(task, ROWS, obs=obs)),
            policy_kwargs=policy_settings,
            device="cpu",
            **{"n_steps": 7, "gamma": 0.97, "gae_lambda": 0.9, "seed": 0, **settings},
        )
    made.set_logger(Logger(folder=None, output_formats=[]))
    return made


class Quiet(BaseCallback):
    """Does nothing."""

    def _on_step(self) -> bool:
        return True


def collect(model: Any) -> Any:
    """Collects one rollout, as `learn` does, and returns the buffer that holds it."""
    if model._last_obs is None:
        model._setup_learn(1)  # resets the environment
    callback = Quiet()
    callback.init_callback(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.num_timesteps)
        model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model.rollout_buffer


def evaluated(model: Any, batch: Any) -> Any:
    """Returns values, log-probs and entropies of a minibatch as `train` asks for them."""
    return model.policy.evaluate_actions(batch.observations, batch.actions.long().flatten())
