"""The KL wrappers: every acting token is charged log π − log π_ref, computed here by hand."""

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models import NGramModel
from textrl_envs.task import Task
from textrl_envs.text_env import TextEnv
from textrl_envs.vector_env import TextVectorEnv
from textrl_envs.wrappers import AdaptiveCoefficient, KLPenalty
from textrl_envs.wrappers.vector import KLPenalty as VectorKLPenalty

MakeTask = Callable[..., Task]
BuildLM = Callable[..., Any]
EOS, BETA = 1, 0.3

every_mode = pytest.mark.parametrize("mode", list(AutoresetMode))
both_forms = pytest.mark.parametrize("obs", ["dict", "flat"])


def bigram(seed: int) -> NGramModel:
    rows = np.random.default_rng(seed).dirichlet(np.full(32, 0.5), size=32)
    return NGramModel(np.log(0.99 * rows + 0.01 / 32))


POLICY, REFERENCE = bigram(0), bigram(1)


def last_tokens(obs: Any) -> Any:
    """Returns the last token of each row, of either form."""
    ids = obs["input_ids"] if isinstance(obs, dict) else obs
    is_text = obs["attention_mask"] if isinstance(obs, dict) else obs >= 0
    return np.atleast_2d(ids)[np.arange(len(np.atleast_2d(ids))), is_text.sum(axis=-1) - 1]


def by_hand(obs: Any, actions: Any) -> Any:
    context = last_tokens(obs)
    return POLICY.table[context, actions] - REFERENCE.table[context, actions]


def draw(rng: np.random.Generator, count: int) -> Any:
    return np.where(rng.random(count) < 0.15, EOS, rng.integers(2, 32, size=count))


def wrap(task: Task, num_envs: int, mode: AutoresetMode, **options: Any) -> VectorKLPenalty:
    envs = TextVectorEnv(
        task, num_envs=num_envs, autoreset_mode=mode, obs=options.pop("obs", "dict")
    )
    defaults: dict[str, Any] = {"policy": POLICY, "reference": REFERENCE, "coefficient": BETA}
    return VectorKLPenalty(envs, **defaults | options)


class Observed(AdaptiveCoefficient):
    """Keeps what it was told."""

    def __init__(self, **options: Any) -> None:
        super().__init__(value=BETA, target=1.0, **options)
        self.episodes: list[float] = []

    def observe(self, episode_kl: Any) -> None:
        self.episodes += episode_kl.tolist()


@both_forms
def test_one_environment_is_charged_by_hand(make_task: MakeTask, obs: Any) -> None:
    task = make_task()
    observed = Observed()
    env = KLPenalty(
        TextEnv(task, obs=obs), policy=POLICY, reference=REFERENCE, coefficient=observed
    )
    plain = TextEnv(task, obs=obs)
    rng = np.random.default_rng(0)
    state, _ = env.reset(seed=0)
    plain.reset(seed=0)
    totals = [0.0]
    for _ in range(80):
        action = int(draw(rng, 1)[0])
        ratio = float(by_hand(state, action)[0])
        state, reward, terminated, truncated, info = env.step(action)
        expected = plain.step(action)
        assert type(reward) is float
        assert reward == pytest.approx(expected[1] - BETA * ratio, abs=1e-12)
        assert (terminated, truncated) == expected[2:4]
        assert info == {**expected[4], "log_ratio": pytest.approx(ratio, abs=1e-12)}
        totals[-1] += ratio
        if terminated:
            state, _ = env.reset()
            plain.reset()
            totals.append(0.0)
    assert len(totals) > 5
    np.testing.assert_allclose(observed.episodes, totals[:-1], atol=1e-12)


@every_mode
@both_forms
def test_every_row_is_charged_by_hand_and_those_that_wait_are_charged_nothing(
    make_task: MakeTask, mode: AutoresetMode, obs: Any
) -> None:
    task, count = make_task(), 6
    observed = Observed()
    envs = wrap(task, count, mode, obs=obs, coefficient=observed)
    plain = TextVectorEnv(task, num_envs=count, autoreset_mode=mode, obs=obs)
    rng = np.random.default_rng(0)
    state, _ = envs.reset(seed=0)
    plain.reset(seed=0)
    waits, totals, episodes = np.zeros(count, bool), np.zeros(count), []
    waited = 0
    for _ in range(120):
        actions = draw(rng, count)
        ratio = np.where(waits, 0.0, by_hand(state, actions))
        state, rewards, terminated, truncated, infos = envs.step(actions)
        expected = plain.step(actions)
        np.testing.assert_allclose(rewards, expected[1] - BETA * ratio, rtol=0, atol=1e-12)
        assert not rewards[waits].any()  # exactly nothing
        np.testing.assert_array_equal(terminated, expected[2])
        np.testing.assert_array_equal(truncated, expected[3])
        np.testing.assert_allclose(infos["log_ratio"], ratio, rtol=0, atol=1e-12)
        assert infos["_log_ratio"].dtype == np.bool_
        assert set(expected[4]) <= set(infos)
        waited += int(waits.sum())
        totals += ratio
        episodes += totals[terminated].tolist()
        totals[terminated] = 0.0
        if mode == AutoresetMode.NEXT_STEP:
            waits = terminated.copy()
        elif mode == AutoresetMode.DISABLED:
            waits |= terminated
            if waits.sum() >= 4:
                # Of the rows that wait not all, and of those that run one: it is given up.
                mask = np.zeros(count, bool)
                mask[np.flatnonzero(waits)[:3]] = True
                mask[np.flatnonzero(~waits)[:1]] = True
                state, _ = envs.reset(options={"reset_mask": mask})
                plain.reset(options={"reset_mask": mask})
                waits &= ~mask
                totals[mask] = 0.0
    assert (waited > 10) == (mode != AutoresetMode.SAME_STEP)
    np.testing.assert_allclose(observed.episodes, episodes, rtol=0, atol=1e-12)
    assert len(episodes) > 20


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_recorded_returns_are_those_after_the_charge(
    make_task: MakeTask, mode: AutoresetMode
) -> None:
    from gymnasium.wrappers.vector import RecordEpisodeStatistics

    if mode is AutoresetMode.SAME_STEP and gym.__version__.startswith("1.2."):
        pytest.skip("Gymnasium 1.2 does not count the step after an end, as if it were dead")
    envs = RecordEpisodeStatistics(wrap(make_task(), 3, mode))
    rng = np.random.default_rng(0)
    envs.reset(seed=0)
    totals, episodes = np.zeros(3), np.zeros(3, int)
    for _ in range(60):
        _, rewards, terminated, _, infos = envs.step(draw(rng, 3))
        totals += rewards
        if terminated.any():
            recorded = infos["episode"]["r"][terminated]
            np.testing.assert_allclose(recorded, totals[terminated], rtol=0, atol=1e-12)
            totals[terminated] = 0.0
            episodes += terminated
    assert episodes.min() > 2


def test_scalar_environments_in_a_row_are_charged_as_the_native_one_is(make_task: MakeTask) -> None:
    task = make_task()
    native = wrap(task, 3, AutoresetMode.NEXT_STEP)
    scalars = VectorKLPenalty(
        SyncVectorEnv([lambda: TextEnv(task)] * 3),
        policy=POLICY,
        reference=REFERENCE,
        coefficient=BETA,
    )
    rng = np.random.default_rng(0)
    native.reset(seed=0)
    scalars.reset(seed=0)
    for _ in range(60):
        actions = draw(rng, 3)
        np.testing.assert_array_equal(native.step(actions)[1], scalars.step(actions)[1])


def test_an_action_of_shape_one_is_charged_as_a_plain_number_is(make_task: MakeTask) -> None:
    rewards = []
    for action in (20, np.int64(20), np.array(20), np.array([20])):
        env = KLPenalty(TextEnv(make_task()), policy=POLICY, reference=REFERENCE, coefficient=BETA)
        env.reset(options={"prompt_index": 0})
        rewards.append(env.step(action)[1])
    assert len(set(rewards)) == 1


@every_mode
def test_equal_distributions_are_charged_nothing(make_task: MakeTask, mode: AutoresetMode) -> None:
    envs = wrap(make_task(), 4, mode, policy=bigram(7), reference=bigram(7))
    plain = TextVectorEnv(make_task(), num_envs=4, autoreset_mode=mode)
    rng = np.random.default_rng(0)
    envs.reset(seed=0)
    plain.reset(seed=0)
    for _ in range(20):
        actions = draw(rng, 4)
        _, rewards, _, _, infos = envs.step(actions)
        np.testing.assert_array_equal(rewards, plain.step(actions)[1])
        assert not infos["log_ratio"].any()


def test_a_copy_of_a_causal_lm_is_charged_nothing(make_task: MakeTask, build_lm: BuildLM) -> None:
    from textrl_agents.policies import CausalLMPolicy
    from textrl_envs.language_models.causal import CausalLanguageModel

    reference = CausalLanguageModel(build_lm("GPT2", seed=1))
    policy = CausalLMPolicy.of_reference(reference)
    envs = wrap(make_task(), 4, AutoresetMode.NEXT_STEP, policy=policy, reference=reference)
    rng = np.random.default_rng(0)
    envs.reset(seed=0)
    for _ in range(20):
        ratio = envs.step(draw(rng, 4))[4]["log_ratio"]
        np.testing.assert_allclose(ratio, 0, atol=1e-6)


def test_reference_and_coefficient_are_the_environments_own_by_default() -> None:
    policy = NGramModel(np.full((46, 46), -np.log(46)))
    env = KLPenalty(gym.make("textrl/Keyword-v0", kl_coefficient=0.7), policy=policy)
    envs = VectorKLPenalty(
        gym.make_vec("textrl/Keyword-v0", num_envs=2, kl_coefficient=0.7), policy=policy
    )
    for wrapped in (env, envs):
        assert wrapped.charge.coefficient == 0.7
        assert wrapped.charge.reference is gym.make("textrl/Keyword-v0").unwrapped.reference  # type: ignore[attr-defined]


def test_runs_from_a_reset_repeat_to_the_last_bit(make_task: MakeTask, build_lm: BuildLM) -> None:
    from textrl_envs.language_models.causal import CausalLanguageModel

    envs = wrap(
        make_task(),
        4,
        AutoresetMode.SAME_STEP,
        reference=CausalLanguageModel(build_lm("GPT2", seed=1)),
    )
    runs = []
    for _ in range(2):
        rng = np.random.default_rng(0)
        envs.reset(seed=0)
        # The second run begins with half-read texts in the reference's memory.
        runs.append([envs.step(draw(rng, 4))[1] for _ in range(33)])
    np.testing.assert_array_equal(runs[0], runs[1])


# --- step by step and whole episodes ---


def two_forms(envs: Any) -> tuple[Any, Any]:
    """Returns collectors of one wrapped environment: charged at the end, and charged in step."""
    from textrl_agents.collector import Collector

    # A wrapper outside of the KL wrapper hides it, so that its steps charge as for any library.
    return Collector(envs), Collector(VectorWrapper(envs))


def assert_forms_agree(envs: VectorKLPenalty, policy: Any, episodes: int) -> Any:
    whole, in_step = (form.collect(policy, episodes, seed=[3]) for form in two_forms(envs))
    np.testing.assert_array_equal(whole.input_ids, in_step.input_ids)
    np.testing.assert_allclose(whole.rewards, in_step.rewards, rtol=0, atol=1e-5)
    np.testing.assert_allclose(whole.ref_log_probs, in_step.ref_log_probs, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(whole.task_rewards, in_step.task_rewards)
    charged = in_step.scores - in_step.returns
    penalties = envs.charge.penalties(whole).sum(axis=1)
    np.testing.assert_allclose(charged, penalties, rtol=0, atol=1e-5)
    assert np.abs(penalties).min() > 0.01
    return whole


@both_forms
def test_whole_episodes_cost_what_their_steps_cost(make_task: MakeTask, obs: Any) -> None:
    from textrl_agents.policies.fixed import FixedPolicy

    policy: Any = FixedPolicy(POLICY)
    envs = wrap(make_task(), 5, AutoresetMode.NEXT_STEP, policy=policy, obs=obs)
    episodes = assert_forms_agree(envs, policy, 40)
    rows, columns = episodes.response_places()
    before, tokens = episodes.input_ids[rows, columns - 1], episodes.input_ids[rows, columns]
    expected = BETA * (POLICY.table[before, tokens] - REFERENCE.table[before, tokens])
    found = envs.charge.penalties(episodes)[episodes.response_mask]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_whole_episodes_of_a_causal_lm_cost_what_their_steps_cost(
    make_task: MakeTask, build_lm: BuildLM, family: str
) -> None:
    import torch

    from textrl_agents.policies import CausalLMPolicy
    from textrl_envs.language_models.causal import CausalLanguageModel

    models = [build_lm(family, seed=seed) for seed in (1, 2)]
    reference, policy = CausalLanguageModel(models[0]), CausalLMPolicy(models[1])
    task = make_task(max_new_tokens=12)
    envs = wrap(task, 5, AutoresetMode.SAME_STEP, policy=policy, reference=reference)
    episodes = assert_forms_agree(envs, policy, 20)
    expected = []
    for ids, length, start in zip(
        episodes.input_ids,
        episodes.attention_mask.sum(axis=1),
        episodes.prompt_lengths,
        strict=True,
    ):
        text = torch.from_numpy(ids[:length]).to(models[0].device)
        with torch.no_grad():
            ours, theirs = (
                model(input_ids=text[None]).logits[0, :-1].log_softmax(-1).gather(1, text[1:, None])
                for model in (models[1], models[0])
            )
        expected.append(BETA * float((ours - theirs)[start - 1 :].sum()))
    np.testing.assert_allclose(
        envs.charge.penalties(episodes).sum(axis=1), expected, rtol=0, atol=2e-5
    )


def test_an_adaptive_coefficient_ends_the_same_in_either_form(make_task: MakeTask) -> None:
    from textrl_agents.policies.fixed import FixedPolicy

    policy: Any = FixedPolicy(POLICY)
    values = []
    for form in (0, 1):
        beta = AdaptiveCoefficient(value=BETA, target=1.0, horizon=100.0, batch_size=48)
        envs = wrap(make_task(), 5, AutoresetMode.NEXT_STEP, policy=policy, coefficient=beta)
        episodes = two_forms(envs)[form].collect(policy, 48, seed=[3])
        values.append(beta.value)
        error = np.clip(episodes.kl.mean() / 1.0 - 1, -0.2, 0.2)
        assert beta.value == pytest.approx(BETA * (1 + error * 48 / 100.0), rel=1e-9)
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    assert values[0] != BETA


def test_while_the_charge_is_put_off_nothing_is_charged(make_task: MakeTask) -> None:
    envs = wrap(make_task(), 2, AutoresetMode.SAME_STEP)
    plain = TextVectorEnv(make_task(), num_envs=2, autoreset_mode=AutoresetMode.SAME_STEP)
    envs.reset(seed=0)
    plain.reset(seed=0)
    with envs.deferred() as charge:
        assert charge is envs.charge
        _, rewards, _, _, infos = envs.step([20, EOS])
        np.testing.assert_array_equal(rewards, plain.step([20, EOS])[1])
        assert "log_ratio" not in infos
    assert envs.step([20, 20])[4]["log_ratio"].all()


def test_the_charge_is_put_off_no_longer_when_the_block_fails(make_task: MakeTask) -> None:
    envs = wrap(make_task(), 1, AutoresetMode.NEXT_STEP)
    with pytest.raises(KeyError), envs.deferred():
        raise KeyError
    envs.reset(seed=0)
    assert "log_ratio" in envs.step([20])[4]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_a_row_that_ended_while_the_charge_was_put_off_still_waits(
    make_task: MakeTask, mode: AutoresetMode
) -> None:
    envs = wrap(make_task(), 2, mode)
    envs.reset(seed=0)
    with envs.deferred():
        envs.step([EOS, 20])
    _, rewards, _, _, infos = envs.step([20, 20])
    assert infos["log_ratio"][0] == rewards[0] == 0.0
    assert infos["log_ratio"][1] != 0.0


# --- the reference stays as it is ---


def fingerprint(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def test_training_the_policy_leaves_the_reference_alone(
    make_task: MakeTask, build_lm: BuildLM
) -> None:
    import torch

    from textrl_agents.collector import Collector
    from textrl_agents.policies import CausalLMPolicy
    from textrl_envs.language_models.causal import CausalLanguageModel

    reference = CausalLanguageModel(build_lm("GPT2", seed=1))
    policy = CausalLMPolicy.of_reference(reference)
    before = fingerprint(reference.model), fingerprint(policy.model)
    envs = wrap(make_task(), 4, AutoresetMode.NEXT_STEP, policy=policy, reference=reference)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    kl: list[float] = []
    for round_number in range(3):
        episodes = Collector(envs).collect(policy, 8, seed=[round_number])
        kl.append(float(np.abs(episodes.kl).max()))
        (-policy.evaluate(episodes).log_probs.sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    assert fingerprint(reference.model) == before[0]
    assert fingerprint(policy.model) != before[1]
    assert kl[0] < 1e-4 < 0.1 < kl[2]


# --- Gymnasium's contract, and errors ---


@dataclass(frozen=True)
class Scorer:
    """A policy whose copies are equal to it."""

    bias: float = 0.0
    vocabulary_size: int = 46

    def log_probs(self, obs: Any, actions: Any) -> Any:
        return np.full(len(actions), self.bias - np.log(46))


def test_a_wrapped_environment_passes_the_checker_of_stable_baselines() -> None:
    from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

    check_env_of_sb3(KLPenalty(gym.make("textrl/Keyword-v0"), policy=Scorer()))


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_a_wrapped_environment_passes_gymnasiums_checker() -> None:
    env = KLPenalty(gym.make("textrl/Keyword-v0").unwrapped, policy=Scorer())
    check_env(env, skip_render_check=True)


def test_a_spec_makes_the_wrapped_environment_again() -> None:
    env = KLPenalty(gym.make("textrl/Keyword-v0"), policy=Scorer(0.5), coefficient=0.4)
    assert env.spec is not None
    again = gym.make(env.spec)
    assert isinstance(again, KLPenalty)
    assert again._saved_kwargs == env._saved_kwargs
    assert again.charge.coefficient == 0.4
    results = []
    for each in (env, again):
        each.reset(seed=0)
        results.append(each.step(20))
    np.testing.assert_equal(results[0], results[1])
    assert results[0][1] != 0.0


@pytest.mark.parametrize("wrapper", [KLPenalty, VectorKLPenalty])
def test_every_argument_of_the_constructor_is_recorded(wrapper: Any) -> None:
    make = gym.make if wrapper is KLPenalty else gym.make_vec
    wrapped = wrapper(make("textrl/Keyword-v0"), policy=Scorer(), coefficient=0.4)
    names = set(inspect.signature(wrapper.__init__).parameters) - {"self", "env"}
    assert set(wrapped._saved_kwargs) == names


@pytest.mark.parametrize("action", [32, -1])
def test_an_action_outside_the_vocabulary_is_refused_as_without_the_wrapper(
    make_task: MakeTask, action: int
) -> None:
    env = KLPenalty(TextEnv(make_task()), policy=POLICY, reference=REFERENCE, coefficient=BETA)
    env.reset()
    with pytest.raises(InvalidInputError, match=rf"a token id, 0\.\.31; got {action}"):
        env.step(action)
    envs = wrap(make_task(), 2, AutoresetMode.NEXT_STEP)
    envs.reset()
    with pytest.raises(InvalidInputError, match=r"Actions must be token ids in 0\.\.31; got"):
        envs.step([3, action])


def test_actions_of_the_wrong_form_are_refused_as_without_the_wrapper(make_task: MakeTask) -> None:
    envs = wrap(make_task(), 2, AutoresetMode.NEXT_STEP)
    envs.reset()
    for actions in ([3], [3.0, 4.0], [[3], [4]]):
        with pytest.raises(InvalidInputError, match="Expected 2 token ids"):
            envs.step(actions)


def test_a_step_before_the_first_reset_is_refused(make_task: MakeTask) -> None:
    env = KLPenalty(TextEnv(make_task()), policy=POLICY, reference=REFERENCE, coefficient=BETA)
    with pytest.raises(gym.error.ResetNeeded, match=r"Call reset\(\) before the first step"):
        env.step(3)
    with pytest.raises(gym.error.ResetNeeded, match=r"Call reset\(\) before the first step"):
        wrap(make_task(), 2, AutoresetMode.NEXT_STEP).step([3, 4])


def test_a_step_after_the_end_is_refused_and_charges_nothing(make_task: MakeTask) -> None:
    observed = Observed()
    env = KLPenalty(TextEnv(make_task()), policy=POLICY, reference=REFERENCE, coefficient=observed)
    env.reset(seed=0)
    env.step(EOS)
    with pytest.raises(InvalidInputError, match="The response has ended"):
        env.step(3)
    assert len(observed.episodes) == 1


@pytest.mark.parametrize("wrapper", [KLPenalty, VectorKLPenalty])
def test_an_environment_without_a_reference_is_refused(make_task: MakeTask, wrapper: Any) -> None:
    env = TextEnv(make_task()) if wrapper is KLPenalty else TextVectorEnv(make_task())
    with pytest.raises(InvalidInputError, match="needs a reference and the environment carries"):
        wrapper(env, policy=POLICY)
