"""Loading tokenizers, and texts that are decoded when they are read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from textrl_envs.errors import InvalidInputError
from textrl_envs.tokenizers import DecodedTexts, check_tokenizer, load_tokenizer


class CountingTokenizer:
    """Decodes to digits and counts how often."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> str:
        assert skip_special_tokens
        self.calls.append(list(token_ids))
        return "-".join(str(i) for i in token_ids)


def rows(*ids: list[int]) -> list[Any]:
    return [np.array(row) for row in ids]


@pytest.fixture
def counting() -> Any:
    return CountingTokenizer()


def test_a_folder_is_loaded_once_a_process(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(str(tokenizer_folder))
    assert load_tokenizer(str(tokenizer_folder)) is tokenizer
    assert len(tokenizer) == 32
    assert tokenizer.encode("w3 w4") == [3, 4]


def test_a_folder_that_has_changed_is_loaded_again(
    tmp_path: Path, tokenizer_folder: Path, byte_tokenizer: Any
) -> None:
    for file in tokenizer_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert len(load_tokenizer(str(tmp_path))) == 32
    byte_tokenizer.save_pretrained(tmp_path)
    assert len(load_tokenizer(str(tmp_path))) == len(byte_tokenizer) != 32


def test_a_folder_that_does_not_exist_is_named() -> None:
    with pytest.raises(InvalidInputError, match="There is no folder /no/such/folder"):
        load_tokenizer("/no/such/folder")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"there is no tokenizer\.json in it"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("content", ["{nope", "{}"])
def test_a_broken_tokenizer_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    )
    with pytest.raises(InvalidInputError, match="Cannot load a tokenizer from"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_an_eos_token_is_refused(
    tmp_path: Path, tokenizer_folder: Path
) -> None:
    (tmp_path / "tokenizer.json").write_text((tokenizer_folder / "tokenizer.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    )
    with pytest.raises(InvalidInputError, match="has no EOS token, so a response could not end"):
        load_tokenizer(str(tmp_path))


def test_an_object_that_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="Tokenizer 'object' has no EOS token"):
        check_tokenizer(object(), "object")


def test_a_text_is_decoded_when_it_is_first_read_and_only_then(counting: Any) -> None:
    texts = DecodedTexts(counting, rows([1, 2], [3]))
    assert len(texts) == 2
    assert counting.calls == []
    assert [texts[1], texts[1], texts[-1]] == ["3", "3", "3"]
    assert counting.calls == [[3]]


def test_decoded_texts_behave_as_a_list_does(counting: Any) -> None:
    texts, expected = DecodedTexts(counting, rows([1, 2], [3], [4, 5])), ["1-2", "3", "4-5"]
    assert list(texts) == expected
    assert texts[1:] == expected[1:]
    assert texts[::-1] == expected[::-1]
    assert "3" in texts
    assert repr(texts) == repr(expected)
    with pytest.raises(IndexError):
        texts[3]


def test_special_tokens_are_left_out_of_the_text(word_tokenizer: Any) -> None:
    assert list(DecodedTexts(word_tokenizer, rows([5, 6, 1]))) == ["w5 w6"]
