import json
import subprocess
import sys
from pathlib import Path

import pytest

from textrl_agents.supervised_data import train_tokenizer

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "gsm8k" / "prompts.py"


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    # Without merges: one token a byte.
    byte_tokenizer = train_tokenizer(["ab"], vocabulary_size=258, split_digits=False)
    byte_tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_questions_that_fit_are_written_as_they_are_presented(
    tmp_path: Path, tokenizer: Path
) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "new" / "prompts.jsonl"
    questions = ["What is 1+1?", "And what is a hundred times a hundred?", "2+2?"]
    data.write_text("".join(json.dumps({"question": q, "answer": "x"}) + "\n" for q in questions))
    done = run(data, out, "--tokenizer", tokenizer, "--max-tokens", "13")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"prompt": "What is 1+1?\n"},
        {"prompt": "2+2?\n"},
    ]
    assert "2 of 3 questions" in done.stdout


def test_bad_data_is_one_line_and_no_traceback(tmp_path: Path, tokenizer: Path) -> None:
    done = run(
        tmp_path / "none.jsonl", tmp_path / "out", "--tokenizer", tokenizer, "--max-tokens", "9"
    )
    assert done.returncode == 2
    assert "Cannot read prompts file" in done.stderr
    assert "Traceback" not in done.stderr
