import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

from textrl_benchmarks.speed.job import Job, Lengths, job_of_size, read_job, write_job
from textrl_envs.errors import InvalidInputError
from textrl_envs.tokenizers import load_tokenizer

RESPONSES = 512


def tiny(lengths: Lengths) -> Job:
    return Job(lengths=lengths, layers=1, width=32, heads=2, vocabulary_size=512, batch=32)


def prompts_of(folder: Path) -> list[list[int]]:
    found: list[list[int]] = json.loads((folder / "prompts.json").read_text())
    return found


def test_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    job = tiny("varied")
    write_job(tmp_path, job)
    assert read_job(tmp_path) == job
    prompts = prompts_of(tmp_path)
    assert len(prompts) == 16 * 32
    assert {len(ids) for ids in prompts} == {16}
    assert not {1, 2} & {token for ids in prompts for token in ids}


def test_models_have_one_size_and_different_weights(tmp_path: Path) -> None:
    write_job(tmp_path, tiny("full"))
    tables = [
        GPT2LMHeadModel.from_pretrained(tmp_path / "policy").transformer.wte.weight,
        *(
            GPT2ForSequenceClassification.from_pretrained(tmp_path / name).transformer.wte.weight
            for name in ("reward_model", "value_model")
        ),
    ]
    assert {table.shape for table in tables} == {(512, 32)}
    assert len({table[7, 7].item() for table in tables}) == 3


def test_texts_are_joined_and_cut_again_without_loss(tmp_path: Path) -> None:
    write_job(tmp_path, tiny("full"))
    tokenizer: Any = load_tokenizer(str(tmp_path / "tokenizer"))
    prompt, response = prompts_of(tmp_path)[:2]
    text = tokenizer.decode(prompt) + tokenizer.decode([*response, 2], skip_special_tokens=True)
    assert tokenizer.encode(text) == prompt + response


# (1 - (23/24)^48) 24 = 20.9; of 512 responses the mean has a standard error of 0.7.
@pytest.mark.parametrize(("lengths", "low", "high"), [("full", 48, 48), ("varied", 18.1, 23.7)])
def test_responses_are_as_long_as_the_job_says(
    tmp_path: Path, lengths: Lengths, low: float, high: float
) -> None:
    write_job(tmp_path, tiny(lengths))
    model: Any = GPT2LMHeadModel.from_pretrained(tmp_path / "policy")
    ids = torch.tensor(prompts_of(tmp_path)[:RESPONSES])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        texts = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=48
        )
    mean = float((texts[:, 16:] != 1).sum(1).float().mean())
    assert low <= mean <= high


def test_what_is_no_job_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"holds no job: there is no job\.json"):
        read_job(tmp_path)
    with pytest.raises(InvalidInputError, match=r"Unknown size 'gtp2'\. Did you mean 'gpt2'"):
        job_of_size("gtp2", lengths="full")
