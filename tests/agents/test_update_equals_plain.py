"""One minibatch of PPO against the papers, written down as they stand: loops, padding, float64.

What is fast in the update (packed texts, logits at response tokens alone, gradients without a
log-softmax, parts that are computed again) must change nothing.
"""

import copy
import gc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.agents.tiny import (
    Floats,
    all_episodes,
    causal_policy,
    causal_reference,
    episodes_of,
    gradients_of_update,
    relative_error,
    residual,
    tiny_gpt2,
    tiny_llama,
    tiny_task,
)
from textrl_agents.episodes import Episodes
from textrl_agents.policies import CausalLMPolicy, NetworkPolicy, ResidualPolicy, Sampling
from textrl_agents.ppo import PPO, PPOConfig
from textrl_agents.reinforce import REINFORCE, REINFORCEConfig
from textrl_envs.language_models.causal import CausalLanguageModel

CLIP, VALUE_CLIP, VALUE_COEFFICIENT, ENTROPY_COEFFICIENT, LAMBDA = 0.15, 0.3, 0.7, 0.05, 0.9
EXACT = 1e-5
"""Of float32 against float64, relative."""

KINDS = ("gpt2", "llama", "value model", "larger vocabulary", "temperature", "residual")
MODES: dict[str, dict[str, Any]] = {
    "at once": {},
    "in micro-batches": {"micro_batch_size": 3},
    "layers computed again": {"gradient_checkpointing": True},
    "logits computed again": {},
}
"""Ways to the same gradient."""


def make(kind: str) -> NetworkPolicy:
    if kind == "residual":
        reference = causal_reference(tiny_gpt2())
        return residual(tiny_task(limit=5, reference=reference), away=0.5)
    if kind == "larger vocabulary":
        return valued(causal_policy(tiny_gpt2(11, seed=1), vocabulary_size=4))
    if kind == "temperature":
        return valued(causal_policy(tiny_llama(seed=1), sampling=Sampling(temperature=1.6)))
    if kind == "value model":
        return valued(causal_policy(tiny_gpt2(seed=1), value_model=tiny_llama(seed=2)))
    return valued(causal_policy(tiny_llama(seed=1) if kind == "llama" else tiny_gpt2(seed=1)))


@torch.no_grad()
def valued(policy: NetworkPolicy) -> NetworkPolicy:
    policy.value_head.weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
    return policy


def make_episodes(policy: NetworkPolicy) -> Episodes:
    """Episodes of an older policy, one of them cut off; ratios and values pass their clips."""
    like = tiny_task(limit=5)
    episodes = episodes_of(like, policy, all_episodes(like)[::23])
    rng, mask = np.random.default_rng(0), episodes.response_mask
    bootstrap = np.zeros(len(episodes))
    bootstrap[-1] = 0.8

    def moved(values: Floats, spread: float) -> Floats:
        return np.where(mask, values + spread * rng.normal(size=mask.shape), 0.0)

    return replace(
        episodes,
        log_probs=moved(episodes.log_probs, 0.2),
        values=moved(episodes.values, 0.4),
        bootstrap_values=bootstrap,
    )


# --- the papers ---


def response_of(episodes: Episodes, row: int) -> list[tuple[int, int, int]]:
    """Time, column of the text, and token of each response token."""
    start = int(episodes.prompt_lengths[row])
    ids = episodes.input_ids[row]
    return [(t, start + t, int(ids[start + t])) for t in range(int(episodes.lengths[row]))]


def plain_advantages(episodes: Episodes) -> dict[tuple[int, int], float]:
    """Schulman et al. 2016, equation 16 with γ = 1: A_t = Σ_l λ^l δ_{t+l}."""
    found: dict[tuple[int, int], float] = {}
    for row in range(len(episodes)):
        length = int(episodes.lengths[row])
        after = [*episodes.values[row, 1:length], episodes.bootstrap_values[row]]
        delta = [
            episodes.rewards[row, t] + after[t] - episodes.values[row, t] for t in range(length)
        ]
        for t in range(length):
            found[row, t] = sum(LAMBDA ** (s - t) * delta[s] for s in range(t, length))
    return found


def plain_outputs(policy: NetworkPolicy, episodes: Episodes) -> tuple[Tensor, Tensor]:
    """Log-probabilities of all tokens after every column, [B, L, V], and values [B, L]."""
    ids = torch.from_numpy(episodes.input_ids)
    mask = torch.from_numpy(episodes.attention_mask).long()

    def read(trunk: Any) -> Tensor:
        hidden: Tensor = trunk(
            input_ids=ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
        return hidden

    if isinstance(policy, ResidualPolicy):
        assert isinstance(policy.reference, CausalLanguageModel)
        with torch.no_grad():
            reference = policy.reference.model.double()(input_ids=ids, attention_mask=mask)
        hidden = read(policy.trunk)
        logits = reference.logits.log_softmax(-1) + policy.head(hidden)
        return (logits / policy.sampling.temperature).log_softmax(-1), policy.value_head(hidden)[
            ..., 0
        ]
    assert isinstance(policy, CausalLMPolicy)
    logits = policy.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    log_probs = (logits[..., : policy.vocabulary_size] / policy.sampling.temperature).log_softmax(
        -1
    )
    trunk = policy.value_trunk if policy.values_episodes else policy.trunk
    return log_probs, policy.value_head(read(trunk))[..., 0]


def plain_update(policy: NetworkPolicy, episodes: Episodes) -> tuple[dict[str, float], Floats]:
    """The losses of PPO and the gradient of their sum, token by token, in float64."""
    twin = copy.deepcopy(policy).double()
    log_probs, values = plain_outputs(twin, episodes)
    advantages = plain_advantages(episodes)
    mean, deviation = np.mean(list(advantages.values())), np.std(list(advantages.values()))
    zero = torch.zeros((), dtype=torch.float64)
    policy_sum, value_sum, entropy_sum, count = zero, zero, zero, 0
    for row in range(len(episodes)):
        for t, column, token in response_of(episodes, row):
            before = log_probs[row, column - 1]
            # Schulman et al. 2017, equation 7.
            ratio = (before[token] - float(episodes.log_probs[row, t])).exp()
            advantage = float((advantages[row, t] - mean) / deviation)
            clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
            policy_sum = policy_sum + torch.minimum(ratio * advantage, clipped * advantage)
            # The value clipped about the old one, as in the authors' code; half the square.
            value, old = values[row, column - 1], float(episodes.values[row, t])
            target = old + advantages[row, t]
            near = old + (value - old).clamp(-VALUE_CLIP, VALUE_CLIP)
            value_sum = value_sum + torch.maximum((value - target) ** 2, (near - target) ** 2) / 2
            entropy_sum = entropy_sum - (before.exp() * before).sum()
            count += 1
    policy_loss, value_loss = -policy_sum / count, value_sum / count
    loss = policy_loss + VALUE_COEFFICIENT * value_loss - ENTROPY_COEFFICIENT * entropy_sum / count
    parameters = list(twin.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    parts = [
        torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)
    ]
    losses = {"policy_loss": float(policy_loss.detach()), "value_loss": float(value_loss.detach())}
    return losses, torch.cat([part.reshape(-1) for part in parts]).numpy()


# --- PPO as it is ---


def fast_update(
    policy: NetworkPolicy, episodes: Episodes, **settings: Any
) -> tuple[dict[str, float], Floats]:
    config = PPOConfig(
        epochs=1,
        minibatches=1,
        clip=CLIP,
        value_clip=VALUE_CLIP,
        value_coefficient=VALUE_COEFFICIENT,
        entropy_coefficient=ENTROPY_COEFFICIENT,
        gae_lambda=LAMBDA,
        **settings,
    )
    agent = PPO(policy, config=config)
    stats: dict[str, float] = {}
    update = agent.update

    def noted(*args: Any) -> dict[str, float]:
        stats.update(update(*args))
        return stats

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent, "update", noted)
        (gradient,) = gradients_of_update(agent, episodes)
    return stats, gradient


@pytest.fixture
def few_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the logits of five tokens be kept at once; the last part is shorter."""
    monkeypatch.setattr("textrl_agents.policies.network.KEPT_LOGITS", 5 * 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_losses_and_gradients_of_a_minibatch_are_those_of_the_papers(
    kind: str, mode: str, request: pytest.FixtureRequest
) -> None:
    if mode == "logits computed again":
        request.getfixturevalue("few_logits")
    policy = make(kind)
    episodes = make_episodes(policy)
    expected, expected_gradient = plain_update(policy, episodes)
    found, gradient = fast_update(policy, episodes, **MODES[mode])
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=EXACT), name
    assert relative_error(gradient, expected_gradient) < EXACT
    assert 0.1 < found["clip_fraction"] < 0.9  # both branches of the clip count
    assert episodes.num_tokens % 5 != 0


def test_every_term_is_in_that_gradient() -> None:
    """Or that they agree would say less than it seems."""
    policy = make("gpt2")
    episodes = make_episodes(policy)
    _, whole = plain_update(policy, episodes)
    names = ("VALUE_COEFFICIENT", "ENTROPY_COEFFICIENT", "CLIP", "VALUE_CLIP", "LAMBDA")
    for name in names:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(globals(), name, 0.0)
            _, without = plain_update(policy, episodes)
        assert relative_error(without, whole) > 1e-3, name


def test_reinforce_has_the_same_gradient_when_logits_are_computed_again(few_logits: None) -> None:
    policy = make("llama")
    episodes = make_episodes(policy)
    found = []
    for kept in (5 * 4, 1 << 25):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("textrl_agents.policies.network.KEPT_LOGITS", kept)
            config = REINFORCEConfig(baseline="value", entropy_coefficient=0.1)
            found += gradients_of_update(REINFORCE(policy, config=config), episodes)
    assert relative_error(found[0], found[1]) < 1e-6


def test_of_many_logits_only_some_are_held_at_once(few_logits: None) -> None:
    """The sense of computing them again: those of a part are dropped before the next is made."""
    policy = make("gpt2")
    episodes = make_episodes(policy)
    found = policy.evaluate(episodes)
    assert found.log_probs.requires_grad
    gc.collect()
    shapes = [
        tuple(thing.shape)
        for thing in gc.get_objects()
        if type(thing) is Tensor and thing.ndim == 2 and thing.shape[1] == policy.vocabulary_size
    ]
    assert shapes.count((5, policy.vocabulary_size)) <= 1
