"""CausalLMPolicy with a value model: policy and value share nothing, and both are learnt."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

import textrl_agents
from tests.agents.tiny import (
    all_episodes,
    causal_policy,
    causal_reference,
    episodes_of,
    tiny_gpt2,
    tiny_llama,
    tiny_task,
    vector_env,
    with_kl,
)
from textrl_agents.collector import Collector
from textrl_agents.episodes import Episodes
from textrl_agents.policies import CausalLMPolicy, Sampling, load_policy, make_policy
from textrl_agents.ppo import PPO, PPOConfig
from textrl_agents.reinforce import REINFORCE, REINFORCEConfig
from textrl_envs.errors import InvalidInputError
from textrl_envs.task import Task

KINDS = ("classifier", "language model", "trunk")

kinds = pytest.mark.parametrize("kind", KINDS)


def value_model(kind: str = "classifier", *, num_labels: int = 1, size: int = 4) -> Any:
    """Returns a model of another family than the policy, or of another seed."""
    import transformers

    if kind == "language model":
        return tiny_gpt2(size, seed=7)
    if kind == "trunk":
        return tiny_llama(size, seed=7).base_model
    config = tiny_llama(size).config
    config.num_labels = num_labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        build: Any = transformers.LlamaForSequenceClassification
        return build(config)


def make(kind: str = "classifier", **settings: Any) -> tuple[Task, CausalLMPolicy]:
    """Returns a policy whose value head is away from 0, and a task that it fits."""
    policy = causal_policy(tiny_gpt2(seed=1), value_model=value_model(kind), **settings)
    with torch.no_grad():
        policy.value_head.weight.normal_(generator=torch.Generator().manual_seed(0))
        policy.value_head.bias.fill_(0.3)
    return tiny_task(limit=5, reference=causal_reference(tiny_gpt2())), policy


def observe(texts: list[list[int]]) -> Any:
    return np.array([text + [-1] * (9 - len(text)) for text in texts])


@torch.no_grad()
def own_values(policy: CausalLMPolicy, texts: list[list[int]]) -> list[float]:
    """Reads each text by itself, by the value model's own forward and its head."""
    hidden = [
        policy.value_trunk(input_ids=torch.tensor([text]), use_cache=False).last_hidden_state[0, -1]
        for text in texts
    ]
    head = policy.value_head
    return [float((h * head.weight[0]).sum() + head.bias[0]) for h in hidden]


def expected_values(policy: CausalLMPolicy, episodes: Episodes) -> Any:
    """The value of the text before every response token, (B, T)."""
    found = np.zeros(episodes.response_mask.shape)
    for row in range(len(episodes)):
        start = int(episodes.prompt_lengths[row])
        ids = episodes.input_ids[row].tolist()
        count = int(episodes.lengths[row])
        found[row, :count] = own_values(policy, [ids[: start + t] for t in range(count)])
    return found


def some_episodes(policy: CausalLMPolicy) -> Episodes:
    like = tiny_task(limit=5)
    return episodes_of(like, policy, all_episodes(like)[::31])


TEXTS = [[1], [2, 1, 3], [2, 1, 3, 3], [1, 2, 2, 1, 3], [3, 3]]


# --- acting ---


def test_a_step_says_nothing_of_values_and_the_policy_tells_so() -> None:
    _, policy = make()
    plain = causal_policy(tiny_gpt2(seed=1))
    assert policy.values_episodes
    assert not plain.values_episodes
    step = policy.step(observe(TEXTS), np.random.default_rng(0))
    assert np.isnan(step.values).all()
    # The rest is as without a value model.
    expected = plain.step(observe(TEXTS), np.random.default_rng(0))
    for name in ("actions", "log_probs", "entropies"):
        np.testing.assert_array_equal(getattr(step, name), getattr(expected, name))


@kinds
def test_the_value_of_an_observation_is_the_value_models_own(kind: str) -> None:
    _, policy = make(kind)
    for texts in (TEXTS, [[*text, 2] for text in TEXTS], TEXTS[:2]):
        found = policy.next_values(observe(texts))
        np.testing.assert_allclose(found, own_values(policy, texts), rtol=0, atol=1e-5)


@kinds
def test_collected_episodes_have_the_value_models_values(kind: str) -> None:
    task, policy = make(kind)
    episodes = Collector(with_kl(task, policy, 4)).collect(policy, 10, seed=[0])
    expected = expected_values(policy, episodes)
    np.testing.assert_allclose(episodes.values, expected, rtol=0, atol=1e-5)
    assert not episodes.values[~episodes.response_mask].any()
    assert not episodes.bootstrap_values.any()
    np.testing.assert_array_equal(policy.episode_values(episodes), episodes.values)


class CutOff(gym.vector.VectorWrapper):
    """Truncates every episode after two tokens."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.steps = np.zeros(self.num_envs, np.int64)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        begins = np.ones(self.num_envs, bool)
        self.steps[(options or {}).get("reset_mask", begins)] = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> Any:
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        self.steps += 1
        return obs, rewards, terminated, truncated | (self.steps == 2), infos


def test_an_episode_that_was_cut_off_is_worth_what_the_value_model_says_of_its_end() -> None:
    task, policy = make()
    episodes = Collector(CutOff(vector_env(task, 4))).collect(policy, 8, seed=[0])
    is_cut = (episodes.lengths == 2) & (episodes.response_ids[:, 1] != 0)
    assert is_cut.any()
    texts = [
        ids[:length].tolist()
        for ids, length in zip(episodes.input_ids, episodes.attention_mask.sum(axis=1), strict=True)
    ]
    expected = np.where(is_cut, own_values(policy, texts), 0.0)
    np.testing.assert_allclose(episodes.bootstrap_values, expected, rtol=0, atol=1e-5)


def test_new_weights_of_the_value_model_are_noticed() -> None:
    _, policy = make()
    episodes, before = some_episodes(policy), policy.next_values(observe(TEXTS))
    with torch.no_grad():
        policy.value_trunk.embed_tokens.weight[:, 0] += 1.0
    found = policy.next_values(observe(TEXTS))
    assert np.abs(found - before).max() > 1e-3
    np.testing.assert_allclose(found, own_values(policy, TEXTS), rtol=0, atol=1e-5)
    values = policy.episode_values(episodes)
    np.testing.assert_allclose(values, expected_values(policy, episodes), rtol=0, atol=1e-5)


def test_a_value_model_in_half_precision_gives_values_too() -> None:
    policy = causal_policy(tiny_gpt2(seed=1), value_model=value_model().bfloat16())
    values = policy.next_values(observe(TEXTS))
    episodes = some_episodes(policy)
    assert np.isfinite(policy.episode_values(episodes)).all()
    with torch.no_grad():
        policy.value_trunk.float()
        policy.forget()
    # 8 bits, of numbers near 1, through two layers.
    np.testing.assert_allclose(values, own_values(policy, TEXTS), rtol=0, atol=0.1)


# --- training ---


@kinds
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_evaluate_gives_these_values_and_each_loss_reaches_its_own_trunk(
    kind: str, is_checkpointed: bool
) -> None:
    _, policy = make(kind)
    policy.is_checkpointed = is_checkpointed
    episodes = some_episodes(policy)
    found = policy.evaluate(episodes)
    expected = expected_values(policy, episodes)[episodes.response_mask]
    np.testing.assert_allclose(found.values.detach().numpy(), expected, rtol=0, atol=1e-5)
    of_value = {*policy.value_trunk.parameters(), *policy.value_head.parameters()}
    of_policy = set(policy.model.parameters())
    assert of_value | of_policy == set(policy.parameters())
    assert not of_value & of_policy

    def reached(number: Tensor) -> set[nn.Parameter]:
        policy.zero_grad()
        number.backward(retain_graph=not is_checkpointed)  # type: ignore[no-untyped-call]
        return {p for p in policy.parameters() if p.grad is not None and bool(p.grad.any())}

    by_value = reached(found.values.square().sum())
    assert by_value <= of_value
    assert {*policy.value_head.parameters()} <= by_value
    # Biases of keys get no gradient, nor do positions and tokens that do not occur.
    assert len(by_value) > 0.8 * len(of_value)
    by_policy = reached(found.log_probs.sum())
    assert by_policy <= of_policy
    assert len(by_policy) > 0.8 * len(of_policy)


@kinds
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_the_value_models_layers_are_computed_again_as_the_policys_are(
    kind: str, is_checkpointed: bool
) -> None:
    _, policy = make(kind)
    policy.is_checkpointed = is_checkpointed
    episodes, read = some_episodes(policy), []
    for name in ("trunk", "value_trunk"):
        blocks = (
            module
            for module in getattr(policy, name).modules()
            if isinstance(module, GradientCheckpointingLayer)
        )
        first = next(next(blocks).children())
        first.register_forward_hook(lambda *_, name=name: read.append(name))
    found = policy.evaluate(episodes)
    (found.log_probs.sum() + found.values.sum()).backward()  # type: ignore[no-untyped-call]
    times = 2 if is_checkpointed else 1
    assert [read.count(name) for name in ("trunk", "value_trunk")] == [times, times]


def test_the_gradient_of_the_value_loss_is_that_of_the_value_models_own_forward() -> None:
    _, policy = make()
    episodes = some_episodes(policy)
    targets = torch.randn(episodes.num_tokens, generator=torch.Generator().manual_seed(0))
    parameters = [*policy.value_trunk.parameters(), *policy.value_head.parameters()]

    def gradients(values: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad((values - targets).square().sum(), parameters))

    found = gradients(policy.evaluate(episodes).values)
    values = []
    for row in range(len(episodes)):
        start, length = int(episodes.prompt_lengths[row]), int(episodes.lengths[row])
        ids = torch.from_numpy(episodes.input_ids[row, None, : start + length])
        hidden = policy.value_trunk(input_ids=ids, use_cache=False).last_hidden_state[0]
        values.append(policy.value_head(hidden[start - 1 : start + length - 1])[:, 0])
    for ours, theirs in zip(found, gradients(torch.cat(values)), strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])
def test_an_agent_learns_with_it(algorithm: str) -> None:
    task, policy = make()
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    settings: dict[str, Any] = {"episodes_per_batch": 16, "learning_rate": 1e-3}
    agent: Any = (
        PPO(policy, config=PPOConfig(epochs=2, minibatches=2, **settings))
        if algorithm == "ppo"
        else REINFORCE(policy, config=REINFORCEConfig(baseline="value", **settings))
    )
    log = agent.learn(with_kl(task, policy, 8), total_tokens=60)
    for row in log.rows:
        assert all(np.isfinite(value) for key, value in row.items() if key != "normalised_score")
        assert row["value_loss"] > 0
    changed = {
        name.split(".")[0] for name, p in policy.named_parameters() if (p != before[name]).any()
    }
    assert changed == {
        "trunk",
        "value_trunk",
        "value_head",
    }  # the model's head is tied to its trunk


def test_the_value_model_learns_what_episodes_are_worth() -> None:
    """The value loss alone, on one batch: it falls to a small part of itself."""
    task = tiny_task(limit=2)
    policy = causal_policy(tiny_gpt2(seed=1), value_model=value_model())
    episodes = episodes_of(task, policy, all_episodes(task))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    targets = torch.from_numpy(np.repeat(episodes.scores, episodes.lengths)).float()
    losses = []
    for _ in range(80):
        loss = (policy.evaluate(episodes).values - targets).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    # A text does not tell how it will end; but of the values given, most can be told apart.
    assert losses[-1] < 0.7 * losses[0]


# --- how it begins, and is kept ---


def test_the_value_begins_as_the_score_of_a_reward_model() -> None:
    model = value_model()
    policy = causal_policy(tiny_gpt2(seed=1), value_model=model)
    with torch.no_grad():
        expected = [float(model(input_ids=torch.tensor([text])).logits[0, 0]) for text in TEXTS]
    np.testing.assert_allclose(policy.next_values(observe(TEXTS)), expected, rtol=0, atol=1e-5)
    assert np.ptp(expected) > 0.1


def test_a_bias_of_the_score_is_taken_too() -> None:
    model = value_model()
    weight = model.score.weight
    model.score = nn.Linear(16, 1)
    with torch.no_grad():
        model.score.weight.copy_(weight)
        model.score.bias.fill_(2.5)
    policy = causal_policy(tiny_gpt2(seed=1), value_model=model)
    with torch.no_grad():
        expected = [float(model(input_ids=torch.tensor([text])).logits[0, 0]) for text in TEXTS]
    np.testing.assert_allclose(policy.next_values(observe(TEXTS)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["language model", "trunk", "two classes"])
def test_the_value_begins_as_zero_otherwise(kind: str) -> None:
    model = value_model(num_labels=2) if kind == "two classes" else value_model(kind)
    policy = causal_policy(tiny_gpt2(seed=1), value_model=model)
    np.testing.assert_array_equal(policy.next_values(observe(TEXTS)), 0.0)
    assert not policy.episode_values(some_episodes(policy)).any()


def test_making_it_leaves_the_global_generator_as_it_was() -> None:
    models = tiny_gpt2(seed=1), value_model()
    before = torch.random.get_rng_state()
    causal_policy(models[0], value_model=models[1])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_value_model_of_a_smaller_vocabulary_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="vocabularies do not match"):
        causal_policy(tiny_gpt2(), value_model=value_model(size=3))


def test_the_reference_may_be_given_a_value_model() -> None:
    reference = causal_reference(tiny_gpt2())
    policy = CausalLMPolicy.of_reference(reference, value_model=value_model())
    assert policy.values_episodes
    np.testing.assert_allclose(
        policy.next_log_probs(observe(TEXTS)), reference.next_log_probs(observe(TEXTS)), atol=1e-6
    )
    assert all(p.requires_grad for p in policy.parameters())


def causal_envs() -> Any:
    return vector_env(tiny_task(reference=causal_reference(tiny_gpt2())))


@pytest.mark.parametrize("start", ["reference", "folder"])
def test_a_policy_made_by_name_begins_with_the_score_of_a_reward_models_folder(
    start: str, tmp_path: Path
) -> None:
    model = value_model()
    model.save_pretrained(tmp_path / "reward")
    tiny_gpt2(seed=1).save_pretrained(tmp_path / "model")
    agent = textrl_agents.make(
        "ppo",
        causal_envs(),
        policy=None if start == "reference" else str(tmp_path / "model"),
        value_model=str(tmp_path / "reward"),
        device="cpu",
    )
    with torch.no_grad():
        expected = [float(model(input_ids=torch.tensor([text])).logits[0, 0]) for text in TEXTS]
    found = agent.policy.next_values(observe(TEXTS))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert agent.policy.values_episodes


@pytest.mark.parametrize("kind", ["language model", "trunk"])
def test_any_decoders_folder_will_do_and_the_value_begins_as_zero(
    kind: str, tmp_path: Path
) -> None:
    value_model(kind).save_pretrained(tmp_path)
    policy = make_policy(causal_envs(), value_model=str(tmp_path), device="cpu")
    np.testing.assert_array_equal(policy.next_values(observe(TEXTS)), 0.0)
    assert policy.values_episodes


def test_only_a_transformers_policy_takes_a_value_model(tmp_path: Path) -> None:
    value_model().save_pretrained(tmp_path)
    model = str(tmp_path)
    for name in (None, "table", "lstm"):
        with pytest.raises(InvalidInputError, match="value_model stands beside a Transformers"):
            make_policy(vector_env(tiny_task()), model=name, value_model=model)
    with pytest.raises(InvalidInputError, match="value_model stands beside a Transformers"):
        make_policy(causal_envs(), value_model=model, lora={"rank": 1})
    with pytest.raises(InvalidInputError, match="leave value_model out"):
        textrl_agents.make("ppo", causal_envs(), policy=make()[1], value_model=model)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"Cannot load a value model from .*none"):
        make_policy(causal_envs(), value_model=str(tmp_path / "none"), device="cpu")


@kinds
def test_a_saved_policy_answers_and_values_as_before(kind: str, tmp_path: Path) -> None:
    _, policy = make(kind, sampling=Sampling(temperature=1.3))
    policy.save(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy", device="cpu")
    assert isinstance(loaded, CausalLMPolicy)
    assert loaded.values_episodes
    before, after = policy.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    obs, episodes = observe(TEXTS), some_episodes(policy)
    np.testing.assert_array_equal(loaded.next_values(obs), policy.next_values(obs))
    np.testing.assert_array_equal(loaded.next_log_probs(obs), policy.next_log_probs(obs))
    found = loaded.episode_values(episodes)
    np.testing.assert_array_equal(found, policy.episode_values(episodes))
    assert all(p.requires_grad for p in loaded.parameters())


def test_saving_without_a_value_model_where_there_was_one_leaves_none(tmp_path: Path) -> None:
    make()[1].save(tmp_path)
    causal_policy(tiny_gpt2(seed=1)).save(tmp_path)
    loaded = load_policy(tmp_path, device="cpu")
    assert isinstance(loaded, CausalLMPolicy)
    assert not loaded.values_episodes


def test_a_policy_on_one_trunk_gives_episode_values_too() -> None:
    """What its steps noted, in one forward."""
    task = tiny_task()
    policy = causal_policy(tiny_gpt2(seed=1))
    with torch.no_grad():
        policy.value_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    episodes = Collector(with_kl(task, policy, 4)).collect(policy, 10, seed=[0])
    assert not policy.values_episodes
    assert np.abs(episodes.values).max() > 0.01
    np.testing.assert_allclose(policy.episode_values(episodes), episodes.values, rtol=0, atol=1e-5)
