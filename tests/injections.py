"""Silent bugs: mistakes of a line that train without complaint, put into the real code.

Each function breaks one part where the pipeline looks it up. What it breaks stays broken until the
test's `MonkeyPatch` is undone.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import textrl_agents.collector
import textrl_agents.policies.causal_lm
import textrl_agents.policy_gradient
import textrl_agents.ppo
import textrl_agents.reinforce
import textrl_envs.language_models.prefix_reader
from tests.agents.tiny import EOS, Floats, on_tokens
from tests.instruments import CUT_PENALTY
from textrl_agents.advantages import generalised_advantages, returns_to_go
from textrl_agents.collector import _Record
from textrl_agents.episodes import Episodes
from textrl_agents.kl import k2, k3
from textrl_agents.losses import policy_gradient_loss
from textrl_agents.policies import NetworkPolicy, Policy, Sampling
from textrl_agents.policies.base import PolicyStep
from textrl_agents.policies.distribution import TokenDistribution
from textrl_agents.policy_gradient import policy_gradient_step
from textrl_agents.ppo import PPO
from textrl_agents.reinforce import REINFORCE
from textrl_envs.core import FinishReason, TextCore
from textrl_envs.language_models.decoder import Decoder
from textrl_envs.language_models.fast.attention import CompiledAttention, TorchAttention
from textrl_envs.language_models.fast.decode import LeanTrunk
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.vector_env import TextVectorEnv
from textrl_envs.wrappers.kl_charge import KLCharge

Change = Callable[..., Any]


def change_result(patch: pytest.MonkeyPatch, owner: Any, name: str, change: Change) -> None:
    """Lets a function return something else: change(result, *arguments)."""
    original = getattr(owner, name)

    def changed(*args: Any, **settings: Any) -> Any:
        return change(original(*args, **settings), *args)

    patch.setattr(owner, name, changed)


def change_arguments(patch: pytest.MonkeyPatch, owner: Any, name: str, change: Change) -> None:
    """Lets a function be called with other arguments: the tuple change(*arguments)."""
    original = getattr(owner, name)

    def changed(*args: Any, **settings: Any) -> Any:
        return original(*change(*args), **settings)

    patch.setattr(owner, name, changed)


# --- 1: logits and labels ---


def a_token_is_read_from_its_own_hidden_state(patch: pytest.MonkeyPatch) -> None:
    """hidden[:, t] where hidden[:, t - 1] predicts token t."""

    def late(self: Decoder, ids: Any, places: Any) -> tuple[Any, ...]:
        return self, ids, (places[0], np.minimum(places[1] + 1, ids.shape[1] - 1))

    change_arguments(patch, Decoder, "hidden_at", late)


def the_reference_scores_stand_one_column_early(patch: pytest.MonkeyPatch) -> None:
    """Scores of tokens 1..L-1 in columns 0..L-2, as logits[:, :-1] gives them."""
    change_result(patch, NGramModel, "score", lambda scores, *_: np.roll(scores, -1, axis=1))


# --- 2: padding and positions ---


def padding_on_the_left_counts_as_text(patch: pytest.MonkeyPatch) -> None:
    def read(obs: Any) -> tuple[Any, Any]:
        mask = obs["attention_mask"]
        return obs["input_ids"], mask.shape[1] - mask[:, ::-1].argmax(axis=1)

    patch.setattr(textrl_envs.language_models.prefix_reader, "read_observation", read)


def positions_are_left_to_the_model(patch: pytest.MonkeyPatch) -> None:
    """It counts every token that it reads alone as the first of its text."""
    change_arguments(
        patch,
        LeanTrunk,
        "_embed",
        lambda self, tokens, positions: (self, tokens, torch.zeros_like(positions)),
    )


def the_cache_shows_what_longer_rows_wrote(patch: pytest.MonkeyPatch) -> None:
    """Rows that begin again look at columns of the text before."""
    for attention in (CompiledAttention, TorchAttention):
        change_arguments(
            patch,
            attention,
            "__init__",
            lambda self, rows, at, *rest: (self, rows, np.full_like(at, at.max()), *rest),
        )


def every_response_is_taken_to_begin_where_the_longest_prompt_ends(
    patch: pytest.MonkeyPatch,
) -> None:
    def moved(self: KLCharge, episodes: Episodes) -> tuple[Any, ...]:
        longest = np.full_like(episodes.prompt_lengths, episodes.prompt_lengths.max())
        return self, replace(episodes, prompt_lengths=longest)

    change_arguments(patch, KLCharge, "reference_log_probs", moved)


# --- 3: temperature ---


def training_forgets_the_temperature(patch: pytest.MonkeyPatch) -> None:
    original = NetworkPolicy.evaluate

    def read(self: NetworkPolicy, episodes: Episodes, **settings: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(self, "sampling", Sampling())
            return original(self, episodes, **settings)

    patch.setattr(NetworkPolicy, "evaluate", read)


def sampling_has_a_temperature_of_its_own(patch: pytest.MonkeyPatch) -> None:
    change_arguments(
        patch,
        TokenDistribution,
        "sample",
        lambda found, uniforms: (TokenDistribution(found._logits / 0.7), uniforms),
    )


def the_noted_log_probs_are_without_the_temperature(patch: pytest.MonkeyPatch) -> None:
    def noted(found: PolicyStep, self: Policy, obs: Any, _: Any) -> PolicyStep:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(self, "sampling", Sampling())
            return replace(found, log_probs=self.log_probs(obs, found.actions))

    change_result(patch, Policy, "step", noted)


# --- 4: dropout ---


def dropout_is_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Policy, "train", nn.Module.train)


# --- 5: EOS ---


def eos_is_left_out_of_the_loss(patch: pytest.MonkeyPatch) -> None:
    def without_eos(
        self: Any, episodes: Episodes, rows: Any, advantages: Floats, *rest: Any
    ) -> tuple[Any, ...]:
        return self, episodes, rows, np.where(episodes.response_ids == EOS, 0.0, advantages), *rest

    def step(agent: Any, episodes: Episodes, *, advantages: Floats, **rest: Any) -> Any:
        advantages = np.where(episodes.response_ids == EOS, 0.0, advantages)
        return policy_gradient_step(agent, episodes, advantages=advantages, **rest)

    change_arguments(patch, PPO, "_step", without_eos)
    patch.setattr(textrl_agents.reinforce, "policy_gradient_step", step)


def eos_is_left_out_of_the_kl(patch: pytest.MonkeyPatch) -> None:
    change_ratio(patch, lambda ratio, _, episodes: np.where(episodes.response_ids == EOS, 0, ratio))


def eos_is_left_out_of_the_kl_of_a_step(patch: pytest.MonkeyPatch) -> None:
    def without_eos(self: KLCharge, obs: Any, actions: Any, is_acting: Any) -> tuple[Any, ...]:
        return self, obs, actions, is_acting & (actions != EOS)

    change_arguments(patch, KLCharge, "log_ratio", without_eos)


# --- 6: KL where nothing is said ---


def padding_is_charged_kl(patch: pytest.MonkeyPatch) -> None:
    def unmasked(self: KLCharge, episodes: Episodes) -> tuple[Any, ...]:
        masks = {
            name: np.ones_like(getattr(episodes, name))
            for name in ("attention_mask", "response_mask")
        }
        return self, replace(episodes, **masks)

    change_arguments(patch, KLCharge, "episode_log_ratio", unmasked)


def the_dead_step_of_autoreset_is_charged_kl(patch: pytest.MonkeyPatch) -> None:
    change_arguments(
        patch, KLCharge, "log_ratio", lambda self, obs, actions, _: (self, obs, actions)
    )


# --- 7: the limit ---


def the_limit_truncates(patch: pytest.MonkeyPatch) -> None:
    """The text is scored, and its value is added to the score."""

    def truncated(result: Any, *_: Any) -> Any:
        obs, rewards, ended, _, infos = result
        is_cut = ended & (infos["finish_reason"] == FinishReason.LENGTH)
        return obs, rewards, ended & ~is_cut, is_cut, infos

    change_result(patch, TextVectorEnv, "step", truncated)


# --- 8: what is charged for KL ---


def change_ratio(patch: pytest.MonkeyPatch, change: Change) -> None:
    """Charges something else for whole episodes: change(log-ratio, charge, episodes)."""
    change_result(patch, KLCharge, "episode_log_ratio", change)


def the_kl_has_the_wrong_sign(patch: pytest.MonkeyPatch) -> None:
    change_ratio(patch, lambda ratio, *_: -ratio)


def k2_is_charged(patch: pytest.MonkeyPatch) -> None:
    change_ratio(patch, lambda ratio, *_: k2(torch.from_numpy(ratio)).numpy())


def k3_is_charged(patch: pytest.MonkeyPatch) -> None:
    change_ratio(patch, lambda ratio, *_: k3(torch.from_numpy(ratio)).numpy())


def the_size_of_k1_is_charged(patch: pytest.MonkeyPatch) -> None:
    change_ratio(patch, lambda ratio, *_: np.abs(ratio))


def the_kl_is_a_mean_over_tokens(patch: pytest.MonkeyPatch) -> None:
    change_ratio(patch, lambda ratio, _, episodes: ratio / episodes.lengths[:, None])


# --- 9: the place of the score ---


def the_score_is_paid_after_eos(patch: pytest.MonkeyPatch) -> None:
    """In the column behind the last token, where there is one."""

    def moved(episodes: Episodes, *_: Any) -> Episodes:
        score = episodes.task_rewards
        later = np.pad(score[:, :-1], ((0, 0), (1, 0)))
        later[:, -1] += score[:, -1]
        return replace(episodes, task_rewards=later, rewards=later)

    change_result(patch, _Record, "episodes", moved)


# --- 10: discount ---


def advantages_are_discounted(patch: pytest.MonkeyPatch) -> None:
    """γ = 0.99: r_t γ^t and V_t γ^t without discount are A_t γ^t with it."""
    original = generalised_advantages

    def discounted(rewards: Floats, values: Floats, *args: Any, **settings: Any) -> Floats:
        by = 0.99 ** np.arange(rewards.shape[1])
        return original(rewards * by, values * by, *args, **settings) / by

    patch.setattr(textrl_agents.ppo, "generalised_advantages", discounted)


def returns_are_discounted(patch: pytest.MonkeyPatch) -> None:
    original = returns_to_go

    def discounted(rewards: Floats, **settings: Any) -> Floats:
        by = 0.99 ** np.arange(rewards.shape[1])
        return original(rewards * by, **settings) / by

    patch.setattr(textrl_agents.reinforce, "returns_to_go", discounted)


# --- 11: whitening ---


def advantages_are_whitened_over_padding(patch: pytest.MonkeyPatch) -> None:
    change_arguments(
        patch,
        textrl_agents.ppo,
        "standardise",
        lambda advantages, mask: (advantages, np.ones_like(mask)),
    )


def rewards_are_whitened_but_keep_their_mean(patch: pytest.MonkeyPatch) -> None:
    """x/σ + μ (1 − 1/σ): a bonus for every token."""

    def whitened(rewards: Floats, values: Floats, mask: Any) -> tuple[Any, ...]:
        mean, deviation = rewards[mask].mean(), rewards[mask].std()
        return np.where(mask, (rewards - mean) / deviation + mean, 0.0), values, mask

    change_arguments(patch, textrl_agents.ppo, "generalised_advantages", whitened)


def rewards_are_only_scaled(patch: pytest.MonkeyPatch) -> None:
    """x/σ, which is another unit and no bug."""

    def scaled(rewards: Floats, values: Floats, mask: Any) -> tuple[Any, ...]:
        return rewards / rewards[mask].std(), values, mask

    change_arguments(patch, textrl_agents.ppo, "generalised_advantages", scaled)


# --- 12: parts of a batch ---


def micro_batches_are_averaged_by_a_mean_of_means(patch: pytest.MonkeyPatch) -> None:
    original, update = policy_gradient_loss, REINFORCE.update

    def averaging(self: REINFORCE, episodes: Episodes, rng: Any) -> dict[str, float]:
        parts = math.ceil(len(episodes) / self.config.micro_batch_size)

        def mean(log_probs: Any, advantages: Any, *, num_tokens: int) -> Any:
            return original(log_probs, advantages, num_tokens=parts * len(log_probs))

        patch.setattr(textrl_agents.policy_gradient, "policy_gradient_loss", mean)
        return update(self, episodes, rng)

    patch.setattr(REINFORCE, "update", averaging)


# --- 13: baselines that see their own action ---


def the_running_mean_holds_the_newest_batch(patch: pytest.MonkeyPatch) -> None:
    def newest_mean(memory: Any, name: str, newest: float, *, decay: float) -> float:
        return newest

    patch.setattr(textrl_agents.reinforce, "earlier_mean", newest_mean)


def the_mean_of_the_group_holds_the_episode_itself(patch: pytest.MonkeyPatch) -> None:
    def mean(returns: Floats, groups: Any) -> Floats:
        return np.array([returns[groups == group].mean() for group in groups])

    patch.setattr(textrl_agents.reinforce, "leave_one_out", mean)


def the_baseline_is_the_value_after_the_action(patch: pytest.MonkeyPatch) -> None:
    def later(baseline: Floats, *_: Any) -> Floats:
        return np.pad(baseline[:, 1:], ((0, 0), (0, 1)))

    change_result(patch, REINFORCE, "_baseline", later)


# --- 14: old policy and reference ---


def the_old_log_probs_are_those_of_the_reference(patch: pytest.MonkeyPatch) -> None:
    """The policy before the first batch, in place of the one that sampled this batch."""

    def stale(self: PPO, episodes: Episodes, rng: Any) -> tuple[Any, ...]:
        assert episodes.ref_log_probs is not None
        return self, replace(episodes, log_probs=episodes.ref_log_probs), rng

    change_arguments(patch, PPO, "update", stale)


def the_old_log_probs_are_computed_before_every_step(patch: pytest.MonkeyPatch) -> None:
    def fresh(self: PPO, episodes: Episodes, *rest: Any) -> tuple[Any, ...]:
        with torch.no_grad():
            now = on_tokens(episodes, self.policy.evaluate(episodes).log_probs)
        return self, replace(episodes, log_probs=now), *rest

    change_arguments(patch, PPO, "_step", fresh)


def the_reference_is_the_policy_itself(patch: pytest.MonkeyPatch) -> None:
    """One model under two names: its KL is 0 for ever."""
    shared = SimpleNamespace(deepcopy=lambda model: model)
    patch.setattr(textrl_agents.policies.causal_lm, "copy", shared)


# --- 15: padding that is EOS ---


def a_mask_made_of_ids_hides_eos(patch: pytest.MonkeyPatch) -> None:
    """attention_mask = input_ids != pad, where pad is EOS."""
    change_result(
        patch,
        textrl_agents.collector,
        "read_observation",
        lambda result, _: (result[0], (result[0] != EOS).sum(axis=1)),
    )


def the_reward_never_sees_eos(patch: pytest.MonkeyPatch) -> None:
    """Padding is cut off by its id, and EOS with it."""
    change_result(patch, TextCore, "response_ids", lambda ids, *_: ids[ids != EOS])


# --- beyond the list ---


def the_penalty_for_missing_eos_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    def forgetful(result: Any, self: TextCore, rows: Any, *_: Any) -> Any:
        scores, extras = result
        return scores + CUT_PENALTY * (self.finish_reason[rows] == FinishReason.LENGTH), extras

    change_result(patch, TextCore, "score", forgetful)
