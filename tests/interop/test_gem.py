"""Single-turn environments of GEM as prompts and reward."""

import logging
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.interop.page import byte_tokenizer, code_of, make_model, respond, run
from textrl_envs.errors import InvalidInputError, RewardError
from textrl_envs.interop.gem import gem_prompts
from textrl_envs.prompts import Prompt
from textrl_envs.text_env import TextEnv

gem = pytest.importorskip("gem")


class Capitals:
    """An environment of a user's own: two questions, drawn from the global generator."""

    QUESTIONS = (("capital of France?", "Paris"), ("capital of Peru?", "Lima"))

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        self.question, self.answer = random.choice(self.QUESTIONS)
        return self.question, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "", float(action == self.answer), True, False, {}

    def sample_random_action(self) -> str:
        return "Lima"

    def get_state(self) -> Any:
        return {"answer": self.answer}

    def set_state(self, state: Any) -> None:
        self.answer = state["answer"]


def bandit(prompts: Any) -> TextEnv:
    reward = "textrl_envs.interop.gem:score"
    return TextEnv("text_bandit", tokenizer=byte_tokenizer(), prompts=prompts, reward=reward)


def test_prompts_are_what_the_environment_presents_in_order() -> None:
    made = gem.make("rg:chain_sum", size=4, seed=7)
    expected = [made.reset()[0] for _ in range(4)]
    found = gem_prompts("rg:chain_sum", size=4, seed=7)
    assert [prompt.text for prompt in found] == expected
    assert {prompt.category for prompt in found} == {"rg:chain_sum"}


def test_each_response_is_scored_by_the_step_of_its_own_prompt() -> None:
    env = bandit("gem:rg:chain_sum?size=3&seed=7")
    made = gem.make("rg:chain_sum", size=3, seed=7)
    answers = []
    for _ in range(3):
        made.reset()
        answers.append(made.get_state()["data"]["answer"])
    for index in (2, 0, 1, 2):  # not in the order of the resets
        for other, answer in enumerate(answers):
            expected = float(answer == answers[index])
            assert respond(env, f"so \\boxed{{{answer}}}", index)[0] == expected, (index, other)
    assert respond(env, answers[0], 0)[0] == 0.0  # without a box it is no answer to GEM


def test_an_environment_of_ones_own_follows_the_seed_and_leaves_the_global_generator() -> None:
    random.seed(1)
    before = random.getstate()
    texts = [[p.text for p in gem_prompts(Capitals(), size=20)] for _ in range(2)]
    assert random.getstate() == before
    assert texts[0] == texts[1]
    assert set(texts[0]) == {"capital of France?", "capital of Peru?"}
    env = bandit(gem_prompts(Capitals(), size=20))
    for index, text in enumerate(texts[0]):
        assert respond(env, "Paris", index)[0] == float("France" in str(text))


def test_a_dataset_of_ones_own_is_scored_by_the_library() -> None:
    """`QaEnv` raises where the response has no answer tag: that scores 0, and the info says so."""
    datasets = pytest.importorskip("datasets")
    module = pytest.importorskip("gem.envs.qa_env")
    rows = datasets.Dataset.from_dict({"question": ["capital of France?"], "answer": ["Paris"]})
    made = module.QaEnv(dataset=rows, load_from_cache_file=False)
    env = bandit(gem_prompts(made, size=1))
    assert "capital of France?" in env.prompts.texts[0]
    for response, expected, unreadable in (
        ("<answer>paris</answer>", 1.0, 0.0),
        ("<answer>Lyon</answer>", 0.0, 0.0),
        ("Paris", 0.0, 1.0),
    ):
        reward, info = respond(env, response)
        assert (reward, info["unreadable"]) == (expected, unreadable), response


def test_one_that_reads_numbers_alone_need_not_have_an_answer_of_its_own() -> None:
    class Sum(Capitals):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            return "", float(int(action) == 2), True, False, {}

        def sample_random_action(self) -> str:
            raise NotImplementedError

    env = bandit(gem_prompts(Sum(), size=1))
    for response, expected, unreadable in (("2", 1.0, 0.0), ("3", 0.0, 0.0), ("two", 0.0, 1.0)):
        reward, info = respond(env, response)
        assert (reward, info["unreadable"]) == (expected, unreadable), response


def test_importing_it_leaves_the_root_logger_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    kept = [name for name in sys.modules if name.partition(".")[0] == "gem"]
    for name in kept:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.ERROR)
    gem_prompts("rg:chain_sum", size=1)
    assert (root.handlers, root.level) == ([], logging.ERROR)


# --- refused ---


@pytest.mark.parametrize("name", ["game:GuessTheNumber-v0-hard", "game:Mastermind-v0-hard"])
def test_an_environment_of_more_than_one_turn_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="goes on after the first response"):
        gem_prompts(name, size=1)


def test_one_that_goes_on_only_after_some_responses_is_refused_when_it_does() -> None:
    class Patient(Capitals):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            return "", 0.0, action != "wait", False, {}

    env = bandit(gem_prompts(Patient(), size=1))
    assert respond(env, "Lima")[0] == 0.0
    with pytest.raises(RewardError, match="goes on after the first response"):
        respond(env, "wait")


def test_one_without_states_is_refused() -> None:
    class Stateless(Capitals):
        get_state = property()

    with pytest.raises(InvalidInputError, match="Stateless has no get_state, so that"):
        gem_prompts(Stateless(), size=1)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("rg:chain_sun", {}, "no environment 'rg:chain_sun'. Did you mean 'rg:chain_sum'"),
        ("rg:chain_sum", {"size": 0}, "size must be an integer of at least 1; got 0"),
        ("rg:chain_sum", {"seed": "abc"}, "seed must be an integer, such as 0; got 'abc'"),
        ("rg:chain_sum", {"seed": None}, "seed must be an integer, such as 0; got None"),
        ("rg:chain_sum", {"seed": 1.5}, "seed must be an integer, such as 0; got 1.5"),
        ("game:Wordle-v0-easy", {"word_length": "x"}, "cannot make game:Wordle"),
    ],
)
def test_a_wrong_name_or_setting_is_refused(name: str, settings: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        gem_prompts(name, **settings)


def test_prompts_of_another_kind_are_refused() -> None:
    with pytest.raises(RewardError, match="scores prompts of GEM alone"):
        respond(bandit([Prompt(text="a")]), "a")


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gem", None)
    with pytest.raises(InvalidInputError, match=r'"textrl-envs\[gem\]"'):
        gem_prompts("rg:chain_sum")


def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    (block,) = code_of("GEM")
    assert "State the final answer" in run(block, make_model(tmp_path))
