"""An environment under TRL, and TRL's reward functions here."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.agents.tiny import tiny_task, vector_env
from tests.interop.page import ROOT, code_of, make_model, respond, run
from textrl_envs.errors import InvalidInputError, RewardError
from textrl_envs.interop.trl import reward_of_trl, trl_dataset, trl_reward, trl_settings
from textrl_envs.prompts import Prompt, PromptTable
from textrl_envs.task import Task
from textrl_envs.text_env import TextEnv

EOS = tiny_task().tokenizer.eos_token_id


def written(env: Any, rng: np.random.Generator, prompt_index: int) -> tuple[list[int], float]:
    """Plays random tokens to the end; returns them, and what they earned."""
    env.reset(options={"prompt_index": prompt_index})
    ids, earned, is_over = [], 0.0, False
    while not is_over:
        ids.append(int(rng.integers(env.action_space.n)))
        _, reward, is_over, _, _ = env.step(ids[-1])
        earned += reward
    return ids, earned


def columns(task: Task, prompt_index: Sequence[int]) -> dict[str, Any]:
    """Returns what TRL hands over of some prompts beside the completions."""
    table = task.prompts
    rows = [table.token_ids[i, : table.lengths[i]].tolist() for i in prompt_index]
    return {
        "prompts": [table.texts[i] for i in prompt_index],
        "prompt_index": list(prompt_index),
        "prompt_ids": rows,
        "trainer_state": None,
    }


def score(task: Task, completions: Sequence[Sequence[int]], prompt_index: Sequence[int]) -> Any:
    env = TextEnv(task)
    return trl_reward(env)(
        completions=["(never read)"] * len(completions),
        completion_ids=[list(ids) for ids in completions],
        **columns(task, prompt_index),
    )


@pytest.mark.parametrize("name", ["tiny", "textrl/KeywordDense-v0", "textrl/SumVerify-v0"])
def test_completions_are_scored_as_the_scalar_environment_scores_them(name: str) -> None:
    env: Any = TextEnv(tiny_task()) if name == "tiny" else gym.make(name)
    rng = np.random.default_rng(0)
    index = [i % len(env.unwrapped.task.prompts) for i in range(40)]
    played = [written(env, rng, i) for i in index]
    found = score(env.unwrapped.task, [ids for ids, _ in played], index)
    assert found == [earned for _, earned in played]
    assert len(set(found)) > 1 or name != "tiny"


def test_one_reward_function_takes_batches_of_any_size() -> None:
    task = tiny_task()
    function = trl_reward(vector_env(task))
    answers = [[2, EOS], [3, EOS], [2, 2, 2]]
    whole = function(completion_ids=answers, **columns(task, [0, 1, 0]))
    parts = [
        function(completion_ids=[ids], **columns(task, [i]))[0]
        for ids, i in zip(answers, [0, 1, 0], strict=True)
    ]
    assert whole == parts


def test_noise_is_the_environments_own_and_follows_the_seed() -> None:
    env = gym.make("textrl/Noisy-v0")
    task = env.unwrapped.task  # type: ignore[attr-defined]
    assert task.noise is not None
    batch = columns(task, [0] * 400)
    answers = [[task.tokenizer.eos_token_id]] * 400
    first, again, other = (
        trl_reward(env, seed=seed)(completion_ids=answers, **batch) for seed in (3, 3, 4)
    )
    assert first == again != other
    assert len(set(first)) == 2  # what a wrong and a right label pay


def test_what_else_the_reward_reports_is_logged_as_its_mean() -> None:
    def reward(prompts: Any, responses: Any, **_: Any) -> Any:
        return [0.5] * len(responses), {"words": [len(r.split()) for r in responses]}

    task = tiny_task(reward=reward)
    logged: dict[str, float] = {}
    trl_reward(TextEnv(task))(
        completion_ids=[[2, EOS], [2, 3, 2]],
        log_metric=logged.__setitem__,
        **columns(task, [0, 1]),
    )
    assert logged == {"words": 2.0}


@pytest.mark.parametrize(
    ("completion", "message"),
    [
        ([2], "stops after 1 tokens, where the environment goes on"),
        ([], "stops after 0 tokens"),
        ([2, 2, 2, 2], "has 4 tokens, and the environment ends it after 3"),
        ([EOS, 2], "has 2 tokens, and the environment ends it after 1"),
    ],
)
def test_a_completion_that_is_no_response_of_the_environment_is_refused(
    completion: list[int], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        score(tiny_task(), [[2, EOS], completion], [0, 1])


def test_what_stands_behind_a_stop_text_is_not_scored() -> None:
    plain = tiny_task(reward=lambda prompts, responses, **_: [float(len(r)) for r in responses])
    text = plain.tokenizer.decode([3])
    task = Task(
        tokenizer=plain.tokenizer,
        prompts=plain.prompts,
        reward=plain.reward,
        max_new_tokens=3,
        stop=(text,),
    )
    assert score(task, [[2, 3, 2], [2, 3]], [0, 0])[0] == score(task, [[2, 3]], [0])[0]


def test_prompts_of_another_environment_are_refused() -> None:
    task, other = tiny_task(prompts=("a", "b")), tiny_task(prompts=("b", "a"))
    with pytest.raises(InvalidInputError, match="Use trl_dataset of the same environment"):
        trl_reward(TextEnv(task))(completion_ids=[[EOS]], **columns(other, [0]))


# --- the dataset ---


def test_every_prompt_is_there_equally_often_with_its_ids() -> None:
    pytest.importorskip("datasets")
    env = gym.make("textrl/SumVerify-v0")
    task = env.unwrapped.task  # type: ignore[attr-defined]
    rows = trl_dataset(env, rows=250)
    assert rows.column_names == ["prompt", "prompt_index", "prompt_ids"]
    assert np.bincount(rows["prompt_index"]).tolist() == [3] * 100
    assert task.tokenizer(text=list(rows["prompt"]))["input_ids"] == list(rows["prompt_ids"])
    assert len(trl_dataset(env, rows=1)) == 100


def test_a_prompt_that_trl_would_present_by_other_tokens_is_refused() -> None:
    pytest.importorskip("datasets")
    task = tiny_task()
    table = PromptTable([Prompt(text="a", token_ids=(3, 2))], task.tokenizer)
    changed = Task(tokenizer=task.tokenizer, prompts=table, reward=task.reward, max_new_tokens=3)
    with pytest.raises(InvalidInputError, match=r"TRL would present prompt 0 as the tokens"):
        trl_dataset(TextEnv(changed))


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InvalidInputError, match=r'pip install "textrl-envs\[trl\]"'):
        trl_dataset(TextEnv(tiny_task()))


def test_the_settings_are_those_of_the_bandit() -> None:
    assert trl_settings(gym.make("textrl/Brackets-v0")) == {
        "max_completion_length": 16, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "beta": 0.1,
    }  # fmt: skip


def test_without_a_reference_there_is_no_kl_to_charge() -> None:
    env = bandit(lambda prompts, responses, **_: [0.0] * len(responses), PROMPTS)
    assert (env.reference, env.kl_coefficient) == (None, 0.05)
    assert trl_settings(env)["beta"] == 0.0


# --- the other way ---


def bandit(reward: Any, prompts: Sequence[Prompt]) -> TextEnv:
    from tests.interop.page import byte_tokenizer

    task = "text_bandit"
    return TextEnv(task, tokenizer=byte_tokenizer(), prompts=prompts, reward=reward)


PROMPTS = [
    Prompt(text="one", answer="1", metadata={"level": 1}),
    Prompt(text="two", answer="2"),
]


def test_a_function_of_trl_gets_texts_ids_and_the_metadata_as_columns() -> None:
    got: dict[str, Any] = {}

    def function(prompts: Any, completions: Any, completion_ids: Any, **rest: Any) -> list[float]:
        got.update(rest, prompts=prompts, completions=completions, completion_ids=completion_ids)
        return [0.25]

    env = bandit(reward_of_trl(function), PROMPTS)
    assert respond(env, "the cat", 1)[0] == 0.25
    tokenizer = env.task.tokenizer
    assert (got["prompts"], got["completions"]) == (["two"], ["the cat"])
    assert got["completion_ids"] == [[*tokenizer.encode("the cat"), tokenizer.eos_token_id]]
    assert (got["answer"], got["trainer_state"]) == (["2"], None)
    assert respond(env, "the cat", 0)[0] == 0.25
    assert (got["answer"], got["level"]) == (["1"], [1])


def test_rows_without_a_column_that_others_have_get_none() -> None:
    def function(level: Any, **_: Any) -> list[float]:
        return [0.0 if one is None else float(one) for one in level]

    reward = reward_of_trl(function)
    metadata = [prompt.reward_metadata() for prompt in PROMPTS]
    ids = [np.array([1])] * 2
    found = reward(["", ""], ["", ""], prompt_ids=ids, response_ids=ids, metadata=metadata)
    assert found == [1.0, 0.0]


def test_what_trl_itself_hands_over_comes_before_metadata_of_that_name() -> None:
    """As under TRL, where a column `completion_ids` or `trainer_state` is never seen."""
    got: dict[str, Any] = {}

    def function(prompts: Any, completions: Any, completion_ids: Any, **rest: Any) -> list[float]:
        got.update(rest, prompts=prompts, completions=completions, completion_ids=completion_ids)
        return [0.25]

    taken = ("prompts", "completions", "completion_ids", "trainer_state", "log_metric")
    prompt = Prompt(text="one", metadata={"level": 1, **dict.fromkeys(taken, "from the data")})
    assert respond(bandit(reward_of_trl(function), [prompt]), "yes")[0] == 0.25
    assert (got["prompts"], got["completions"], got["level"]) == (["one"], ["yes"], [1])
    assert "from the data" not in [got[name][0] for name in taken[:3]]
    assert got["trainer_state"] is None
    got["log_metric"]("mean", 1.0)


def test_a_conversational_function_gets_lists_of_one_message() -> None:
    def function(prompts: Any, completions: Any, **_: Any) -> list[float]:
        assert prompts == [[{"role": "user", "content": "one"}]]
        assert completions == [[{"role": "assistant", "content": "yes"}]]
        return [1.0]

    env = bandit(reward_of_trl(function, is_conversational=True), PROMPTS)
    assert respond(env, "yes")[0] == 1.0


def test_trls_own_rewards_are_rewards_here() -> None:
    rewards = pytest.importorskip("trl.rewards")
    env = bandit(reward_of_trl(rewards.think_format_reward, is_conversational=True), PROMPTS)
    assert respond(env, "<think>\nso\n</think>\n1")[0] == 1.0
    assert respond(env, "1")[0] == 0.0
    punished = reward_of_trl(
        rewards.get_soft_overlong_punishment(max_completion_len=10, soft_punish_cache=4)
    )
    assert respond(bandit(punished, PROMPTS), "a")[0] == 0.0


def test_a_score_of_none_is_refused_by_the_functions_name_with_the_response() -> None:
    def unsure(**_: Any) -> list[None]:
        return [None]

    message = r"'unsure' .* returned None for response 0, 'a'.* return one, such as 0\.0"
    with pytest.raises(RewardError, match=message):
        respond(bandit(reward_of_trl(unsure), PROMPTS), "a")


def test_of_several_responses_the_one_without_a_score_is_named() -> None:
    reward = reward_of_trl(lambda **_: [0.5, None])
    ids, metadata = [np.array([1])] * 2, [{}, {}]  # type: ignore[var-annotated]
    with pytest.raises(InvalidInputError, match="returned None for response 1, 'no'"):
        reward(["", ""], ["yes", "no"], prompt_ids=ids, response_ids=ids, metadata=metadata)


@pytest.mark.parametrize("scores", [np.array([0.5]), (0.5,), None])
def test_other_scores_are_left_to_where_rewards_are_called(scores: Any) -> None:
    ids = [np.array([1])]
    reward = reward_of_trl(lambda **_: scores)
    assert reward([""], [""], prompt_ids=ids, response_ids=ids, metadata=[{}]) is scores


def test_an_asynchronous_function_is_refused() -> None:
    async def later(**_: Any) -> list[float]:
        return [0.0]

    with pytest.raises(InvalidInputError, match="must not be asynchronous"):
        reward_of_trl(later)  # type: ignore[arg-type]


# --- TRL itself ---


@pytest.mark.slow
@pytest.mark.parametrize("block", [0, 1])
def test_the_code_of_the_page_runs(block: int, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    run(code_of("TRL")[block], make_model(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_trl_climbs_from_the_reference_towards_the_exact_optimum(
    algorithm: str, tmp_path: Path
) -> None:
    pytest.importorskip("trl")
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "examples" / "trl_grpo.py",
            "--steps=200",
            "--algorithm",
            algorithm,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    number = r"(-?[\d.]+) ± [\d.]+"
    lines = re.findall(rf"reward {number} \| KL {number} \| normalised score {number}", done.stdout)
    clone, trained = (tuple(float(value) for value in line) for line in lines)
    assert clone[0] == pytest.approx(0.05, abs=0.03)  # of the reference exactly 0.0501
    assert clone[2] == pytest.approx(0.0, abs=0.1)
    assert trained[0] > 0.5
    assert 0.4 < trained[2] < 1.0
