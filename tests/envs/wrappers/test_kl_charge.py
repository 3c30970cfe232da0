"""What both KL wrappers share: the coefficient, the price of whole episodes, the errors."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models import NGramModel
from textrl_envs.wrappers import AdaptiveCoefficient
from textrl_envs.wrappers.kl_charge import KLCharge

NO_ENV = SimpleNamespace()


def bigram(seed: int, size: int = 32) -> NGramModel:
    rows = np.random.default_rng(seed).dirichlet(np.full(size, 0.5), size=size)
    return NGramModel(np.log(0.99 * rows + 0.01 / size))


def charge(**changes: Any) -> KLCharge:
    options: dict[str, Any] = {
        "policy": bigram(0),
        "reference": bigram(1),
        "coefficient": 0.5,
        "env": NO_ENV,
        "vocabulary_size": 32,
    }
    return KLCharge(**options | changes)


def beta(**changes: Any) -> AdaptiveCoefficient:
    options: dict[str, Any] = {"value": 0.1, "target": 6.0, "horizon": 1000.0, "batch_size": 4}
    return AdaptiveCoefficient(**options | changes)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        ([6.0, 6.0, 6.0, 6.0], 0.1),  # on target
        ([6.6, 6.6, 6.6, 6.6], 0.1 * (1 + 0.1 * 4 / 1000)),
        ([5.4, 5.4, 5.4, 5.4], 0.1 * (1 - 0.1 * 4 / 1000)),
        ([3.0, 9.0, 6.0, 8.4], 0.1 * (1 + 0.1 * 4 / 1000)),  # the mean counts: 6.6
        ([60.0, 60.0, 60.0, 60.0], 0.1 * (1 + 0.2 * 4 / 1000)),  # clipped
        ([-9.0, 0.0, 0.0, 0.0], 0.1 * (1 - 0.2 * 4 / 1000)),  # a sample of a KL may be negative
    ],
)
def test_the_coefficient_follows_the_formula(kl: list[float], expected: float) -> None:
    coefficient = beta()
    coefficient.observe(np.array(kl))
    assert coefficient.value == pytest.approx(expected, rel=1e-12)


def test_nothing_changes_before_a_batch_is_full() -> None:
    coefficient = beta()
    coefficient.observe(np.array([60.0, 60.0, 60.0]))
    assert coefficient.value == 0.1
    coefficient.observe(np.array([-154.0]))  # the mean of all four is 6.5
    assert coefficient.value == pytest.approx(0.1 * (1 + 0.5 / 6 * 4 / 1000), rel=1e-12)


def test_it_does_not_matter_how_episodes_are_grouped() -> None:
    # Step by step they end one by one; a collector tells of all at once.
    episodes = np.random.default_rng(0).uniform(0, 12, size=24)
    at_once, one_by_one = beta(horizon=10.0), beta(horizon=10.0)
    at_once.observe(episodes)
    for episode in episodes:
        one_by_one.observe(np.array([episode]))
    assert at_once.value == pytest.approx(one_by_one.value, rel=1e-12)


def test_a_clip_of_its_own_is_kept() -> None:
    coefficient = beta(clip=0.05)
    coefficient.observe(np.full(4, 60.0))
    assert coefficient.value == pytest.approx(0.1 * (1 + 0.05 * 4 / 1000), rel=1e-12)


def test_a_state_goes_on_where_it_was_taken() -> None:
    first = beta()
    first.observe(np.array([9.0, 9.0]))
    second = beta(value=7.0)
    second.set_state(first.state())
    for coefficient in (first, second):
        coefficient.observe(np.array([9.0, 3.0]))
    assert first.value == second.value != 0.1


@pytest.mark.parametrize("name", ["value", "target", "horizon", "clip", "batch_size"])
@pytest.mark.parametrize("number", [0, -1, float("nan")])
def test_numbers_must_be_positive(name: str, number: float) -> None:
    with pytest.raises(
        InvalidInputError, match=f"{name} must be positive and finite; got {number}"
    ):
        beta(**{name: number})


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({"batch_size": 64, "horizon": 10.0}, "12.8"),
        ({"clip": 0.5, "batch_size": 20, "horizon": 10.0}, "10"),  # it would be 0
        ({"clip": 3.0, "batch_size": 4, "horizon": 11.0}, "12"),
    ],
)
def test_a_coefficient_that_could_fall_to_zero_is_refused(
    changes: dict[str, Any], bound: str
) -> None:
    message = (
        rf"horizon must be more than clip · batch_size = {bound}, .*; got {changes['horizon']:g}"
    )
    with pytest.raises(InvalidInputError, match=message):
        beta(**changes)


def test_a_coefficient_stays_positive_however_small_the_kl() -> None:
    coefficient = beta(horizon=0.81)
    coefficient.observe(np.full(400, -100.0))
    assert 0 < coefficient.value < 1e-9


def test_a_fixed_coefficient_stays() -> None:
    fixed = charge(coefficient=0.25)
    fixed.observe(np.full(1000, 60.0))
    assert fixed.coefficient == 0.25
    assert fixed.adaptive is None


def test_an_adaptive_coefficient_is_the_price_as_it_stands() -> None:
    coefficient = beta()
    adaptive = charge(coefficient=coefficient)
    assert adaptive.adaptive is coefficient
    adaptive.observe(np.full(4, 60.0))
    assert adaptive.coefficient == coefficient.value > 0.1


def test_the_log_ratio_is_that_of_the_action_and_zero_where_none_is_taken() -> None:
    policy, reference = bigram(0), bigram(1)
    obs, actions = np.array([[3, 4], [5, -1], [6, 7]]), np.array([8, 9, 10])
    found = charge().log_ratio(obs, actions, np.array([True, True, False]))
    expected = [policy.table[c, a] - reference.table[c, a] for c, a in ((4, 8), (5, 9))]
    np.testing.assert_allclose(found, [*expected, 0.0], rtol=1e-12)


def test_the_penalty_of_whole_episodes_is_that_of_each_response_token() -> None:
    policy, reference = bigram(0), bigram(1)
    episodes: Any = SimpleNamespace(
        input_ids=np.array([[3, 4, 5, 6, 0], [7, 8, 9, 0, 0]]),
        attention_mask=np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], np.int8),
        prompt_lengths=np.array([1, 2]),
        response_mask=np.array([[True, True, True], [True, False, False]]),
        log_probs=np.array(
            [
                [policy.table[3, 4], policy.table[4, 5], policy.table[5, 6]],
                [policy.table[8, 9], 0.0, 0.0],
            ]
        ),
    )
    ref_log_probs = np.array(
        [
            [reference.table[3, 4], reference.table[4, 5], reference.table[5, 6]],
            [reference.table[8, 9], 0.0, 0.0],
        ]
    )
    whole = charge()
    np.testing.assert_allclose(whole.reference_log_probs(episodes), ref_log_probs, rtol=1e-12)
    np.testing.assert_allclose(
        whole.penalties(episodes), 0.5 * (episodes.log_probs - ref_log_probs), rtol=1e-12
    )


def test_reference_and_coefficient_come_from_the_environment_unless_given() -> None:
    env = SimpleNamespace(reference=bigram(2), kl_coefficient=0.75)
    own = charge(env=env, reference=None, coefficient=None)
    assert own.reference is env.reference
    assert own.coefficient == 0.75
    given = charge(env=env, coefficient=0.0)
    assert given.reference is not env.reference
    assert given.coefficient == 0.0


def test_no_reference_is_refused() -> None:
    for env in (NO_ENV, SimpleNamespace(reference=None)):
        with pytest.raises(
            InvalidInputError, match="needs a reference and the environment carries"
        ):
            charge(reference=None, env=env)


def test_no_coefficient_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="KLPenalty needs a coefficient; give"):
        charge(coefficient=None)


def test_the_policy_cannot_be_its_own_reference() -> None:
    model = bigram(0)
    with pytest.raises(InvalidInputError, match="The policy cannot be its own reference"):
        charge(policy=model, reference=model)
    with pytest.raises(InvalidInputError, match="The policy cannot be its own reference"):
        charge(policy=model, reference=None, env=SimpleNamespace(reference=model))


@pytest.mark.parametrize("coefficient", [-0.1, float("nan"), float("inf")])
def test_a_coefficient_that_is_no_price_is_refused(coefficient: float) -> None:
    with pytest.raises(InvalidInputError, match=f"finite number of 0 or more; got {coefficient}"):
        charge(coefficient=coefficient)


@pytest.mark.parametrize("name", ["policy", "reference"])
def test_another_vocabulary_is_refused(name: str) -> None:
    message = f"vocabularies do not match: the environment has 32 tokens, the {name} 31"
    with pytest.raises(InvalidInputError, match=message):
        charge(**{name: bigram(3, size=31)})


def without(token: int, seed: int) -> NGramModel:
    """Returns a model that never gives the token."""
    rows = np.exp(bigram(seed).table)
    rows[:, token] = 0
    with np.errstate(divide="ignore"):
        return NGramModel(np.log(rows / rows.sum(axis=1, keepdims=True)))


@pytest.mark.parametrize("impossible_for", ["reference", "policy", "both"])
def test_a_penalty_that_is_not_finite_is_refused(impossible_for: str) -> None:
    obs, actions = np.array([[3], [4]]), np.array([8, 9])
    policy = bigram(0) if impossible_for == "reference" else without(8, 0)
    reference = bigram(1) if impossible_for == "policy" else without(8, 1)
    strict = charge(policy=policy, reference=reference)
    with pytest.raises(InvalidInputError, match="The KL penalty is not finite"):
        strict.log_ratio(obs, actions)


def test_a_row_that_does_not_act_may_be_given_an_action_that_nobody_takes() -> None:
    strict = charge(policy=without(8, 0), reference=without(8, 1))
    ratio = strict.log_ratio(np.array([[3], [4]]), np.array([8, 9]), np.array([False, True]))
    assert ratio[0] == 0.0
    assert ratio[1] != 0.0
