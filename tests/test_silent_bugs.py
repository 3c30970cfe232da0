"""Bugs that train without complaint: each is put into the real code, and an instrument finds it.

The numbers are what the instrument finds at the least where the code is broken; where it is right,
it finds no more than its tolerance (`tests/instruments.py`), 1e-9 in float64 and 2e-5 in float32.
Returns and residuals are in units of the score, gradients relative, means in standard errors.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests import injections, instruments
from tests.instruments import OffError, check_constant_return, cut_task, solve_all

Inject = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, slots=True)
class Bug:
    """A mistake and what finds it."""

    inject: Inject
    instrument: Callable[[], None]
    at_least: float
    """The instrument finds an error larger than this."""

    def __str__(self) -> str:
        return f"{self.inject.__name__}-caught_by_{self.instrument.__name__}"


BUGS = [
    Bug(bug, instrument, at_least)
    for instrument, bugs in {
        instruments.the_constant_return: [
            (injections.the_reference_scores_stand_one_column_early, 0.5),
            (injections.every_response_is_taken_to_begin_where_the_longest_prompt_ends, 0.5),
            (injections.the_noted_log_probs_are_without_the_temperature, 0.3),
            (injections.eos_is_left_out_of_the_kl, 0.5),
            (injections.padding_is_charged_kl, 0.8),
            (injections.the_kl_has_the_wrong_sign, 2.0),
            (injections.k2_is_charged, 4.0),
            (injections.k3_is_charged, 50.0),
            (injections.the_size_of_k1_is_charged, 2.0),
            (injections.the_kl_is_a_mean_over_tokens, 0.6),
            (injections.a_mask_made_of_ids_hides_eos, 0.5),
        ],
        instruments.the_constant_return_step_by_step: [
            (injections.eos_is_left_out_of_the_kl_of_a_step, 0.5),
            (injections.the_dead_step_of_autoreset_is_charged_kl, 0.2),
        ],
        instruments.the_td_residuals: [
            (injections.the_limit_truncates, 0.03),
            (injections.the_score_is_paid_after_eos, 1.5),
            (injections.advantages_are_discounted, 0.015),
        ],
        instruments.the_equal_worth_of_all_lengths: [
            (injections.rewards_are_whitened_but_keep_their_mean, 0.02),
        ],
        instruments.the_mean_score_of_the_reference: [
            (injections.the_penalty_for_missing_eos_is_forgotten, 100.0),
        ],
        instruments.the_mean_return_of_a_policy: [
            (injections.sampling_has_a_temperature_of_its_own, 6.0),
        ],
        instruments.the_sum_of_all_probabilities: [
            (injections.a_token_is_read_from_its_own_hidden_state, 0.5),
        ],
        instruments.the_same_text_padded_on_the_left: [
            (injections.padding_on_the_left_counts_as_text, 1.0),
        ],
        instruments.the_equality_of_two_forwards: [
            (injections.dropout_is_on, 0.1),
        ],
        instruments.the_first_ratio: [
            (injections.positions_are_left_to_the_model, 0.5),
            (injections.the_cache_shows_what_longer_rows_wrote, 0.05),
            (injections.training_forgets_the_temperature, 0.3),
            (injections.the_old_log_probs_are_those_of_the_reference, 2.0),
        ],
        instruments.the_later_ratios: [
            (injections.the_old_log_probs_are_computed_before_every_step, 0.9),
        ],
        instruments.the_weights_of_the_reference: [
            (injections.the_reference_is_the_policy_itself, 0.05),
        ],
        instruments.the_scores_one_by_one: [
            (injections.a_mask_made_of_ids_hides_eos, 2.0),
            (injections.the_reward_never_sees_eos, 1.0),
        ],
        instruments.the_enumerated_gradient_of_reinforce: [
            (injections.eos_is_left_out_of_the_loss, 1.0),
            (injections.k3_is_charged, 0.3),
            (injections.returns_are_discounted, 0.005),
            (injections.the_baseline_is_the_value_after_the_action, 1.0),
        ],
        instruments.the_enumerated_gradient_of_ppo: [
            (injections.eos_is_left_out_of_the_loss, 1.0),
            (injections.advantages_are_discounted, 0.005),
        ],
        instruments.the_enumerated_gradient_of_pairs: [
            (injections.the_mean_of_the_group_holds_the_episode_itself, 0.49),
        ],
        instruments.the_enumerated_gradient_with_a_memory: [
            (injections.the_running_mean_holds_the_newest_batch, 0.49),
        ],
        instruments.the_gradient_in_micro_batches: [
            (injections.micro_batches_are_averaged_by_a_mean_of_means, 0.1),
        ],
        instruments.the_gradient_with_more_padding: [
            (injections.advantages_are_whitened_over_padding, 0.1),
        ],
    }.items()
    for bug, at_least in bugs
]
INSTRUMENTS = list(dict.fromkeys(bug.instrument for bug in BUGS))


@pytest.fixture(scope="module", autouse=True)
def _solved() -> None:
    """The optima are found before anything is broken."""
    solve_all()


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda x: x.__name__)
def test_the_instrument_passes_on_the_code_as_it_is(instrument: Callable[[], None]) -> None:
    instrument()


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_a_silent_bug_is_caught(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug.inject(monkeypatch)
    with pytest.raises(OffError) as found:
        bug.instrument()
    assert found.value.error > bug.at_least


def test_a_forgotten_penalty_escapes_the_constant_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """π* never misses EOS, so that its returns cannot tell: hence the reference is rolled out."""
    injections.the_penalty_for_missing_eos_is_forgotten(monkeypatch)
    check_constant_return(cut_task())


def test_another_unit_of_the_reward_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whitening with its mean is caught for the mean alone."""
    injections.rewards_are_only_scaled(monkeypatch)
    instruments.the_equal_worth_of_all_lengths()
