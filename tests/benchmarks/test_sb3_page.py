"""The table of docs/sb3.md, at a small budget; and its settings, which are to be equal."""

import re
from pathlib import Path

import gymnasium as gym
import pytest
import torch

import textrl_agents
import textrl_envs  # noqa: F401 - registers the environments
from tests.interop.page import make_model, run
from textrl_benchmarks.sb3_page import CONTENDERS, ENVIRONMENT, ROWS, train

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sb3.md"


@pytest.mark.parametrize("name", list(CONTENDERS))
def test_a_run_says_what_it_has_come_to(name: str) -> None:
    found = train(name, 1, total_tokens=4_000, episodes=128)
    assert (found.agent, found.seed) == (name, 1)
    assert 4_000 <= found.tokens < 12_000
    assert found.cpu_seconds > 0
    assert -1 < found.score < 1
    assert 0 <= found.reward <= 1


def test_both_begin_with_the_same_weights_and_the_same_optimiser() -> None:
    envs = gym.make_vec(ENVIRONMENT, num_envs=ROWS)
    ours, theirs = (
        textrl_agents.make(name, envs, seed=3, device="cpu", **settings)
        for name, settings in CONTENDERS.items()
    )
    pairs = zip(ours.policy.parameters(), theirs.policy.network.parameters(), strict=True)
    assert all(torch.equal(mine, other) for mine, other in pairs)
    groups = [one.param_groups[0] for one in (ours.optimizer, theirs.policy.optimizer)]
    for key in ("lr", "betas", "eps", "weight_decay"):
        assert groups[0][key] == groups[1][key], key


def test_every_contender_is_on_the_page() -> None:
    text = PAGE.read_text().partition("<!-- scores -->\n")[2].partition("<!-- end -->")[0]
    for name in CONTENDERS:
        assert f"| `{name}` |" in text


@pytest.mark.slow
def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    """As it stands there, but for the second one's budget."""
    make_model(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "my-model").rename(tmp_path / "runs" / "model")
    (tmp_path / "prompts.jsonl").write_text('"the cat"\n"the dog"\n')
    (tmp_path / "my_reward.py").write_text(
        "def reward(prompts, responses, **_):\n    return [float('a' in r) for r in responses]\n"
    )
    agent, script = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    run(agent, tmp_path)
    run(script.replace("100_000", "4_000"), tmp_path)
