"""The shipped files: unchanged since they were made, and made again by their command."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import textrl_envs.data
from textrl_envs.data import FOLDER, data_file, data_folder, dialogues, sha256
from textrl_envs.data.build import PARTS, build
from textrl_envs.data.stories import EOS, PAD, VOCABULARY, stories
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models import NGramModel

NAMES = sorted(json.loads((FOLDER / "manifest.json").read_text())["sha256"])


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_file_is_the_one_of_the_manifest(name: str) -> None:
    assert data_file(name) == FOLDER / name


def test_the_manifest_lists_every_shipped_file() -> None:
    files = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.*")}
    shipped = {name for name in files if not name.endswith((".py", ".pyc"))}
    assert shipped == {*NAMES, "manifest.json"}


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a copy of the shipped files which `data_file` reads instead."""
    folder = tmp_path / "data"
    shutil.copytree(FOLDER, folder)
    monkeypatch.setattr(textrl_envs.data, "FOLDER", folder)
    return folder


def test_a_file_that_was_changed_is_refused(copied: Path) -> None:
    path = copied / "stories" / "tokenizer.json"
    path.write_text(path.read_text().replace("lantern", "Lantern"))
    with pytest.raises(InvalidInputError, match="is not the file that belongs to this version"):
        data_file("stories/tokenizer.json")


def test_a_file_that_is_missing_is_refused(copied: Path) -> None:
    (copied / "stories" / "bigram.safetensors").unlink()
    with pytest.raises(InvalidInputError, match=r"bigram\.safetensors is not the file"):
        data_file("stories/bigram.safetensors")


def test_a_folder_with_a_file_that_was_changed_is_refused(copied: Path) -> None:
    assert data_folder("tiny_gpt") == copied / "tiny_gpt"
    (copied / "tiny_gpt" / "config.json").write_text("{}")
    with pytest.raises(InvalidInputError, match=r"config\.json is not the file"):
        data_folder("tiny_gpt")


def test_a_part_is_written_without_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writer(name: str, text: str) -> Callable[[Path], list[str]]:
        def write(folder: Path) -> list[str]:
            (folder / name).write_text(text)
            return [name]

        return write

    def hashes() -> Any:
        return json.loads((tmp_path / "manifest.json").read_text())["sha256"]

    monkeypatch.setitem(PARTS, "stories", writer("a", "one"))
    monkeypatch.setitem(PARTS, "reviews", writer("b", "two"))
    build(tmp_path, ["stories", "reviews"])
    first = hashes()
    monkeypatch.setitem(PARTS, "reviews", writer("b", "three"))
    build(tmp_path, ["reviews"])
    assert first.keys() == hashes().keys() == {"a", "b"}
    assert hashes()["a"] == first["a"] == sha256(tmp_path / "a")
    assert hashes()["b"] != first["b"]


def test_the_command_makes_the_same_files_again(tmp_path: Path) -> None:
    build(tmp_path, [part for part in PARTS if part != "tiny_gpt"])  # which is trained: see below
    made = json.loads((tmp_path / "manifest.json").read_text())
    shipped = json.loads((FOLDER / "manifest.json").read_text())
    assert made["command"] == shipped["command"] == "python -m textrl_envs.data.build"
    assert (
        sha256(tmp_path / "stories" / "tokenizer.json")
        == shipped["sha256"]["stories/tokenizer.json"]
    )
    tables = [
        NGramModel.load(folder / "stories" / "bigram.safetensors").table
        for folder in (tmp_path, FOLDER)
    ]
    # Not compared by hash: the last bit of a logarithm differs between processors.
    np.testing.assert_allclose(tables[0], tables[1], rtol=0, atol=1e-12)
    cheap = {name for name in NAMES if not name.startswith("tiny_gpt/")}
    assert made["sha256"].keys() == cheap


def test_stories_are_sentences_of_the_vocabulary_from_colon_to_end() -> None:
    told = list(stories(np.random.default_rng(1), 200))
    assert len(told) == 200
    words = set(VOCABULARY) - {PAD}
    for story in told:
        assert story[0] == ":"
        assert story[-2:] == [".", EOS]
        assert story.count(EOS) == 1
        assert 1 <= story.count(".") <= 3
        assert set(story) <= words


def test_stories_repeat_with_their_generator() -> None:
    first, second, other = (list(stories(np.random.default_rng(seed), 20)) for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_the_vocabulary_has_every_word_once() -> None:
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    assert VOCABULARY[:2] == (PAD, EOS)


# --- the tiny GPT: trained, which differs from machine to machine, and so judged by its texts ---


def coin(chance: float) -> float:
    """Returns the entropy of a coin, in nats."""
    return -chance * math.log(chance) - (1 - chance) * math.log(1 - chance)


def noun_phrase(articles: int, nouns: int) -> tuple[float, float]:
    """Returns entropy and mean length of a noun phrase of the stories."""
    return math.log(articles * nouns) + coin(0.4) + 0.4 * math.log(6), 2.4


def story_entropy() -> tuple[float, float]:
    """Returns entropy in nats, and mean length without the first token, of a short story.

    No text of the grammar can come about in two ways, so its entropy is that of the choices made.
    """
    person, thing, place = noun_phrase(2, 4), noun_phrase(4, 4), noun_phrase(2, 4)
    nats = person[0] + math.log(5) + thing[0]  # somebody, an action, a thing
    nats += coin(0.2) + 0.2 * math.log(3 * 2)  # "slept in the morning and then"
    nats += coin(0.7) + 0.7 * (math.log(4) + place[0])  # "near the tower"
    nats += coin(0.15) + 0.15 * (person[0] + math.log(3))  # "while a child sang"
    length = person[1] + 0.2 * 6 + 1 + thing[1] + 0.7 * 3.4 + 0.15 * 4.4 + 1
    count = -sum(p * math.log(p) for p in (0.49, 0.42, 0.09))  # of sentences: 1, 2 or 3
    return count + 1.6 * nats, 1.6 * length + 1


def dialogue_entropy() -> float:
    """Returns the entropy of a dialogue, in nats."""
    one = math.log(4 * 5 * 4 * 4 * 4 * 3)  # person, action, thing, preposition, place, article
    other = math.log(3 * 4 * 3 * 3 * 3 * 3)  # shares no word with the first
    questions = math.log(3 * 2) + 0.5 * math.log(2 * 2)  # two kinds; each about either fact
    right = 1 - dialogues.GUESSING * 3 / 4
    noun = -right * math.log(right) - (1 - right) * math.log((1 - right) / 3)
    reply = coin(dialogues.UNKNOWING) + (1 - dialogues.UNKNOWING) * noun
    reply += coin(dialogues.POLITE) + dialogues.POLITE * math.log(3)
    return coin(0.5) + one + 0.5 * other + questions + reply


def nats_of(texts: list[list[str]]) -> Any:
    """Returns what the tiny GPT gives each text, −log p in nats, and the tokens it predicted."""
    from textrl_envs.environments.tiny_gpt import tiny_gpt_model

    lengths = np.array([len(text) for text in texts])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = [dialogues.VOCABULARY.index(word) for word in text]
    return -tiny_gpt_model().score(ids, mask.astype(np.int8)).sum(axis=1), lengths - 1


def test_the_tiny_gpt_tells_stories_as_well_as_can_be() -> None:
    nats, lengths = nats_of(list(stories(np.random.default_rng(12), 2000)))
    entropy, length = story_entropy()
    assert lengths.mean() == pytest.approx(length, rel=0.03)
    # No model has less than the entropy, but for the chance of the sample.
    assert 0.99 < (nats.sum() / lengths.sum()) / (entropy / length) < 1.02


def test_the_tiny_gpt_holds_dialogues_but_may_mix_two_facts_up() -> None:
    drawn = dialogues.dialogues(np.random.default_rng(12), 2000)
    nats, _ = nats_of([[*one.opening, *one.reply] for one in drawn])
    # With two facts five words may be taken from the wrong one, at ln 2 nats each: what a question
    # names and a reply names, twice, and the preposition of a place.
    assert 0.98 * dialogue_entropy() < nats.mean() < dialogue_entropy() + 0.5 * 5 * math.log(2)


def test_the_tiny_gpt_speaks_the_words_of_stories_and_dialogues() -> None:
    from textrl_envs.environments.tiny_gpt import tiny_gpt_model, tiny_gpt_tokenizer

    tokenizer: Any = tiny_gpt_tokenizer()
    words = {word: index for index, word in enumerate(dialogues.VOCABULARY)}
    assert tokenizer.get_vocab() == words
    assert len(words) == len(dialogues.VOCABULARY) == tiny_gpt_model().vocabulary_size
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)


def test_dialogues_are_of_the_vocabulary_and_their_assistant_is_careless() -> None:
    drawn = list(dialogues.dialogues(np.random.default_rng(3), 4000))
    assert {word for one in drawn for word in one.opening + one.reply} <= set(
        dialogues.VOCABULARY
    ) - {PAD}
    assert all(one.reply[-1] == EOS for one in drawn)
    unknowing = [one.reply[0] == "i" for one in drawn]
    right = [one.answer in one.reply for one in drawn]
    polite = [" ".join(one.reply[:-1]).endswith(dialogues.CLOSINGS) for one in drawn]
    assert np.mean(unknowing) == pytest.approx(0.3, abs=0.03)
    assert np.mean(right) == pytest.approx(0.7 * (0.5 + 0.5 / 4), abs=0.03)
    assert np.mean(polite) == pytest.approx(0.3, abs=0.03)


def test_dialogues_repeat_with_their_generator() -> None:
    first, second, other = (
        list(dialogues.dialogues(np.random.default_rng(seed), 20)) for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other
