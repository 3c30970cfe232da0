import itertools
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import textrl_envs  # noqa: F401 - registers the ids
from tests.agents.tiny import Floats, ngram_of, score_of, tiny_task, vector_env
from tests.benchmarks.leaderboard.one_cell import agent_file
from textrl_benchmarks.leaderboard.result import Sample
from textrl_benchmarks.leaderboard.running.contestants import Contestant, make_contestant
from textrl_benchmarks.leaderboard.running.play import play
from textrl_benchmarks.leaderboard.running.run_cell import anchors_of
from textrl_benchmarks.leaderboard.samples import rounded
from textrl_envs.environments.proxy_reward import gold_automaton
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import optimum

SEED = [0, 4]


def made(env_id: str, entry: str, **settings: Any) -> tuple[Contestant, Any]:
    envs = gym.make_vec(env_id, num_envs=32)
    return make_contestant(entry, envs, **settings), envs


def samples_of(env_id: str, entry: str, *, episodes: int = 96, **settings: Any) -> list[Sample]:
    contestant, envs = made(env_id, entry, **settings)
    return play(contestant, envs, episodes=episodes, seed=SEED)


def per_token(samples: list[Sample], name: str) -> Floats:
    return np.concatenate([getattr(sample, name) for sample in samples])


def numbers(column: tuple[float | None, ...] | None) -> Floats:
    return np.array(column, np.float64)


def test_a_sample_is_an_episode_as_the_environment_played_it() -> None:
    task = tiny_task()
    envs = vector_env(task, 8)
    samples = play(make_contestant("reference", envs), envs, episodes=50, seed=SEED)
    table = task.prompts
    for one in samples:
        assert one.prompt == table.texts[one.prompt_index]
        assert one.prompt_ids == tuple(table.token_ids[one.prompt_index][: len(one.prompt_ids)])
        assert len(one.prompt_ids) == table.lengths[one.prompt_index]
        assert one.score == score_of(task, one.prompt_index, one.response_ids)
        assert one.tokens == tuple(["<eos>", "a", "b", "c"][token] for token in one.response_ids)
        assert one.response.split() == [word for word in one.tokens if word != "<eos>"]
        assert one.finish_reason == ("stop" if one.response_ids[-1] == 0 else "length")
        assert (one.values, one.advantages, one.gold) == (None, None, None)
    # Every prompt as often as any other.
    assert sum(one.prompt_index for one in samples) == 25


def test_log_probs_of_the_reference_are_looked_up_in_the_table() -> None:
    task = tiny_task()
    table = ngram_of(task).table
    envs = vector_env(task, 8)
    for entry in ("reference", "null_uniform", "optimum"):
        for one in play(make_contestant(entry, envs), envs, episodes=20, seed=SEED):
            text = [one.prompt_ids[-1], *one.response_ids]
            expected = [table[a, b] for a, b in itertools.pairwise(text)]
            np.testing.assert_allclose(numbers(one.ref_log_probs), expected, rtol=1e-5)
            if entry == "reference":
                assert one.log_probs == one.ref_log_probs
                assert one.kl == 0


def test_the_optimum_always_gets_what_it_expects() -> None:
    """Every episode returns V*(x) exactly, so that every advantage is 0."""
    contestant, envs = made("textrl/SumVerify-v0", "optimum")
    samples = play(contestant, envs, episodes=120, seed=SEED)
    best = optimum(envs)
    for one in samples:
        returned = one.score - best.kl_coefficient * one.kl
        assert returned == pytest.approx(best.values[one.prompt_index], abs=1e-5)
        assert one.values is not None
        assert one.values[0] == pytest.approx(best.values[one.prompt_index], abs=1e-5)
    assert np.abs(per_token(samples, "advantages")).max() < 1e-5


def test_advantages_are_returns_to_go_less_values() -> None:
    contestant, envs = made("textrl/Parity-v0", "ppo", settings={"episodes_per_batch": 64})
    contestant.learn(envs, 1500)
    beta = envs.unwrapped.kl_coefficient
    for one in play(contestant, envs, episodes=64, seed=SEED):
        assert one.values is not None
        assert one.advantages is not None
        ratios = numbers(one.log_probs) - numbers(one.ref_log_probs)
        to_go = one.score - beta * ratios[::-1].cumsum()[::-1]
        np.testing.assert_allclose(one.advantages, to_go - one.values, atol=2e-5)


def test_values_are_unknown_where_none_were_learnt() -> None:
    settings = {"episodes_per_batch": 64}
    contestant, envs = made("textrl/Parity-v0", "reinforce", settings=settings)
    contestant.learn(envs, 1000)
    samples = play(contestant, envs, episodes=32, seed=SEED)
    assert all(one.values is None and one.advantages is None for one in samples)
    assert any(one.kl != 0 for one in samples)


def test_a_table_is_worth_what_is_computed_exactly() -> None:
    contestant, envs = made("textrl/Parity-v0", "ppo", policy="table")
    policy: Any = contestant.policy
    with torch.no_grad():
        policy.table.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    exact, samples = policy.exact(), play(contestant, envs, episodes=2000, seed=SEED)
    for expected, found in (
        (exact.kls.mean(), [one.kl for one in samples]),
        (exact.rewards.mean(), [one.score for one in samples]),
    ):
        assert abs(np.mean(found) - expected) < 4 * np.std(found) / math.sqrt(2000)


@pytest.mark.parametrize("entry", ["null_empty", "null_constant", "null_repeat", "null_uniform"])
def test_what_the_reference_never_says_is_off_the_reference(entry: str) -> None:
    """TinyGPT-v0 keeps three tokens of its reference. No warning is given: they would be errors."""
    samples = samples_of("textrl/TinyGPT-v0", entry)
    assert any(one.kl == math.inf for one in samples)
    for one in samples:
        assert one.ref_log_probs is not None
        assert (None in one.ref_log_probs) == (one.kl == math.inf)
        assert one.advantages is None


def test_the_reference_and_the_optimum_stay_on_a_reference_that_keeps_three_tokens() -> None:
    for entry in ("reference", "optimum"):
        assert all(one.kl < math.inf for one in samples_of("textrl/TinyGPT-v0", entry))


def test_gold_is_what_readers_like() -> None:
    samples = samples_of("textrl/ProxyReward-v0", "reference")
    gold = gold_automaton()
    for one in samples:
        state = 0
        for token in one.response_ids:
            state = int(gold.transitions[state, token])
        assert one.gold == gold.scores[state]
    assert len({one.gold for one in samples}) > 3
    assert samples[0].gold != samples[0].score


def test_noise_is_in_the_score() -> None:
    scores = {one.score for one in samples_of("textrl/Noisy-v0", "null_empty")}
    assert sorted(scores) == pytest.approx([-1 / 3, 4 / 3])


def test_samples_come_as_they_are_stored() -> None:
    samples = samples_of("textrl/Imitate-v0", "optimum")
    assert [rounded(one) for one in samples] == samples


def test_anchors_are_exact() -> None:
    envs = gym.make_vec("textrl/Keyword-v0", num_envs=2)
    anchors, best = anchors_of(envs, "Keyword"), optimum(envs)
    assert anchors.reference == best.reference_value
    assert anchors.optimum == best.value
    assert anchors.kl_coefficient == 0.1


# --- agents of another kind ---

SPEAKER = """
import numpy as np
from textrl_agents import TrainingLog

class Speaker:
    answer, value = 0.0, None

    @classmethod
    def make(cls, envs, *, seed, device):
        return cls()

    def act(self, obs):
        return np.full(len(obs["input_ids"]), 1)

    def learn(self, envs, *, total_tokens, progress=None):
        return TrainingLog()

class Silent(Speaker):
    pass

class Certain(Speaker):
    def log_probs(self, obs, actions):
        return np.full(len(actions), self.answer)

class Expecting(Certain):
    def next_values(self, obs):
        return np.full(len(obs["input_ids"]), 0.25)

class Impossible(Certain):
    answer = -np.inf

class Boasting(Certain):
    answer = 0.7

class Lost(Certain):
    answer = np.nan

class Misshapen(Certain):
    def log_probs(self, obs, actions):
        return np.zeros((len(actions), 1))
"""


def spoken(folder: Path, name: str) -> list[Sample]:
    envs = vector_env(tiny_task(), 4)
    contestant = make_contestant(agent_file(folder, SPEAKER, name), envs)
    return play(contestant, envs, episodes=10, seed=SEED)


def test_without_log_probs_the_kl_is_unknown(tmp_path: Path) -> None:
    for one in spoken(tmp_path, "Silent"):
        assert (one.log_probs, one.ref_log_probs, one.values, one.advantages) == (None,) * 4
        assert one.response_ids == (1, 1, 1)


def test_an_agent_may_tell_what_it_expects(tmp_path: Path) -> None:
    for one in spoken(tmp_path, "Expecting"):
        assert one.values == (0.25,) * 3
        assert one.advantages is not None
        assert one.advantages[0] == pytest.approx(one.score - 0.3 * one.kl - 0.25, abs=1e-5)
    assert all(one.values is None for one in spoken(tmp_path, "Certain"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Impossible", "log-probability -inf"),
        ("Boasting", r"log-probability 0\.7"),
        ("Lost", "log-probability nan"),
        ("Misshapen", r"log_probs must return one number .* shape \(4,\); got \(4, 1\)"),
    ],
)
def test_log_probs_that_cannot_be_are_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        spoken(tmp_path, name)
