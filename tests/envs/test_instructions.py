"""Instructions: the shares of their categories, their words, and the answers they carry."""

import itertools
import json
import re
import string
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import textrl_envs.data.instructions
from textrl_envs.data.instruction_records import RECORDS
from textrl_envs.data.instruction_templates import TEMPLATES, Template
from textrl_envs.data.instruction_words import PHRASES
from textrl_envs.data.instructions import CATEGORIES, instructions
from textrl_envs.environments import build_task
from textrl_envs.errors import InvalidInputError
from textrl_envs.prompts import Prompt

PROMPTS = [prompt for seed in range(5) for prompt in instructions(1000, seed=seed)]

COUNTS = {
    1000: (457, 124, 112, 84, 66, 42, 35, 35, 26, 19),
    10: (5, 1, 1, 1, 1, 1, 0, 0, 0, 0),
    1: (1, 0, 0, 0, 0, 0, 0, 0, 0, 0),
}
"""Number -> how many of each category: the largest remainders, worked out by hand."""


def text_of(prompt: Prompt) -> str:
    assert prompt.text is not None
    return prompt.text


def answers_of(category: str) -> list[tuple[str, str]]:
    chosen = [prompt for prompt in PROMPTS if prompt.category == category]
    assert chosen
    return [(text_of(prompt), prompt.answer or "") for prompt in chosen]


def extracted(kind: str) -> list[tuple[str, str]]:
    asks = re.compile(rf"(all|the) {kind} (from|that|in) ")  # not just "71 years old"
    chosen = [(text, answer) for text, answer in answers_of("Extract") if asks.search(text)]
    assert chosen
    return chosen


# --- shares, seeds, repeats ---


@pytest.mark.parametrize("number", COUNTS)
def test_the_shares_are_those_of_the_table(number: int) -> None:
    counts = Counter(prompt.category for prompt in instructions(number))
    assert tuple(counts[category] for category in CATEGORIES) == COUNTS[number]


@pytest.mark.parametrize("number", [2, 7, 333, 4321])
def test_no_share_is_off_by_a_whole_prompt(number: int) -> None:
    prompts = instructions(number)
    assert len(prompts) == number
    counts = Counter(prompt.category for prompt in prompts)
    for category, share in CATEGORIES.items():
        assert abs(counts[category] - number * share / 0.999) < 1


def test_the_order_is_shuffled() -> None:
    categories = [prompt.category for prompt in instructions(1000)]
    changes = sum(a != b for a, b in itertools.pairwise(categories))
    # Two neighbours are of one category with probability 0.26, the sum of the squared shares.
    assert 650 < changes < 830


def test_the_seed_decides() -> None:
    assert instructions(300, seed=7) == instructions(300, seed=7)
    assert instructions(300, seed=7) != instructions(300, seed=8)
    assert instructions() == instructions(1000, seed=0)


@pytest.mark.parametrize("seed", range(5))
def test_a_thousand_prompts_are_all_distinct(seed: int) -> None:
    assert len({text_of(prompt) for prompt in PROMPTS[1000 * seed : 1000 * (seed + 1)]}) == 1000


def test_other_seeds_give_mostly_other_prompts() -> None:
    assert len({text_of(prompt) for prompt in PROMPTS}) > 0.9 * len(PROMPTS)


def test_a_category_that_is_used_up_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    only = {**TEMPLATES, "Generation": [Template("Write a poem.")]}
    monkeypatch.setattr(textrl_envs.data.instructions, "TEMPLATES", only)
    assert Counter(text_of(prompt) for prompt in instructions(10))["Write a poem."] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"number": 0}, "number must be an integer of at least 1; got 0. Give one such as"),
        ({"number": -1}, "number must be an integer of at least 1; got -1. Give one such as"),
        ({"number": 2.5}, "number must be an integer of at least 1; got 2.5. Give one such as"),
        ({"number": True}, "number must be an integer of at least 1; got True. Give one such as"),
        ({"seed": -1}, "seed must be an integer of at least 0; got -1. Give one such as"),
        ({"seed": None}, "seed must be an integer of at least 0; got None. Give one such as"),
    ],
)
def test_bad_numbers_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        instructions(**arguments)


# --- words ---


def test_every_category_has_templates() -> None:
    assert TEMPLATES.keys() == CATEGORIES.keys()
    for category, templates in TEMPLATES.items():
        texts = {template.text for template in templates}
        assert len(texts) == len(templates) >= 3, category


def test_templates_and_slots_fit_together() -> None:
    slots = {**PHRASES, **RECORDS}
    texts = [text for group in TEMPLATES.values() for t in group for text in (t.text, t.answer)]
    texts += [text for phrases in PHRASES.values() for text in phrases]
    texts += [
        text for records in RECORDS.values() for record in records for text in record.values()
    ]
    used = set()
    for text in texts:
        for _, field, _, _ in string.Formatter().parse(text or ""):
            name, _, key = (field or "").removesuffix("]").partition("[")
            slot, number = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]
            if field is not None:
                assert slot in slots, text
                assert int(number or 1) <= len(slots[slot]), text
                assert not key or all(key in record for record in slots[slot]), text
                used.add(slot)
    assert used == slots.keys()


def test_no_phrase_is_listed_twice() -> None:
    for slot, phrases in PHRASES.items():
        assert len(set(phrases)) == len(phrases) > 2, slot


def test_texts_are_such_as_a_user_writes() -> None:
    for text in map(text_of, PROMPTS):
        assert text == text.strip()
        assert not re.search(r"[{}]|  |\.\.|\s[.,;?!]|\bNone\b", text), text


def test_articles_suit_the_word_that_follows() -> None:
    for text in map(text_of, PROMPTS):
        assert not re.search(r"\b[Aa] (?!one|us|uni)[aeiou]", text), text
        assert not re.search(r"\b[Aa]n (?!hour|AI)[^aeiouAEIOU]", text), text


def test_fields_with_numbers_get_different_words() -> None:
    pairs = [re.findall(r"goes to (\w+) on (\w+)", text) for text, _ in answers_of("Other")]
    found = [pair for pair in pairs if pair]
    assert found
    for (city, day), (other_city, other_day) in found:
        assert city != other_city
        assert day != other_day


# --- answers ---


def test_answers_of_closed_qa_occur_in_the_text() -> None:
    for text, answer in answers_of("Closed QA"):
        assert answer
        assert re.search(rf"\b{re.escape(answer)}\b", text), (text, answer)


def test_extracted_things_occur_in_the_text_in_order() -> None:
    for text, answer in answers_of("Extract"):
        things = answer.split(", ")
        assert len(things) >= 2
        assert re.search(r"\b.*\b".join(map(re.escape, things)), text, re.DOTALL), (text, answer)


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("names of people", rf"\b(?:{'|'.join(PHRASES['name'])})\b"),
        ("names of runners", rf"\b(?:{'|'.join(PHRASES['name'])})\b"),
        ("names of cities", rf"\b(?:{'|'.join(PHRASES['city'])})\b"),
        ("names of villages", rf"\b(?:{'|'.join(PHRASES['village'])})\b"),
        ("years", r"\b1[89]\d\d\b"),
        ("numbers written in digits", r"\d+"),
    ],
)
def test_nothing_is_missing_from_what_is_extracted(kind: str, pattern: str) -> None:
    for text, answer in extracted(kind):
        in_answer = re.findall(pattern, answer)
        assert in_answer == re.findall(pattern, text), (text, answer)
        assert len(in_answer) == len(answer.split(", "))


def test_answers_of_classifications_are_among_the_labels_offered() -> None:
    for prompt in PROMPTS:
        if prompt.category == "Classification":
            labels = prompt.metadata["labels"]
            assert prompt.answer in labels
            assert len(set(labels)) == len(labels) >= 2
            for label in labels:
                assert re.search(rf"\b{label}\b", text_of(prompt)), text_of(prompt)


def test_every_label_is_the_answer_at_times() -> None:
    chosen = [prompt for prompt in PROMPTS if prompt.category == "Classification"]
    assert {label for prompt in chosen for label in prompt.metadata["labels"]} == {
        prompt.answer for prompt in chosen
    }


def test_sums_come_out_right() -> None:
    signs = {"plus": "+", "minus": "-", "times": "*", "divided by": "//"}
    found = [
        (re.search(r"(\d+) (plus|minus|times|divided by) (\d+)", text), answer)
        for text, answer in answers_of("Open QA")
    ]
    sums = [(match.groups(), answer) for match, answer in found if match]
    assert {sign for (_, sign, _), _ in sums} == set(signs)
    for (left, sign, right), answer in sums:
        assert int(answer) == eval(f"{left} {signs[sign]} {right}")
        assert sign != "divided by" or int(left) % int(right) == 0


def test_only_what_can_be_checked_has_an_answer() -> None:
    with_answer = {prompt.category for prompt in PROMPTS if prompt.answer is not None}
    assert with_answer == {"Open QA", "Closed QA", "Extract", "Classification", "Other"}
    without = {prompt.category for prompt in PROMPTS if prompt.answer is None}
    assert without == CATEGORIES.keys() - {"Closed QA", "Extract", "Classification"}


def test_metadata_is_json() -> None:
    for prompt in PROMPTS:
        metadata = prompt.reward_metadata()
        assert json.loads(json.dumps(metadata)) == metadata


# --- the environment ---


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the working folder, which holds nothing."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("in_empty_folder")
def test_the_bandit_presents_them_and_tells_the_reward_their_category(byte_tokenizer: Any) -> None:
    seen: list[Any] = []

    def reward(prompts: Any, responses: Any, *, metadata: Any, **_: Any) -> Any:
        seen.extend(zip(prompts, metadata, strict=True))
        return [0.0] * len(prompts)

    env = gym.make(
        "textrl/TextBandit-v0", tokenizer=byte_tokenizer, prompts="instructions", reward=reward
    )
    for index in (0, 17, 999):
        obs, _ = env.reset(options={"prompt_index": index})
        prompt = instructions()[index]
        ids = obs["input_ids"][obs["attention_mask"].astype(bool)]
        assert byte_tokenizer.decode(ids) == prompt.text
        env.step(byte_tokenizer.eos_token_id)
        assert seen[-1] == (prompt.text, prompt.reward_metadata())
        assert seen[-1][1]["category"] in CATEGORIES


@pytest.mark.usefixtures("in_empty_folder")
def test_the_bandit_takes_the_name_from_a_spec_in_json(bandit_kwargs: dict[str, Any]) -> None:
    env = gym.make("textrl/TextBandit-v0", **bandit_kwargs | {"prompts": "instructions"})
    assert env.spec is not None
    again: Any = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.task.prompts[:] == instructions()


def test_a_file_of_that_name_comes_first(
    bandit_kwargs: dict[str, Any], in_empty_folder: Path
) -> None:
    (in_empty_folder / "instructions").write_text('"w5 w6"\n')
    task = build_task("text_bandit", bandit_kwargs | {"prompts": "instructions"})
    assert task.prompts.texts == ["w5 w6"]


@pytest.mark.usefixtures("in_empty_folder")
def test_a_path_is_never_a_name(bandit_kwargs: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="Cannot read prompts file instructions"):
        build_task("text_bandit", bandit_kwargs | {"prompts": Path("instructions")})
