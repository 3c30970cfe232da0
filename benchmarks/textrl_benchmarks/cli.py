"""The command `textrl`: finds the subcommand, and turns every user's error into one line."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from safetensors import SafetensorError

from textrl_benchmarks.commands.envs import Envs
from textrl_benchmarks.commands.evaluate import Evaluate
from textrl_benchmarks.commands.leaderboard import Leaderboard
from textrl_benchmarks.commands.optimum import Optimum
from textrl_benchmarks.commands.sft import Sft
from textrl_benchmarks.commands.speed import Speed
from textrl_benchmarks.commands.train import Train
from textrl_envs.errors import InvalidInputError, TextRLError

__all__ = ["main"]

SUMMARY = "Train and evaluate agents on text environments."

Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Envs, tyro.conf.subcommand("envs")]
    | Annotated[Optimum, tyro.conf.subcommand("optimum")]
    | Annotated[Sft, tyro.conf.subcommand("sft")]
    | Annotated[Speed, tyro.conf.subcommand("speed")]
    | Annotated[Leaderboard, tyro.conf.subcommand("leaderboard")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Returns:
        0 when it did its work, 2 for an error the user can mend, 130 when interrupted.
    """
    # Nothing is fetched unless asked for: the bars and notes of loading would hide our own.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # `--reward my_module:reward` means a module of the current folder too, as with `python -m`.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        command = parse(sys.argv[1:] if argv is None else argv)
        return int(command.run())
    except TextRLError as error:
        print(f"textrl: error: {error}", file=sys.stderr)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"textrl: error: {place}{error.strerror or error}", file=sys.stderr)
    except SafetensorError as error:  # its way of saying that a disk is full
        print(f"textrl: error: cannot write or read weights: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("textrl: interrupted", file=sys.stderr)
        return 130
    return 2


def parse(argv: Sequence[str]) -> Any:  # noqa: ANN401 - one of the commands
    """Returns the command that the words stand for.

    Raises:
        InvalidInputError: words that stand for none, in one line.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(Command, prog="textrl", args=list(argv), description=SUMMARY)
    except SystemExit as stop:
        if stop.code == 2:
            raise InvalidInputError(_one_line(complaint.getvalue())) from None
        raise


def _one_line(box: str) -> str:
    r"""Takes the words out of a framed message of several lines.

    >>> _one_line("╭─ Value error ─╮\n│ Expected one   │\n│ of {a, b}.     │\n╰────────╯")
    'Expected one of {a, b}. See textrl --help.'
    """
    lines = [line.strip("│ \n") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    # The parser's own name of a place inside a command, which a user never wrote, is left out.
    lines = [re.sub(r"^Error parsing \S*dummy\S*: ", "", line) for line in lines]
    words = " ".join("|" if re.fullmatch("─+", line) else line for line in lines)
    parts = [re.sub(r"\s+", " ", part).strip() for part in words.split("|")]
    told = [p for p in parts if p and not p.startswith(("For full helptext", "Argument helptext"))]
    return " ".join(part if part.endswith(".") else f"{part}." for part in told) + (
        " See textrl --help."
    )
