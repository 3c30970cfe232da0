"""LoraPolicy: what is trained, what is shared, where it begins, and what it reaches."""

import copy
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import textrl_agents
from tests.agents.tiny import (
    Response,
    all_episodes,
    all_responses,
    causal_reference,
    on_tokens,
    tiny_gpt2,
    tiny_llama,
    tiny_task,
    twin_of,
    vector_env,
    with_kl,
)
from textrl_agents.collector import Collector
from textrl_agents.policies import (
    CausalLMPolicy,
    Lora,
    LoraPolicy,
    Sampling,
    load_policy,
    make_policy,
)
from textrl_agents.ppo import PPO
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.causal import CausalLanguageModel
from textrl_envs.language_models.fast.decode import LeanTrunk
from textrl_envs.optimum import optimum
from textrl_envs.task import Task

pytestmark = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is an extra")

MODELS = {"gpt2": tiny_gpt2, "llama": tiny_llama}
TEXTS = [[1], [2, 1, 3], [2, 1, 3, 3], [1, 2, 2, 1, 3], [3, 3]]


def reference_task(kind: str = "gpt2", **settings: Any) -> tuple[Task, CausalLanguageModel]:
    reference = causal_reference(MODELS[kind]())
    return tiny_task(reference=reference, **settings), reference


def moved(policy: LoraPolicy, deviation: float = 0.3) -> LoraPolicy:
    """Moves adapters and value head away from where they begin."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator), alpha=deviation)
    return policy


def bytes_of(model: Any) -> dict[str, bytes]:
    return {name: w.detach().numpy().tobytes() for name, w in model.named_parameters()}


def observe(texts: list[list[int]], width: int = 8) -> dict[str, Any]:
    ids, mask = np.zeros((2, len(texts), width), np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("kind", MODELS)
def test_it_begins_at_the_reference_to_the_last_bit(kind: str) -> None:
    """W + 0 is W: no KL, not even of rounding."""
    task, reference = reference_task(kind)
    policy = make_policy(vector_env(task), lora={"rank": 2})
    assert isinstance(policy, LoraPolicy)
    obs = observe(TEXTS)
    whole = CausalLMPolicy.of_reference(reference)
    np.testing.assert_array_equal(policy.next_log_probs(obs), whole.next_log_probs(obs))
    played = Collector(with_kl(task, policy)).collect(policy, 64, seed=[0])
    np.testing.assert_allclose(played.kl, 0.0, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_only_adapters_and_value_head_change_and_the_reference_stays(kind: str) -> None:
    task, reference = reference_task(kind)
    policy = make_policy(vector_env(task), lora={"rank": 2})
    before, before_reference = bytes_of(policy), bytes_of(reference.model)
    agent = PPO(policy, config=PPO.make_config(episodes_per_batch=32, minibatches=2))
    agent.learn(with_kl(task, policy), total_tokens=200)
    after = bytes_of(policy)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {n for n in after if "lora_" in n or n.startswith("value_head")}
    assert bytes_of(reference.model) == before_reference
    assert not any(weight.requires_grad for weight in reference.model.parameters())


def test_policy_and_reference_have_their_frozen_weights_in_common() -> None:
    task, reference = reference_task()
    policy = make_policy(vector_env(task), lora={})
    places = {weight.data_ptr() for weight in policy.parameters() if not weight.requires_grad}
    assert places == {weight.data_ptr() for weight in reference.model.parameters()}


@pytest.mark.parametrize("kind", MODELS)
def test_drawing_and_training_see_the_same_adapters(kind: str) -> None:
    """Tokens are drawn from W + ΔW by the fast path, and evaluated by W and the adapters."""
    task, _ = reference_task(kind, limit=5)
    policy = make_policy(vector_env(task), lora=Lora(rank=2))
    assert isinstance(policy, LoraPolicy)
    moved(policy)
    if kind == "llama":
        assert LeanTrunk.supports(policy._decoder.reader._trunk)
    played = Collector(with_kl(task, policy)).collect(policy, 40, seed=[0])
    assert np.abs(played.kl).max() > 0.1
    found = policy.evaluate(played)
    np.testing.assert_allclose(on_tokens(played, found.log_probs), played.log_probs, atol=1e-5)
    np.testing.assert_allclose(on_tokens(played, found.values), played.values, atol=1e-5)
    moved(policy, 0.1)  # the sums are made again
    again = Collector(with_kl(task, policy)).collect(policy, 40, seed=[0])
    found = policy.evaluate(again)
    np.testing.assert_allclose(on_tokens(again, found.log_probs), again.log_probs, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_the_adapted_layers_are_w_plus_scaled_b_a(kind: str) -> None:
    """Equation 3, written out into the weights of a plain model."""
    task, reference = reference_task(kind)
    policy = make_policy(vector_env(task), lora=Lora(rank=2, alpha=6))
    assert isinstance(policy, LoraPolicy)
    moved(policy)
    plain = copy.deepcopy(reference.model)
    parts = dict(policy.model.named_parameters())
    with torch.no_grad():
        for name, weight in plain.named_parameters():
            stem = name.removesuffix(".weight")
            a = parts.get(f"{stem}.lora_A.default.weight")
            if a is not None:
                change = 3.0 * parts[f"{stem}.lora_B.default.weight"] @ a
                weight += change.T if weight.shape != change.shape or kind == "gpt2" else change
    obs = observe(TEXTS)
    expected = causal_reference(plain).next_log_probs(obs)
    np.testing.assert_allclose(policy.next_log_probs(obs), expected, atol=1e-5)


def test_the_gradient_of_the_adapters_is_right() -> None:
    """Against finite differences in float64, of the sum of log-probabilities."""
    task, _ = reference_task(limit=3)
    policy = make_policy(vector_env(task), lora=Lora(rank=1))
    assert isinstance(policy, LoraPolicy)
    moved(policy)
    played = Collector(with_kl(task, policy)).collect(policy, 16, seed=[0])
    twin = twin_of(policy)
    twin.evaluate(played).log_probs.sum().backward()  # type: ignore[no-untyped-call]
    rng = np.random.default_rng(0)
    adapters = [w for n, w in twin.named_parameters() if "lora_" in n]
    for weight in adapters:
        assert weight.grad is not None
        at = int(rng.integers(weight.numel()))
        numbers, heights, width = weight.data.view(-1), [], 1e-5
        kept = float(numbers[at])
        for shift in (width, -width):
            numbers[at] = kept + shift
            heights.append(float(twin.evaluate(played).log_probs.sum().detach()))
        numbers[at] = kept
        slope = (heights[0] - heights[1]) / (2 * width)
        assert float(weight.grad.view(-1)[at]) == pytest.approx(slope, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("is_from_folder", [True, False])
def test_saved_are_adapters_value_head_and_where_the_model_is(
    is_from_folder: bool, tmp_path: Path
) -> None:
    model = tiny_gpt2()
    if is_from_folder:
        model.save_pretrained(tmp_path / "model")
        model = CausalLanguageModel.load(str(tmp_path / "model"), device="cpu").model
    task = tiny_task(limit=5, reference=causal_reference(model))
    envs = vector_env(task)
    policy = make_policy(envs, lora=Lora(rank=2, alpha=8), sampling=Sampling(temperature=0.7))
    assert isinstance(policy, LoraPolicy)
    moved(policy)
    policy.save(tmp_path / "policy")
    assert (tmp_path / "policy" / "base").is_dir() is not is_from_folder
    adapters = load_file(tmp_path / "policy" / "adapter_model.safetensors")
    assert all("lora_" in name for name in adapters)
    loaded = load_policy(tmp_path / "policy", device="cpu")
    assert isinstance(loaded, LoraPolicy)
    assert (loaded.lora, loaded.sampling) == (policy.lora, policy.sampling)
    obs = observe(TEXTS)
    np.testing.assert_array_equal(loaded.next_log_probs(obs), policy.next_log_probs(obs))
    np.testing.assert_array_equal(loaded.next_values(obs), policy.next_values(obs))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_adapters_can_be_read_by_peft_itself(tmp_path: Path) -> None:
    from peft import PeftModel

    task, _ = reference_task()
    policy = make_policy(vector_env(task), lora={"rank": 2})
    assert isinstance(policy, LoraPolicy)
    moved(policy)
    policy.save(tmp_path)
    theirs = PeftModel.from_pretrained(tiny_gpt2(), tmp_path).eval()
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([TEXTS[3]])).logits[0, -1].log_softmax(-1)
    found = policy.next_log_probs(observe([TEXTS[3]]))[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_an_agent_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    logs = []
    for stop in (None, 150):
        task, _ = reference_task()
        envs = vector_env(task)
        agent = textrl_agents.make(
            "ppo", envs, lora={"rank": 2}, episodes_per_batch=32, learning_rate_schedule="constant"
        )
        if stop is not None:
            agent.learn(with_kl(task, agent.policy), total_tokens=stop)
            agent.save(tmp_path / "agent")
            agent = PPO.load(tmp_path / "agent")
        agent.learn(with_kl(task, agent.policy), total_tokens=500)
        logs.append(agent.log.rows)
    assert logs[0] == logs[1]


def exact_score(policy: LoraPolicy, task: Task) -> float:
    """(J − J_ref) / (J* − J_ref), every response read."""
    best = optimum(task)
    obs_of: dict[tuple[int, ...], np.ndarray[Any, Any]] = {}
    total = 0.0
    for prompt, y in all_episodes(task):
        total += worth(policy, task, prompt, y, obs_of)
    return best.normalise(total / len(task.prompts))


def worth(policy: LoraPolicy, task: Task, prompt: int, y: Response, known: dict[Any, Any]) -> float:
    reference: Any = task.load_reference()  # type: ignore[misc]
    begin = task.prompts.token_ids[prompt, : task.prompts.lengths[prompt]].tolist()
    log_prob = log_ratio = 0.0
    for t, token in enumerate(y):
        text = (*begin, *y[:t])
        if text not in known:
            obs = observe([list(text)])
            known[text] = policy.next_log_probs(obs)[0], reference.next_log_probs(obs)[0]
        mine, theirs = known[text]
        log_prob += mine[token]
        log_ratio += mine[token] - theirs[token]
    score = task.reward.table[prompt, y]  # type: ignore[attr-defined]
    return float(np.exp(log_prob) * (score - task.kl_coefficient * log_ratio))


def test_ppo_climbs_towards_the_exact_optimum() -> None:
    task, _ = reference_task()
    assert len(all_responses(4, 3)) * 2 == len(all_episodes(task))
    agent = textrl_agents.make(
        "ppo", vector_env(task), lora={"rank": 4}, learning_rate=1e-2,
        episodes_per_batch=64, minibatches=2,
    )  # fmt: skip
    assert exact_score(agent.policy, task) == pytest.approx(0.0, abs=1e-5)
    agent.learn(with_kl(task, agent.policy, 64), total_tokens=4_000)
    assert 0.5 < exact_score(agent.policy, task) <= 1.0


# --- refused ---


def test_without_peft_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    task, _ = reference_task()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInputError, match=r"pip install 'textrl-envs\[peft\]'"):
        make_policy(vector_env(task), lora={})


@pytest.mark.parametrize("model", [None, "table", "lstm"])
def test_what_is_no_transformers_model_is_refused(model: str | None) -> None:
    with pytest.raises(InvalidInputError, match="LoRA adapts a Transformers model"):
        make_policy(vector_env(tiny_task()), model=model, lora={})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be a whole number of at least 1; got 0"),
        ({"alpha": 1.5}, "alpha must be a whole number"),
        ({"rnak": 4}, "lora has no setting 'rnak'"),
        ({"targets": ["nothing"]}, "No adapter can be put into the model"),
        ({"targets": ["lm_head"]}, "must lie within the trunk"),
        (7, "lora must be a Lora"),
    ],
)
def test_a_wrong_setting_is_refused(settings: Any, message: str) -> None:
    task, _ = reference_task()
    with pytest.raises(InvalidInputError, match=message):
        make_policy(vector_env(task), lora=settings)


def test_a_policy_that_is_there_gets_no_adapters() -> None:
    task, _ = reference_task()
    envs = vector_env(task)
    with pytest.raises(InvalidInputError, match="leave lora out"):
        textrl_agents.make("ppo", envs, policy=make_policy(envs), lora={})
