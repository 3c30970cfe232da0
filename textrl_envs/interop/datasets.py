"""Hugging Face datasets as prompts: a live `Dataset`, a folder, or a Parquet, JSON or CSV file.

By name, prompts are "datasets:path/to/file.parquet?text=question&answer=answer".
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textrl_envs.errors import InvalidInputError, nearest
from textrl_envs.interop.extras import require
from textrl_envs.prompts import REWARD_FIELDS, Prompt

__all__ = ["dataset_prompts", "is_dataset"]

EXTRA = "datasets"
BUILDERS = {
    ".arrow": "arrow",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
}


def is_dataset(value: Any) -> bool:  # noqa: ANN401 - whatever a user gives as prompts
    """Tells whether a value is a `Dataset` or `DatasetDict`, without importing the library."""
    names = {"Dataset", "DatasetDict", "IterableDataset", "IterableDatasetDict"}
    return any(
        kind.__name__ in names and kind.__module__.partition(".")[0] == "datasets"
        for kind in type(value).__mro__
    )


def dataset_prompts(
    source: Any,  # noqa: ANN401 - a name, a path or a dataset
    *,
    text: str = "prompt",
    answer: str = "answer",
    category: str = "category",
    split: str | None = None,
) -> list[Prompt]:
    """Returns the rows of a dataset as prompts; columns without a meaning here are metadata.

    Args:
        source: a `Dataset` or `DatasetDict`; a folder, as `save_to_disk` wrote it or with data
            files in it; a .parquet, .jsonl, .json, .csv or .arrow file; or a hub id.
        text: the column that holds the prompt.
        answer: the column that holds the answer, if there is one: text, or numbers, of which whole
            ones are written without a point.
        category: the column that holds the category, if there is one.
        split: which part, where there are several.

    Raises:
        InvalidInputError: datasets is not installed, nothing that can be loaded, a column that is
            missing or whose name is no text, or a row whose text or answer is none.
    """
    _check_names(text=text, answer=answer, category=category)
    loaded = _load(source) if isinstance(source, str | Path) else source
    rows = _one_split(loaded, split)
    # Only those that were asked for by another than their usual name must be there.
    asked = [text, *(name for name in (answer, category) if name not in ("answer", "category"))]
    _check_columns(rows, asked)
    return [_prompt(row, number, text, answer, category) for number, row in enumerate(rows)]


def _check_names(**names: Any) -> None:  # noqa: ANN401 - whatever a user gives
    for what, name in names.items():
        if not isinstance(name, str):
            raise InvalidInputError(
                f"{what} must be the name of a column; got {name!r}. Give text; in a string that "
                f'names prompts, a number is text in quotes: datasets:FILE?{what}="3".'
            )


def _check_columns(rows: Any, asked: list[str]) -> None:  # noqa: ANN401 - a dataset
    columns = rows.column_names
    if columns is None:  # a streamed dataset learns them as it is read
        columns = next((list(row) for row in rows), asked)
    for name in asked:
        if name not in columns:
            raise InvalidInputError(f"The dataset has no column {name!r}. {nearest(name, columns)}")


def _load(name: str | Path) -> Any:  # noqa: ANN401
    """Loads a folder, a file or a hub id."""
    datasets = require("datasets", extra=EXTRA)
    path = Path(name)
    if path.is_file() and path.suffix not in BUILDERS:
        raise InvalidInputError(
            f"Expected a dataset file of one of the kinds {', '.join(BUILDERS)}; got {path}."
        )
    is_saved = any((path / file).is_file() for file in ("state.json", "dataset_dict.json"))
    try:
        if is_saved:
            return datasets.load_from_disk(str(name))
        if path.is_file():
            return datasets.load_dataset(BUILDERS[path.suffix], data_files=str(path))
        return datasets.load_dataset(str(name))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidInputError(
            f"Cannot load a dataset from {str(name)!r}: {reason}. Give a folder, a file of the "
            f"kinds {', '.join(BUILDERS)}, or a hub id in reach."
        ) from error


def _one_split(loaded: Any, split: str | None) -> Any:  # noqa: ANN401
    """Returns the one dataset that is meant."""
    if not isinstance(loaded, Mapping):
        if split is not None:
            raise InvalidInputError(f"The dataset has no splits; leave out split={split!r}.")
        return loaded
    if split is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    if split is None:
        raise InvalidInputError(
            f"The dataset has the splits {', '.join(sorted(loaded))}. Choose one with split, as in "
            '"datasets:FOLDER?split=train", or give it alone, as prompts=d["train"].'
        )
    if split not in loaded:
        raise InvalidInputError(
            f"The dataset has no split {split!r}. {nearest(str(split), loaded)}"
        )
    return loaded[split]


def _prompt(row: Mapping[str, Any], number: int, text: str, answer: str, category: str) -> Prompt:
    rest = dict(row)
    prompt = rest.pop(text, None)  # the rows of a streamed dataset may differ in their columns
    if not isinstance(prompt, str) or not prompt.strip():
        raise InvalidInputError(
            f"Row {number}: {text!r} must be non-empty text; got {prompt!r:.200}."
        )
    return Prompt(
        text=prompt,
        answer=_as_text(rest.pop(answer, None), number, answer),
        category=_as_text(rest.pop(category, None), number, category),
        # A column may have the name of what another was chosen for.
        metadata={name: value for name, value in rest.items() if name not in REWARD_FIELDS},
    )


def _as_text(value: Any, number: int, name: str) -> str | None:  # noqa: ANN401
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # whole numbers with a gap among them are read as 2.0 from a CSV
    if isinstance(value, int | float):
        return str(value)
    raise InvalidInputError(
        f"Row {number}: {name!r} must be text or a number; got {value!r:.200}. If it is no "
        "answer to compare with, rename the column."
    )
