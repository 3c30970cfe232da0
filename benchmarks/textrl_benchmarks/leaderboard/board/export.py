"""write_all(board, folder): board.json, board.md and board.csv; equal boards give equal bytes."""

import csv
import io
import json
from pathlib import Path
from typing import Any

__all__ = ["as_csv", "as_json_text", "as_markdown", "write_all"]

COLUMNS = (
    "agent",
    "kind",
    "environment",
    "seed",
    "status",
    "normalised_score",
    "is_off_reference",
    "score",
    "kl",
    "gold",
    "length",
    "distinct",
    "commonest",
    "cell",
)


def write_all(board: dict[str, Any], folder: Path) -> None:
    """Writes board.json, board.md and board.csv, each at once or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("board.json", as_json_text(board)),
        ("board.md", as_markdown(board)),
        ("board.csv", as_csv(board)),
    ):
        partial = folder / f"{name}.partial"
        partial.write_text(text, encoding="utf-8", newline="")
        partial.replace(folder / name)


def as_json_text(board: dict[str, Any]) -> str:
    """Returns the JSON text: keys in the board's order, no NaN."""
    return json.dumps(board, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(board: dict[str, Any]) -> str:
    """Returns a row a cell, done or failed; empty where a number is unknown."""
    kinds = {row["agent"]: row["kind"] for row in board["rows"]}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for agent, environments in board["heat"].items():
        for env_id, field in environments.items():
            for seed in field["seeds"]:
                row = {"agent": agent, "kind": kinds[agent], "environment": env_id}
                writer.writerow({**row, "status": "done", **seed})
    for failure in board["failures"]:
        place = {key: failure[key] for key in ("agent", "seed", "cell")}
        kind = kinds[failure["agent"]]
        writer.writerow({**place, "kind": kind, "environment": failure["env"], "status": "failed"})
    return text.getvalue()


def as_markdown(board: dict[str, Any]) -> str:
    """Returns a page: whether the board is valid, the table, a table of environments, failures."""
    suite = board["suite"]
    ids = [environment["id"] for environment in suite["environments"]]
    lines = [f"# {suite['name']}, version {suite['version']}", "", suite["description"], ""]
    if not board["is_valid"]:
        lines += ["**This board is invalid:**", ""]
        lines += [*(f"- {_text(problem)}" for problem in board["problems"]), ""]
    lines += _table(
        ["rank", "agent", "IQM", "mean", "median", "optimality gap", "score", "KL", "cells", ""],
        [_row(row) for row in board["rows"]],
    )
    lines += ["", "Normalised score: 0 is the reference, 1 the optimum. Intervals of 95 %.", ""]
    lines += _table(
        ["agent", *(env_id.rpartition("/")[2] for env_id in ids)],
        [
            [f"`{agent}`", *(_field(fields.get(env_id)) for env_id in ids)]
            for agent, fields in board["heat"].items()
        ],
    )
    if board["failures"]:
        lines += ["", "## Failed cells", ""]
        lines += _table(
            ["cell", "agent", "environment", "seed", "error"],
            [
                [one["cell"], f"`{one['agent']}`", one["env"], str(one["seed"]), _error(one)]
                for one in board["failures"]
            ],
        )
    return "\n".join(lines) + "\n"


def _row(row: dict[str, Any]) -> list[str]:
    low, high = row["rank_low"], row["rank_high"]
    rank = "" if low is None else f"{low}" if low == high else f"{low}-{high}"
    numbers = ("iqm", "mean", "median", "optimality_gap", "score", "kl")
    cells = f"{row['cells_done']}/{row['cells_planned']}"
    marks = _text("; ".join(row["marks"]))
    return [rank, f"`{row['agent']}`", *(_interval(row[name]) for name in numbers), cells, marks]


def _field(field: dict[str, Any] | None) -> str:
    if field is None:
        return ""
    if any(one["is_off_reference"] for one in field["seeds"]):
        return "off the reference"
    return _interval(field)


def _interval(number: dict[str, float | None]) -> str:
    if number["value"] is None:
        return "-"
    value = f"{number['value']:.3f}"
    if number["low"] is None:
        return value
    return f"{value} [{number['low']:.3f}, {number['high']:.3f}]"


def _error(failure: dict[str, Any]) -> str:
    return _text(f"{failure['type']}: {failure['message']}")


def _text(words: str) -> str:
    """Returns words that end no table's cell and no line, and are no HTML."""
    escaped = words.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(escaped.split())


def _table(heading: list[str], rows: list[list[str]]) -> list[str]:
    lines = [heading, ["---"] * len(heading), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
