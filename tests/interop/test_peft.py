"""LoRA policies: the adapters switched off are the reference, by the same weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import textrl_agents
from tests.agents.tiny import causal_reference, tiny_gpt2, tiny_task, vector_env
from tests.interop.page import code_of, make_model, run
from textrl_agents.collector import Collector
from textrl_agents.policies import Lora, LoraPolicy, make_policy
from textrl_envs.language_models.causal import CausalLanguageModel
from textrl_envs.vector_env import TextVectorEnv
from textrl_envs.wrappers.vector import KLPenalty

peft = pytest.importorskip("peft")

TEXTS = torch.tensor([[2, 1, 3], [1, 2, 2]])
OBS = {"input_ids": TEXTS.numpy(), "attention_mask": np.ones((2, 3), np.int8)}


def policy_of(model: Any) -> LoraPolicy:
    return LoraPolicy(model, lora=Lora(rank=2))


def moved(policy: LoraPolicy) -> LoraPolicy:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.3)
    return policy


def places(model: Any) -> set[int]:
    return {weight.data_ptr() for weight in model.parameters()}


# PEFT asks for it by its old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_reference_is_what_peft_gives_with_its_adapters_disabled(tmp_path: Path) -> None:
    """Read by PEFT itself, from the files that a policy saves."""
    policy = moved(policy_of(tiny_gpt2()))
    policy.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny_gpt2(), tmp_path).eval()
    with torch.no_grad():
        on = theirs(input_ids=TEXTS).logits[:, -1].log_softmax(-1).numpy()
        with theirs.disable_adapter():
            off = theirs(input_ids=TEXTS).logits[:, -1].log_softmax(-1).numpy()
    assert np.abs(on - off).max() > 0.05
    np.testing.assert_allclose(policy.without_adapters().next_log_probs(OBS), off, atol=1e-5)
    np.testing.assert_allclose(policy.next_log_probs(OBS), on, atol=1e-5)


def test_no_weight_is_copied_for_it() -> None:
    policy = policy_of(tiny_gpt2())
    frozen = {weight.data_ptr() for weight in policy.parameters() if not weight.requires_grad}
    assert places(policy.without_adapters().model) == frozen


def test_an_environment_without_a_reference_is_charged_from_where_the_policy_began() -> None:
    task = tiny_task(reference=causal_reference(tiny_gpt2()))
    policy = policy_of(tiny_gpt2())
    own = policy.without_adapters()
    envs = KLPenalty(vector_env(task), policy=policy, reference=own, coefficient=0.1)
    assert np.abs(Collector(envs).collect(policy, 64, seed=[0]).kl).max() < 1e-5
    moved(policy)
    given = KLPenalty(vector_env(task), policy=policy, coefficient=0.1)
    found, expected = (Collector(e).collect(policy, 64, seed=[0]).kl for e in (envs, given))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found.mean() > 0.1


def bandit(folder: str) -> TextVectorEnv:
    return TextVectorEnv(
        "text_bandit",
        num_envs=4,
        tokenizer=folder,
        reference=folder,
        prompts=["the cat"],
        reward="textrl_envs.rewards.rules:response_length",
        max_new_tokens=4,
    )


@pytest.mark.parametrize("model", [None, "the folder", "the folder, written otherwise"])
def test_policy_and_reference_of_one_folder_have_one_set_of_weights(
    model: str | None, tmp_path: Path
) -> None:
    folder = make_model(tmp_path) / "my-model"
    envs = bandit(str(folder))
    name = {None: None, "the folder": str(folder)}.get(model, str(tmp_path / "." / "my-model/"))
    policy = make_policy(envs, model=name, lora={"rank": 2})
    reference = envs.reference
    assert isinstance(policy, LoraPolicy)
    assert isinstance(reference, CausalLanguageModel)
    frozen = {weight.data_ptr() for weight in policy.parameters() if not weight.requires_grad}
    assert frozen == places(reference.model)


def test_a_policy_of_another_folder_has_weights_of_its_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make_model(tmp_path / name)
    envs = bandit(str(tmp_path / "one" / "my-model"))
    policy: Any = make_policy(envs, model=str(tmp_path / "two" / "my-model"), lora={"rank": 2})
    reference: Any = envs.reference
    assert not places(policy) & places(reference.model)


def test_the_reference_stays_to_the_last_bit_while_the_adapters_learn() -> None:
    task = tiny_task(reference=causal_reference(tiny_gpt2()))
    envs = vector_env(task)
    agent: Any = textrl_agents.make("ppo", envs, lora={"rank": 2}, episodes_per_batch=32)
    off = agent.policy.without_adapters()
    before, began = off.next_log_probs(OBS), agent.policy.next_log_probs(OBS)
    agent.learn(KLPenalty(envs, policy=agent.policy), total_tokens=400)
    off.forget()
    np.testing.assert_array_equal(off.next_log_probs(OBS), before)
    assert np.abs(agent.policy.next_log_probs(OBS) - began).max() > 1e-3


def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    (block,) = code_of("PEFT")
    run(block, make_model(tmp_path))
