"""CausalLMPolicy: one distribution for all who ask, nothing stale, and SB3's own save and load."""

import functools
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import ConstantSchedule, obs_as_tensor
from torch import Tensor

from tests.agents.sb3.networks import NETWORKS, ROWS, collect, evaluated, long_task, model, network
from tests.agents.sb3.test_policy import observations
from tests.agents.tiny import (
    causal_policy,
    causal_reference,
    next_outputs,
    random_ngram,
    tiny_gpt2,
    tiny_task,
    twin_of,
    vector_env,
    with_kl,
)
from textrl_agents.collector import Collector
from textrl_agents.policies import CausalLMPolicy as TrainedCausalLM
from textrl_agents.policies import NetworkPolicy, ResidualPolicy
from textrl_agents.sb3 import (
    CausalLMPolicy,
    EpisodeRolloutBuffer,
    NetworkAtReference,
    SB3LanguageModelPPO,
    SB3VecEnv,
)
from textrl_benchmarks.speed.models import make_model
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.decoder import load_causal_lm
from textrl_envs.language_models.fast.decode import LeanTrunk
from textrl_envs.observations import ObsMode

every_network = pytest.mark.parametrize("kind", list(NETWORKS))
either_form = pytest.mark.parametrize("obs", ["dict", "flat"])
CPU = torch.device("cpu")


# --- one distribution and one value ---


@every_network
@either_form
def test_all_ways_of_asking_agree(kind: str, obs: ObsMode) -> None:
    task = long_task()
    policy = model(task, kind, obs=obs).policy
    texts = observations(task, obs=obs)
    tensors = obs_as_tensor(texts, CPU)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        actions, values, log_probs = policy(tensors)
    assert values.shape == (12, 1)
    rows = np.stack([policy.log_probs(texts, np.full(12, token)) for token in range(4)], axis=1)
    np.testing.assert_allclose(np.exp(rows).sum(1), 1, rtol=1e-6)
    chosen = rows[np.arange(12), actions]
    np.testing.assert_allclose(log_probs, chosen, rtol=0, atol=1e-6)
    again, scored, entropy = policy.evaluate_actions(tensors, actions)
    np.testing.assert_allclose(scored.detach(), chosen, rtol=0, atol=1e-5)
    np.testing.assert_allclose(again.detach(), values, rtol=0, atol=1e-5)
    np.testing.assert_allclose(policy.predict_values(tensors), values, rtol=0, atol=1e-6)
    np.testing.assert_allclose(policy.next_values(texts), values[:, 0], rtol=0, atol=1e-6)
    expected = -(np.exp(rows) * rows).sum(1)
    np.testing.assert_allclose(entropy.detach(), expected, rtol=0, atol=1e-5)
    distribution = policy.get_distribution(tensors)
    np.testing.assert_allclose(distribution.log_prob(actions), chosen, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(policy.predict(texts, deterministic=True)[0], rows.argmax(1))
    with torch.no_grad():
        np.testing.assert_array_equal(policy(tensors, deterministic=True)[0], rows.argmax(1))
    step = policy.step(texts, np.random.default_rng(0), greedy=True)
    np.testing.assert_array_equal(step.actions, rows.argmax(1))
    np.testing.assert_allclose(step.log_probs, rows.max(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["residual", "gpt2"])
def test_it_says_what_the_network_says_of_each_text_by_itself(kind: str) -> None:
    """Truth: the layers in float64 on one text at a time, without padding, cache or packing."""
    task = long_task()
    policy = model(task, kind).policy
    twin = twin_of(policy.network)
    texts = observations(task)
    for row, length in enumerate(texts["attention_mask"].sum(1)):
        log_probs, value = next_outputs(twin, [tuple(texts["input_ids"][row, :length].tolist())])
        for token in range(4):
            found = policy.log_probs(texts, np.full(12, token))[row]
            assert found == pytest.approx(float(log_probs[0, token].detach()), abs=1e-5)
        assert policy.next_values(texts)[row] == pytest.approx(float(value.detach()), abs=1e-5)


def test_ids_beyond_what_float32_tells_apart_would_be_kept() -> None:
    """SB3's own preprocessing makes floats of ids; nothing here does."""
    task = long_task()
    policy = model(task).policy
    seen: list[np.dtype[Any]] = []
    read = policy.network._decoder.reader.read

    def watched(obs: Any) -> Any:
        seen.append(obs["input_ids"].dtype)
        return read(obs)

    policy.network._decoder.reader.read = watched
    policy(obs_as_tensor(observations(task), CPU))
    assert seen == [np.dtype(np.int64)]


@pytest.mark.parametrize("mode", [True, False])
def test_dropout_stays_off_in_either_mode(mode: bool) -> None:
    task = long_task()
    policy = model(task, "gpt2").policy  # its config asks for dropout of 0.3
    policy.set_training_mode(mode)
    tensors = obs_as_tensor(observations(task), CPU)
    actions = torch.arange(12) % 4
    first, second = (policy.evaluate_actions(tensors, actions)[1].detach() for _ in range(2))
    assert torch.equal(first, second)
    assert not any(module.training for module in policy.network.modules())


def test_tokens_are_drawn_by_their_probabilities() -> None:
    task = long_task()
    policy = model(task).policy
    text = {key: np.repeat(values[:1], 4000, axis=0) for key, values in observations(task).items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = policy(obs_as_tensor(text, CPU))[0].numpy()
    expected = np.exp([policy.log_probs(text, np.full(4000, token))[0] for token in range(4)])
    error = np.sqrt(4000 * expected * (1 - expected))
    assert (np.abs(np.bincount(drawn, minlength=4) - 4000 * expected) < 4 * error + 1e-9).all()


# --- what is remembered ---


@every_network
@pytest.mark.parametrize("buffer", [None, EpisodeRolloutBuffer])
def test_an_update_finds_the_log_probs_and_values_of_the_rollout(kind: str, buffer: Any) -> None:
    made = model(long_task(), kind, batch_size=14, rollout_buffer_class=buffer)
    for _ in range(4):  # episodes straddle them
        for batch in collect(made).get(14):
            values, log_probs, _ = evaluated(made, batch)
            torch.testing.assert_close(log_probs, batch.old_log_prob, rtol=0, atol=1e-5)
            torch.testing.assert_close(values[:, 0], batch.old_values, rtol=0, atol=1e-5)


@pytest.fixture
def tokens_read() -> Any:
    """Returns a list that gains the number of tokens of each reading by a key-value cache."""
    counts: list[int] = []
    lean = LeanTrunk.read

    def note(self: LeanTrunk, tokens: Any, *rest: Any) -> Any:
        counts.append(tokens.size)
        return lean(self, tokens, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LeanTrunk, "read", note)
        yield counts


def test_a_token_costs_a_token_and_the_penalty_none(tokens_read: list[int]) -> None:
    task = long_task(ends=False)
    made = model(task, n_steps=10)
    made.set_env(SB3VecEnv(with_kl(task, made.policy, ROWS)))
    collect(made)
    assert ROWS <= tokens_read[0] <= 3 * ROWS  # prompts of one token and of three
    assert tokens_read[1:] == [ROWS] * 10  # nine more, and the value behind the last


def test_a_row_that_begins_anew_is_read_beside_those_that_go_on(tokens_read: list[int]) -> None:
    """Episodes of three tokens: the prompts are read at steps 0, 3 and 6."""
    made = model(long_task(limit=3, ends=False), n_steps=7)
    starts = collect(made).episode_starts
    assert [bool(row.all()) for row in starts] == [step % 3 == 0 for step in range(7)]
    assert len(tokens_read) == 8
    for step, count in enumerate(tokens_read):
        assert count <= 3 * ROWS if step % 3 == 0 else count == ROWS


@pytest.mark.parametrize("mode", ["as SB3 does it", "asked while it trains"])
@pytest.mark.parametrize(
    "optimizer",
    [
        {},
        {"optimizer_kwargs": {"eps": 1e-5, "fused": True}},
        {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}},
    ],
    ids=["adam", "fused adam", "sgd"],
)
def test_nothing_read_before_an_update_is_used_after_it(
    optimizer: dict[str, Any], mode: str
) -> None:
    """After: the very bits of a new policy that has been given the weights."""
    task = long_task()
    made = model(task, "gpt2", batch_size=21, learning_rate=0.02, optimizer=optimizer)
    collect(made)
    texts, tokens = observations(task), np.arange(12) % 4
    before = made.policy.log_probs(texts, tokens)
    if mode == "as SB3 does it":
        made.train()
        made.policy.set_training_mode(False)
    else:
        made.policy.set_training_mode(True)
        made.policy.log_probs(texts, tokens)
        made.policy.evaluate_actions(obs_as_tensor(texts, CPU), torch.from_numpy(tokens))[
            1
        ].mean().backward()
        made.policy.optimizer.step()
    after = made.policy.log_probs(texts, tokens)
    fresh = network("gpt2", task)
    fresh.load_state_dict(made.policy.network.state_dict())
    np.testing.assert_array_equal(after, fresh.log_probs(texts, tokens))
    np.testing.assert_array_equal(made.policy.next_values(texts), fresh.next_values(texts))
    assert np.abs(after - before).max() > 1e-3


def test_each_rollout_begins_with_an_empty_memory() -> None:
    """Numbers read on and read afresh differ in their last bits."""
    task = long_task()
    made = model(task, "gpt2", batch_size=21)
    collect(made)
    made.train()
    assert made.policy.network._decoder.reader._lengths.any()
    made.policy.set_training_mode(False)
    assert not made.policy.network._decoder.reader._lengths.any()
    assert made.policy.network._memo is None


# --- the optimiser ---


def test_the_optimiser_is_that_of_the_suites_own_agents() -> None:
    optimizer = model(long_task(), learning_rate=0.01).policy.optimizer
    assert isinstance(optimizer, torch.optim.Adam)
    (group,) = optimizer.param_groups
    assert (group["eps"], group["lr"], group["betas"]) == (1e-5, 0.01, (0.9, 0.999))


def test_what_needs_no_gradient_is_not_trained() -> None:
    task = long_task()

    def load() -> NetworkPolicy:
        policy = causal_policy(tiny_gpt2())
        policy.trunk.requires_grad_(False)
        policy.value_head.requires_grad_(True)
        return policy

    made = PPO(
        CausalLMPolicy,
        SB3VecEnv(vector_env(task, ROWS)),
        n_steps=7,
        batch_size=21,
        policy_kwargs={"load_network": load},
        device="cpu",
    )
    names = {id(weight): name for name, weight in made.policy.named_parameters()}
    trained = [names[id(w)] for g in made.policy.optimizer.param_groups for w in g["params"]]
    assert trained == ["network.value_head.weight", "network.value_head.bias"]


# --- saving and loading by SB3 ---


def gpt2_of(folder: str) -> NetworkPolicy:
    return TrainedCausalLM(load_causal_lm(folder), device="cpu")


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_sb3_saves_weights_and_the_name_of_the_model(algorithm: Any, tmp_path: Path) -> None:
    task = long_task()
    make_model(2, 64, 2, 4).save_pretrained(tmp_path / "gpt2")
    with torch.random.fork_rng(devices=[]):
        made = algorithm(
            CausalLMPolicy,
            SB3VecEnv(vector_env(task, ROWS)),
            learning_rate=0.01,
            n_steps=7,
            rollout_buffer_class=EpisodeRolloutBuffer,
            policy_kwargs={"load_network": functools.partial(gpt2_of, str(tmp_path / "gpt2"))},
            device="cpu",
            **({"batch_size": 21} if algorithm is PPO else {}),
        )
        made.learn(42 * 2)
        made.save(tmp_path / "model.zip")
        loaded = algorithm.load(tmp_path / "model.zip", device="cpu")
    texts, tokens = observations(task), np.arange(12) % 4
    made.policy.forget()
    found = loaded.policy.log_probs(texts, tokens)
    np.testing.assert_array_equal(found, made.policy.log_probs(texts, tokens))
    start = gpt2_of(str(tmp_path / "gpt2")).log_probs(texts, tokens)
    assert np.abs(found - start).max() > 1e-3
    assert loaded.rollout_buffer_class is EpisodeRolloutBuffer
    states = [x.policy.optimizer.state_dict()["state"] for x in (made, loaded)]
    assert states[0].keys() == states[1].keys()
    for i, state in states[0].items():
        assert all(torch.equal(state[key], states[1][i][key]) for key in state)
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        about = archive.read("data")
        weights = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    assert "load_network" in json.loads(about)["policy_kwargs"]
    assert len(about) < 100_000 < 4 * sum(p.numel() for p in made.policy.parameters())
    assert all(isinstance(weight, Tensor) for weight in weights.values())


def test_a_policy_by_itself_is_saved_and_loaded(tmp_path: Path) -> None:
    task = long_task()
    tiny_gpt2().save_pretrained(tmp_path / "gpt2")
    envs = vector_env(task, ROWS)
    policy = CausalLMPolicy(
        envs.single_observation_space,
        envs.single_action_space,  # type: ignore[arg-type]
        ConstantSchedule(0.1),
        load_network=functools.partial(gpt2_of, str(tmp_path / "gpt2")),
    )
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(1.5)
    policy.save(str(tmp_path / "policy.pth"))
    loaded = CausalLMPolicy.load(str(tmp_path / "policy.pth"), device="cpu")
    texts, tokens = observations(task), np.arange(12) % 4
    np.testing.assert_array_equal(loaded.log_probs(texts, tokens), policy.log_probs(texts, tokens))


# --- this suite's questions ---


def test_the_collector_plays_it_and_the_penalty_charges_it() -> None:
    task = tiny_task()
    policy = model(task, n_steps=4).policy
    own = policy.network
    played = Collector(with_kl(task, policy)).collect(policy, 64, seed=[0])
    expected = Collector(with_kl(task, own)).collect(own, 64, seed=[0])
    for name, values in expected.arrays().items():
        np.testing.assert_array_equal(getattr(played, name), values, err_msg=name)
    assert (played.kl != 0).any()


def test_sb3s_own_evaluation_plays_it() -> None:
    made = model(long_task(limit=5))
    with torch.random.fork_rng(devices=[]):
        mean, _ = evaluate_policy(made, made.get_env(), n_eval_episodes=24, deterministic=False)
    assert 0 < np.mean(mean) <= 5


# --- what begins at a reference ---


def test_a_network_at_a_reference_is_that_of_the_suites_own_agents() -> None:
    tables = tiny_task()
    assert tables.load_reference is not None
    small = NetworkAtReference(
        load_reference=tables.load_reference, max_tokens=tables.max_tokens, seed=5
    )
    assert isinstance(small(), ResidualPolicy)
    assert small.default_learning_rate == ResidualPolicy.default_learning_rate
    own = ResidualPolicy(
        tables.load_reference(), max_tokens=tables.max_tokens, seed=5, device="cpu"
    )
    for mine, theirs in zip(small().parameters(), own.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    reference = causal_reference(tiny_gpt2())
    whole = NetworkAtReference(load_reference=lambda: reference, max_tokens=9)
    made = whole()
    assert isinstance(made, TrainedCausalLM)
    assert whole.default_learning_rate == TrainedCausalLM.default_learning_rate
    assert made.model is not reference.model
    obs = observations(long_task())
    tokens = np.arange(12) % 4
    np.testing.assert_allclose(
        made.log_probs(obs, tokens), reference.log_probs(obs, tokens), rtol=0, atol=1e-6
    )


def test_an_agent_over_a_transformers_reference_trains_a_copy_of_it() -> None:
    reference = causal_reference(tiny_gpt2())
    before = [weight.clone() for weight in reference.model.parameters()]
    task = tiny_task(reference=reference)
    agent = SB3LanguageModelPPO.make(
        vector_env(task, ROWS), device="cpu", n_steps=8, learning_rate=0.05
    )
    assert isinstance(agent.policy, CausalLMPolicy)
    obs, _ = vector_env(task, ROWS).reset(seed=0)
    tokens = np.arange(ROWS) % 4
    np.testing.assert_allclose(
        agent.log_probs(obs, tokens), reference.log_probs(obs, tokens), rtol=0, atol=1e-6
    )
    agent.learn(with_kl(task, agent, ROWS), total_tokens=96)  # type: ignore[arg-type]
    assert np.abs(agent.log_probs(obs, tokens) - reference.log_probs(obs, tokens)).max() > 0.01
    after = reference.model.parameters()
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_an_agent_takes_the_learning_rate_that_suits_its_network() -> None:
    for task, rate in (
        (tiny_task(), ResidualPolicy.default_learning_rate),
        (tiny_task(reference=causal_reference(tiny_gpt2())), TrainedCausalLM.default_learning_rate),
    ):
        agent = SB3LanguageModelPPO.make(vector_env(task, ROWS), device="cpu", n_steps=8)
        assert agent.model.learning_rate(1.0) == rate


# --- what cannot be ---


def test_a_network_of_another_vocabulary_is_refused() -> None:
    task = tiny_task(size=5, reference=random_ngram(5))
    with pytest.raises(InvalidInputError, match=r"has 5 tokens, the network 4\. Make it with"):
        model(task, "gpt2")


def test_a_network_with_too_few_positions_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="The text has 68 tokens; the model has 64"):
        model(long_task(limit=65), "gpt2")


def test_an_agent_needs_a_reference() -> None:
    task = tiny_task()
    bare = type(task)(
        tokenizer=task.tokenizer,
        prompts=task.prompts,
        reward=task.reward,
        max_new_tokens=task.max_new_tokens,
    )
    with pytest.raises(InvalidInputError, match="no reference, and sb3_ppo_lm begins at it"):
        SB3LanguageModelPPO.make(vector_env(bare, ROWS), device="cpu")
