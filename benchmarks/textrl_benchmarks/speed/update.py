"""The update's ladder: one epoch over one batch, from a plain padded form to what PPO does here.

All rungs compute the same losses on the same episodes but the first, which has a value model of
its own, as TRL's PPO. The plain rungs are written here, over Transformers' own forward.
"""

import contextlib
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from textrl_agents.collector import Collector
from textrl_agents.episodes import Episodes
from textrl_agents.losses import clipped_policy_loss, clipped_value_loss
from textrl_agents.policies import CausalLMPolicy
from textrl_agents.ppo import PPO, PPOConfig
from textrl_benchmarks.speed.bench import Case
from textrl_benchmarks.speed.floor import Work
from textrl_benchmarks.speed.models import make_model, vector_env
from textrl_envs.language_models.fast import linear, packing

__all__ = ["FORMS", "cases", "peak_of_update"]

FORMS = ("padded", "packed", "packed and checkpointed")


def cases() -> Iterator[Case]:
    """Yields 64 episodes of a 4x256 model, V = 8,192: prompts of 32, lengths of mean 21."""
    episodes = _episodes()
    tokens = episodes.num_tokens
    model = make_model(4, 256, 4, 8_192, ends=True)
    body, head = (
        sum(p.numel() for p in model.transformer.h.parameters()),
        model.lm_head.weight.numel(),
    )
    read = int(episodes.attention_mask.sum()) - len(episodes)  # the last token predicts nothing
    yield Case(
        name="update, 4x256, V=8,192, 64 episodes, 4 minibatches",
        unit="tokens",
        contenders={
            "padded, full log-softmax, a value model of its own": _plain(episodes, shared=False),
            "policy and value on one trunk": _plain(episodes, shared=True),
            "logits at responses, no kept log-softmax": _ours(episodes, packs=False, fast=False),
            "packed": _ours(episodes, packs=True, fast=False),
            "packed, oneDNN products": _ours(episodes, packs=True, fast=True),
        },
        work=Work(flops=6 * (body * read + head * tokens) / tokens),
    )


def _episodes() -> Episodes:
    envs = vector_env(64, 8_192, 32, 48, eos_token_id=2)
    policy = CausalLMPolicy(make_model(4, 256, 4, 8_192, ends=True), device="cpu")
    return Collector(envs).collect(policy, 64, seed=[0])


def _ours(episodes: Episodes, *, packs: bool, fast: bool) -> Callable[[], int]:
    policy = CausalLMPolicy(make_model(4, 256, 4, 8_192, ends=True), device="cpu")
    policy._decoder = replace(policy._decoder, packs=packs)
    agent = PPO(policy, config=PPOConfig(epochs=1, learning_rate=1e-6))

    def run() -> int:
        with contextlib.nullcontext() if fast else _without_fast_products():
            agent.update(episodes, np.random.default_rng(0))
        return episodes.num_tokens

    return run


@contextlib.contextmanager
def _without_fast_products() -> Iterator[None]:
    with (
        mock.patch.object(linear, "has_fast_linear", return_value=False),
        mock.patch.object(packing, "FASTER", {}),
    ):
        yield


def _plain(episodes: Episodes, *, shared: bool) -> Callable[[], int]:
    model = make_model(4, 256, 4, 8_192, ends=True)
    value_model = model if shared else make_model(4, 256, 4, 8_192)
    head = torch.nn.Linear(256, 1)
    modules = {id(m): m for m in (model, value_model, head)}.values()
    optimizer = torch.optim.Adam([p for m in modules for p in m.parameters()], lr=1e-6)

    def run() -> int:
        for rows in np.array_split(np.random.default_rng(0).permutation(len(episodes)), 4):
            plain_loss(model, value_model, head, episodes.select(np.sort(rows))).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        return episodes.num_tokens

    return run


def plain_loss(
    model: Any,  # noqa: ANN401 - a causal LM
    value_model: Any,  # noqa: ANN401 - the same, or one of its own
    head: torch.nn.Linear,
    part: Episodes,
) -> Tensor:
    """Returns PPO's loss as it is written plainly: padded, a log-softmax of every position."""
    ids, mask = torch.from_numpy(part.input_ids), torch.from_numpy(part.attention_mask)
    output = model(ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
    log_probs = output.logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    hidden = output.hidden_states[-1]
    if value_model is not model:
        hidden = value_model.transformer(ids, attention_mask=mask).last_hidden_state
    values = head(hidden)[:, :-1, 0]
    rows, columns = part.response_places()
    where = part.response_mask
    found, found_values = log_probs[rows, columns - 1], values[rows, columns - 1]
    old, old_values = (torch.from_numpy(x[where]).to(found) for x in (part.log_probs, part.values))
    advantages = torch.from_numpy(part.rewards[where]).to(found)
    count = part.num_tokens
    policy = clipped_policy_loss(found, old, advantages, clip=0.2, num_tokens=count)
    value = clipped_value_loss(found_values, old_values, old_values, clip=0.2, num_tokens=count)
    return policy + 0.5 * value


# --- memory ---


def peak_of_update(
    form: str, *, batch: int = 64, new: int = 256, vocabulary: int = 50_257
) -> float:
    """Returns the MiB that an update adds to the process at its peak: run it in a fresh one."""
    rng = np.random.default_rng(0)
    episodes = _full_episodes(rng, batch, new, vocabulary)
    model = make_model(2, 128, 4, vocabulary, tokens=512)
    if form == "padded":
        head = torch.nn.Linear(128, 1)

        def update() -> None:
            plain_loss(model, model, head, episodes).backward()  # type: ignore[no-untyped-call]

    else:
        policy = CausalLMPolicy(model, device="cpu")
        settings = PPOConfig(
            epochs=1,
            minibatches=1,
            episodes_per_batch=batch,
            gradient_checkpointing=form == "packed and checkpointed",
        )
        agent = PPO(policy, config=settings)

        def update() -> None:
            agent.update(episodes, rng)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    update()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def _full_episodes(rng: np.random.Generator, batch: int, new: int, vocabulary: int) -> Episodes:
    """Makes random episodes of full length, prompts of 32 tokens."""
    shape, length = (batch, new), 32 + new
    numbers = {
        name: rng.normal(size=shape) for name in ("values", "entropies", "task_rewards", "rewards")
    }
    return Episodes(
        input_ids=rng.integers(vocabulary, size=(batch, length)),
        attention_mask=np.ones((batch, length), np.int8),
        prompt_lengths=np.full(batch, 32),
        response_mask=np.ones(shape, np.bool_),
        log_probs=np.full(shape, -np.log(vocabulary)),
        ref_log_probs=None,
        bootstrap_values=np.zeros(batch),
        prompt_index=np.arange(batch),
        finish_reason=np.full(batch, 2),
        **numbers,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(f"{peak_of_update(sys.argv[1])}\n")
