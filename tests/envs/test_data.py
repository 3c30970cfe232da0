"""The shipped files: unchanged since they were made, and made again by their command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import textrl_envs.data
from textrl_envs.data import FOLDER, data_file, sha256
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
