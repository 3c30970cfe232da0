"""TextBandit: the user's own parts, and what is wrong with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from textrl_envs.environments import build_task
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models import NGramModel
from textrl_envs.prompts import Prompt


def uniform(size: int) -> NGramModel:
    return NGramModel(np.full((size, size), -np.log(size)))


def test_an_environment_is_made_of_names_alone(bandit_kwargs: dict[str, Any]) -> None:
    env = gym.make("textrl/TextBandit-v0", **bandit_kwargs)
    obs, _ = env.reset(options={"prompt_index": 1})
    assert obs["input_ids"].tolist() == [6, 7, 8, 0, 0, 0, 0, 0, 0]
    env.step(6)
    _, reward, terminated, _, info = env.step(1)
    assert (reward, terminated) == (0.2, True)
    assert info["repeats"] == 1.0


def test_objects_will_do_instead_of_names(word_tokenizer: Any) -> None:
    task = build_task(
        "text_bandit",
        {
            "tokenizer": word_tokenizer,
            "prompts": [Prompt(text="w5", answer="w6"), "w7"],
            "reward": "textrl_envs.rewards:exact_answer",
            "reference": uniform(32),
            "stop": "w9",
        },
    )
    assert task.prompts.texts == ["w5", "w7"]
    assert task.stop == ("w9",)
    assert task.load_reference is not None
    assert task.load_reference().vocabulary_size == 32


def test_further_parameters_are_taken(bandit_kwargs: dict[str, Any]) -> None:
    parameters = {"template": "w2 {prompt}", "max_prompt_tokens": 7, "stop": ["w20", "w21"]}
    task = build_task("text_bandit", {**bandit_kwargs, **parameters})
    assert task.prompts.texts[0] == "w2 w5"
    assert task.max_tokens == 7 + 6
    assert task.stop == ("w20", "w21")


def test_a_reference_is_loaded_when_it_is_first_asked_for(
    bandit_kwargs: dict[str, Any], gpt2_folder: Path
) -> None:
    env: Any = gym.make("textrl/TextBandit-v0", reference=str(gpt2_folder), **bandit_kwargs)
    env = env.unwrapped
    reference = env.reference
    assert reference.vocabulary_size == 32
    assert env.reference is reference
    obs = {key: value[None] for key, value in env.reset(seed=0)[0].items()}
    np.testing.assert_allclose(np.exp(reference.next_log_probs(obs)).sum(), 1, rtol=1e-5)


def test_a_reference_of_another_vocabulary_is_refused(bandit_kwargs: dict[str, Any]) -> None:
    message = "vocabularies do not match: the tokenizer has 32 tokens, the reference 31"
    with pytest.raises(InvalidInputError, match=message):
        build_task("text_bandit", {**bandit_kwargs, "reference": uniform(31)})


def test_a_reference_folder_of_too_small_a_vocabulary_is_refused(
    bandit_kwargs: dict[str, Any], build_lm: Callable[..., Any], tmp_path: Path
) -> None:
    build_lm("GPT2", vocab_size=20).save_pretrained(tmp_path)
    task = build_task("text_bandit", {**bandit_kwargs, "reference": str(tmp_path)})
    assert task.load_reference is not None
    message = "vocabularies do not match: the environment has 32 tokens, the model 20"
    with pytest.raises(InvalidInputError, match=message):
        task.load_reference()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": "/no/such/file.jsonl"}, "Cannot read prompts file /no/such/file.jsonl"),
        ({"prompts": []}, "at least one prompt; got none"),
        ({"prompt_field": "question"}, r"no field 'question'"),
        ({"reward": "no_such_module:reward"}, "Cannot import the reward module"),
        ({"reward": 3}, "A reward must be a function or an instance"),
        ({"tokenizer": "/no/such/folder"}, "There is no folder /no/such/folder"),
        ({"tokenizer": 3}, "Tokenizer 'int' has no EOS token"),
        ({"template": "w2"}, r"Expected a template with \{prompt\}"),
        ({"max_prompt_tokens": 1}, "max_prompt_tokens is 1"),
        ({"max_new_tokens": 0}, "max_new_tokens must be .*at least 1"),
        ({"stop": [""]}, "stop must be a sequence of non-empty texts"),
        ({"kl_coefficient": -1.0}, "kl_coefficient must be a number of 0 or more"),
    ],
)
def test_parts_that_cannot_be_used_are_refused(
    bandit_kwargs: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        build_task("text_bandit", {**bandit_kwargs, **changes})
