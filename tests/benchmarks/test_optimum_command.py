"""`textrl optimum`: numbers, pictures, bounds, and every wrong word answered in one line."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import textrl_envs  # noqa: F401 - registers the ids
from textrl_agents.registry import agent_class
from textrl_benchmarks.cli import main
from textrl_benchmarks.run_folder import RunFolder
from textrl_envs.optimum import bounds, optimum

DIALOGUE = "textrl/Dialogue-v0"
EPISODES = "--episodes=96"


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    """Loads what would show a bar now; the command, in a process of its own, shows none."""
    assert gym.make(DIALOGUE).unwrapped.reference is not None  # type: ignore[attr-defined]


def output_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["optimum", *words]) == 0
    return capsys.readouterr().out


def json_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output_of(capsys, *words, "--json"))
    return found


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["optimum", *words]) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("textrl: error: ")
    assert captured.out == ""
    return lines[0]


# --- exact ---


@pytest.mark.parametrize("name", ["textrl/Parity-v0", "textrl/Safe-v0", "textrl/ProxyReward-v0"])
def test_the_numbers_are_those_of_the_library(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, best = json_of(capsys, name), optimum(gym.make(name))
    measures = {f"mean_{key}" for key in best.at_optimum.measures}
    assert found == {
        "id": name,
        "kl_coefficient": best.kl_coefficient,
        "reference_value": best.reference_value,
        "value": best.value,
        "reward": best.reward,
        "kl": best.kl,
        "values": best.values.tolist(),
        **{key: float(best.at_optimum.measures[key[5:]].mean()) for key in measures},
    }
    assert found["value"] == pytest.approx(found["reward"] - found["kl_coefficient"] * found["kl"])
    if name == "textrl/ProxyReward-v0":
        assert found["mean_gold"] < found["reward"]


def test_they_are_printed_beside_those_of_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    printed = output_of(capsys, "textrl/ProxyReward-v0")
    best = optimum(gym.make("textrl/ProxyReward-v0"))
    lines = printed.splitlines()
    assert lines[0] == "textrl/ProxyReward-v0: exact, β = 0.03"
    assert re.split(r"\s{2,}", lines[1].strip()) == [
        "policy",
        "reward",
        "KL (nats)",
        "reward − β KL",
        "normalised",
    ]
    assert lines[2].split() == [
        "reference",
        f"{best.reference_value:.6f}",
        "0",
        f"{best.reference_value:.6f}",
        "0",
    ]
    assert lines[3].split() == [
        "optimum",
        f"{best.reward:.6f}",
        f"{best.kl:.6f}",
        f"{best.value:.6f}",
        "1",
    ]
    gold = best.at_reference.measures["gold"].mean(), best.at_optimum.measures["gold"].mean()
    assert lines[4] == f"mean gold: reference {gold[0]:.6f}, optimum {gold[1]:.6f}"


def test_the_environment_may_be_named_by_env_and_is_keyword_otherwise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert json_of(capsys, "--env=textrl/Parity-v0") == json_of(capsys, "textrl/Parity-v0")
    same = json_of(capsys, "textrl/Parity-v0", "--env=textrl/Parity-v0")
    assert same["id"] == "textrl/Parity-v0"
    assert json_of(capsys)["id"] == "textrl/Keyword-v0"


def test_another_beta_and_other_parameters_have_another_optimum(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = json_of(capsys, "textrl/Parity-v0", "--kl-coefficient=0.4", "--max-new-tokens=9")
    best = optimum(gym.make("textrl/Parity-v0", kl_coefficient=0.4, max_new_tokens=9))
    assert (found["kl_coefficient"], found["value"]) == (0.4, best.value)
    found = json_of(capsys, "textrl/Passcode-v0", "--env-args", "length=2", "digits=3")
    assert found["reference_value"] == pytest.approx(1 / 9, rel=0.01)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_of_the_frontier_is_drawn(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"frontier.{suffix}"
    printed = output_of(capsys, "textrl/Parity-v0", f"--plot={path}")
    assert printed.endswith(f"frontier in {path}\n")
    begins = {"png": b"\x89PNG", "svg": b"<?xml"}[suffix]
    assert path.read_bytes().startswith(begins)
    path.unlink()
    assert json_of(capsys, "textrl/Parity-v0", f"--plot={path}")["plot"] == str(path)
    assert path.exists()


# --- bounds ---


def test_where_nothing_is_exact_there_are_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    words = (DIALOGUE, EPISODES, "--max-score=1", "--seed=3", "--kl-coefficient=0.2")
    found = json_of(capsys, *words)
    env = gym.make(DIALOGUE, kl_coefficient=0.2)
    expected = bounds(env, episodes=96, seed=3, max_score=1.0)
    assert found == {"id": DIALOGUE, "bounds": asdict(expected)}
    assert expected.upper is not None
    assert expected.lower.value < expected.upper <= 1.0
    lines = output_of(capsys, *words).splitlines()
    assert lines[0].startswith(f"{DIALOGUE}: no exact optimum; bounds from 96 episodes, β = 0.2")
    assert lines[1:] == [
        f"reference    {expected.reference}",
        f"lower bound  {expected.lower}",
        f"estimate     {expected.estimate}",
        f"upper bound  {expected.upper:.3f}",
    ]


def test_without_a_highest_score_there_is_no_upper_bound(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "upper bound  unknown: give --max-score" in output_of(capsys, DIALOGUE, EPISODES)
    assert json_of(capsys, DIALOGUE, EPISODES)["bounds"]["upper"] is None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run on Dialogue-v0."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    small = ["--total-tokens=600", "--num-envs=32", "--eval-episodes=32"]
    settings = ["--agent-args", "episodes_per_batch=32"]
    assert main(["train", f"--env={DIALOGUE}", *small, f"--out={folder}", *settings]) == 0
    return folder


def test_the_agent_of_a_run_folder_gives_the_lower_bound(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json_of(capsys, DIALOGUE, EPISODES, f"--run-folder={run}")["bounds"]
    folder = RunFolder.open(run)
    policy = agent_class("ppo").load(folder.checkpoint(), device="cpu").policy
    expected = bounds(gym.make(DIALOGUE), policy=policy, episodes=96)
    assert found["lower"] == pytest.approx(asdict(expected.lower))
    assert found["reference"] == pytest.approx(asdict(expected.reference))
    assert found["lower"] != found["reference"]


# --- wrong words ---


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("textrl/Party-v0",), "Did you mean 'textrl/Parity-v0'?"),
        (("CartPole-v1",), "'CartPole-v1' is no text environment"),
        (("textrl/Parity-v0", "--env=textrl/Safe-v0"), "given twice: as ID and by --env"),
        (("textrl/Parity-v0", "textrl/Safe-v0"), "textrl/Safe-v0"),
        (("textrl/TextBandit-v0",), "needs --model FOLDER"),
        (("textrl/Parity-v0", "--kl-coefficient=0"), "kl_coefficient must be positive; got 0"),
        (("textrl/Parity-v0", "--kl-coefficient=-1"), "kl_coefficient must be"),
        (("textrl/Parity-v0", "--env-args", "modulo=3"), "Did you mean 'modulus'?"),
        (("textrl/Parity-v0", "--plot=picture.txt"), "--plot must end in .png or .svg"),
        (("textrl/Parity-v0", "--plot=picture"), "--plot must end in .png or .svg"),
        (("textrl/Parity-v0", "--plot=nowhere/picture.png"), "nowhere/picture.png: No such file"),
        ((DIALOGUE, "--plot=picture.png"), "no exact frontier to plot; leave out --plot"),
        ((DIALOGUE, "--episodes=-1"), "--episodes must be positive; got -1"),
        ((DIALOGUE, "--episodes=10"), "at least two a prompt, 48; got 10"),
        ((DIALOGUE, "--episodes=many"), "many"),
        ((DIALOGUE, "--seed=-1"), "--seed must be in 0..2^63-1; got -1"),
        ((DIALOGUE, EPISODES, "--max-score=nan"), "--max-score must be a number; got nan"),
        ((DIALOGUE, EPISODES, "--max-score=-5"), "Raise it"),
        ((DIALOGUE, "--kl-coefficient=0"), "kl_coefficient must be positive; got 0"),
        ((DIALOGUE, EPISODES, "--run-folder=nowhere"), "nowhere holds no run"),
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


def changed(run: Path, folder: Path, **options: Any) -> Path:
    """Copies a run folder, with other options."""
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    config["options"] = {**config["options"], **options}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_run_folder_of_another_environment_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    small = ["--total-tokens=100", "--num-envs=16", "--eval-episodes=16", f"--out={other}"]
    settings = ["--agent-args", "episodes_per_batch=16"]
    words = ["train", "--env=textrl/LongKeyword-v0", "--max-new-tokens=40", *small, *settings]
    assert main(words) == 0  # longer texts, and more words: nothing else would tell
    capsys.readouterr()
    line = error_of(capsys, DIALOGUE, EPISODES, f"--run-folder={other}")
    assert f"{other} was trained on textrl/LongKeyword-v0, not {DIALOGUE}" in line


def test_the_run_folder_of_another_vocabulary_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same id can have one, by parameters."""
    environment = {**RunFolder.open(run).options()["environment"], "env": DIALOGUE}
    other = tmp_path / "other"
    small = ["--total-tokens=100", "--num-envs=16", "--eval-episodes=16", f"--out={other}"]
    settings = ["--agent-args", "episodes_per_batch=16"]
    assert main(["train", "--env=textrl/Tagging-v0", *small, *settings]) == 0
    capsys.readouterr()
    folder = changed(other, tmp_path / "changed", environment=environment)
    line = error_of(capsys, DIALOGUE, EPISODES, f"--run-folder={folder}")
    assert "The vocabularies do not match" in line


def test_a_run_folder_without_checkpoint_or_with_a_broken_config_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(run, tmp_path / "changed")
    shutil.rmtree(RunFolder(folder).checkpoint())
    assert "no checkpoint yet" in error_of(capsys, DIALOGUE, EPISODES, f"--run-folder={folder}")
    (folder / "config.json").write_text('{"options": {}}')
    line = error_of(capsys, DIALOGUE, EPISODES, f"--run-folder={folder}")
    assert "config.json is broken" in line
    assert main(["evaluate", str(folder)]) == 2
    assert "config.json is broken" in capsys.readouterr().err
