"""The code of the README runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]


def run_python(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_twelve_lines_train_and_print_a_score_near_the_optimum(tmp_path: Path) -> None:
    assert len([line for line in PYTHON[0].splitlines() if line.strip()]) == 12

    printed = run_python(PYTHON[0], tmp_path)

    score = re.search(r"normalised score ([\d.]+) ± ([\d.]+)", printed)
    assert score is not None
    mean, error = float(score[1]), float(score[2])
    assert mean - 4 * error > 0.7  # 0 is the reference, 1 the best possible
    assert mean - 4 * error < 1


def test_the_optimum_is_printed_with_its_frontier(tmp_path: Path) -> None:
    printed = run_python(PYTHON[1], tmp_path)

    values, policy, points = printed.splitlines()
    assert [round(float(number), 3) for number in values.split()] == [0.022, 0.620]
    assert [round(float(number), 3) for number in policy.split()] == [0.998, 3.782]
    assert points.count("FrontierPoint") == 5


def test_the_plain_loop_ends_with_a_score(tmp_path: Path) -> None:
    printed = run_python(PYTHON[2], tmp_path)

    assert "[prompt] tell of lantern and harbour" in printed
    assert re.search(r"\] [01]\.0 [12]\n$", printed)


def test_the_reward_scores_a_batch() -> None:
    names: dict[str, object] = {}
    exec(PYTHON[3], names)  # noqa: S102 - the README's own code
    reward = names["reward"]

    assert callable(reward)
    scores = reward(["a", "b"], ["thank you", "no"], prompt_ids=[], response_ids=[], metadata=[])
    assert scores == [1.0, 0.0]


def test_the_agent_trains_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "my_agent.py").write_text(PYTHON[4])
    program = "import sys; from textrl_benchmarks.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["train", "--agent=my_agent.py:BestHalf", "--total-tokens=3000", "--eval-episodes=64"]
    command = [sys.executable, "-c", program, *words, "--out=run"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert "loss" in (tmp_path / "run" / "curves.csv").read_text().splitlines()[0]


def textrl_lines(page: Path) -> list[list[str]]:
    """Returns the words of every command line of `textrl` on a page."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [line.partition("#")[0].rpartition("&& ")[2].split() for line in lines]
    return [words[1:] for words in commands if words[:1] == ["textrl"]]


def test_every_option_of_the_shell_lines_exists() -> None:
    from textrl_benchmarks.cli import parse

    readme, boards = (textrl_lines(ROOT / name) for name in ("README.md", "docs/leaderboard.md"))
    assert {words[0] for words in readme} == {"leaderboard", "sft", "train", "evaluate"}
    assert {words[1] for words in boards} == {
        "run", "status", "resume", "validate", "audit", "verify", "submit", "add",
    }  # fmt: skip
    for words in readme + boards:
        parse(words)
