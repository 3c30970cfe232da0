"""The page as a file: complete, safe to open whatever a model wrote, and not too large."""

import base64
import copy
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.leaderboard.example_board import HOSTILE, example_board
from textrl_benchmarks.leaderboard.board.page import KEYS, PARTS, SCRIPTS, write_page
from textrl_envs.errors import InvalidInputError

JSON = dict[str, Any]


class Reader(HTMLParser):
    """Reads a page as a browser's parser does: what is in a script tag ends at </script>."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.tags: list[str] = []
        self.policy, self.style, self.title = "", "", ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self._inside = found.get("id") or found.get("type") or tag
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"] or ""
        assert not {"src", "onerror", "onclick", "style"} & set(found), found

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["script"]:
            self.scripts[self._inside] = self.scripts.get(self._inside, "") + data
        elif self._inside == "style":
            self.style += data
        elif self._inside == "title":
            self.title += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        self.tags.append(f"/{tag}")


@pytest.fixture(scope="module")
def board() -> JSON:
    return example_board(environments=3, agents=4, seeds=3, prompts=2, points=20)


def written(board: JSON, folder: Path) -> str:
    write_page(board, folder / "index.html")
    return (folder / "index.html").read_text(encoding="utf-8")


def test_the_page_holds_the_board_as_it_is(board: JSON, tmp_path: Path) -> None:
    page = Reader(written(board, tmp_path))
    small = json.loads(page.scripts["board-data"])
    assert small == {key: part for key, part in board.items() if key not in ("cells", "samples")}
    assert json.loads(page.scripts["cells-data"]) == board["cells"]
    samples = json.loads(page.scripts["samples-data"])
    for env, prompts in board["samples"].items():
        for ours, theirs in zip(prompts, samples[env], strict=True):
            assert theirs["prompt"] == ours["prompt"]
            for one, other in zip(ours["responses"], theirs["responses"], strict=True):
                assert set(one) - set(other) == {"prompt", "prompt_ids", "response_ids"}
                assert all(one[key] == value for key, value in other.items())


def test_what_a_model_wrote_is_never_markup(board: JSON, tmp_path: Path) -> None:
    text = written(board, tmp_path)
    page = Reader(text)
    tokens = json.loads(page.scripts["samples-data"])["textrl/Keyword-v0"][0]["responses"][0]
    assert tokens["tokens"][: len(HOSTILE)] == list(HOSTILE)
    assert len(page.scripts) == 4
    assert "img" not in page.tags
    assert not [part for part in HOSTILE if part in text]


def test_what_a_suite_is_called_is_never_markup(board: JSON, tmp_path: Path) -> None:
    other = copy.deepcopy(board)
    other["suite"]["name"] = "</title><script>1</script>"
    page = Reader(written(other, tmp_path))
    assert page.title.startswith("</title><script>")
    assert len(page.scripts) == 4


def test_a_hole_named_by_a_model_stays_empty(board: JSON, tmp_path: Path) -> None:
    other = copy.deepcopy(board)
    other["problems"] = ["{{script}} and {{board}}"]
    page = Reader(written(other, tmp_path))
    assert json.loads(page.scripts["board-data"])["problems"] == ["{{script}} and {{board}}"]


def test_the_policy_names_this_script_and_style_and_allows_nothing_else(
    board: JSON, tmp_path: Path
) -> None:
    page = Reader(written(board, tmp_path))
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))
    assert rules["default-src"] == "'none'"
    for name, text in (("script-src", page.scripts["module"]), ("style-src", page.style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"


def test_the_page_names_no_address_to_load(board: JSON, tmp_path: Path) -> None:
    text = written(board, tmp_path)
    own = text.replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"(?:https?:)?//\w+\.\w+", own.split("board-data")[0]) == []
    assert "fetch(" not in text
    assert "import(" not in text


def test_every_script_is_in_the_page_once(board: JSON, tmp_path: Path) -> None:
    assert sorted(SCRIPTS) == sorted(path.name for path in PARTS.glob("*.js"))
    script = Reader(written(board, tmp_path)).scripts["module"]
    for name in SCRIPTS:
        assert script.count((PARTS / name).read_text(encoding="utf-8").strip()) == 1, name


def test_no_script_makes_markup_of_text() -> None:
    words = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser")
    for path in PARTS.glob("*.js"):
        source = path.read_text(encoding="utf-8")
        assert not [word for word in words if word in source], path.name
        assert "</script" not in source


def test_the_same_board_gives_the_same_bytes(board: JSON, tmp_path: Path) -> None:
    first = written(board, tmp_path)
    again = example_board(environments=3, agents=4, seeds=3, prompts=2, points=20)
    assert written(again, tmp_path) == first


def test_the_board_is_left_as_it_was(board: JSON, tmp_path: Path) -> None:
    before = copy.deepcopy(board)
    written(board, tmp_path)
    assert board == before


def test_lone_surrogates_are_written(board: JSON, tmp_path: Path) -> None:
    other = copy.deepcopy(board)
    other["problems"] = ["\ud800 é \u2028"]
    page = Reader(written(other, tmp_path))
    assert json.loads(page.scripts["board-data"])["problems"] == ["\ud800 é \u2028"]


def test_a_full_board_is_under_five_megabytes(tmp_path: Path) -> None:
    write_page(example_board(), tmp_path / "index.html")
    assert (tmp_path / "index.html").stat().st_size < 5_000_000


@pytest.mark.parametrize("key", KEYS)
def test_a_board_without_a_part_is_refused(board: JSON, tmp_path: Path, key: str) -> None:
    less = {name: value for name, value in board.items() if name != key}
    with pytest.raises(InvalidInputError, match=f"has no {key}"):
        write_page(less, tmp_path / "index.html")
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_json_has_no_word_for_is_refused(
    board: JSON, tmp_path: Path, number: float
) -> None:
    with pytest.raises(InvalidInputError, match="no NaN or infinity"):
        write_page(board | {"tags": {"structure": {"ppo": number}}}, tmp_path / "index.html")
