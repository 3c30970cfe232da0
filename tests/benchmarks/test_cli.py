"""Wrong input at the command line: one line, what was expected, what came, what to do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from textrl_benchmarks.cli import main


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Runs the command and returns its one line of complaint."""
    assert main(words) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("textrl: error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train", "--totl-tokens", "3"), "--totl-tokens"),
        (("train", "--total-tokens", "many"), "invalid literal"),
        (("tran",), "Available subcommands: train"),
        ((), "Expected one of"),
        (("train", "--env", "textrl/Keywrd-v0"), "Did you mean 'textrl/Keyword-v0'?"),
        (("train", "--env", "nowhere:textrl/Keyword-v0"), "nowhere"),
        (("train", "--agent", "pqo"), "Did you mean 'ppo'?"),
        (("train", "--agent", "missing.py:Agent"), "There is no file missing.py"),
        (("train", "--agent", "null_echo"), "null_echo is an agent of another kind"),
        (("train", "--agent-args", "lerning_rate=1"), "Did you mean 'learning_rate'?"),
        (("train", "--agent-args", "clip=-1"), "clip must be positive; got -1"),
        (("train", "--agent-args", "clip"), "Expected NAME=VALUE; got 'clip'"),
        (("train", "--agent-args", "seed=1"), "seed is no setting of an agent, but an option"),
        (("train", "--sampling-args", "topk=5"), "sampling has no setting 'topk'. Did you mean"),
        (("train", "--sampling-args", "top_k=0"), "top_k must be a whole number of at least 1"),
        (("train", "--env-args", "max_new_token=3"), "Did you mean 'max_new_tokens'?"),
        (("train", "--env-args", 'keywords=["zebra"]'), "'zebra' is no word"),
        (("train", "--max-new-tokens", "0"), "must be an integer of at least 1; got 0"),
        (("train", "--kl-coefficient", "-1"), "kl_coefficient must be"),
        (("train", "--total-tokens", "0"), "--total-tokens must be positive; got 0"),
        (("train", "--eval-episodes", "3"), "--eval-episodes must be at least"),
        (("train", "--device", "cuda:7"), "cuda:7"),
        (("train", "--resume", "nowhere"), "nowhere holds no run"),
        (("train", "--env", "textrl/TextBandit-v0"), "needs --model FOLDER, --prompts FILE"),
        (("train", "--env", "CartPole-v1"), "'CartPole-v1' is no text environment"),
        (("train", "--model", "nowhere"), "nowhere"),
        (("train", "--model", "./runs/modle"), "There is no folder ./runs/modle"),
        (("train", "--agent", "my_agent.py"), "An agent in a file is FILE.py:CLASS"),
        (("train", "--agent-args", "epochs=1.5"), "epochs must be int; got 1.5"),
        (("train", "--agent-args", "epochs=true"), "epochs must be int; got True"),
        (("train", "--agent-args", "learning_rate=abc"), "learning_rate must be a finite float"),
        (("train", "--agent-args", "clip=null"), "clip must be a finite float; got None"),
        (("train", "--agent-args", "clip=1", "clip=2"), "clip was given twice"),
        (("train", "--agent-args", "standardise_advantages=no"), "must be bool; got 'no'"),
        (("train", "--agent-args", "episodes_per_batch=63"), "at least --num-envs, 64"),
        (("train", "--num-envs", "300", "--eval-episodes", "300"), "at least --num-envs, 300"),
        (("train", "--seed", "-1"), "--seed must be in 0..2^63-1; got -1"),
        (("train", "--kl-target", "nan"), "--kl-target must be positive; got nan"),
        (("train", "--kl-coefficient", "inf"), "kl_coefficient must be a number"),
        (("train", "--env-args", "keywords=5"), "keywords must be a sequence of words; got 5"),
        (("train", "--max-new-tokens", "3", "--env-args", "max_new_tokens=4"), "given twice"),
        (("train", "--device", "meta"), "Device 'meta' cannot be used"),
        (("train", "--resume", ".", "--total-tokens", "9"), "Give it alone"),
        (("evaluate", ".", "--threads", "0"), "--threads must be positive; got 0"),
        (("evaluate", "nowhere"), "nowhere holds no run"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    words: tuple[str, ...],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in error_of(capsys, *words)
    assert list(tmp_path.iterdir()) == []  # nothing was left behind


def test_a_run_folder_that_cannot_be_written_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    line = error_of(capsys, "train", "--out", str(tmp_path / "file" / "run"))
    assert "Cannot write the run folder" in line
    assert "Give another --out" in line


def test_a_run_folder_that_is_not_empty_is_kept(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    assert "is not empty" in error_of(capsys, "train", "--out", str(tmp_path))
    assert (tmp_path / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize("config", ["{bro", "{}", "[]", '{"options": {"num_evns": 3}}', ""])
def test_a_broken_config_is_named(
    config: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(config)
    assert "config.json is broken" in error_of(capsys, "train", "--resume", str(tmp_path))


def test_a_model_with_other_words_than_the_environment_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from tokenizers import Tokenizer, models
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = {f"w{index}": index for index in range(60)}
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), eos_token="w1"
    ).save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=60, n_layer=1, n_embd=8, n_head=1, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    capsys.readouterr()  # what Transformers says while it saves
    line = error_of(capsys, "train", "--model", str(tmp_path))
    assert "The vocabularies do not match" in line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_answered_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "timing.csv").symlink_to("/dev/full")
    from textrl_benchmarks.run_folder import RunFolder

    monkeypatch.setattr(RunFolder, "create", lambda *_, **__: RunFolder(run))
    line = error_of(
        capsys, "train", "--total-tokens", "100", "--agent-args", "episodes_per_batch=64"
    )
    assert "No space left on device" in line


def test_envs_lists_every_id(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs"]) == 0
    printed = capsys.readouterr().out
    assert "textrl/Keyword-v0" in printed
    assert "textrl/TextBandit-v0" in printed


def test_help_does_not_wait_for_torch() -> None:
    program = (
        "import sys\nfrom textrl_benchmarks import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_a_json_line_of_a_prompts_file_is_named_by_number(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from transformers import PreTrainedTokenizerFast

    from textrl_envs.data import data_file

    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(data_file("stories/tokenizer.json")), eos_token="<eos>"
    ).save_pretrained(tmp_path / "tokenizer")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "the sailor"}) + "\n{broken\n")
    words = [
        "train",
        "--env=textrl/TextBandit-v0",
        f"--prompts={prompts}",
        "--reward=textrl_envs.rewards:response_length",
        "--env-args",
        f"tokenizer={tmp_path / 'tokenizer'}",
    ]
    assert "prompts.jsonl, line 2: not valid JSON" in error_of(capsys, *words)
    prompts.write_text("")
    assert "is empty" in error_of(capsys, *words)
    prompts.unlink()
    assert "Cannot read prompts file" in error_of(capsys, *words)


def test_the_package_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "textrl_benchmarks", "optimum", "textrl/Nowhere-v0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("textrl: error:")
