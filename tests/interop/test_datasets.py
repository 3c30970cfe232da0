"""Hugging Face datasets as prompts: live, in folders and in files."""

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from tests.interop.page import byte_tokenizer, code_of, make_model, respond, run
from textrl_envs.errors import InvalidInputError
from textrl_envs.interop.datasets import dataset_prompts, is_dataset
from textrl_envs.prompt_sources import find_prompts
from textrl_envs.text_env import TextEnv

datasets = pytest.importorskip("datasets")

ROWS = {
    "question": ["1 + 1 =", "2 + 1 =", "½ + ½ ="],
    "answer": ["2", "3", "1"],
    "level": [1, 2, 3],
}
EXPECTED = [
    (text, answer, {"level": level})
    for text, answer, level in zip(*(ROWS[name] for name in ROWS), strict=True)
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what the library remembers of files out of the user's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows() -> Any:
    return datasets.Dataset.from_dict(ROWS)


def told(prompts: Any) -> list[Any]:
    return [(prompt.text, prompt.answer, dict(prompt.metadata)) for prompt in prompts]


def test_a_live_dataset_is_read_row_by_row() -> None:
    assert told(dataset_prompts(rows(), text="question")) == EXPECTED
    assert told(find_prompts(rows(), prompt_field="question")) == EXPECTED


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_a_file_is_read_by_its_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{kind}"
    getattr(rows(), f"to_{'json' if kind == 'jsonl' else kind}")(path)
    assert told(dataset_prompts(path, text="question")) == EXPECTED
    assert told(find_prompts(f"datasets:{path}?text=question")) == EXPECTED
    assert told(find_prompts(f"datasets:{path}", prompt_field="question")) == EXPECTED


def test_a_saved_folder_and_a_folder_of_files_are_read(tmp_path: Path) -> None:
    rows().save_to_disk(tmp_path / "saved")
    (tmp_path / "files").mkdir()
    rows().to_parquet(tmp_path / "files" / "train.parquet")
    for folder in ("saved", "files"):
        assert told(dataset_prompts(tmp_path / folder, text="question")) == EXPECTED, folder


def test_of_several_splits_one_is_chosen(tmp_path: Path) -> None:
    both = datasets.DatasetDict(train=rows(), test=rows().select([2]))
    both.save_to_disk(tmp_path / "both")
    for source in (both, tmp_path / "both"):
        assert told(dataset_prompts(source, text="question", split="test")) == EXPECTED[2:]
        with pytest.raises(InvalidInputError, match=r"has the splits test, train\. Choose"):
            dataset_prompts(source, text="question")
        with pytest.raises(InvalidInputError, match=r"give it alone, as prompts=d\[\"train\"\]"):
            find_prompts(source if source is both else f"datasets:{source}")
        with pytest.raises(InvalidInputError, match=r"no split 'tset'\. Did you mean 'test'"):
            dataset_prompts(source, text="question", split="tset")
    with pytest.raises(InvalidInputError, match=r"no split 3\. Known: test, train"):
        find_prompts(f"datasets:{tmp_path / 'both'}?text=question&split=3")
    alone = datasets.DatasetDict(train=rows())
    assert told(dataset_prompts(alone, text="question")) == EXPECTED
    with pytest.raises(InvalidInputError, match="has no splits; leave out split='train'"):
        dataset_prompts(rows(), text="question", split="train")


def test_a_streamed_dataset_is_read_to_its_end() -> None:
    assert told(dataset_prompts(rows().to_iterable_dataset(), text="question")) == EXPECTED


def streamed(*given: dict[str, Any]) -> Any:
    """Returns a dataset that does not know its columns before it is read."""
    return datasets.IterableDataset.from_generator(lambda: iter(given))


def test_a_streamed_dataset_need_not_know_its_columns() -> None:
    made = streamed({"question": "1 + 1 =", "answer": "2"}, {"question": "2 + 1 ="})
    assert made.column_names is None
    assert [(p.text, p.answer) for p in dataset_prompts(made, text="question")] == [
        ("1 + 1 =", "2"), ("2 + 1 =", None),
    ]  # fmt: skip
    assert dataset_prompts(streamed()) == []


def test_its_columns_are_looked_for_in_its_first_row() -> None:
    made = streamed({"question": "1 + 1 ="}, {"query": "2 + 1 ="})
    with pytest.raises(InvalidInputError, match=r"no column 'qestion'. Did you mean 'question'"):
        dataset_prompts(made, text="qestion")
    with pytest.raises(InvalidInputError, match="no column 'final'"):
        dataset_prompts(made, text="question", answer="final")
    with pytest.raises(InvalidInputError, match="Row 1: 'question' must be non-empty text; got No"):
        dataset_prompts(made, text="question")


def test_numbers_are_answers_and_categories_keep_their_meaning() -> None:
    made = datasets.Dataset.from_dict({"prompt": ["a"], "answer": [7], "category": ["sum"]})
    (prompt,) = dataset_prompts(made)
    assert (prompt.answer, prompt.category, prompt.metadata) == ("7", "sum", {})


def test_any_column_may_be_the_answer() -> None:
    (first, *_) = dataset_prompts(rows(), text="question", answer="level")
    assert (first.answer, first.metadata) == ("1", {})
    assert first.reward_metadata()["answer"] == "1"  # what the reward sees


def test_a_chosen_answer_or_category_is_what_the_reward_sees_though_another_has_the_name() -> None:
    columns = {"prompt": ["a", "b"], "answer": ["so 4", "so 5"], "final": ["4", None]}
    made = datasets.Dataset.from_dict({**columns, "category": ["x", "y"], "kind": ["sum", "sum"]})
    first, second = dataset_prompts(made, answer="final", category="kind")
    assert first.reward_metadata() == {"answer": "4", "category": "sum"}
    assert second.reward_metadata()["answer"] is None
    reward = "textrl_envs.rewards.rules:exact_answer"
    env = TextEnv("text_bandit", tokenizer=byte_tokenizer(), prompts=[first], reward=reward)
    assert [respond(env, response)[0] for response in ("4", "so 4")] == [1.0, 0.0]


def test_whole_numbers_stay_so_in_a_column_with_a_gap(tmp_path: Path) -> None:
    """CSV has no integer that is missing: the column is read as 2.0, none, 10.0."""
    path = tmp_path / "rows.csv"
    path.write_text("prompt,answer,category\na,2,1\nb,,\nc,10,3\n")
    found = dataset_prompts(path)
    assert [prompt.answer for prompt in found] == ["2", None, "10"]
    assert [prompt.category for prompt in found] == ["1", None, "3"]


def test_other_numbers_are_written_as_they_are() -> None:
    made = datasets.Dataset.from_dict({"prompt": ["a"] * 4, "answer": [2.5, -0.5, -3.0, 1e-7]})
    assert [prompt.answer for prompt in dataset_prompts(made)] == ["2.5", "-0.5", "-3", "1e-07"]


def test_an_environment_takes_a_live_dataset_and_a_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows().to_parquet(path)
    reward = "textrl_envs.rewards.rules:exact_answer"
    settings = {"tokenizer": byte_tokenizer(), "reward": reward}
    for prompts in (rows(), f"datasets:{path}"):
        env = TextEnv("text_bandit", prompts=prompts, prompt_field="question", **settings)
        for index, (_, answer, _) in enumerate(EXPECTED):
            assert respond(env, answer, index)[0] == 1.0
            assert respond(env, "9", index)[0] == 0.0
    named = gym.make("textrl/TextBandit-v0", prompts=f"datasets:{path}?text=question", **settings)
    assert list(named.unwrapped.prompts.texts) == ROWS["question"]  # type: ignore[attr-defined]


# --- refused ---


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        (ROWS, {}, "no column 'prompt'"),
        (ROWS, {"text": "qestion"}, "no column 'qestion'. Did you mean 'question'"),
        (ROWS, {"text": "question", "answer": "solution"}, "no column 'solution'"),
        (ROWS, {"text": "level"}, "Row 0: 'level' must be non-empty text; got 1"),
        ({"prompt": ["a", " "]}, {}, "Row 1: 'prompt' must be non-empty text"),
        ({"prompt": ["a"], "answer": [["x"]]}, {}, "Row 0: 'answer' must be text or a number"),
        (ROWS, {"text": 3}, 'text must be the name of a column; got 3. .*text="3"'),
        (ROWS, {"text": "question", "answer": None}, "answer must be the name .* got None"),
        (ROWS, {"text": "question", "category": 1.5}, "category must be the name .* got 1.5"),
    ],
)
def test_a_column_that_cannot_serve_is_refused(columns: Any, settings: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        dataset_prompts(datasets.Dataset.from_dict(columns), **settings)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.txt", "a", r"of one of the kinds \.arrow, \.csv"),
        ("rows.parquet", "no parquet", "Cannot load a dataset from"),
        ("rows.jsonl", "{", "Cannot load a dataset from"),
        ("nothing", None, "Cannot load a dataset from"),
    ],
)
def test_what_cannot_be_loaded_is_refused(
    name: str, content: str | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InvalidInputError, match=message):
        dataset_prompts(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("datasets:rows.parquet?txt=question", "does not take .*unexpected keyword argument 'txt'"),
        ("datasets:rows.parquet?text", "Expected NAME=VALUE&NAME=VALUE .* got 'text'"),
        ("dataset:rows.parquet", "Cannot read prompts file dataset:rows.parquet"),
        ("datasets:rows.parquet?text=3", "text must be the name of a column; got 3"),
    ],
)
def test_a_wrong_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        find_prompts(name)


def test_a_file_of_the_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("datasets:x").write_text('"from the file"\n')
    assert told(find_prompts("datasets:x")) == [("from the file", None, {})]


def test_a_column_named_by_a_number_is_given_in_quotes(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("3,level\na,1\n")
    assert told(find_prompts(f'datasets:{path}?text="3"')) == [("a", None, {"level": 1})]


def test_a_name_may_be_longer_than_a_path(tmp_path: Path) -> None:
    path, column = tmp_path / "rows.parquet", "long" * 2000
    datasets.Dataset.from_dict({column: ["a"]}).to_parquet(path)
    assert told(find_prompts(f"datasets:{path}?text={column}")) == [("a", None, {})]


def test_other_values_are_no_datasets() -> None:
    assert is_dataset(rows())
    assert not any(is_dataset(value) for value in ("text", ["a"], {"a": 1}, Path("x"), None))


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InvalidInputError, match=r'"textrl-envs\[datasets\]"'):
        dataset_prompts("rows.parquet")


@pytest.mark.parametrize("block", [0, 1])
def test_the_code_of_the_page_runs(block: int, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    rows().to_parquet(folder / "questions.parquet")
    printed = run(code_of("Hugging Face datasets")[block], folder)
    assert printed == ("" if block == 0 else "2 + 1 = 3 {'level': 2}\n")
