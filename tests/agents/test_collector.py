import heapq
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorWrapper
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from tests.agents.tiny import (
    EOS,
    Floats,
    Ints,
    Response,
    TableReward,
    causal_policy,
    causal_reference,
    enumerate_exactly,
    episodes_of,
    ngram_of,
    played_in,
    random_ngram,
    residual,
    tiny_gpt2,
    tiny_llama,
    tiny_task,
    twin_of,
    vector_env,
    with_kl,
)
from textrl_agents.collector import Collector
from textrl_agents.episodes import Episodes
from textrl_agents.policies import CausalLMPolicy, FixedPolicy, NetworkPolicy, Policy, PolicyStep
from textrl_envs.core import FinishReason
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.rewards import response_length
from textrl_envs.task import Task
from textrl_envs.wrappers.vector import AdaptiveCoefficient, KLPenalty


def assert_same(found: Episodes, expected: Episodes, *, atol: float = 0.0) -> None:
    for field in fields(Episodes):
        left, right = getattr(found, field.name), getattr(expected, field.name)
        if right is None:
            assert left is None, field.name
        else:
            np.testing.assert_allclose(left, right, rtol=0, atol=atol, err_msg=field.name)


class ScriptedPolicy:
    """Ends the response to prompt 0, 1, 2 ... after the given number of tokens; counts steps."""

    def __init__(self, task: Task, lengths: list[int]) -> None:
        starts = task.prompts.token_ids[:, 0]
        self._target = {
            int(start): n + length
            for start, n, length in zip(starts, task.prompts.lengths, lengths, strict=True)
        }
        self.steps = 0

    def step(self, obs: Any, rng: np.random.Generator, *, greedy: bool = False) -> PolicyStep:
        self.steps += 1
        first, written = obs["input_ids"][:, 0], obs["attention_mask"].sum(axis=1)
        targets = np.array([self._target[int(start)] for start in first])
        actions = np.where(written == targets - 1, EOS, 1).astype(np.int64)
        numbers = written.astype(np.float64)
        return PolicyStep(actions, -numbers, numbers, 10 * numbers)

    def forget(self) -> None:
        pass

    def next_values(self, obs: Any) -> Floats:
        raise AssertionError("Nothing is cut off, so no value at the end is needed.")


def scripted(num_envs: int) -> tuple[Collector, ScriptedPolicy, list[int]]:
    lengths = [1, 4, 9]
    task = tiny_task(limit=20, prompts=("a", "b a c", "c a"), reward=response_length)
    return Collector(vector_env(task, num_envs)), ScriptedPolicy(task, lengths), lengths


# --- whole episodes, in order ---


def test_every_episode_that_is_started_is_finished_and_scored_once() -> None:
    task = tiny_task()
    policy = residual(task, away=0.5)
    episodes = Collector(vector_env(task, 8)).collect(policy, 50, seed=[0])
    assert isinstance(task.reward, TableReward)
    assert task.reward.scored == 50
    assert len(episodes) == 50
    ends_by_eos = episodes.finish_reason == FinishReason.STOP
    last = episodes.response_ids[np.arange(50), episodes.lengths - 1]
    np.testing.assert_array_equal(last == EOS, ends_by_eos)
    np.testing.assert_array_equal(episodes.lengths[~ends_by_eos], task.max_new_tokens)


def test_episodes_stand_in_the_order_in_which_they_were_started() -> None:
    """The prompts are drawn beforehand, so any number of rows gives them in the same order."""
    drawn = []
    for num_envs in (1, 3, 16):
        collector, policy, lengths = scripted(num_envs)
        episodes = collector.collect(policy, 40, seed=[3])
        np.testing.assert_array_equal(
            episodes.lengths, [lengths[prompt] for prompt in episodes.prompt_index]
        )
        prompts = collector.envs.task.prompts
        np.testing.assert_array_equal(
            episodes.prompt_lengths, prompts.lengths[episodes.prompt_index]
        )
        np.testing.assert_array_equal(
            episodes.input_ids[:, 0], prompts.token_ids[episodes.prompt_index, 0]
        )
        drawn.append(episodes.prompt_index)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize("num_envs", [1, 3, 16])
def test_a_row_that_ends_begins_again_at_once(num_envs: int) -> None:
    """The steps taken are those of a queue served by that many rows without a pause."""
    collector, policy, _ = scripted(num_envs)
    episodes = collector.collect(policy, 40, seed=[3])
    free_at = [0] * num_envs
    for length in episodes.lengths:
        heapq.heappush(free_at, heapq.heappop(free_at) + int(length))
    assert policy.steps == max(free_at)


def test_each_token_is_noted_with_the_step_that_chose_it() -> None:
    collector, policy, _ = scripted(4)
    episodes = collector.collect(policy, 30, seed=[1])
    for row, (start, length) in enumerate(
        zip(episodes.prompt_lengths, episodes.lengths, strict=True)
    ):
        written = np.arange(start, start + length)
        np.testing.assert_array_equal(episodes.log_probs[row, :length], -written)
        np.testing.assert_array_equal(episodes.entropies[row, :length], written)
        np.testing.assert_array_equal(episodes.values[row, :length], 10 * written)
        # The score, here the length, is paid on the last token.
        np.testing.assert_array_equal(episodes.rewards[row, : length - 1], 0)
        assert episodes.rewards[row, length - 1] == length
    assert not episodes.log_probs[~episodes.response_mask].any()
    assert not episodes.values[~episodes.response_mask].any()
    assert not episodes.bootstrap_values.any()


def test_groups_share_their_prompt() -> None:
    task = tiny_task()
    policy = residual(task)
    episodes = Collector(vector_env(task, 6)).collect(policy, 60, seed=[0], group_size=4)
    groups = episodes.prompt_index.reshape(-1, 4)
    assert (groups == groups[:, :1]).all()
    assert set(groups[:, 0]) == {0, 1}


def test_prompts_are_drawn_uniformly() -> None:
    collector, policy, _ = scripted(64)
    counts = np.bincount(collector.collect(policy, 3000, seed=[0]).prompt_index, minlength=3)
    assert (((counts - 1000) ** 2) / 1000).sum() < 2 + 4 * 2  # χ² with 2 degrees of freedom


# --- no bias towards short episodes ---

STOP_PROBABILITY, LIMIT = 0.1, 30


def geometric_task() -> Task:
    """EOS comes with probability 0.1 at every token, up to 30 tokens."""
    row = np.log([STOP_PROBABILITY, 0.5, 1 - STOP_PROBABILITY - 0.5])
    reference = NGramModel(np.tile(row, (3, 1)))
    return tiny_task(
        size=3, limit=LIMIT, prompts=("a",), reference=reference, reward=response_length
    )


def length_moments() -> tuple[float, float]:
    stay = 1 - STOP_PROBABILITY
    lengths = np.arange(1, LIMIT + 1)
    probabilities = STOP_PROBABILITY * stay ** (lengths - 1)
    probabilities[-1] = stay ** (LIMIT - 1)
    mean = (probabilities * lengths).sum()
    assert mean == pytest.approx((1 - stay**LIMIT) / STOP_PROBABILITY)
    return float(mean), float(np.sqrt((probabilities * (lengths - mean) ** 2).sum()))


def collect_until_enough_have_ended(task: Task, number: int, seed: int) -> list[int]:
    """What many collectors do: stop once enough episodes have ended, and drop the others."""
    envs = vector_env(task, number)
    policy, rng = FixedPolicy(ngram_of(task)), np.random.default_rng(seed)
    obs, _ = envs.reset(seed=seed)
    lengths: list[int] = []
    while len(lengths) < number:
        obs, rewards, terminated, _, _ = envs.step(policy.step(obs, rng).actions)
        lengths += rewards[terminated].astype(int).tolist()
    return lengths[:number]


def test_short_episodes_are_collected_no_more_often_than_they_occur() -> None:
    task = geometric_task()
    mean, deviation = length_moments()
    collector, policy = Collector(vector_env(task, 64)), FixedPolicy(ngram_of(task))
    lengths = [collector.collect(policy, 64, seed=[i]).lengths for i in range(30)]
    error = deviation / np.sqrt(30 * 64)
    assert abs(np.mean(lengths) - mean) < 4 * error
    # The same instrument sees the bias of stopping early.
    broken = [collect_until_enough_have_ended(task, 64, i) for i in range(30)]
    assert np.mean(broken) < mean - 20 * error


def test_refilled_rows_are_not_biased_either() -> None:
    task = geometric_task()
    mean, deviation = length_moments()
    lengths = (
        Collector(vector_env(task, 50)).collect(FixedPolicy(ngram_of(task)), 4000, seed=[1]).lengths
    )
    assert abs(lengths.mean() - mean) < 4 * deviation / np.sqrt(4000)


# --- autoreset, seeds, forms of the observation ---


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_autoreset_mode_gives_the_same_episodes_and_is_restored(mode: AutoresetMode) -> None:
    task = tiny_task()
    found = []
    for autoreset_mode in (AutoresetMode.DISABLED, mode):
        policy = residual(task, away=0.5)
        base = vector_env(task, 8, autoreset_mode=autoreset_mode)
        envs = KLPenalty(base, policy=policy)
        found.append(Collector(envs).collect(policy, 40, seed=[2]))
    assert_same(found[1], found[0])
    assert base.autoreset_mode is mode
    assert base.metadata["autoreset_mode"] is mode


def test_the_autoreset_mode_is_restored_where_the_policy_fails() -> None:
    task = tiny_task()
    envs = with_kl(task, residual(task))

    class Failing(FixedPolicy):
        def step(self, obs: Any, rng: np.random.Generator, *, greedy: bool = False) -> PolicyStep:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        Collector(envs).collect(Failing(ngram_of(task)), 8, seed=[0])
    assert envs.unwrapped.autoreset_mode is AutoresetMode.NEXT_STEP  # type: ignore[attr-defined]
    # The KL wrapper charges again, step by step.
    envs.reset(seed=0)
    assert "log_ratio" in envs.step(np.ones(8, np.int64))[-1]


def test_nothing_is_carried_from_one_collection_to_the_next() -> None:
    task = tiny_task()
    policy = residual(task, away=0.5)
    collector = Collector(with_kl(task, policy))
    first = collector.collect(policy, 24, seed=[4])
    other = collector.collect(policy, 24, seed=[4, 1])
    assert_same(collector.collect(policy, 24, seed=[4]), first)
    assert played_in(other) != played_in(first)


def test_flat_and_dict_observations_give_the_same_episodes() -> None:
    """Only what stands behind the text differs: -1 in the flat form."""
    task = tiny_task()
    by_form: dict[str, Episodes] = {}
    for form in ("dict", "flat"):
        envs = vector_env(task, 8, obs=form)
        by_form[form] = Collector(envs).collect(residual(task, away=0.5), 40, seed=[2])
    ids = by_form["dict"].input_ids
    is_text = by_form["dict"].attention_mask != 0
    np.testing.assert_array_equal(by_form["flat"].input_ids[is_text], ids[is_text])
    assert_same(replace(by_form["flat"], input_ids=ids), by_form["dict"])


def test_greedy_episodes_take_the_likeliest_token_each_time() -> None:
    task = tiny_task(limit=5)
    policy = FixedPolicy(ngram_of(task))
    episodes = Collector(vector_env(task, 4)).collect(policy, 12, seed=[0], greedy=True)
    for prompt, ids in played_in(episodes):
        last = int(task.prompts.token_ids[prompt, task.prompts.lengths[prompt] - 1])
        for token in ids:
            assert token == ngram_of(task).table[last].argmax()
            last = token


# --- the numbers noted are the policy's ---


def policies() -> dict[str, Callable[[], tuple[Task, Policy]]]:
    def over_ngram() -> tuple[Task, Policy]:
        task = tiny_task(limit=6)
        return task, residual(task, away=0.5)

    def over_model() -> tuple[Task, Policy]:
        task = tiny_task(limit=6, reference=causal_reference(tiny_gpt2()))
        return task, residual(task, away=0.5)

    def gpt2() -> tuple[Task, Policy]:
        task = tiny_task(limit=6, reference=causal_reference(tiny_gpt2()))
        return task, causal_policy(tiny_gpt2(seed=1))

    def llama() -> tuple[Task, Policy]:
        task = tiny_task(limit=6, reference=causal_reference(tiny_llama()))
        return task, causal_policy(tiny_llama(seed=1))

    return {"residual": over_ngram, "residual_lm": over_model, "gpt2": gpt2, "llama": llama}


@pytest.mark.parametrize("kind", list(policies()))
def test_what_was_noted_while_acting_equals_the_training_forward(kind: str) -> None:
    """Rows of all lengths, begun at different steps: the cache must not mix them up."""
    task, policy = policies()[kind]()
    assert isinstance(policy, NetworkPolicy)
    with torch.no_grad():
        policy.value_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    episodes = Collector(with_kl(task, policy)).collect(policy, 60, seed=[0])
    assert len(set(episodes.lengths)) > 3
    found = policy.evaluate(episodes)
    mask = episodes.response_mask
    for name in ("log_probs", "entropies", "values"):
        expected = getattr(found, name).detach().numpy()
        np.testing.assert_allclose(getattr(episodes, name)[mask], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", list(policies()))
def test_charging_step_by_step_gives_the_rewards_of_charging_whole_episodes(kind: str) -> None:
    task, policy = policies()[kind]()
    deferred = Collector(with_kl(task, policy)).collect(policy, 40, seed=[0])
    outside = RecordEpisodeStatistics(with_kl(task, policy), buffer_length=40)
    in_step = Collector(outside).collect(policy, 40, seed=[0])
    assert_same(in_step, deferred, atol=1e-5)
    assert deferred.ref_log_probs is not None
    assert np.abs(deferred.kl).max() > 0.5
    # The statistics of the wrapper outside are those of the episodes.
    np.testing.assert_allclose(
        np.sort(outside.return_queue), np.sort(in_step.returns), rtol=0, atol=1e-5
    )
    np.testing.assert_array_equal(np.sort(outside.length_queue), np.sort(in_step.lengths))


def test_rewards_are_the_scores_minus_the_priced_log_ratio_of_the_table() -> None:
    task = tiny_task()
    policy = residual(task, away=0.5)
    episodes = Collector(with_kl(task, policy, coefficient=0.9)).collect(policy, 24, seed=[0])
    by_hand = episodes_of(task, policy, played_in(episodes))
    assert by_hand.ref_log_probs is not None
    ratio = np.where(by_hand.response_mask, by_hand.log_probs - by_hand.ref_log_probs, 0.0)
    np.testing.assert_allclose(episodes.rewards, by_hand.task_rewards - 0.9 * ratio, atol=1e-5)


def test_without_a_kl_wrapper_nothing_is_charged() -> None:
    task = tiny_task()
    episodes = Collector(vector_env(task)).collect(residual(task, away=0.5), 24, seed=[0])
    assert episodes.ref_log_probs is None
    np.testing.assert_array_equal(episodes.rewards, episodes.task_rewards)


@pytest.mark.parametrize("is_deferred", [True, False])
def test_an_adaptive_coefficient_hears_of_every_episode_once(is_deferred: bool) -> None:
    task = tiny_task()
    policy = residual(task, away=0.5)
    adaptive = AdaptiveCoefficient(value=0.3, target=1.0, batch_size=1000)
    envs: Any = with_kl(task, policy, coefficient=adaptive)
    envs = envs if is_deferred else RecordEpisodeStatistics(envs)
    episodes = Collector(envs).collect(policy, 50, seed=[0])
    state = adaptive.state()
    assert state["count"] == 50
    assert state["sum"] == pytest.approx(episodes.kl.sum(), abs=1e-4)


def test_an_adaptive_coefficient_changes_after_its_batch_was_charged() -> None:
    """target 1e-6: the error is clipped at 0.2, so β grows by 0.2 · 50 / 100."""
    task = tiny_task()
    policy = residual(task, away=2.0)
    adaptive = AdaptiveCoefficient(value=0.3, target=1e-6, horizon=100, batch_size=50)
    collector = Collector(with_kl(task, policy, coefficient=adaptive))
    episodes = collector.collect(policy, 50, seed=[0])
    assert adaptive.value == pytest.approx(0.3 * 1.1)
    np.testing.assert_allclose(episodes.returns, episodes.scores - 0.3 * episodes.kl)


# --- episodes that are cut off ---


class CutAfter(VectorWrapper[Any, Any, Any, Any, Any]):
    """Truncates every row after `limit` steps; rows that only wait are flagged like the others."""

    def __init__(self, env: Any, limit: int) -> None:
        super().__init__(env)
        self._limit = limit
        self._steps: Ints = np.zeros(env.num_envs, np.int64)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        mask: Any = (options or {}).get("reset_mask", slice(None))
        self._steps[mask] = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> Any:
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        self._steps += 1
        return obs, rewards, terminated, truncated | (self._steps == self._limit), infos


def test_the_value_at_the_end_stands_only_where_a_wrapper_cut_the_episode_off() -> None:
    task = tiny_task(limit=3)
    policy = residual(task, away=0.5)
    twin = twin_of(policy)
    for envs in (
        KLPenalty(CutAfter(vector_env(task, 8), 2), policy=policy),
        CutAfter(with_kl(task, policy), 2),
    ):
        episodes = Collector(envs).collect(policy, 64, seed=[0])
        is_cut = episodes.finish_reason == FinishReason.RUNNING
        assert 0 < is_cut.sum() < 64
        np.testing.assert_array_equal(episodes.bootstrap_values != 0, is_cut)
        np.testing.assert_array_equal(episodes.lengths[is_cut], 2)
        assert not episodes.task_rewards[is_cut].any()
        # What was cut goes on to a third token: the exact value before it is known.
        exact = enumerate_exactly(task, twin)
        values: dict[tuple[int, Response], float] = {
            (prompt, y[:2]): float(exact.values[i].detach()[2])
            for i, (prompt, y) in enumerate(exact.played)
            if len(y) == 3
        }
        for y, value, is_bootstrapped in zip(
            played_in(episodes), episodes.bootstrap_values, is_cut, strict=True
        ):
            assert value == pytest.approx(values[y] if is_bootstrapped else 0.0, abs=1e-5)


def test_an_end_that_was_scored_is_not_cut_off_even_where_a_wrapper_says_both() -> None:
    task = tiny_task(limit=2)
    policy = residual(task, away=0.5)
    episodes = Collector(CutAfter(vector_env(task, 8), 2)).collect(policy, 64, seed=[0])
    assert (episodes.finish_reason != FinishReason.RUNNING).all()
    assert not episodes.bootstrap_values.any()
    assert (episodes.scores != 0).all()


# --- what does not fit ---


def test_fewer_episodes_than_rows_are_refused() -> None:
    task = tiny_task()
    with pytest.raises(InvalidInputError, match="at least 8 episodes, one a row"):
        Collector(vector_env(task, 8)).collect(residual(task), 7, seed=[0])


def test_a_number_that_the_groups_do_not_divide_is_refused() -> None:
    task = tiny_task()
    with pytest.raises(InvalidInputError, match="multiple of the group size 4; got 10"):
        Collector(vector_env(task, 8)).collect(residual(task), 10, seed=[0], group_size=4)


def test_other_vector_environments_are_refused() -> None:
    envs = gym.make_vec("CartPole-v1", num_envs=2)
    with pytest.raises(InvalidInputError, match="native text vector environments; got CartPole"):
        Collector(envs)
    envs.close()


def test_a_response_of_one_token_is_an_episode() -> None:
    task = tiny_task(limit=1, reference=random_ngram())
    episodes = Collector(vector_env(task, 4)).collect(residual(task), 9, seed=[0])
    np.testing.assert_array_equal(episodes.lengths, 1)
    assert episodes.response_mask.shape == (9, 1)


def test_a_policy_of_a_larger_vocabulary_writes_only_what_the_environment_knows() -> None:
    """Embeddings are often padded beyond the tokenizer: those rows must never be drawn."""
    task = tiny_task(limit=6)
    policy = causal_policy(tiny_gpt2(11), vocabulary_size=4)
    assert isinstance(policy, CausalLMPolicy)
    episodes = Collector(with_kl(task, policy)).collect(policy, 40, seed=[0])
    assert episodes.response_ids.max() < 4
    found = policy.evaluate(episodes).log_probs.detach().numpy()
    np.testing.assert_allclose(episodes.log_probs[episodes.response_mask], found, atol=1e-5)


@pytest.mark.parametrize("num_envs", [1, 3, 16])
def test_the_environment_counts_the_tokens_of_the_episodes(num_envs: int) -> None:
    collector, policy, _ = scripted(num_envs)
    for seed in (0, 1):
        before = collector.envs.tokens_generated
        episodes = collector.collect(policy, 40, seed=[seed])
        assert collector.envs.tokens_generated - before == episodes.num_tokens


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_gold_is_noted_where_the_reward_reports_it(mode: AutoresetMode) -> None:
    def reward(prompts: Any, responses: Any, *, response_ids: Any, **_: Any) -> Any:
        return [0.0] * len(response_ids), {"gold": [float(ids[0]) for ids in response_ids]}

    task = tiny_task(reward=reward)
    envs = vector_env(task, 8, autoreset_mode=mode)
    for stack in (envs, KLPenalty(envs, policy=residual(task))):
        episodes = Collector(stack).collect(residual(task, away=0.5), 40, seed=[0])
        np.testing.assert_array_equal(episodes.gold, episodes.response_ids[:, 0])
    assert (
        Collector(vector_env(tiny_task())).collect(residual(tiny_task()), 8, seed=[0]).gold is None
    )


# --- the likeliest responses ---


@pytest.mark.parametrize("prompts", [[1], [0, 1], [1, 0, 1, 1, 0, 0, 1]])
def test_each_prompt_is_answered_greedily_once_and_nothing_else_is_played(
    prompts: list[int],
) -> None:
    """In five rows: with fewer prompts the others wait, with more they are refilled."""
    task = tiny_task()
    policy = residual(task, away=0.5)
    envs = with_kl(task, policy, 5)
    collector = Collector(envs)
    collector.collect(policy, 12, seed=[1])
    before = envs.unwrapped.tokens_generated  # type: ignore[attr-defined]
    found = collector.collect_greedy(policy, np.array(prompts), seed=[2])
    assert envs.unwrapped.tokens_generated - before == found.num_tokens  # type: ignore[attr-defined]
    whole = collector.collect(policy, 12, seed=[3], greedy=True, is_balanced=True)
    answers = dict(played_in(whole))
    assert played_in(found) == [(prompt, answers[prompt]) for prompt in prompts]
    by_hand = episodes_of(task, policy, played_in(found))
    np.testing.assert_allclose(found.rewards, by_hand.rewards, atol=1e-5)
    assert abs(found.kl).min() > 1e-3


def test_what_waits_does_not_change_a_greedy_answer() -> None:
    task = tiny_task()
    policy = residual(task, away=0.5)
    found = []
    for seed in (1, 2):
        collector = Collector(with_kl(task, policy, 5))
        collector.collect(policy, 12, seed=[seed])
        found.append(collector.collect_greedy(policy, np.array([0, 1]), seed=[2]))
    assert_same(found[0], found[1], atol=1e-5)


def test_an_adaptive_coefficient_does_not_hear_of_greedy_answers() -> None:
    task = tiny_task()
    policy = residual(task, away=0.5)
    beta = AdaptiveCoefficient(value=0.3, target=0.01, horizon=10.0, batch_size=1)
    collector = Collector(with_kl(task, policy, 5, coefficient=beta))
    collector.collect(policy, 5, seed=[1])
    before = beta.state()
    collector.collect_greedy(policy, np.array([0, 1]), seed=[2])
    assert beta.state() == before


def test_rows_that_have_never_played_cannot_wait() -> None:
    task = tiny_task()
    policy = residual(task)
    with pytest.raises(InvalidInputError, match="a row without text"):
        Collector(vector_env(task, 5)).collect_greedy(policy, np.array([0]), seed=[2])
