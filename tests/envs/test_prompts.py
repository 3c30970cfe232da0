"""Prompts: reading JSONL with errors that name the line, and the table of token ids."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from textrl_envs.errors import InvalidInputError
from textrl_envs.prompt_sources import find_prompts
from textrl_envs.prompts import Prompt, PromptTable, read_prompts


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "prompts.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_strings_and_objects_are_read_line_by_line(tmp_path: Path) -> None:
    content = '"plain"\n\n{"prompt": "asked", "category": "QA", "answer": "42", "level": 3}\r\n'
    plain, asked = read_prompts(write(tmp_path, content))
    assert plain == Prompt(text="plain")
    assert asked == Prompt(text="asked", category="QA", answer="42", metadata={"level": 3})
    assert asked.reward_metadata() == {"category": "QA", "answer": "42", "level": 3}


@pytest.mark.parametrize("name", ["category", "answer"])
def test_category_and_answer_are_not_taken_for_metadata(name: str) -> None:
    """The reward would be told that there is none."""
    with pytest.raises(InvalidInputError, match=rf"has '{name}'.*give Prompt\({name}=\.\.\.\)"):
        Prompt(text="asked", metadata={name: "42", "level": 3})


def test_the_field_of_the_prompt_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path, '{"question": "why?", "prompt": "kept"}\n')
    (prompt,) = read_prompts(path, prompt_field="question")
    assert prompt.text == "why?"
    assert prompt.metadata == {"prompt": "kept"}


def test_a_line_separator_within_a_string_does_not_cut_the_line(tmp_path: Path) -> None:
    (prompt,) = read_prompts(write(tmp_path, '"one\u2028two\x85three"\n'))
    assert prompt.text == "one\u2028two\x85three"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('"good"\n{"prompt": \n', r"line 2: not valid JSON .* expected a JSON string or an object"),
        ('"good"\n\n42\n', "line 3: expected a JSON string or object; got int"),
        ("[1, 2]", "line 1: expected a JSON string or object; got list"),
        ('{"promt": "x"}', "line 1: no field 'prompt'. Did you mean 'promt'?"),
        ('"good"\n"  "', "line 2: 'prompt' must be non-empty text; got '  '"),
        ('{"prompt": 7}', "line 1: 'prompt' must be non-empty text; got 7"),
        ('{"prompt": "x", "answer": 7}', "line 1: 'answer' must be text; got 7"),
        ('{"prompt": "x", "category": []}', r"line 1: 'category' must be text; got \[\]"),
        ("", "is empty; expected one JSON value a line"),
        (" \n\n", "is empty; expected one JSON value a line"),
        (b'"caf\xe9"', "is not UTF-8 at byte 4. Save it as UTF-8"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_prompts(write(tmp_path, content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"absent.jsonl: No such file .* readable JSONL"):
        read_prompts(tmp_path / "absent.jsonl")


def test_a_folder_is_no_prompts_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="Cannot read prompts file"):
        read_prompts(tmp_path)


@pytest.mark.parametrize("text", ["what is 1 + 1?", "what is 1 + 1? " * 400, "a\0b"])
def test_a_text_that_is_no_name_is_said_to_go_into_a_list(text: str) -> None:
    with pytest.raises(
        InvalidInputError, match=r"Cannot read prompts file .* as \[text\]"
    ) as error:
        find_prompts(text)
    assert len(str(error.value)) < 500


def test_a_prompt_needs_text_or_token_ids() -> None:
    with pytest.raises(InvalidInputError, match="needs text or token_ids; got neither"):
        Prompt(category="QA")


def test_the_table_holds_padded_ids_lengths_and_texts(word_tokenizer: Any) -> None:
    table = PromptTable(["w5", Prompt(token_ids=(6, 7, 8)), Prompt(text="w9 w9")], word_tokenizer)
    np.testing.assert_array_equal(table.token_ids, [[5, 0, 0], [6, 7, 8], [9, 9, 0]])
    np.testing.assert_array_equal(table.lengths, [1, 3, 2])
    assert table.texts == ["w5", "w6 w7 w8", "w9 w9"]
    assert table.max_prompt_tokens == 3


def test_the_table_is_a_sequence_of_its_prompts(word_tokenizer: Any) -> None:
    prompts = [Prompt(text="w5"), Prompt(text="w6", answer="w7")]
    table = PromptTable(iter(prompts), word_tokenizer)
    assert list(table) == prompts
    assert table[-1] == prompts[1]
    assert table[:1] == prompts[:1]
    assert [row["answer"] for row in table.metadata] == [None, "w7"]


def test_max_prompt_tokens_leaves_room(word_tokenizer: Any) -> None:
    assert PromptTable(["w5"], word_tokenizer, max_prompt_tokens=4).max_prompt_tokens == 4


def test_a_prompt_that_is_too_long_is_named(word_tokenizer: Any) -> None:
    with pytest.raises(InvalidInputError, match="Prompt 1 has 3 tokens; max_prompt_tokens is 2"):
        PromptTable(["w5", "w6 w7 w8"], word_tokenizer, max_prompt_tokens=2)


def test_no_prompt_at_all_is_refused(word_tokenizer: Any) -> None:
    with pytest.raises(InvalidInputError, match="at least one prompt; got none"):
        PromptTable([], word_tokenizer)


def test_a_prompt_without_tokens_is_named(word_tokenizer: Any) -> None:
    with pytest.raises(InvalidInputError, match="Prompt 1 has no tokens"):
        PromptTable(["w5", ""], word_tokenizer)


@pytest.mark.parametrize("ids", [(5, 32), (-1, 5)])
def test_ids_outside_the_vocabulary_are_refused(word_tokenizer: Any, ids: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match=r"Prompt 0 has token ids outside 0\.\.31"):
        PromptTable([Prompt(token_ids=ids)], word_tokenizer)


@pytest.mark.parametrize("stranger", [{"prompt": "w5"}, 5, None])
def test_what_is_neither_prompt_nor_text_is_refused(word_tokenizer: Any, stranger: Any) -> None:
    with pytest.raises(InvalidInputError, match="Prompt"):
        PromptTable([stranger], word_tokenizer)


def test_an_eos_token_that_the_tokenizer_adds_is_dropped_and_a_bos_token_kept() -> None:
    class Adding:
        eos_token_id, pad_token_id = 2, None

        def __len__(self) -> int:
            return 10

        def encode(self, text: str) -> list[int]:
            return [1, *(int(c) for c in text), 2]

        def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> str:
            return ""

    adding: Any = Adding()
    table = PromptTable(["345"], adding)
    np.testing.assert_array_equal(table.token_ids, [[1, 3, 4, 5]])


def test_a_template_surrounds_the_text_and_not_the_token_ids(word_tokenizer: Any) -> None:
    prompts = [Prompt(text="w5"), Prompt(token_ids=(6,))]
    table = PromptTable(prompts, word_tokenizer, template="w2 {prompt} w3")
    assert table.texts == ["w2 w5 w3", "w6"]
    np.testing.assert_array_equal(table.token_ids, [[2, 5, 3], [6, 0, 0]])


def test_braces_in_a_prompt_are_no_template(byte_tokenizer: Any) -> None:
    table = PromptTable(["{prompt} {x}"], byte_tokenizer, template="a {prompt}")
    assert table.texts == ["a {prompt} {x}"]


def test_doubled_braces_in_a_template_stand_for_single_ones(byte_tokenizer: Any) -> None:
    table = PromptTable(["b"], byte_tokenizer, template='{{"a": {prompt}}}')
    assert table.texts == ['{"a": b}']


@pytest.mark.parametrize(
    "template",
    [
        "",
        "no field",
        "{prompt} {other}",
        "{prompt",
        "{prompt!x:}}",
        "{{prompt}}",  # braces, and no field
        "{prompt} {prompt:{width}}",
    ],
)
def test_a_template_without_the_prompt_or_with_another_field_is_refused(
    word_tokenizer: Any, template: str
) -> None:
    with pytest.raises(
        InvalidInputError, match=r"Expected a template with \{prompt\} and no other"
    ):
        PromptTable(["w5"], word_tokenizer, template=template)
