import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from textrl_benchmarks.leaderboard.result import Anchors, Result, Sample, summarise
from textrl_envs.errors import InvalidInputError

ANCHORS = Anchors(reference=0.25, optimum=0.75, kl_coefficient=0.1)


def sample(score: float = 1.0, **changes: Any) -> Sample:
    made = Sample(
        prompt_index=0,
        prompt="a",
        response="b",
        prompt_ids=(1,),
        response_ids=(2, 0),
        tokens=("b", "<eos>"),
        finish_reason="stop",
        score=score,
        log_probs=(-1.0, -0.5),
        ref_log_probs=(-2.0, -1.5),
    )
    return replace(made, **changes)


def test_the_kl_of_a_sample_is_the_sum_of_its_log_ratios() -> None:
    assert sample().kl == 2.0
    assert math.isnan(sample(log_probs=None).kl)
    assert math.isnan(sample(ref_log_probs=None).kl)
    assert sample(ref_log_probs=(None, -1.5)).kl == math.inf


def test_the_means_and_errors_are_those_of_the_samples() -> None:
    samples = [sample(0.0), sample(1.0, log_probs=(0.0, 0.0)), sample(0.5)]
    found = summarise(samples, ANCHORS, tokens=7)
    kls, scores = np.array([2.0, 3.5, 2.0]), np.array([0.0, 1.0, 0.5])
    returns = scores - 0.1 * kls
    assert (found.episodes, found.tokens, found.length) == (3, 7, 2.0)
    assert found.score == pytest.approx(0.5)
    assert found.score_error == pytest.approx(0.5 / math.sqrt(3))
    assert found.kl == pytest.approx(2.5)
    assert found.kl_error == pytest.approx(0.5)  # deviations −½, 1, −½: √(¾ / 3)
    assert found.regularised_return == pytest.approx(0.25)
    assert found.normalised_score == pytest.approx((returns.mean() - 0.25) / 0.5)
    error = returns.std(ddof=1) / math.sqrt(3)
    assert found.normalised_score_error == pytest.approx(error / 0.5)
    assert not found.is_off_reference


def test_the_shares_count_equal_responses() -> None:
    ids = [(2, 0), (2, 0), (3, 0), (2, 0), (4,)]
    found = summarise([sample(response_ids=one) for one in ids], ANCHORS, tokens=0)
    assert (found.distinct, found.commonest) == (3 / 5, 3 / 5)
    assert found.length == 9 / 5


def test_one_sample_off_the_reference_makes_the_kl_infinite() -> None:
    found = summarise([sample(), sample(ref_log_probs=(None, -1.0))], ANCHORS, tokens=0)
    assert found.is_off_reference
    unknown = (found.kl, found.kl_error, found.regularised_return, found.normalised_score)
    assert unknown == (None,) * 4
    assert found.normalised_score_error is None
    assert found.score == 1.0


def test_without_log_probs_there_is_a_score_alone() -> None:
    found = summarise([sample(log_probs=None, ref_log_probs=None)] * 2, ANCHORS, tokens=0)
    assert not found.is_off_reference
    assert found.score == 1.0
    assert found.kl is None
    assert found.normalised_score is None


def test_gold_is_known_where_every_sample_has_it() -> None:
    assert summarise([sample(gold=0.0), sample(gold=1.0)], ANCHORS, tokens=0).gold == 0.5
    assert summarise([sample(gold=0.0), sample()], ANCHORS, tokens=0).gold is None


def test_what_is_written_is_read_again() -> None:
    one = sample(gold=0.5, values=(0.1, 0.2), ref_log_probs=(None, -1.0))
    assert Sample.from_dict(one.as_dict()) == one
    listed = {k: list(v) if isinstance(v, tuple) else v for k, v in one.as_dict().items()}
    assert Sample.from_dict(listed) == one
    found = summarise([one, sample()], ANCHORS, tokens=3)
    assert Result.from_dict(found.as_dict()) == found


def test_a_standard_error_needs_two_samples() -> None:
    with pytest.raises(InvalidInputError, match="at least 2 samples; got 1"):
        summarise([sample()], ANCHORS, tokens=0)


def test_an_optimum_must_be_above_the_reference() -> None:
    with pytest.raises(InvalidInputError, match="nothing to learn"):
        summarise([sample()] * 2, replace(ANCHORS, optimum=0.25), tokens=0)
