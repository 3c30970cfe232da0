"""The features extractor, and the policy that starts at the reference."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.utils import obs_as_tensor

from tests.agents.tiny import ngram_of, tiny_task, vector_env
from textrl_agents.collector import Collector
from textrl_agents.sb3 import SB3PPO, ReferencePolicy, SB3VecEnv, TokenEmbeddingExtractor
from textrl_envs.errors import InvalidInputError
from textrl_envs.observations import ObsMode
from textrl_envs.task import Task
from textrl_envs.wrappers.vector import KLPenalty

SMALL: dict[str, Any] = {"n_steps": 4, "width": 8, "embedding_dim": 8, "heads": 2}


def observations(task: Task, rows: int = 12, obs: ObsMode = "dict") -> Any:
    """Returns texts of different lengths."""
    envs = vector_env(task, rows, obs=obs, autoreset_mode=AutoresetMode.SAME_STEP)
    found, _ = envs.reset(seed=1)
    rng = np.random.default_rng(2)
    for _ in range(5):
        found, *_ = envs.step(rng.integers(1, task.vocabulary_size, size=rows))
    return found


def moved(task: Task, *, away: float = 0.5, obs: ObsMode = "dict") -> ReferencePolicy:
    """Returns a policy whose heads are not zero any more."""
    policy = SB3PPO.make(vector_env(task, obs=obs), device="cpu", **SMALL).policy
    assert isinstance(policy, ReferencePolicy)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in (policy.action_net.weight, policy.value_net.weight):
            assert isinstance(weight, torch.Tensor)
            weight.normal_(0, away, generator=generator)
    return policy


# --- the extractor ---


def extractor(space: gym.Space[Any], **settings: Any) -> TokenEmbeddingExtractor:
    torch.manual_seed(0)
    return TokenEmbeddingExtractor(space, window=3, heads=2, embedding_dim=4, **settings)


def test_both_forms_of_an_observation_have_the_same_features() -> None:
    task = tiny_task(prompts=("a", "b a c", "c b"))
    found = []
    for obs in ("dict", "flat"):
        space = vector_env(task, obs=obs).single_observation_space
        with torch.random.fork_rng(devices=[]):
            made = extractor(space)
        found.append(made(obs_as_tensor(observations(task, obs=obs), "cpu")))  # type: ignore[arg-type]
    assert found[0].shape == (12, made.features_dim) == (12, 20)
    assert torch.equal(found[0], found[1])


def test_what_stands_behind_the_text_is_not_seen_and_all_of_the_text_is() -> None:
    task = tiny_task(limit=6, prompts=("a b c a",))
    space = vector_env(task).single_observation_space
    with torch.random.fork_rng(devices=[]):
        made = extractor(space)
    ids = torch.tensor([[1, 2, 3, 1, 2, 0, 0, 0, 0, 0]])
    mask = (torch.arange(10) < 5).to(torch.int8)[None]
    plain = made({"input_ids": ids, "attention_mask": mask})
    for place in range(10):
        changed = ids.clone()
        changed[0, place] = 3 if ids[0, place] != 3 else 1
        found = made({"input_ids": changed, "attention_mask": mask})
        assert torch.equal(found, plain) == (place >= 5), place
    longer = made({"input_ids": ids, "attention_mask": (torch.arange(10) < 6).to(torch.int8)[None]})
    assert not torch.equal(longer, plain)


def test_a_text_shorter_than_the_window_is_padded() -> None:
    with torch.random.fork_rng(devices=[]):
        made = extractor(vector_env(tiny_task()).single_observation_space)
    mask = torch.tensor([[1, 0, 0, 0, 0, 0]])
    found = made({"input_ids": torch.tensor([[2, 0, 0, 0, 0, 0]]), "attention_mask": mask})
    assert torch.equal(found[0, :4], made.tokens.weight[2])
    assert torch.equal(found[0, 4:12], torch.zeros(8))


def test_heads_must_divide_the_embedding() -> None:
    with pytest.raises(InvalidInputError, match="multiple of heads; got 8 and 3"):
        SB3PPO.make(vector_env(tiny_task()), device="cpu", **{**SMALL, "heads": 3})


# --- the policy ---


@pytest.mark.parametrize("obs", ["dict", "flat"])
def test_a_new_policy_is_the_reference(obs: ObsMode) -> None:
    task = tiny_task(prompts=("a", "b a c", "c b"))
    policy = SB3PPO.make(vector_env(task, obs=obs), device="cpu", **SMALL).policy
    texts = observations(task, obs=obs)
    for token in range(task.vocabulary_size):
        tokens = np.full(12, token)
        expected = ngram_of(task).log_probs(texts, tokens)
        np.testing.assert_allclose(policy.log_probs(texts, tokens), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["textrl/Keyword-v0", "textrl/ExactLength-v0", "textrl/TinyGPT-v0"]
)
def test_a_new_agent_is_the_reference_of_a_registered_environment(name: str) -> None:
    envs = gym.make_vec(name, num_envs=16)
    agent = SB3PPO.make(envs, device="cpu", seed=3)
    obs, _ = envs.reset(seed=0)
    for _ in range(4):
        tokens = agent.act(obs)
        expected = envs.unwrapped.reference.log_probs(obs, tokens)  # type: ignore[attr-defined]
        np.testing.assert_allclose(agent.log_probs(obs, tokens), expected, rtol=0, atol=1e-6)
        obs, *_ = envs.step(tokens)


def test_without_reference_it_starts_at_the_uniform_distribution() -> None:
    task = tiny_task()
    task = Task(
        tokenizer=task.tokenizer,
        prompts=task.prompts,
        reward=task.reward,
        max_new_tokens=task.max_new_tokens,
    )
    policy = SB3PPO.make(vector_env(task), device="cpu", **SMALL).policy
    found = policy.log_probs(observations(task), np.arange(12) % 4)
    np.testing.assert_allclose(found, -np.log(4), rtol=1e-6)


@pytest.mark.parametrize("obs", ["dict", "flat"])
def test_all_ways_of_asking_agree(obs: ObsMode) -> None:
    """Rollout, training pass, and the suite's own questions: one distribution and one value."""
    task = tiny_task()
    policy = moved(task, obs=obs)
    texts = observations(task, obs=obs)
    tensors = obs_as_tensor(texts, torch.device("cpu"))
    policy.set_training_mode(False)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        actions, values, log_probs = policy(tensors)
    policy.set_training_mode(True)
    again, scored, entropy = policy.evaluate_actions(tensors, actions)
    np.testing.assert_allclose(scored.detach(), log_probs, rtol=0, atol=1e-6)
    np.testing.assert_allclose(again.detach(), values, rtol=0, atol=1e-6)
    asked = policy.log_probs(texts, actions.numpy())
    np.testing.assert_allclose(asked, log_probs, rtol=0, atol=1e-6)
    np.testing.assert_allclose(policy.next_values(texts), values[:, 0], rtol=0, atol=1e-6)
    rows = np.stack([policy.log_probs(texts, np.full(12, token)) for token in range(4)], axis=1)
    np.testing.assert_allclose(np.exp(rows).sum(1), 1, rtol=1e-6)
    expected = -(np.exp(rows) * rows).sum(1)
    np.testing.assert_allclose(entropy.detach(), expected, rtol=1e-5)
    step = policy.step(texts, np.random.default_rng(0), greedy=True)
    np.testing.assert_array_equal(step.actions, rows.argmax(1))
    np.testing.assert_allclose(step.log_probs, rows.max(1), rtol=1e-6)
    np.testing.assert_allclose(step.entropies, expected, rtol=1e-5)


def test_it_answers_observations_of_the_other_form() -> None:
    task = tiny_task(prompts=("a", "b a c", "c b"))
    tokens = np.arange(12) % 4
    texts, flat = observations(task), observations(task, obs="flat")
    for form in ("dict", "flat"):
        policy = moved(task, obs=form)
        found = policy.log_probs(texts, tokens)
        np.testing.assert_array_equal(policy.log_probs(flat, tokens), found)


def test_tokens_are_drawn_by_their_probabilities() -> None:
    task = tiny_task()
    policy = moved(task)
    text = {key: np.repeat(values[:1], 4000, axis=0) for key, values in observations(task).items()}
    drawn = policy.step(text, np.random.default_rng(0)).actions
    expected = np.exp([policy.log_probs(text, np.full(4000, token))[0] for token in range(4)])
    counts = np.bincount(drawn, minlength=4)
    error = np.sqrt(4000 * expected * (1 - expected))
    assert (np.abs(counts - 4000 * expected) < 4 * error + 1e-9).all()


def test_the_collector_plays_it_and_the_penalty_charges_it() -> None:
    task = tiny_task()
    policy = moved(task)
    played = Collector(KLPenalty(vector_env(task), policy=policy)).collect(policy, 64, seed=[0])
    assert (played.kl != 0).any()
    expected = policy.log_probs(
        {
            "input_ids": np.where(
                np.arange(played.input_ids.shape[1]) < played.prompt_lengths[:, None],
                played.input_ids,
                0,
            ),
            "attention_mask": (
                np.arange(played.input_ids.shape[1]) < played.prompt_lengths[:, None]
            ).astype(np.int8),
        },
        played.response_ids[:, 0],
    )
    np.testing.assert_allclose(played.log_probs[:, 0], expected, rtol=0, atol=1e-6)


def test_plain_sb3_takes_extractor_policy_and_environment() -> None:
    """No agent of this suite: what a user of SB3 would write."""
    task = tiny_task()
    with torch.random.fork_rng(devices=[]):
        model = PPO(
            "MultiInputPolicy",
            SB3VecEnv(vector_env(task)),
            n_steps=8,
            batch_size=32,
            policy_kwargs={"features_extractor_class": TokenEmbeddingExtractor},
            device="cpu",
        )
        before = [weight.clone() for weight in model.policy.parameters()]
        model.learn(128)
    after = model.policy.parameters()
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert len(model.ep_info_buffer or ()) > 10
