"""Rewards named by a string: modules, files, and names that lead nowhere."""

from pathlib import Path

import pytest

from textrl_envs.errors import InvalidInputError
from textrl_envs.rewards import load_reward, response_length
from textrl_envs.rewards.loading import load_object


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(
        "loads = []\nloads.append(1)\nnumber = 3\n"
        "def reward(prompts, responses, **more): return [0.0] * len(responses)\n"
        "class Model:\n    def __call__(self, prompts, responses, **more): return [1.0]\n"
        "model = Model()\n"
    )
    return path


def test_a_callable_is_returned_as_it_is() -> None:
    assert load_reward(response_length) is response_length


def test_a_reward_is_found_in_a_module() -> None:
    assert load_reward("textrl_envs.rewards.rules:response_length") is response_length


def test_a_reward_is_found_in_a_file_which_runs_once(file: Path) -> None:
    reward = load_reward(f"{file}:reward")
    assert callable(reward)
    assert load_reward(f"{file}:reward") is reward
    assert callable(load_reward(f"{file}:model"))
    assert load_object(f"{file}:loads", "list") == [1]


def test_a_relative_path_and_a_full_one_are_one_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    assert load_reward("mine.py:reward") is load_reward(f"{file}:reward")


def test_two_files_of_one_name_do_not_meet(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "mine.py"
    other.parent.mkdir()
    other.write_text("number = 4\n")
    assert load_object(f"{file}:number", "number") == 3
    assert load_object(f"{other}:number", "number") == 4


@pytest.mark.parametrize("name", ["reward", ":reward", "module:", ""])
def test_a_name_without_place_and_attribute_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="Expected a reward as 'module:name' or"):
        load_reward(name)


def test_a_missing_module_is_named() -> None:
    message = "Cannot import the reward module 'no_such_module': ModuleNotFoundError"
    with pytest.raises(InvalidInputError, match=message):
        load_reward("no_such_module:reward")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"There is no file .*absent\.py"):
        load_reward(f"{tmp_path / 'absent.py'}:reward")


def test_a_misspelt_name_gets_the_nearest(file: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"has no 'reword'\. Did you mean 'reward'\?"):
        load_reward(f"{file}:reword")


@pytest.mark.parametrize("name", ["number", "Model"])
def test_what_cannot_be_called_as_a_reward_is_refused(file: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match="must be a function or an instance that can be"):
        load_reward(f"{file}:{name}")


@pytest.mark.parametrize(
    ("code", "message"),
    [("1 / 0", "ZeroDivisionError: division by zero"), ("def f(:", "SyntaxError")],
)
def test_a_file_that_raises_is_named_and_can_be_mended(
    tmp_path: Path, code: str, message: str
) -> None:
    path = tmp_path / "broken.py"
    path.write_text(code)
    with pytest.raises(InvalidInputError, match=rf"Cannot import the reward module .*{message}"):
        load_reward(f"{path}:reward")
    path.write_text("def reward(prompts, responses, **more):\n    return [0.0]\n")
    assert callable(load_reward(f"{path}:reward"))
