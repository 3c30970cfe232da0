"""The scalar environment: Gymnasium's contract, for every id, and the errors of a user."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from textrl_envs.core import FinishReason
from textrl_envs.errors import InvalidInputError, RewardError
from textrl_envs.registration import IDS
from textrl_envs.task import Task
from textrl_envs.text_env import TextEnv, draw_prompt

MakeTask = Callable[..., Task]
MakeKwargs = Callable[[str], dict[str, Any]]
EOS = 1

every_id = pytest.mark.parametrize("name", IDS)
both_forms = pytest.mark.parametrize("obs", ["dict", "flat"])


def play(env: Any, steps: int, *, seed: int) -> Iterator[tuple[Any, ...]]:
    """Yields (obs, info) of resets and the results of steps, over as many episodes as it takes."""
    rng = np.random.default_rng(seed)
    yield env.reset(seed=seed)
    for _ in range(steps):
        result = env.step(int(rng.integers(env.action_space.n)))
        yield result
        if result[2]:
            yield env.reset()


def text_env(task: Task | str, **options: Any) -> Any:
    """Makes an environment whose observations need not be told apart by type."""
    return TextEnv(task, **options)


def arrays(obs: Any) -> list[Any]:
    return list(obs.values()) if isinstance(obs, dict) else [obs]


def assert_same(first: Any, second: Any) -> None:
    """Compares two results of `reset` or `step`, exactly."""
    assert len(first) == len(second)
    np.testing.assert_equal(first, second)


# Warnings are errors throughout (pyproject.toml), so both checkers must stay silent.


@every_id
@both_forms
def test_gymnasiums_checker_is_content(name: str, obs: str, make_kwargs: MakeKwargs) -> None:
    check_env(gym.make(name, obs=obs, **make_kwargs(name)).unwrapped)


@every_id
@both_forms
def test_stable_baselines_checker_is_content(name: str, obs: str, make_kwargs: MakeKwargs) -> None:
    from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

    check_env_of_sb3(gym.make(name, obs=obs, **make_kwargs(name)))


@every_id
@both_forms
def test_every_observation_lies_in_the_space(name: str, obs: str, make_kwargs: MakeKwargs) -> None:
    env = gym.make(name, obs=obs, **make_kwargs(name))
    for result in play(env, 60, seed=0):
        assert result[0] in env.observation_space
    if obs == "dict":
        assert result[0]["input_ids"].dtype == np.int64
        assert result[0]["attention_mask"].dtype == np.int8


@every_id
@both_forms
def test_no_two_observations_share_memory(name: str, obs: str, make_kwargs: MakeKwargs) -> None:
    env = gym.make(name, obs=obs, **make_kwargs(name))
    results = [arrays(result[0]) for result in itertools.islice(play(env, 20, seed=0), 20)]
    for one, other in itertools.combinations(itertools.chain(*results), 2):
        assert not np.shares_memory(one, other)


@every_id
def test_rewards_and_flags_are_plain_python_numbers(name: str, make_kwargs: MakeKwargs) -> None:
    env = gym.make(name, **make_kwargs(name))
    steps = [result for result in play(env, 60, seed=0) if len(result) == 5]
    for _, reward, terminated, truncated, info in steps:
        assert type(reward) is float
        assert type(terminated) is bool
        assert truncated is False
        assert all(type(value) in (int, float) for value in info.values())
    assert any(step[2] for step in steps)


@every_id
def test_same_seed_and_actions_give_the_same_trajectory(name: str, make_kwargs: MakeKwargs) -> None:
    first, second = (gym.make(name, **make_kwargs(name)) for _ in range(2))
    one = list(play(first, 80, seed=4))
    np.random.seed(0)  # noqa: NPY002 - the global generator must not matter
    # The second run has played before: a seed must wipe that out, the resets after it included.
    list(play(second, 10, seed=9))
    for a, b in zip(one, play(second, 80, seed=4), strict=True):
        np.random.rand()  # noqa: NPY002
        assert_same(a, b)


@every_id
def test_the_global_generator_is_left_alone(name: str, make_kwargs: MakeKwargs) -> None:
    env = gym.make(name, **make_kwargs(name))
    before = np.random.get_state(legacy=False)  # noqa: NPY002
    list(play(env, 30, seed=4))
    np.testing.assert_equal(np.random.get_state(legacy=False), before)  # noqa: NPY002


@every_id
def test_another_seed_gives_other_prompts(name: str, make_kwargs: MakeKwargs) -> None:
    draws = []
    for seed in (4, 5):
        env = gym.make(name, **make_kwargs(name))
        first = env.reset(seed=seed)[1]["prompt_index"]
        draws.append([first, *(env.reset()[1]["prompt_index"] for _ in range(30))])
        has_choice = len(env.unwrapped.prompts) > 1  # type: ignore[attr-defined]
    assert (draws[0] != draws[1]) is has_choice


@every_id
def test_the_metadata_declares_text_and_no_torch(name: str, make_kwargs: MakeKwargs) -> None:
    env = gym.make(name, **make_kwargs(name)).unwrapped
    assert env.metadata["render_modes"] == ["ansi"]
    assert env.metadata["render_fps"] > 0
    assert "torch" not in env.metadata
    assert env.render() is None


def test_the_prompt_then_the_response_are_observed(make_task: MakeTask) -> None:
    env = text_env(make_task())
    env.reset(options={"prompt_index": 1})
    env.step(20)
    obs = env.step(21)[0]
    np.testing.assert_array_equal(obs["input_ids"], [6, 7, 8, 20, 21, 0, 0, 0, 0])
    np.testing.assert_array_equal(obs["attention_mask"], [1, 1, 1, 1, 1, 0, 0, 0, 0])


def test_the_flat_form_pads_with_minus_one(make_task: MakeTask) -> None:
    env = text_env(make_task(), obs="flat")
    env.reset(options={"prompt_index": 1})
    obs = env.step(0)[0]  # the padding token, chosen as an action, is text like any other
    np.testing.assert_array_equal(obs, [6, 7, 8, 0, -1, -1, -1, -1, -1])


def test_the_score_is_paid_once_and_at_the_end(make_task: MakeTask) -> None:
    env = text_env(make_task())
    env.reset(options={"prompt_index": 0})
    assert env.step(20)[1:] == (0.0, False, False, {"finish_reason": 0, "prompt_index": 0})
    _, reward, terminated, truncated, info = env.step(EOS)
    assert (reward, terminated, truncated) == (10.21, True, False)
    assert info == {
        "finish_reason": FinishReason.STOP,
        "prompt_index": 0,
        "score": 10.21,
        "tokens": 2.0,
        "last": 1.0,
    }


def test_response_at_the_token_limit_is_scored_and_terminates(make_task: MakeTask) -> None:
    env = text_env(make_task(max_new_tokens=2))
    env.reset()
    assert env.step(20)[2] is False
    _, reward, terminated, truncated, info = env.step(21)
    assert (reward, terminated, truncated) == (0.41, True, False)
    assert info["finish_reason"] == FinishReason.LENGTH


def test_a_response_of_one_token_terminates_at_its_first_step(make_task: MakeTask) -> None:
    env = text_env(make_task(max_new_tokens=1))
    env.reset()
    assert env.step(20)[1:4] == (0.2, True, False)


def test_prompts_are_drawn_uniformly(make_task: MakeTask) -> None:
    env = text_env(make_task(prompts=["w5", "w6", "w7", "w8"]))
    draws = [env.reset(seed=0)[1]["prompt_index"]]
    draws += [env.reset()[1]["prompt_index"] for _ in range(3999)]
    counts = np.bincount(draws, minlength=4)
    # Four standard deviations of a binomial of 4000 draws at 1/4.
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(4000 * 0.25 * 0.75)


def test_a_drawn_prompt_is_never_out_of_range() -> None:
    class Largest:
        def random(self) -> float:
            return 1 - 2.0**-53  # the largest number that a generator gives

    class Smallest:
        def random(self) -> float:
            return 0.0

    largest: Any = Largest()
    smallest: Any = Smallest()
    for number in (1, 2, 3, 5, 7, 1000, 2**20 + 1, 2**31 - 1):
        assert draw_prompt(largest, number) == number - 1
        assert draw_prompt(smallest, number) == 0


@pytest.mark.parametrize("index", [2, np.int64(2), np.array(2), [2]])
def test_a_prompt_can_be_chosen(make_task: MakeTask, index: Any) -> None:
    env = text_env(make_task())
    obs, info = env.reset(options={"prompt_index": index})
    assert info["prompt_index"] == 2
    assert obs["input_ids"][:2].tolist() == [9, 10]


@pytest.mark.parametrize("index", [3, -1, [0, 1], "0"])
def test_a_prompt_that_does_not_exist_is_refused(make_task: MakeTask, index: Any) -> None:
    env = text_env(make_task())
    with pytest.raises(InvalidInputError, match=r"must be an integer, or 1 of them, in 0\.\.2"):
        env.reset(options={"prompt_index": index})


def test_a_chosen_prompt_leaves_the_generator_where_it_was(make_task: MakeTask) -> None:
    env, other = text_env(make_task()), text_env(make_task())
    env.reset(seed=0)
    other.reset(seed=0)
    env.reset(options={"prompt_index": 1})
    draws = [[e.reset()[1]["prompt_index"] for _ in range(20)] for e in (env, other)]
    assert draws[0] == draws[1]


@pytest.mark.parametrize("action", [7, np.int64(7), np.array(7), np.array([7]), np.uint8(7)])
def test_an_action_may_be_any_kind_of_integer(make_task: MakeTask, action: Any) -> None:
    env = text_env(make_task())
    env.reset(options={"prompt_index": 0})
    assert env.step(action)[0]["input_ids"][1] == 7


@pytest.mark.parametrize("action", [-1, 32, 2**40])
def test_an_action_outside_the_vocabulary_is_refused(make_task: MakeTask, action: int) -> None:
    env = text_env(make_task())
    env.reset()
    with pytest.raises(InvalidInputError, match=rf"a token id, 0\.\.31; got {action}"):
        env.step(action)


@pytest.mark.parametrize("action", [1.0, [1, 2], "1", None, True, np.array([])])
def test_an_action_that_is_no_token_id_is_refused(make_task: MakeTask, action: Any) -> None:
    env = text_env(make_task())
    env.reset()
    with pytest.raises(InvalidInputError, match="must be one token id, an integer; got"):
        env.step(action)


def test_a_refused_action_changes_nothing(make_task: MakeTask) -> None:
    env = text_env(make_task())
    env.reset(options={"prompt_index": 0})
    with pytest.raises(InvalidInputError):
        env.step(99)
    assert env.step(20)[0]["input_ids"].tolist()[:3] == [5, 20, 0]


def test_a_step_before_the_first_reset_is_refused(make_task: MakeTask) -> None:
    with pytest.raises(InvalidInputError, match=r"Call reset\(\) before"):
        text_env(make_task()).step(1)
    with pytest.raises(gym.error.ResetNeeded):
        gym.make("textrl/Keyword-v0").step(1)


def test_a_step_after_the_end_is_refused_until_reset(make_task: MakeTask) -> None:
    env = text_env(make_task())
    env.reset()
    env.step(EOS)
    with pytest.raises(InvalidInputError, match=r"has ended. Call reset\(\) before the next"):
        env.step(20)
    env.reset()
    assert env.step(20)[2] is False


def test_text_is_rendered_and_decoded(make_task: MakeTask) -> None:
    env = text_env(make_task(), render_mode="ansi")
    env.reset(options={"prompt_index": 0})
    env.step(20)
    assert env.render() == "[prompt] w5\n[response] w20\n[running]"
    assert env.decode(np.array([20, EOS])) == "w20 <eos>"


def test_the_environment_carries_what_its_score_needs(make_task: MakeTask) -> None:
    env = text_env("keyword")
    assert env.kl_coefficient == 0.1
    assert env.reference is not None
    assert env.reference.vocabulary_size == env.action_space.n
    assert env.reference is text_env("keyword").reference  # one a process
    assert text_env(make_task()).reference is None
    assert [prompt.text for prompt in text_env(make_task()).prompts] == ["w5", "w6 w7 w8", "w9 w10"]


def test_a_reward_that_raises_is_an_error_and_no_zero(make_task: MakeTask) -> None:
    def broken(prompts: Any, responses: Any, **more: Any) -> Any:
        raise KeyError("answer")

    env = text_env(make_task(reward=broken))
    env.reset(options={"prompt_index": 0})
    env.step(20)
    message = r"'broken' raised KeyError: 'answer'; prompt 'w5', response 'w20'\."
    with pytest.raises(RewardError, match=message):
        env.step(EOS)


def test_a_reward_of_nan_is_an_error(make_task: MakeTask) -> None:
    env = text_env(make_task(reward=lambda prompts, responses, **more: [float("nan")]))
    env.reset(options={"prompt_index": 0})
    with pytest.raises(RewardError, match="finite numbers; got 'score' nan; prompt 'w5'"):
        env.step(EOS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "keywrd"}, r"Unknown task 'keywrd'\. Did you mean 'keyword'\?"),
        (
            {"task": "keyword", "max_tokens": 3},
            r"keyword has no parameter 'max_tokens'\. Did you mean 'max_new_tokens'\?",
        ),
        ({"task": "text_bandit"}, "text_bandit needs tokenizer, prompts, reward"),
        ({"task": "keyword", "max_new_tokens": 0}, "max_new_tokens must be .*at least 1; got 0"),
        ({"task": "keyword", "obs": "falt"}, r"Unknown obs 'falt'\. Did you mean 'flat'\?"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        text_env(**arguments)


def test_a_task_takes_no_parameters(make_task: MakeTask) -> None:
    with pytest.raises(InvalidInputError, match=r"A Task takes no further parameters; got \['x'\]"):
        text_env(make_task(), x=1)


def test_gym_make_names_the_nearest_parameter() -> None:
    with pytest.raises(InvalidInputError, match=r"Did you mean 'kl_coefficient'\?"):
        gym.make("textrl/Keyword-v0", kl_coeficient=0.2)
