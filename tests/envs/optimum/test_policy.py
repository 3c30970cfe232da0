"""The optimal policy as something that acts."""

from typing import Any

import numpy as np
import pytest

from tests.envs.optimum.enumeration import all_texts, random_task
from tests.envs.optimum.exact import task_of
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import optimum
from textrl_envs.task import Task


def observed(task: Task, prompt: int, response: Any, *, flat: bool) -> Any:
    """Returns the observation of a text, in a batch of one."""
    ids = task.prompts.token_ids[prompt, : task.prompts.lengths[prompt]]
    text = np.concatenate([ids, np.array(response, np.int64)])
    padding = task.max_tokens - len(text)
    if flat:
        return np.pad(text, (0, padding), constant_values=-1)[None]
    mask = np.pad(np.ones(len(text), np.int8), (0, padding))
    return {"input_ids": np.pad(text, (0, padding))[None], "attention_mask": mask[None]}


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("order", [2, 3])
def test_it_writes_every_response_as_often_as_the_closed_form_says(
    flat: bool, seed: int, order: int
) -> None:
    # π*(y) = π_ref(y) e^{(r(y) − V*) / β}
    task = random_task(seed, order=order, limit=3)
    solved = optimum(task)
    for prompt in range(len(task.prompts)):
        texts = all_texts(task, prompt)
        expected = np.log(texts.tilted(solved.kl_coefficient))
        for response, log_prob in zip(texts.responses[::7], expected[::7], strict=True):
            total = 0.0
            for place, token in enumerate(response):
                obs = observed(task, prompt, response[:place], flat=flat)
                total += float(solved.policy.log_probs(obs, np.array([token]))[0])
            assert total == pytest.approx(log_prob, abs=1e-9)


def test_its_values_are_what_the_rest_of_a_response_is_worth() -> None:
    # Of all responses that begin with a text: β log E_ref[e^{r/β} | text], r being paid at the end.
    task = random_task(1)
    solved, beta = optimum(task), task.kl_coefficient
    for prompt in range(len(task.prompts)):
        texts = all_texts(task, prompt)
        for beginning in [(), (2,), (3, 4), (2, 2, 3)]:
            is_on = np.array([r[: len(beginning)] == beginning for r in texts.responses])
            probs = texts.probs[is_on] / texts.probs[is_on].sum()
            expected = beta * np.log(probs @ np.exp(texts.scores[is_on] / beta))
            found = solved.policy.next_values(observed(task, prompt, beginning, flat=False))
            assert found[0] == pytest.approx(expected, abs=1e-9)


def test_the_advantage_is_the_log_ratio_times_the_coefficient() -> None:
    task = random_task(1)
    solved = optimum(task)
    assert task.load_reference is not None
    for response in [(), (3,), (2, 4, 4)]:
        obs = observed(task, 1, response, flat=False)
        advantages = solved.policy.advantages(obs)
        ratio = solved.policy.next_log_probs(obs) - task.load_reference().next_log_probs(obs)
        np.testing.assert_allclose(advantages, task.kl_coefficient * ratio, rtol=0, atol=1e-9)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("response", [(1,), (3, 1), (2, 2, 2, 2), (2, 2, 2, 1)])
def test_a_text_that_has_ended_is_worth_nothing_and_gives_a_distribution(
    flat: bool, response: tuple[int, ...]
) -> None:
    task = random_task(1)
    policy, obs = optimum(task).policy, observed(task, 0, response, flat=flat)
    assert policy.next_values(obs)[0] == 0
    assert not policy.advantages(obs).any()
    assert np.exp(policy.next_log_probs(obs)).sum() == pytest.approx(1, abs=1e-9)


def test_rows_of_a_batch_do_not_hang_on_each_other() -> None:
    task = random_task(2)
    policy = optimum(task).policy
    rows = [(0, ()), (1, (3, 4)), (2, (2, 1)), (0, (4, 4, 4)), (2, (3, 3, 3, 3))]
    alone = [observed(task, *row, flat=True) for row in rows]
    together = np.concatenate(alone)
    for ask in (policy.next_values, policy.next_log_probs, policy.advantages):
        expected = np.concatenate([ask(obs) for obs in alone])
        np.testing.assert_array_equal(ask(together), expected)


def test_acting_follows_the_distribution() -> None:
    task = random_task(0)
    policy = optimum(task).policy
    obs = np.repeat(observed(task, 1, (3,), flat=True), 4000, axis=0)
    actions = policy.act(obs, np.random.default_rng(0))
    found = np.bincount(actions, minlength=5) / 4000
    expected = np.exp(policy.next_log_probs(obs)[0])
    assert np.all(np.abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000) + 1e-9)
    assert policy.vocabulary_size == 5
    policy.forget()


def test_the_likeliest_tokens_of_the_optimum_earn_the_best_score() -> None:
    task = task_of("textrl/Passcode-v0")
    policy, response = optimum(task).policy, list[int]()
    for _ in range(4):
        log_probs = policy.next_log_probs(observed(task, 0, response, flat=True))
        response.append(int(log_probs.argmax()))
    assert task.tokenizer.decode(response) == "3 1 4 1"


def test_a_text_that_the_reference_cannot_write_is_refused() -> None:
    task = random_task(3, keep=2)
    policy = optimum(task).policy
    possible = np.isfinite(policy.next_log_probs(observed(task, 0, (), flat=True)))[0]
    impossible = next(t for t in range(2, 5) if not possible[t])
    for response in [(impossible,), (impossible, 2, 2)]:
        with pytest.raises(InvalidInputError, match="texts that the reference can write"):
            policy.next_values(observed(task, 0, response, flat=True))
