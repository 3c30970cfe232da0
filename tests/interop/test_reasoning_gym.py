"""Tasks of reasoning-gym as prompts, scored by their own scorers."""

import json
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.interop.page import byte_tokenizer, code_of, make_model, respond, run
from textrl_envs.errors import InvalidInputError, RewardError
from textrl_envs.interop.reasoning_gym import (
    HASH_SEED_TASKS,
    reasoning_gym_prompts,
    score,
    score_tagged,
)
from textrl_envs.prompts import Prompt
from textrl_envs.text_env import TextEnv

rg = pytest.importorskip("reasoning_gym")

NAME = "reasoning_gym:chain_sum?size=5&seed=3&max_terms=2"
REWARD = "textrl_envs.interop.reasoning_gym:score"


def scores(reward: Any, prompts: list[Prompt], responses: list[str]) -> Any:
    ids = [np.array([1])] * len(responses)
    metadata = [prompt.reward_metadata() for prompt in prompts]
    texts = [""] * len(responses)
    found, extras = reward(texts, responses, prompt_ids=ids, response_ids=ids, metadata=metadata)
    return found, extras["unreadable"]


def test_prompts_are_the_items_of_the_task_in_order() -> None:
    items = list(rg.create_dataset("chain_sum", size=5, seed=3, max_terms=2))
    found = reasoning_gym_prompts("chain_sum", size=5, seed=3, max_terms=2)
    assert [prompt.text for prompt in found] == [item["question"] for item in items]
    assert [prompt.answer for prompt in found] == [item["answer"] for item in items]
    assert {prompt.category for prompt in found} == {"arithmetic"}


def test_a_dataset_that_the_library_has_made_is_taken_as_it_is() -> None:
    made = rg.create_dataset("chain_sum", size=3, seed=3)
    texts = [prompt.text for prompt in reasoning_gym_prompts(made)]
    assert texts == [item["question"] for item in made]


@pytest.mark.parametrize(
    "task", ["chain_sum", "spell_backward", "countdown", "maze", "word_ladder"]
)
@pytest.mark.filterwarnings("ignore:The items of word_ladder")
def test_a_response_gets_what_the_tasks_own_scorer_gives(task: str) -> None:
    prompts = reasoning_gym_prompts(task, size=4, seed=1)
    dataset = prompts[0].metadata["dataset"]
    for response in ("", "42", "the answer is 3", *(str(p.answer) for p in prompts)):
        found, _ = scores(score, prompts, [f" {response}\n"] * 4)
        expected = [dataset.score_answer(response, prompt.metadata["item"]) for prompt in prompts]
        assert found == expected
    own, _ = scores(score, prompts, [str(prompt.answer) for prompt in prompts])
    assert own == pytest.approx([1.0] * 4)


def test_an_environment_is_made_of_names_alone_and_pays_the_right_answer() -> None:
    env = gym.make("textrl/TextBandit-v0", tokenizer=byte_tokenizer(), prompts=NAME, reward=REWARD)
    answers = [prompt.answer for prompt in env.unwrapped.prompts]  # type: ignore[attr-defined]
    for index, answer in enumerate(answers):
        reward, info = respond(env, answer, index)
        assert (reward, info["score"], info["unreadable"]) == (1.0, 1.0, 0.0)
    assert respond(env, "x", 0)[0] == 0.0


def test_the_spec_is_json_and_makes_the_same_environment(tmp_path: Path) -> None:
    folder = str(make_model(tmp_path) / "my-model")
    env = gym.make("textrl/TextBandit-v0", tokenizer=folder, prompts=NAME, reward=REWARD)
    assert env.spec is not None
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    first, second = (list(e.unwrapped.prompts.texts) for e in (env, again))  # type: ignore[attr-defined]
    assert first == second


def test_of_a_tagged_response_only_what_the_tags_hold_counts() -> None:
    prompts = reasoning_gym_prompts("chain_sum", size=1)
    right = prompts[0].answer
    for response, expected in {
        f"so <answer> {right} </answer>": 1.0,
        f"<answer>1</answer> no: <answer>{right}</answer>.": 1.0,
        f"{right}": 0.0,
        f"<answer>x</answer> {right}": 0.0,
    }.items():
        assert scores(score_tagged, prompts, [response])[0] == [expected], response


def test_a_scorer_that_raises_gives_nothing_and_says_so() -> None:
    """Of the library's scorers three raise on texts of another form than they expect."""
    prompts = reasoning_gym_prompts("prime_factorization", size=1)
    with pytest.raises(ValueError, match="invalid literal"):
        prompts[0].metadata["dataset"].score_answer("no idea", prompts[0].metadata["item"])
    assert scores(score, prompts, ["no idea"]) == ([0.0], [1.0])
    assert scores(score, prompts, [str(prompts[0].answer)]) == ([1.0], [0.0])


def test_an_error_that_no_response_explains_stops_the_run() -> None:
    class Broken:
        def score_answer(self, answer: str, entry: Any) -> float:
            raise RuntimeError("no memory")

    prompt = Prompt(text="a", metadata={"dataset": Broken(), "item": {}})
    env = TextEnv("text_bandit", tokenizer=byte_tokenizer(), prompts=[prompt], reward=score)
    with pytest.raises(RewardError, match="raised RuntimeError: no memory"):
        respond(env, "a")


def global_states() -> tuple[Any, ...]:
    numpy: Any = np.random.get_state()  # noqa: NPY002
    return random.getstate(), numpy[1].tolist()


@pytest.mark.parametrize("task", ["codeio", "list_functions", "pool_matrix"])
def test_tasks_that_draw_from_the_global_generators_follow_the_seed_and_leave_them(
    task: str,
) -> None:
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = global_states()
    first = [prompt.text for prompt in reasoning_gym_prompts(task, size=60, seed=2)]
    assert global_states() == before
    random.seed(6)
    np.random.seed(6)  # noqa: NPY002
    assert [prompt.text for prompt in reasoning_gym_prompts(task, size=60, seed=2)] == first


# --- PYTHONHASHSEED ---

ITEMS = """
import json, sys, warnings
from pathlib import Path

from reasoning_gym.factory import DATASETS
from textrl_envs.interop.reasoning_gym import reasoning_gym_prompts

warnings.simplefilter("ignore")
found = {}
for task in sorted(set(DATASETS) - {"composite"}):  # a mixture of the others
    prompts = reasoning_gym_prompts(task, size=60, seed=0)
    found[task] = [(p.text, p.answer, repr(p.metadata["item"]["metadata"])) for p in prompts]
Path(sys.argv[1]).write_text(json.dumps(found))
"""


def items_under(hash_seed: str, folder: Path) -> dict[str, Any]:
    path = folder / f"{hash_seed}.json"  # some tasks print, so not by way of the output
    subprocess.run(
        [sys.executable, "-c", ITEMS, path],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.slow
def test_the_tasks_that_depend_on_the_hash_seed_are_those_named(tmp_path: Path) -> None:
    """Every task of the library, generated under two hash seeds and compared."""
    first, second = (items_under(seed, tmp_path) for seed in ("0", "1"))
    assert first.keys() == second.keys()
    assert len(first) == len(rg.factory.DATASETS) - 1
    assert {task for task in first if first[task] != second[task]} == HASH_SEED_TASKS


@pytest.mark.parametrize("value", [None, "random"])
def test_such_a_task_comes_with_a_warning(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    else:
        monkeypatch.setenv("PYTHONHASHSEED", value)
    for task in sorted(HASH_SEED_TASKS):
        with pytest.warns(UserWarning, match=f"items of {task} depend on PYTHONHASHSEED"):
            reasoning_gym_prompts(task, size=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reasoning_gym_prompts("chain_sum", size=1)


def test_no_warning_where_the_hash_seed_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reasoning_gym_prompts("word_ladder", size=1)


# --- refused ---


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("chain_sun", {}, "no task 'chain_sun'. Did you mean 'chain_sum'"),
        ("chain_sum", {"siez": 3}, "chain_sum has no setting 'siez'. Did you mean 'size'"),
        ("chain_sum", {"min_terms": 9, "max_terms": 2}, "does not take .*max_terms must be >="),
        ("chain_sum", {"seed": "x"}, "seed must be an integer, such as 0; got 'x'"),
        ("chain_sum", {"seed": None}, "^seed must be an integer, such as 0; got None"),
        ("chain_sum", {"size": 2.5}, "size must be an integer of at least 1; got 2.5"),
        ("chain_sum", {"size": 0}, "size must be an integer of at least 1; got 0"),
    ],
)
def test_what_the_task_does_not_take_is_refused(
    task: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        reasoning_gym_prompts(task, **settings)


def test_prompts_of_another_kind_are_refused() -> None:
    env = TextEnv("text_bandit", tokenizer=byte_tokenizer(), prompts=["a"], reward=REWARD)
    with pytest.raises(RewardError, match="scores prompts of reasoning-gym alone"):
        respond(env, "a")


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(InvalidInputError, match=r'"textrl-envs\[reasoning-gym\]"'):
        reasoning_gym_prompts("chain_sum")


def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    (block,) = code_of("reasoning-gym")
    assert "State the final answer" in run(block, make_model(tmp_path))
