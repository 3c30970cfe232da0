"""Steps as CUDA graphs: the step itself on any device, what is around it by a stand-in for CUDA."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.agents.tiny import tiny_gpt2, tiny_llama, tiny_task, vector_env, with_kl
from textrl_agents.policies import CausalLMPolicy
from textrl_agents.ppo import PPO, PPOConfig
from textrl_envs.language_models.causal import CausalLanguageModel
from textrl_envs.language_models.fast.cuda_graph import StepGraphs
from textrl_envs.language_models.fast.decode import LeanTrunk
from textrl_envs.language_models.prefix_reader import PrefixReader

BuildLM = Callable[..., Any]
DEVICE = "cuda"
COLUMNS, POSITIONS = 150, 160
PROMPTS = (1, 9, 30, 4)

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT2": ("GPT2", {}),
    "Llama, grouped heads": ("Llama", {"num_attention_heads": 4, "num_key_value_heads": 2}),
    "Qwen3": ("Qwen3", {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24}),
}

models = pytest.mark.parametrize("name", MODELS)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def build(build_lm: BuildLM, name: str, device: str = "cpu", **changes: Any) -> nn.Module:
    family, options = MODELS[name]
    model = build_lm(family, max_position_embeddings=POSITIONS, **options | changes)
    trunk: nn.Module = model.base_model.to(device)
    return trunk


class Texts:
    """Four texts of different lengths, read by several trunks at once."""

    def __init__(self, *trunks: LeanTrunk, prompts: tuple[int, ...] = PROMPTS) -> None:
        self.rng, self.trunks = np.random.default_rng(0), trunks
        self.lengths = np.array(prompts)
        for trunk in trunks:
            trunk.make_room(len(prompts), COLUMNS)
        self.begin(np.arange(len(prompts)))

    def begin(self, slots: Any) -> list[Tensor]:
        """Begins these texts anew."""
        rows = np.repeat(slots, self.lengths[slots])
        positions = np.concatenate([np.arange(n) for n in self.lengths[slots]])
        return self.read(rows, positions)

    def advance(self) -> tuple[Any, Any]:
        """Returns the next tokens and their positions."""
        self.lengths += 1
        return self.rng.integers(32, size=len(self.lengths)), self.lengths - 1

    def read(self, rows: Any, positions: Any) -> list[Tensor]:
        tokens = self.rng.integers(32, size=len(rows))
        return [trunk.read(tokens, rows, positions) for trunk in self.trunks]


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


# --- the step, on the CPU ---


@models
@torch.no_grad()
def test_a_step_of_fixed_shape_gives_what_the_ordinary_path_gives(
    build_lm: BuildLM, name: str
) -> None:
    trunk = build(build_lm, name)
    plain, fixed = LeanTrunk(trunk, 4), LeanTrunk(trunk, 4)
    texts, slots = Texts(plain, fixed), np.arange(4)
    for time in range(COLUMNS - max(PROMPTS)):
        tokens, positions = texts.advance()
        expected = plain.read(tokens, slots, positions)
        # No column more than needed, all there are, and what a graph would look at.
        longest = int(texts.lengths.max())
        for seen in (longest, COLUMNS, min(-(-longest // 64) * 64, COLUMNS)):
            found = fixed.step(torch.from_numpy(tokens), torch.from_numpy(positions), seen)
            assert_close(found, expected, 1e-5)
        if time % 20 == 19:  # a shorter text takes the place of a longer one
            row = np.array([time // 20 % 4])
            texts.lengths[row] = 3
            texts.begin(row)
    for found, expected in zip(fixed._caches[0], plain._caches[0], strict=True):
        assert_close(found, expected, 1e-5)


@torch.no_grad()
def test_a_step_tells_a_position_from_the_next(build_lm: BuildLM) -> None:
    lean = LeanTrunk(build(build_lm, "Qwen3"), 4)
    Texts(lean)
    tokens, positions = torch.tensor([1, 2, 3, 4]), torch.tensor(PROMPTS)
    right, late = (lean.step(tokens, at, 64) for at in (positions, positions + 1))
    assert float((right - late).abs().amax(1).min()) > 1e-3


# --- the graphs, by a stand-in that computes what a graph would replay ---


class StandIn:
    """Writes the step's result where the graph's would lie."""

    def __init__(self, run: Callable[[], Tensor], hidden: Tensor) -> None:
        self.run, self.hidden = run, hidden

    def replay(self) -> None:
        self.hidden.copy_(self.run())


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets LeanTrunk take stand-ins for graphs on the CPU; lists the columns of each capture."""
    found: list[int] = []
    make_room = LeanTrunk.make_room

    def with_graphs(self: LeanTrunk, num_slots: int, num_columns: int) -> None:
        make_room(self, num_slots, num_columns)
        self._graphs = StepGraphs(self._trunk, num_slots, num_columns)

    def capture(self: StepGraphs, step: Any, num_seen: int) -> tuple[StandIn, Tensor]:
        found.append(num_seen)
        run = functools.partial(step, *self._inputs, num_seen)
        hidden = run()
        return StandIn(run, hidden), hidden

    monkeypatch.setattr(LeanTrunk, "make_room", with_graphs)
    monkeypatch.setattr(StepGraphs, "_capture", capture)
    return found


@torch.no_grad()
def read_to_the_end(trunk: nn.Module, tolerance: float) -> None:
    """Steps through all columns, with resets, and compares graphs with the ordinary path."""
    plain, graphed = LeanTrunk(trunk, 4), LeanTrunk(trunk, 4)
    texts, slots = Texts(plain, graphed), np.arange(4)
    plain._graphs = None
    for time in range(COLUMNS - max(PROMPTS)):
        tokens, positions = texts.advance()
        found, expected = (lean.read(tokens, slots, positions) for lean in (graphed, plain))
        assert_close(found, expected, tolerance)
        if time % 20 == 19:
            row = np.array([time // 20 % 2])
            texts.lengths[row] = 3
            found, expected = texts.begin(row)
            assert_close(found, expected, tolerance)
    assert graphed._graphs is not None
    assert list(graphed._graphs._graphs) == [64, 128, COLUMNS]


@models
def test_a_graph_for_each_number_of_columns_gives_what_the_ordinary_path_gives(
    build_lm: BuildLM, name: str, captures: list[int]
) -> None:
    read_to_the_end(build(build_lm, name), 1e-5)
    assert captures == [64, 128, COLUMNS]


@torch.no_grad()
def check_answers_are_kept(trunk: nn.Module) -> None:
    lean = LeanTrunk(trunk, 4)
    texts, slots = Texts(lean), np.arange(4)
    (tokens, at), (more, later) = texts.advance(), texts.advance()
    first = lean.read(tokens, slots, at)
    kept = first.clone()
    second = lean.read(more, slots, later)
    assert torch.equal(first, kept)
    assert float((second - first).abs().max()) > 1e-3


def test_an_answer_is_not_overwritten_by_the_next(build_lm: BuildLM, captures: list[int]) -> None:
    check_answers_are_kept(build(build_lm, "GPT2"))
    assert captures == [64]


@torch.no_grad()
def test_other_steps_take_the_ordinary_path(build_lm: BuildLM, captures: list[int]) -> None:
    lean = LeanTrunk(build(build_lm, "GPT2"), 4)
    Texts(lean)  # several tokens a row
    tokens = np.array([1, 2, 3, 4])
    lean.read(tokens[:3], np.array([0, 1, 3]), np.array(PROMPTS)[[0, 1, 3]])
    lean.read(tokens, np.array([0, 0, 1, 2]), np.array([1, 2, 9, 30]))
    assert captures == []


def flat(texts: list[list[int]]) -> Any:
    return np.array([text + [-1] * (COLUMNS - len(text)) for text in texts])


@torch.no_grad()
def truth(trunk: nn.Module, texts: list[list[int]]) -> Tensor:
    """Reads each text by itself by the plain model."""
    device = next(trunk.parameters()).device
    found = [
        trunk(input_ids=torch.tensor([text], device=device), use_cache=False) for text in texts
    ]
    return torch.cat([output.last_hidden_state[:, -1] for output in found])


def grow(reader: PrefixReader, trunk: nn.Module, texts: list[list[int]], steps: int) -> None:
    """Reads texts that grow by a token a step, and compares them with the plain model."""
    for step in range(steps):
        assert_close(reader.read(flat(texts)), truth(trunk, texts), 1e-4)
        for row, text in enumerate(texts):
            text.append((7 * step + row) % 32)


def train(trunk: nn.Module) -> None:
    """Takes a step that moves every weight, as an optimiser does, in place."""
    optimizer = torch.optim.Adam(trunk.parameters(), lr=0.05)
    for parameter in trunk.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    trunk.zero_grad()


def check_changes(trunk: nn.Module) -> None:
    """Lets a reader meet new weights, a larger batch, and both readers' resets."""
    reader, texts = PrefixReader(trunk), [[1], [2, 3, 4]]
    grow(reader, trunk, texts, 5)
    train(trunk)
    grow(reader, trunk, texts, 5)
    texts += [[5, 6], [7]]
    grow(reader, trunk, texts, 5)
    texts[1] = [8, 9]
    grow(reader, trunk, texts, 5)
    train(trunk)
    grow(reader, trunk, texts, 5)


@models
def test_new_weights_and_a_new_cache_take_new_graphs(
    build_lm: BuildLM, name: str, captures: list[int]
) -> None:
    check_changes(build(build_lm, name))
    assert captures == [64] * 4


@torch.no_grad()
def check_lean_trunk_alone_notices_new_weights(trunk: nn.Module) -> None:
    """Keys and values are those of the old weights in both, which no reader would allow."""
    plain, graphed = LeanTrunk(trunk, 4), LeanTrunk(trunk, 4)
    texts, slots = Texts(plain, graphed), np.arange(4)
    plain._graphs = None
    for _ in range(4):
        tokens, positions = texts.advance()
        found, expected = (lean.read(tokens, slots, positions) for lean in (graphed, plain))
        assert_close(found, expected, 1e-4)
        train(trunk)


@models
def test_graphs_are_dropped_when_a_weight_is_written(
    build_lm: BuildLM, name: str, captures: list[int]
) -> None:
    check_lean_trunk_alone_notices_new_weights(build(build_lm, name))
    assert captures == [64] * 4


def test_where_a_step_cannot_be_captured_the_ordinary_path_serves_after_one_warning(
    build_lm: BuildLM, captures: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: StepGraphs, step: Any, num_seen: int) -> Any:
        captures.append(num_seen)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(StepGraphs, "_capture", fail)
    trunk = build(build_lm, "Llama, grouped heads")
    reader, texts = PrefixReader(trunk), [[1], [2, 3, 4]]
    grow(reader, trunk, texts, 1)
    with pytest.warns(UserWarning, match="LlamaModel cannot be captured as a CUDA graph.*not per"):
        grow(reader, trunk, texts, 1)
    grow(reader, trunk, texts, 3)
    train(trunk)  # the reader then takes another LeanTrunk
    grow(reader, trunk, texts, 3)
    assert captures == [64]


def test_on_the_cpu_there_are_no_graphs(build_lm: BuildLM) -> None:
    lean = LeanTrunk(build(build_lm, "GPT2"), 2)
    lean.make_room(2, 32)
    assert lean._graphs is None


# --- on a GPU ---


@needs_gpu
@models
def test_replay_on_a_gpu_gives_what_the_ordinary_path_gives(build_lm: BuildLM, name: str) -> None:
    read_to_the_end(build(build_lm, name, DEVICE), 1e-4)


@needs_gpu
@models
def test_replay_on_a_gpu_in_half_precision(build_lm: BuildLM, name: str) -> None:
    read_to_the_end(build(build_lm, name, DEVICE, initializer_range=0.1).bfloat16(), 0.1)


@needs_gpu
def test_an_answer_on_a_gpu_is_not_overwritten_by_the_next(build_lm: BuildLM) -> None:
    check_answers_are_kept(build(build_lm, "GPT2", DEVICE))


@needs_gpu
@models
def test_new_weights_and_new_caches_on_a_gpu(build_lm: BuildLM, name: str) -> None:
    check_changes(build(build_lm, name, DEVICE))
    check_lean_trunk_alone_notices_new_weights(build(build_lm, name, DEVICE))


@needs_gpu
def test_a_capture_that_fails_on_a_gpu_leaves_the_ordinary_path_whole(
    build_lm: BuildLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = LeanTrunk.step

    def synchronising(self: LeanTrunk, tokens: Tensor, positions: Tensor, num_seen: int) -> Tensor:
        assert int(positions.max()) < num_seen  # waits for the device, which a capture forbids
        return step(self, tokens, positions, num_seen)

    monkeypatch.setattr(LeanTrunk, "step", synchronising)
    trunk, texts = build(build_lm, "GPT2", DEVICE), [[1], [2, 3, 4]]
    reader, stream = PrefixReader(trunk), torch.cuda.current_stream()
    grow(reader, trunk, texts, 1)
    with pytest.warns(UserWarning, match="cannot be captured"):
        grow(reader, trunk, texts, 1)
    assert torch.cuda.current_stream() == stream
    grow(reader, trunk, texts, 5)


def reward(prompts: Any, responses: Any, *, response_ids: Any, **more: Any) -> list[float]:
    return [float((ids == 2).sum()) for ids in response_ids]


def graphs_of(policy: CausalLMPolicy) -> dict[int, Any]:
    lean = policy._decoder.reader._lean
    assert lean is not None
    assert lean._graphs is not None
    return lean._graphs._graphs


@needs_gpu
@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_the_whole_loop_on_a_gpu_agrees_with_the_cpu(make: Callable[..., Any]) -> None:
    model = make(26)
    task = tiny_task(size=26, limit=40, reward=reward)
    here = CausalLMPolicy(copy.deepcopy(model), device="cpu")
    there = CausalLMPolicy(copy.deepcopy(model), device=DEVICE)
    envs, rng, captured = vector_env(task, 4), np.random.default_rng(0), 0
    obs, _ = envs.reset(seed=0)
    for _ in range(80):
        step = there.step(obs, rng)
        np.testing.assert_allclose(step.log_probs, here.log_probs(obs, step.actions), atol=1e-4)
        np.testing.assert_allclose(step.values, here.next_values(obs), atol=1e-4)
        obs, *_ = envs.step(step.actions)
        captured = max(captured, len(graphs_of(there)))
    assert captured


@needs_gpu
@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_ppo_takes_updates_on_a_gpu(make: Callable[..., Any]) -> None:
    reference = CausalLanguageModel(make(26), device=DEVICE)
    task = tiny_task(size=26, limit=12, reference=reference, reward=reward)
    policy = CausalLMPolicy.of_reference(reference)
    before = [weight.detach().clone() for weight in policy.parameters()]
    config = PPOConfig(episodes_per_batch=16, learning_rate=1e-2)
    log = PPO(policy, config=config).learn(with_kl(task, policy, 8), total_tokens=600)
    assert len(log.rows) > 1
    for row in log.rows:
        assert row["first_ratio_error"] < 1e-3  # what was sampled by graphs is what is trained on
    moved = [
        not torch.equal(old, new) for old, new in zip(before, policy.parameters(), strict=True)
    ]
    assert sum(moved) > len(moved) / 2
    assert all(bool(weight.isfinite().all()) for weight in policy.parameters())
