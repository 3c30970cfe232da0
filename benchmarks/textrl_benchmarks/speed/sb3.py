"""Unmodified PPO of Stable-Baselines3 over a GPT-2: what it saves to read each token once.

Three policies with the same weights in the same environment. The first is what its users write: a
features extractor that reads the whole text at every step, and again for every token of an update.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from textrl_agents.policies import CausalLMPolicy as TrainedCausalLM
from textrl_agents.policies import NetworkPolicy
from textrl_agents.sb3 import CausalLMPolicy, EpisodeRolloutBuffer, SB3VecEnv
from textrl_benchmarks.speed.bench import Case
from textrl_benchmarks.speed.models import make_model, vector_env
from textrl_benchmarks.speed.peers.sb3_ppo import Trunk

__all__ = ["Shape", "cases", "contenders", "roll_out", "update"]

Shape = tuple[int, int, int, int]
"""Layers, width, heads and vocabulary."""

SHAPE: Shape = (2, 128, 4, 5_000)
ROWS, PROMPT, NEW = 32, 16, 64
MINIBATCHES = 4
AFRESH = "texts read afresh, SB3's buffer"


def cases() -> Iterator[Case]:
    """Yields roll-out and update: prompts of 16 tokens, 64 new ones, no row ends early."""
    models = contenders(SHAPE, rows=ROWS, prompt=PROMPT, new=NEW)
    layers, width, _, vocabulary = SHAPE
    of = f"{layers}x{width}, V={vocabulary:,}, {ROWS} rows"
    yield Case(
        name=f"roll-out, {of}",
        unit="tokens",
        contenders={name: roll_out(model) for name, model in models.items()},
    )
    yield Case(
        name=f"update, {of}, {MINIBATCHES} minibatches",
        unit="tokens",
        contenders={name: update(model) for name, model in models.items()},
    )


def contenders(shape: Shape, *, rows: int, prompt: int, new: int) -> dict[str, PPO]:
    """Returns PPO in three forms, each after a first roll-out and update."""
    made = {
        AFRESH: _afresh(shape),
        "rows remembered, SB3's buffer": _remembering(shape),
        "rows remembered, EpisodeRolloutBuffer": {
            **_remembering(shape),
            "rollout_buffer_class": EpisodeRolloutBuffer,
        },
    }
    models = {
        name: _model(settings, SB3VecEnv(vector_env(rows, shape[-1], prompt, new)), new)
        for name, settings in made.items()
    }
    _load_weights(models[AFRESH].policy, make_model(*shape))
    for model in models.values():
        model.set_logger(Logger(folder=None, output_formats=[]))
        with torch.random.fork_rng(devices=[]):
            model.learn(model.n_steps * model.n_envs)
    return models


def roll_out(model: PPO) -> Callable[[], int]:
    """Returns what collects a roll-out, as after an update: with nothing remembered."""
    callback = _Quiet()
    callback.init_callback(model)
    assert model.env is not None
    envs = model.env

    def run() -> int:
        model.policy.set_training_mode(True)
        model.collect_rollouts(envs, callback, model.rollout_buffer, model.n_steps)
        return model.n_steps * model.n_envs

    return run


def update(model: PPO) -> Callable[[], int]:
    """Returns what goes once through the last roll-out."""

    def run() -> int:
        model.train()
        return model.n_steps * model.n_envs

    return run


class _Quiet(BaseCallback):
    def _on_step(self) -> bool:
        return True


def _model(settings: dict[str, Any], envs: SB3VecEnv, steps: int) -> PPO:
    with torch.random.fork_rng(devices=[]):
        return PPO(
            env=envs,
            n_steps=steps,
            batch_size=steps * envs.num_envs // MINIBATCHES,
            n_epochs=1,
            learning_rate=1e-6,  # so small that the weights stay what they are
            gamma=1.0,
            seed=0,
            device="cpu",
            **settings,
        )


def _remembering(shape: Shape) -> dict[str, Any]:
    def load() -> NetworkPolicy:
        return TrainedCausalLM(make_model(*shape), device="cpu")

    return {"policy": CausalLMPolicy, "policy_kwargs": {"load_network": load}}


def _afresh(shape: Shape) -> dict[str, Any]:
    return {
        "policy": "MultiInputPolicy",
        "policy_kwargs": {
            "features_extractor_class": Trunk,
            "features_extractor_kwargs": {"config": make_model(*shape).config},
            "net_arch": [],
            "ortho_init": False,
        },
    }


def _load_weights(policy: Any, model: Any) -> None:  # noqa: ANN401 - SB3's, Transformers'
    policy.features_extractor.trunk.load_state_dict(model.transformer.state_dict())
    with torch.no_grad():
        policy.action_net.weight.copy_(model.lm_head.weight)
        for weight in (policy.action_net.bias, *policy.value_net.parameters()):
            weight.zero_()
