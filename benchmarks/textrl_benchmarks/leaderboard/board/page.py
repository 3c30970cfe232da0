"""A board as one HTML file: styles, scripts and data are in it, and it asks the network nothing.

The parts are in the folder `page` beside this file. What a model wrote travels as JSON in a script
tag that is never run, and the page inserts it as text. Only scripts whose hash the page names are
run, and nothing may be loaded: the page's content security policy says so to the browser.
"""

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

from textrl_envs.errors import InvalidInputError

__all__ = ["write_page"]

PARTS = Path(__file__).parent / "page"
SCRIPTS = (
    "dom.js", "numbers.js", "board.js", "chart.js", "overview.js", "table.js", "heat.js",
    "curves.js", "frontier.js", "compare.js", "samples.js", "cells.js", "main.js",
)  # fmt: skip
"""In reading order; the last one starts the page."""
KEYS = (
    "suite", "is_valid", "problems", "rows", "heat", "curves", "profiles", "improvement", "tags",
    "failures", "cells", "samples",
)  # fmt: skip
UNSEEN = ("prompt_ids", "response_ids", "prompt")
"""Fields of a response that the page does not draw, the prompt being written once for all."""


def write_page(board: dict[str, Any], path: Path) -> None:
    """Writes the page of a board.

    Args:
        board: what board.json holds.
        path: the HTML file; its folder must exist.

    Raises:
        InvalidInputError: if the board lacks a part, or holds a number JSON has no word for.
    """
    missing = [key for key in KEYS if key not in board]
    if missing:
        raise InvalidInputError(
            f"A board must have {', '.join(KEYS)}; this one has no {', '.join(missing)}. "
            "Make it again: textrl leaderboard report."
        )
    style = "\n" + (PARTS / "board.css").read_text(encoding="utf-8")
    script = "\n" + "\n".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    data = _without(board, ("cells", "samples"))
    holes = {
        "title": html.escape(f"{board['suite']['name']} · textrl leaderboard"),
        "policy": _policy(style, script),
        "style": style,
        "board": _json(data),
        "cells": _json(board["cells"]),
        "samples": _json(_seen(board["samples"])),
        "script": script,
    }
    template = (PARTS / "template.html").read_text(encoding="utf-8")
    # One pass, so that a response that says {{script}} stays what it is.
    text = re.sub(r"\{\{(\w+)\}\}", lambda hole: holes[hole[1]], template)
    path.write_text(text, encoding="utf-8", newline="\n")


def _json(value: Any) -> str:  # noqa: ANN401 - anything JSON
    r"""Returns JSON that cannot end its script tag: pure ASCII without <, > and &.

    >>> _json("</script>\u2028é")
    '"\\u003c/script\\u003e\\u2028\\u00e9"'
    """
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise InvalidInputError(
            "A board must hold no NaN or infinity, null instead: write it with board.json's rules."
        ) from error
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _seen(samples: dict[str, Any]) -> dict[str, Any]:
    return {
        env: [
            prompt | {"responses": [_without(one, UNSEEN) for one in prompt["responses"]]}
            for prompt in prompts
        ]
        for env, prompts in samples.items()
    }


def _without(record: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in keys}


def _policy(style: str, script: str) -> str:
    """Returns a content security policy that allows this style and this script, and no more."""
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"style-src {_source(style)}; script-src {_source(script)}"
    )


def _source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
