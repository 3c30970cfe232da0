"""The speed bench: what it reports is what was done, and its plain update is the same update."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from textrl_agents.collector import Collector
from textrl_agents.losses import clipped_policy_loss, clipped_value_loss
from textrl_agents.policies import CausalLMPolicy
from textrl_benchmarks.cli import main
from textrl_benchmarks.speed import page, processes
from textrl_benchmarks.speed.bench import Case, measure
from textrl_benchmarks.speed.floor import Machine, Work, loop_work
from textrl_benchmarks.speed.loop import PROMPT, generate, gymnasium_loop
from textrl_benchmarks.speed.models import make_model, vector_env
from textrl_benchmarks.speed.update import plain_loss
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.fast.decode import LeanTrunk


def work(seconds: float) -> int:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return 100


def test_a_rate_is_work_a_cpu_second_and_a_ratio_is_to_the_first(tmp_path: Path) -> None:
    case = Case(
        name="busy",
        unit="things",
        contenders={"slow": lambda: work(0.04), "fast": lambda: work(0.02)},
        work=Work(flops=1.0),
    )
    threads = torch.get_num_threads()
    rows = measure({"some": lambda: iter([case])}, rounds=3, threads=1, out=tmp_path)
    torch.set_num_threads(threads)
    assert [row["contender"] for row in rows] == ["slow", "fast"]
    assert rows[0]["median"] == pytest.approx(2_500, rel=0.3)
    assert rows[1]["ratio"] == pytest.approx(2.0, rel=0.3)
    saved = json.loads((tmp_path / "some-1.json").read_text())
    assert saved["rows"] == json.loads(json.dumps(rows))
    assert saved["about"]["flops"] > 0


def test_the_floor_is_the_slower_of_multiplying_and_reading() -> None:
    machine = Machine(flops=100.0, bandwidth=10.0)
    assert machine.seconds(Work(flops=50.0, num_bytes=1.0)) == 0.5
    assert machine.seconds(Work(flops=50.0, num_bytes=20.0)) == 2.0


def test_the_work_of_a_token_is_counted_from_the_weights() -> None:
    model = make_model(1, 8, 2, 11)
    body = sum(p.numel() for p in model.transformer.h.parameters()) + 16  # and the last norm
    found = loop_work(model, batch=4, prompt_tokens=2, new_tokens=1)
    assert found.flops == 2 * (body + 88 + 2 * body)
    assert found.num_bytes == 4 * ((body + 88) / 4 + 2 * 8 * 2.5)


def test_generate_and_the_loop_write_the_same_number_of_tokens() -> None:
    model = make_model(1, 16, 2, 64)
    assert generate(model, 3, new=5)() == gymnasium_loop(model, 3, new=5)() == 15


def test_the_loop_reads_its_prompts_anew_in_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `generate` does: a prompt that is remembered costs nothing."""
    tokens, read = [0], LeanTrunk.read

    def counted(self: LeanTrunk, new: Any, *more: Any) -> torch.Tensor:
        tokens[0] += len(new)
        return read(self, new, *more)

    monkeypatch.setattr(LeanTrunk, "read", counted)
    run = gymnasium_loop(make_model(1, 16, 2, 512), 3, new=5)
    for _ in range(3):
        tokens[0] = 0
        run()
        assert tokens[0] > 3 * (PROMPT + 4) - 3  # by chance a first token may be as it was


@pytest.mark.parametrize("name", ["rounds", "threads"])
def test_what_cannot_be_measured_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed", "loop", f"--{name}", "0"]) == 2
    assert f"{name} must be at least 1; got 0." in capsys.readouterr().err


def test_the_plain_update_has_the_losses_of_the_policy() -> None:
    model = make_model(2, 16, 2, 64, ends=True)
    policy = CausalLMPolicy(model, device="cpu")
    with torch.no_grad():
        policy.value_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    envs = vector_env(8, 64, 5, 12, eos_token_id=2)
    episodes = Collector(envs).collect(policy, 16, seed=[0])
    found = policy.evaluate(episodes)
    where = episodes.response_mask
    old, values, advantages = (
        torch.from_numpy(x[where]).float()
        for x in (episodes.log_probs, episodes.values, episodes.rewards)
    )
    count = episodes.num_tokens
    policy_loss = clipped_policy_loss(found.log_probs, old, advantages, clip=0.2, num_tokens=count)
    value_loss = clipped_value_loss(found.values, values, values, clip=0.2, num_tokens=count)
    plain = plain_loss(model, model, policy.value_head, episodes)
    expected = (policy_loss + 0.5 * value_loss).detach()
    assert float(plain.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_missing_peers_are_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match="make peers"):
        processes.measure_iterations("4x256")


def test_the_page_is_written_from_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "DOCS", tmp_path)
    with pytest.raises(InvalidInputError, match="holds no results"):
        page.write(tmp_path)
    row = {"case": "loop, 1x1", "contender": "a", "unit": "tokens per CPU-second", "median": 5.0}
    row |= {"minimum": 4.0, "maximum": 6.0, "ratio": 1.0, "share": 0.25, "floor": 20.0}
    points = [
        {**row, "plot": ["batch", float(x)], "contender": who}
        for x in np.arange(1, 4)
        for who in ("a", "b")
    ]
    about = {"machine": "m", "cores": 2, "threads": 1, "torch": "t", "transformers": "f"}
    for suite, rows in (("loop", [row]), ("scaling", points)):
        text = json.dumps({"about": about, "rows": rows})
        (tmp_path / f"{suite}-1.json").write_text(text)
    page.write(tmp_path)
    written = (tmp_path / "performance.md").read_text()
    assert "| loop, 1x1 | a | 5.00 | 4.00-6.00 | 1.00 | 25% |" in written
    assert (tmp_path / "images" / "speed-scaling.png").stat().st_size > 1_000
