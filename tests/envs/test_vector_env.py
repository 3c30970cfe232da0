"""The native vector environment: N scalar ones, bit for bit, and Gymnasium's vector contract."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from textrl_envs.core import FinishReason
from textrl_envs.errors import InvalidInputError, RewardError
from textrl_envs.registration import IDS
from textrl_envs.task import Task
from textrl_envs.text_env import TextEnv
from textrl_envs.vector_env import TextVectorEnv

MakeTask = Callable[..., Task]
MakeKwargs = Callable[[str], dict[str, Any]]
EOS = 1

every_id = pytest.mark.parametrize("name", IDS)
both_forms = pytest.mark.parametrize("obs", ["dict", "flat"])
every_mode = pytest.mark.parametrize("mode", list(AutoresetMode))
automatic_modes = pytest.mark.parametrize(
    "mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]
)


def assert_same(first: Any, second: Any) -> None:
    """Compares nested dicts and arrays exactly: keys, types of arrays, shapes and values."""
    if isinstance(first, dict):
        assert isinstance(second, dict)
        assert sorted(first) == sorted(second)
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, np.ndarray) and first.dtype == object:
        assert second.dtype == object
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    elif isinstance(first, np.ndarray):
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)
    else:
        assert first == second


def vector_env(task: Task, **options: Any) -> Any:
    """Makes an environment whose observations need not be told apart by type."""
    return TextVectorEnv(task, **options)


def sync(task: Task, num_envs: int, mode: AutoresetMode, obs: Any = "dict") -> SyncVectorEnv:
    make = functools.partial(TextEnv, task, obs=obs)
    return SyncVectorEnv([make] * num_envs, autoreset_mode=mode)


def actions_of(rng: np.random.Generator, num_envs: int) -> Any:
    """Returns random words, and an EOS token one time in ten."""
    words = rng.integers(2, 32, size=num_envs)
    return np.where(rng.random(num_envs) < 0.1, EOS, words)


@automatic_modes
@both_forms
def test_it_equals_scalar_environments_bit_for_bit(
    make_task: MakeTask, mode: AutoresetMode, obs: Any
) -> None:
    task = make_task(stop=["w30 w31", "w7"], max_new_tokens=9)
    native = vector_env(task, num_envs=5, obs=obs, autoreset_mode=mode)
    scalars = sync(task, 5, mode, obs)
    assert native.observation_space == scalars.observation_space
    assert native.action_space == scalars.action_space
    rng = np.random.default_rng(0)
    for one, other in zip(native.reset(seed=7), scalars.reset(seed=7), strict=True):
        assert_same(one, other)
    reasons: list[int] = []
    for _ in range(300):
        actions = actions_of(rng, 5)
        result = native.step(actions)
        assert len(result) == 5
        for one, other in zip(result, scalars.step(actions), strict=True):
            assert_same(one, other)
        infos = result[4].get("final_info", result[4])
        reasons += infos["finish_reason"][result[2]].tolist()
    assert min(reasons.count(FinishReason.STOP), reasons.count(FinishReason.LENGTH)) > 20


@pytest.mark.parametrize("seeded", [False, True])
def test_it_equals_scalar_environments_that_are_reset_by_hand(
    make_task: MakeTask, seeded: bool
) -> None:
    task = make_task()
    mode = AutoresetMode.DISABLED
    native, scalars = vector_env(task, num_envs=5, autoreset_mode=mode), sync(task, 5, mode)
    native.reset(seed=3)
    scalars.reset(seed=3)
    rng = np.random.default_rng(0)
    resets = 0
    for _ in range(100):
        actions = actions_of(rng, 5)
        result = native.step(actions)
        for one, other in zip(result, scalars.step(actions), strict=True):
            assert_same(one, other)
        if result[2].any():
            resets += 1
            seed = resets if seeded and resets % 3 == 0 else None
            chosen = {"prompt_index": 1} if resets % 2 else {}
            pairs = [
                # Gymnasium takes the mask out of the caller's dict: each gets its own.
                envs.reset(seed=seed, options={"reset_mask": result[2], **chosen})
                for envs in (native, scalars)
            ]
            for one, other in zip(*pairs, strict=True):
                assert_same(one, other)
    assert resets > 20


@automatic_modes
def test_batch_scores_equal_one_by_one_scores_where_padding_is_eos(
    make_task: MakeTask, byte_tokenizer: Any, mode: AutoresetMode
) -> None:
    task = make_task(prompts=["the", "the cat sat"], tokenizer=byte_tokenizer, max_new_tokens=5)
    native, scalars = vector_env(task, num_envs=4, autoreset_mode=mode), sync(task, 4, mode)
    native.reset(seed=0)
    scalars.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = np.where(rng.random(4) < 0.3, 0, rng.integers(0, len(byte_tokenizer), 4))
        for one, other in zip(native.step(actions), scalars.step(actions), strict=True):
            assert_same(one, other)


@every_id
@automatic_modes
def test_make_vec_gives_the_native_environment_and_it_equals_the_scalar_ones(
    name: str, mode: AutoresetMode, make_kwargs: MakeKwargs
) -> None:
    kwargs = make_kwargs(name)
    native = gym.make_vec(name, num_envs=3, autoreset_mode=mode, **kwargs)
    scalars = gym.make_vec(
        name,
        num_envs=3,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        **kwargs,
    )
    assert isinstance(native.unwrapped, TextVectorEnv)
    assert isinstance(scalars, SyncVectorEnv)
    native.action_space.seed(0)
    for one, other in zip(native.reset(seed=1), scalars.reset(seed=1), strict=True):
        assert_same(one, other)
    for _ in range(100):
        actions = native.action_space.sample()
        for one, other in zip(native.step(actions), scalars.step(actions), strict=True):
            assert_same(one, other)


@every_mode
def test_each_autoreset_mode_can_be_chosen_by_member_or_value(
    make_task: MakeTask, mode: AutoresetMode
) -> None:
    before = dict(TextVectorEnv.metadata)
    for given in (mode, mode.value):
        envs = vector_env(make_task(), num_envs=2, autoreset_mode=given)
        assert envs.metadata["autoreset_mode"] is mode
        assert envs.autoreset_mode is mode
    assert TextVectorEnv.metadata == before  # the class's dict belongs to every environment


def test_an_unknown_autoreset_mode_is_refused(make_task: MakeTask) -> None:
    with pytest.raises(InvalidInputError, match=r"Unknown autoreset_mode 'Never'\. Known: \["):
        vector_env(make_task(), autoreset_mode="Never")


def test_next_step_is_the_default_as_in_gymnasium(make_task: MakeTask) -> None:
    assert vector_env(make_task()).metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_in_next_step_mode_the_dead_step_pays_nothing_and_ignores_its_action(
    make_task: MakeTask,
) -> None:
    envs = vector_env(make_task(), num_envs=2)
    envs.reset(seed=0)
    _, rewards, terminated, _, _ = envs.step([EOS, 20])
    assert terminated.tolist() == [True, False]
    assert rewards.tolist() == [10.01, 0.0]
    obs, rewards, terminated, truncated, infos = envs.step([EOS, 21])
    assert rewards.tolist() == [0.0, 0.0]
    assert not terminated.any()
    assert not truncated.any()
    index = infos["prompt_index"][0]
    assert obs["attention_mask"][0].sum() == envs.prompts.lengths[index]
    assert "score" not in infos


def test_in_same_step_mode_the_end_is_in_final_obs_and_final_info_of_done_rows_alone(
    make_task: MakeTask,
) -> None:
    envs = vector_env(make_task(), num_envs=3, autoreset_mode=AutoresetMode.SAME_STEP)
    _, first_infos = envs.reset(seed=0, options={"prompt_index": 0})
    assert not {"final_obs", "final_info"} & set(first_infos)
    assert not {"final_obs", "final_info"} & set(envs.step([20, 20, 20])[4])
    obs, rewards, terminated, _, infos = envs.step([EOS, 21, EOS])
    assert terminated.tolist() == [True, False, True]
    assert infos["_final_obs"].tolist() == terminated.tolist()
    assert infos["_final_info"].tolist() == terminated.tolist()
    assert infos["final_obs"][1] is None
    assert infos["final_obs"][2]["input_ids"].tolist()[:4] == [5, 20, EOS, 0]
    final = infos["final_info"]
    assert final["score"].tolist() == rewards.tolist() == [10.21, 0.0, 10.21]
    assert final["_score"].tolist() == terminated.tolist()
    assert final["finish_reason"].tolist() == [FinishReason.STOP, 0, FinishReason.STOP]
    assert final["_finish_reason"].tolist() == terminated.tolist()
    assert "score" not in infos
    assert infos["finish_reason"].tolist() == [0, 0, 0]
    lengths = envs.prompts.lengths[infos["prompt_index"]]
    assert obs["attention_mask"].sum(axis=1).tolist() == [lengths[0], 3, lengths[2]]


def test_in_disabled_mode_a_row_that_ended_waits(make_task: MakeTask) -> None:
    envs = vector_env(make_task(), num_envs=2, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=0, options={"prompt_index": 0})
    ended = envs.step([EOS, 20])[0]
    for action in (20, EOS, 31):
        obs, rewards, terminated, truncated, infos = envs.step([action, 21])
        np.testing.assert_array_equal(obs["input_ids"][0], ended["input_ids"][0])
        np.testing.assert_array_equal(obs["attention_mask"][0], ended["attention_mask"][0])
        assert rewards.tolist() == [0.0, 0.0]
        assert not (terminated | truncated).any()
        assert infos["finish_reason"].tolist() == [FinishReason.STOP, FinishReason.RUNNING]
        assert "score" not in infos
    assert obs["attention_mask"][1].sum() == 5  # the other row went on
    envs.step([20, EOS])
    rewards = envs.step([20, 20])[1]  # nobody runs
    assert rewards.tolist() == [0.0, 0.0]


def test_a_masked_reset_changes_those_rows_alone_and_leaves_the_options_as_they_were(
    make_task: MakeTask,
) -> None:
    envs = vector_env(make_task(), num_envs=3, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=0, options={"prompt_index": 0})
    before = envs.step([20, EOS, 22])[0]
    mask = np.array([False, True, False])
    options = {"reset_mask": mask, "prompt_index": 2}
    obs, infos = envs.reset(options=options)
    assert list(options) == ["reset_mask", "prompt_index"]
    assert mask.tolist() == [False, True, False]
    for key in before:
        np.testing.assert_array_equal(obs[key][~mask], before[key][~mask])
    assert obs["input_ids"][1].tolist()[:3] == [9, 10, 0]
    assert infos["prompt_index"].tolist() == [0, 2, 0]
    assert infos["_prompt_index"].tolist() == mask.tolist()
    assert envs.step([30, 31, 30])[0]["attention_mask"].sum(axis=1).tolist() == [3, 3, 3]


def test_a_masked_reset_with_a_seed_leaves_the_generators_of_other_rows(
    make_task: MakeTask,
) -> None:
    def prompts_of_row_one(envs: Any) -> list[int]:
        return [int(envs.reset()[1]["prompt_index"][1]) for _ in range(30)]

    envs, untouched = (vector_env(make_task(), num_envs=2) for _ in range(2))
    envs.reset(seed=0)
    untouched.reset(seed=0)
    envs.reset(seed=123, options={"reset_mask": np.array([True, False])})
    assert prompts_of_row_one(envs) == prompts_of_row_one(untouched)


def test_a_mask_of_a_list_will_do(make_task: MakeTask) -> None:
    envs = vector_env(make_task(), num_envs=2)
    envs.reset(seed=0)
    _, infos = envs.reset(options={"reset_mask": [False, True]})
    assert infos["_prompt_index"].tolist() == [False, True]


@pytest.mark.parametrize("mask", [[True], [False, False], [0, 1], np.ones((2, 1), bool), "yes"])
def test_a_mask_of_the_wrong_form_is_refused(make_task: MakeTask, mask: Any) -> None:
    envs = vector_env(make_task(), num_envs=2)
    message = r"'reset_mask'\] must be a bool array of shape \(2,\) with at least one True; got"
    with pytest.raises(InvalidInputError, match=message):
        envs.reset(options={"reset_mask": mask})


@pytest.mark.parametrize(
    ("index", "expected"),
    [(1, [1, 1, 1]), ([2, 0, 1], [2, 0, 1]), (np.array([0, 0, 2]), [0, 0, 2])],
)
def test_prompts_can_be_chosen_for_all_rows_or_each(
    make_task: MakeTask, index: Any, expected: list[int]
) -> None:
    envs = vector_env(make_task(), num_envs=3)
    obs, infos = envs.reset(options={"prompt_index": index})
    assert infos["prompt_index"].tolist() == expected
    firsts = [envs.prompts.token_ids[i, 0] for i in expected]
    assert obs["input_ids"][:, 0].tolist() == firsts


def test_of_an_index_a_row_the_masked_reset_takes_those_of_its_rows(make_task: MakeTask) -> None:
    envs = vector_env(make_task(), num_envs=3)
    envs.reset(options={"prompt_index": 0})
    mask = np.array([True, False, True])
    _, infos = envs.reset(options={"reset_mask": mask, "prompt_index": [1, 1, 2]})
    assert infos["prompt_index"].tolist() == [1, 0, 2]
    assert envs.step([20, 20, 20])[4]["prompt_index"].tolist() == [1, 0, 2]


@pytest.mark.parametrize("index", [3, -1, [0, 1], [0, 1, 3], [0.0, 1.0, 2.0]])
def test_prompts_that_do_not_exist_are_refused(make_task: MakeTask, index: Any) -> None:
    envs = vector_env(make_task(), num_envs=3)
    with pytest.raises(InvalidInputError, match=r"an integer, or 3 of them, in 0\.\.2"):
        envs.reset(options={"prompt_index": index})


@pytest.mark.parametrize("seed", [5, np.int64(5), [5, 6, 7], (5, 6, 7)])
def test_row_i_gets_the_seed_plus_i(make_task: MakeTask, seed: Any) -> None:
    envs = vector_env(make_task(), num_envs=3)
    rows = [TextEnv(make_task()) for _ in range(3)]
    draws = [envs.reset(seed=seed)[1]["prompt_index"].tolist()]
    draws += [envs.reset()[1]["prompt_index"].tolist() for _ in range(20)]
    expected = [[row.reset(seed=5 + i)[1]["prompt_index"] for i, row in enumerate(rows)]]
    expected += [[row.reset()[1]["prompt_index"] for row in rows] for _ in range(20)]
    assert draws == expected


def test_a_seed_of_none_leaves_a_rows_generator_as_it_is(make_task: MakeTask) -> None:
    envs, other = (vector_env(make_task(), num_envs=2) for _ in range(2))
    for each in (envs, other):
        each.reset(seed=0)
    first = envs.reset(seed=[None, 9])[1]["prompt_index"]
    second = other.reset()[1]["prompt_index"]
    assert first[0] == second[0]
    draws = [[int(e.reset()[1]["prompt_index"][0]) for _ in range(30)] for e in (envs, other)]
    assert draws[0] == draws[1]


def test_too_few_seeds_are_refused(make_task: MakeTask) -> None:
    with pytest.raises(InvalidInputError, match="Expected 3 seeds, one a row; got 2"):
        vector_env(make_task(), num_envs=3).reset(seed=[1, 2])


def test_two_runs_of_a_seed_are_equal_whatever_the_global_generator(make_task: MakeTask) -> None:
    runs: list[list[Any]] = []
    for run in range(2):
        np.random.seed(run)  # noqa: NPY002 - the global generator must not matter
        envs = vector_env(make_task(), num_envs=4)
        rng = np.random.default_rng(0)
        results = [envs.reset(seed=1), *(envs.step(actions_of(rng, 4)) for _ in range(60))]
        runs.append(results)
    for one, other in zip(*runs, strict=True):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)


@every_id
@every_mode
def test_every_info_has_a_bool_mask_and_numbers_only(
    name: str, mode: AutoresetMode, make_kwargs: MakeKwargs
) -> None:
    envs = gym.make_vec(name, num_envs=4, autoreset_mode=mode, **make_kwargs(name))
    envs.action_space.seed(0)

    def check(infos: dict[str, Any]) -> None:
        for key in [key for key in infos if not key.startswith("_")]:
            mask = infos[f"_{key}"]
            assert mask.dtype == np.bool_
            assert mask.shape == (4,)
            if key == "final_info":
                check(infos[key])
            elif key != "final_obs":
                assert infos[key].dtype.kind in "if"
                assert infos[key].shape == (4,)
                assert not infos[key][~mask].any()

    check(envs.reset(seed=0)[1])
    for _ in range(60):
        check(envs.step(envs.action_space.sample())[4])


@every_mode
@both_forms
def test_no_two_results_share_memory(make_task: MakeTask, mode: AutoresetMode, obs: Any) -> None:
    envs = vector_env(make_task(), num_envs=3, obs=obs, autoreset_mode=mode)

    def arrays(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [array for each in value.values() for array in arrays(each)]
        if isinstance(value, np.ndarray) and value.dtype == object:
            return [array for each in value for array in arrays(each)]
        return [value] if isinstance(value, np.ndarray) else []

    rng = np.random.default_rng(0)
    results: list[Sequence[Any]] = [envs.reset(seed=0)]
    results += [envs.step(actions_of(rng, 3)) for _ in range(8)]
    found = [[a for part in result for a in arrays(part)] for result in results]
    # Between results, and within one: the flags are not the masks of the infos.
    every = [array for result in found for array in result]
    for index, one in enumerate(every):
        assert not any(np.shares_memory(one, other) for other in every[:index])


@automatic_modes
def test_every_observation_lies_in_the_space(make_task: MakeTask, mode: AutoresetMode) -> None:
    envs = vector_env(make_task(), num_envs=3, autoreset_mode=mode)
    rng = np.random.default_rng(0)
    assert envs.reset(seed=0)[0] in envs.observation_space
    for _ in range(40):
        assert envs.step(actions_of(rng, 3))[0] in envs.observation_space


def test_numpy_to_torch_survives_three_episodes() -> None:
    import torch

    pytest.importorskip("array_api_compat", reason="gymnasium's NumpyToTorch needs it")
    from gymnasium.wrappers.vector import NumpyToTorch

    envs = NumpyToTorch(gym.make_vec("textrl/Keyword-v0", num_envs=4))
    envs.action_space.seed(0)
    obs, _ = envs.reset(seed=0)
    ends = 0
    while ends < 3 * 4:
        actions = torch.as_tensor(np.asarray(envs.action_space.sample()))
        obs, rewards, terminated, _, infos = envs.step(actions)
        ends += int(terminated.sum())
    assert obs["input_ids"].dtype == torch.int64
    assert isinstance(rewards, torch.Tensor)
    assert isinstance(infos["finish_reason"], torch.Tensor)


@automatic_modes
def test_recorded_statistics_are_right_for_every_episode(
    make_task: MakeTask, mode: AutoresetMode
) -> None:
    from gymnasium.wrappers.vector import RecordEpisodeStatistics

    if mode is AutoresetMode.SAME_STEP and gym.__version__.startswith("1.2."):
        pytest.skip("Gymnasium 1.2 does not count the step after an end, as if it were dead")
    envs = RecordEpisodeStatistics(vector_env(make_task(), num_envs=3, autoreset_mode=mode))
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    episodes = 0
    for _ in range(60):
        _, rewards, terminated, _, infos = envs.step(actions_of(rng, 3))
        if terminated.any():
            final = infos.get("final_info", infos)
            # All is paid at the end, and the reward reports the number of tokens.
            np.testing.assert_array_equal(infos["episode"]["r"], final["score"])
            np.testing.assert_array_equal(infos["episode"]["r"], rewards)
            np.testing.assert_array_equal(infos["episode"]["l"], final["tokens"])
            episodes += int(terminated.sum())
    assert episodes > 9  # the third episode of each row, and more


def test_the_asynchronous_vector_environment_works_with_shared_memory() -> None:
    from gymnasium.vector import AsyncVectorEnv

    make = functools.partial(gym.make, "textrl_envs:textrl/Keyword-v0")
    envs = AsyncVectorEnv([make] * 2, shared_memory=True)
    scalars = SyncVectorEnv([make] * 2)
    try:
        assert_same(envs.reset(seed=0)[0], scalars.reset(seed=0)[0])
        envs.action_space.seed(0)
        for _ in range(70):
            actions = envs.action_space.sample()
            results = envs.step(actions), scalars.step(actions)
            for one, other in zip(*results, strict=True):
                assert_same(one, other)
    finally:
        envs.close()


@pytest.mark.parametrize(
    "actions",
    [[1, 2], [1.0, 2.0, 3.0], np.ones((3, 1), np.int64), 1, [True] * 3, ["a", "b", "c"], None],
)
def test_actions_of_the_wrong_form_are_refused(make_task: MakeTask, actions: Any) -> None:
    envs = vector_env(make_task(), num_envs=3)
    envs.reset()
    message = r"Expected 3 token ids, integers of shape \(3,\); got"
    with pytest.raises(InvalidInputError, match=message):
        envs.step(actions)


@pytest.mark.parametrize(
    "actions", [[0, -1, 2], [0, 32, 2], np.array([0, 2**63, 1], np.uint64), [-(2**63), 0, 0]]
)
def test_actions_outside_the_vocabulary_are_refused(make_task: MakeTask, actions: Any) -> None:
    envs = vector_env(make_task(), num_envs=3)
    envs.reset()
    with pytest.raises(InvalidInputError, match=r"Actions must be token ids in 0\.\.31; got"):
        envs.step(actions)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.uint64, list])
def test_actions_may_be_any_kind_of_integer(make_task: MakeTask, kind: Any) -> None:
    envs = vector_env(make_task(), num_envs=2)
    envs.reset(options={"prompt_index": 0})
    actions = [20, 31] if kind is list else np.array([20, 31], kind)
    assert envs.step(actions)[0]["input_ids"][:, 1].tolist() == [20, 31]


def test_every_second_of_a_wider_array_may_be_the_actions(make_task: MakeTask) -> None:
    envs = vector_env(make_task(), num_envs=2)
    envs.reset(options={"prompt_index": 0})
    obs = envs.step(np.array([20, 99, 31, 99])[::2])[0]
    assert obs["input_ids"][:, 1].tolist() == [20, 31]


def test_a_step_before_the_first_reset_is_refused(make_task: MakeTask) -> None:
    with pytest.raises(InvalidInputError, match=r"Call reset\(\) before the first step\(\)"):
        vector_env(make_task(), num_envs=2).step([0, 0])


def test_no_rows_at_all_are_refused(make_task: MakeTask) -> None:
    with pytest.raises(InvalidInputError, match="num_envs must be at least 1; got 0"):
        vector_env(make_task(), num_envs=0)


def test_the_reward_is_called_once_a_step_with_the_rows_that_ended(make_task: MakeTask) -> None:
    calls: list[list[str]] = []

    def reward(prompts: Any, responses: Any, **more: Any) -> list[float]:
        calls.append(list(responses))
        return [0.0] * len(responses)

    envs = vector_env(make_task(reward=reward), num_envs=3)
    envs.reset(seed=0)
    envs.step([20, 21, 22])
    envs.step([EOS, 30, EOS])
    assert calls == [["w20", "w22"]]


def test_a_reward_that_fails_names_the_response_at_fault(make_task: MakeTask) -> None:
    def reward(prompts: Any, responses: Any, **more: Any) -> list[float]:
        return [float("nan") if "w30" in text else 0.0 for text in responses]

    envs = vector_env(make_task(reward=reward), num_envs=3)
    envs.reset(options={"prompt_index": [0, 1, 2]})
    envs.step([20, 30, 22])
    with pytest.raises(RewardError, match="prompt 'w6 w7 w8', response 'w30'"):
        envs.step([EOS, EOS, EOS])


def test_text_is_rendered_for_each_row_and_decoded(make_task: MakeTask) -> None:
    envs = vector_env(make_task(), num_envs=2, render_mode="ansi")
    envs.reset(options={"prompt_index": [0, 1]})
    envs.step([20, EOS])
    assert envs.render() == (
        "[prompt] w5\n[response] w20\n[running]",
        "[prompt] w6 w7 w8\n[response] \n[stop]",
    )
    assert vector_env(make_task()).render() is None
    assert envs.decode([20, EOS]) == "w20 <eos>"


def test_the_environment_carries_what_its_score_needs(make_task: MakeTask) -> None:
    envs: Any = gym.make_vec("textrl/Keyword-v0", num_envs=2, kl_coefficient=0.25)
    assert envs.kl_coefficient == 0.25
    assert envs.reference is gym.make("textrl/Keyword-v0").unwrapped.reference  # type: ignore[attr-defined]
    assert len(envs.prompts) == 8
    assert vector_env(make_task()).reference is None


# --- tokens_generated ---


@every_mode
def test_the_tokens_generated_are_the_actions_of_rows_that_played(
    make_task: MakeTask, mode: AutoresetMode
) -> None:
    native = vector_env(make_task(max_new_tokens=6), num_envs=5, autoreset_mode=mode)
    rng = np.random.default_rng(0)
    native.reset(seed=0)
    is_playing, count = np.ones(5, np.bool_), 0
    waits = mode != AutoresetMode.SAME_STEP
    for step in range(200):
        count += int(is_playing.sum())
        begins = ~is_playing & (mode == AutoresetMode.NEXT_STEP)
        _, _, terminated, _, _ = native.step(actions_of(rng, 5))
        is_playing = (is_playing | begins) & ~(terminated & waits)
        assert native.tokens_generated == count
        if mode == AutoresetMode.DISABLED and step % 7 == 6 and not is_playing.all():
            native.reset(options={"reset_mask": ~is_playing})
            is_playing[:] = True
    assert count < 1000 or mode == AutoresetMode.SAME_STEP


def test_the_tokens_generated_are_never_counted_anew(make_task: MakeTask) -> None:
    native = vector_env(make_task(), num_envs=3)
    for seed in range(4):
        native.reset(seed=seed)
        native.step(np.full(3, 5))
    assert native.tokens_generated == 12
    with pytest.raises(InvalidInputError, match="0"):
        native.step(np.full(3, 10_000))
    assert native.tokens_generated == 12
