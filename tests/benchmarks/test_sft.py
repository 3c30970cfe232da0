import dataclasses
import io
import json
from pathlib import Path

import pytest
import tyro
from rich.console import Console

from textrl_agents.supervised import SupervisedResult, train_supervised
from textrl_agents.supervised_config import SupervisedConfig
from textrl_benchmarks.commands import sft
from textrl_benchmarks.commands.sft import Sft
from textrl_envs.errors import InvalidInputError

ARGUMENTS = [
    "--layers",
    "1",
    "--width",
    "16",
    "--heads",
    "2",
    "--max-tokens",
    "48",
    "--vocabulary-size",
    "300",
]
NUMBERS = {
    "step": 10,
    "steps": 40,
    "loss": 2.5,
    "held_out_perplexity": 12.25,
    "tokens_per_second": 8000.0,
    "seconds": 5.0,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"question": f"What is {n}? [bold]", "answer": f"It is {n}."} for n in range(40)]
    rows.append({"question": "Go on", "answer": "and on " * 100})
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def command(data: Path, *arguments: str) -> Sft:
    fields = ["--prompt-field", "question", "--response-field", "answer"]
    out = str(data.parent / "sft")
    return tyro.cli(Sft, args=["--data", str(data), *fields, "--out", out, *ARGUMENTS, *arguments])


def test_command_trains_and_says_what_came_of_it(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(data, "--max-steps", "3", "--log-every-steps", "1").run() == 0
    output = capsys.readouterr().out
    assert "step 3/3  loss " in output
    assert "? [bold]\n" in output  # the data's own brackets are no markup
    assert "1 longer than 48 tokens left out" in output
    folder = data.parent / "sft"
    assert output.endswith(f"model saved in       {folder}\n")
    record = json.loads((folder / "training.json").read_text())
    before, after = (record["perplexities"][i][1] for i in (0, -1))
    assert f"{before:,.2f} before, {after:,.2f} after, on 2 examples" in output
    assert f"parameters           {record['parameters']:,}" in output


def test_interrupted_command_keeps_its_result_and_tells_the_shell(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> SupervisedResult:
        result = train_supervised(*args, **kwargs)  # type: ignore[arg-type]
        return dataclasses.replace(result, is_interrupted=True)

    monkeypatch.setattr("textrl_agents.supervised.train_supervised", interrupted)
    assert command(data, "--max-steps", "2").run() == 130
    assert "Stopped by Ctrl-C after step 2; what was learnt is kept." in capsys.readouterr().out


def test_command_passes_errors_on(data: Path) -> None:
    with pytest.raises(InvalidInputError, match="no field 'reply'"):
        command(data, "--response-field", "reply").run()


def test_settings_of_the_config_are_plain_options(data: Path) -> None:
    parsed = command(data, "--epochs", "7", "--template", "Q: {prompt}\nA:", "--overwrite")
    assert isinstance(parsed.config, SupervisedConfig)
    assert (parsed.config.epochs, parsed.overwrite) == (7, True)
    assert parsed.config.template == "Q: {prompt}\nA:"


def test_lines_are_printed_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    output = io.StringIO()
    lines = sft._Lines(Console(file=output))
    for step in range(1, 41):
        now += 1.0
        lines({**NUMBERS, "step": step})
    steps = [line.split("/")[0] for line in output.getvalue().splitlines()]
    assert steps == ["step 1", "step 11", "step 21", "step 31", "step 40"]


def test_line_tells_loss_perplexity_speed_and_time_left() -> None:
    output = io.StringIO()
    sft._Lines(Console(file=output))(NUMBERS)
    assert output.getvalue() == (
        "step 10/40  loss 2.500  perplexity 12.25  8,000 tokens/s  15 s left\n"
    )


def test_terminal_gets_a_bar() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100)
    with sft._reporting(console) as report:
        report(NUMBERS)
        report({**NUMBERS, "step": 40})
    assert "40/40" in output.getvalue()
    assert "perplexity 12.25" in output.getvalue()
