"""audit(folder): what is stored is computed again, without training, and every difference is named.

Hashes and formats as `validate`; then every sample's text, score and reference log-probabilities
from its tokens; the result from the samples; the board from the results. Log-probabilities of the
agent cannot be computed again without it: `honesty` tests whether they can be true.

docs/leaderboard.md says what an audit cannot see.
"""

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from textrl_benchmarks.leaderboard.cell import Cell, canonical_json
from textrl_benchmarks.leaderboard.result import Anchors, Sample, summarise
from textrl_benchmarks.leaderboard.running.play import ROUNDING
from textrl_benchmarks.leaderboard.running.run_cell import MOST
from textrl_benchmarks.leaderboard.verification.audit_suite import audit_suite
from textrl_benchmarks.leaderboard.verification.findings import Findings, differences
from textrl_benchmarks.leaderboard.verification.honesty import (
    LIMIT,
    frequency_log_ratios,
    log_wealth,
    rounding_room,
)
from textrl_benchmarks.leaderboard.verification.judge import Judge, Verdict
from textrl_benchmarks.leaderboard.verification.validate import (
    StoredCell,
    cell_folders,
    opened,
    read_cell,
    read_suite_of,
)
from textrl_envs.errors import InvalidInputError

__all__ = ["audit"]

Floats = NDArray[np.float64]

SCORE_TOLERANCE = 1e-6
"""Relative, and absolute below 1: a learnt reward's float32 depends on who is scored with whom."""
LOG_PROB_TOLERANCE = 1e-4
"""In nats, and of the number above 1: six digits are stored, and a reference may be float32."""


def audit(path: Path) -> Findings:
    """Checks a cell's folder, a suite's folder, or a submission.

    Raises:
        InvalidInputError: it is none of them, or has no cells.
    """
    findings, judges = Findings(), _Judges()
    with opened(path) as folder:
        suite = read_suite_of(folder, findings)
        cells = []
        for one in sorted(cell_folders(folder, findings), key=_environment):
            stored = read_cell(one, findings, "" if one == folder else one.name)
            if stored.cell is not None and not stored.is_failed:
                _audit_cell(stored, stored.cell, judges, findings)
            stored.samples = None  # of all cells they would fill the memory
            cells.append(stored)
        if not cells:
            raise InvalidInputError(
                f"{path} holds no cells, so there is nothing to compute again. Give the folder of "
                "the run that a board was made of."
            )
        if suite is not None:
            audit_suite(suite, folder, cells, findings)
    return findings


def _environment(folder: Path) -> str:
    """Returns what the specs of an environment's cells have in common: one is made at a time."""
    try:
        spec = json.loads((folder / "spec.json").read_text("utf-8"))
    except (OSError, ValueError):  # a finding of `read_cell`
        return ""
    return str([spec.get("env_id"), spec.get("env_parameters")]) if isinstance(spec, dict) else ""


class _Judges:
    """The environment that was asked for last, and the prompts that seeds decided."""

    def __init__(self) -> None:
        self._key = b""
        self._judge: Judge | None = None
        self._orders: dict[bytes, list[int]] = {}

    def of(self, cell: Cell) -> Judge:
        key = canonical_json([cell.env_id, cell.env_parameters, cell.num_envs])
        if self._judge is None or key != self._key:
            self._judge, self._key = Judge(cell), key
        return self._judge

    def prompt_order(self, cell: Cell) -> list[int]:
        key = canonical_json([cell.env_id, cell.env_parameters, cell.seed, cell.eval_episodes])
        if key not in self._orders:
            self._orders[key] = self.of(cell).prompt_order(cell)
        return self._orders[key]


def _audit_cell(stored: StoredCell, cell: Cell, judges: _Judges, findings: Findings) -> None:
    file = stored.file("spec.json")
    try:
        judge = judges.of(cell)
    except InvalidInputError as error:
        findings.add(file, "env_id", "an environment that can be made here", str(error))
        return
    findings.count("fingerprints")
    if not findings.expect(file, "env_sha256", cell.env_sha256, judge.fingerprint):
        findings.notes.append(f"{file}: made by another version of {cell.env_id}; not re-scored")
        return
    _check_curve(stored, cell, judge, findings)
    if stored.samples is not None:
        _check_samples(stored, stored.samples, cell, judges, findings)
    if stored.samples is not None and stored.result is not None:
        _check_result(stored, stored.samples, cell, judge, findings)


# --- samples ---


def _check_samples(
    stored: StoredCell, samples: list[Sample], cell: Cell, judges: _Judges, findings: Findings
) -> None:
    file, judge = stored.file("eval.jsonl.gz"), judges.of(cell)
    if findings.expect(file, "episodes", cell.eval_episodes, len(samples)):
        for i, prompt in enumerate(judges.prompt_order(cell)):
            findings.expect(file, f"line {i + 1}, prompt_index", prompt, samples[i].prompt_index)
    known = [i for i, one in enumerate(samples) if _is_known(one, judge, file, i + 1, findings)]
    if not known:
        return
    kept = [samples[i] for i in known]
    verdict = judge.judge(kept)
    is_whole = _check_ends(kept, known, verdict, file, findings)
    paid = verdict.scores
    if judge.task.noise is not None and is_whole and len(kept) == cell.eval_episodes:
        paid = judge.noisy_scores(cell, [one.response_ids for one in kept])
    for row, (i, sample) in enumerate(zip(known, kept, strict=True)):
        findings.count("responses scored again")
        for place, expected, found in (
            *_texts(sample, judge),
            *_scores(sample, float(paid[row]), verdict, row),
            *_log_probs(sample, verdict.ref_log_probs[row]),
            *_advantages(sample, judge.anchors.kl_coefficient),
        ):
            findings.add(file, f"line {i + 1}, {place}", expected, found)
    _check_honesty(kept, verdict, judge, file, findings)


def _is_known(sample: Sample, judge: Judge, file: str, line: int, findings: Findings) -> bool:
    """Tells whether the environment has such a prompt and such tokens."""
    count, size = len(judge.task.prompts), judge.task.vocabulary_size
    if sample.prompt_index >= count:
        findings.add(file, f"line {line}, prompt_index", f"0..{count - 1}", sample.prompt_index)
    elif max(sample.response_ids) >= size:
        findings.add(file, f"line {line}, response_ids", f"0..{size - 1}", max(sample.response_ids))
    else:
        return True
    return False


def _check_ends(
    samples: Sequence[Sample], known: Sequence[int], verdict: Verdict, file: str, findings: Findings
) -> bool:
    """Checks where each text ended and why; tells whether all ended with their last tokens."""
    is_whole = True
    for i, sample, end, reason in zip(known, samples, verdict.ends, verdict.reasons, strict=True):
        if end != len(sample.response_ids):
            is_whole = False
            expected = f"an end after {end} tokens" if end else "an end"
            found = f"{len(sample.response_ids)} tokens"
            findings.add(file, f"line {i + 1}, response_ids", expected, found)
        elif sample.finish_reason != reason:
            findings.add(file, f"line {i + 1}, finish_reason", reason, sample.finish_reason)
    return is_whole


Differences = Iterator[tuple[str, object, object]]
"""Field, expected, found."""


def _texts(sample: Sample, judge: Judge) -> Differences:
    table, index = judge.task.prompts, sample.prompt_index
    ids = tuple(table.token_ids[index, : table.lengths[index]].tolist())
    for name, expected in (
        ("prompt", table.texts[index]),
        ("prompt_ids", ids),
        ("response", judge.text(sample.response_ids)),
        ("tokens", tuple(judge.words[token] for token in sample.response_ids)),
    ):
        if getattr(sample, name) != expected:
            yield name, expected, getattr(sample, name)


def _scores(sample: Sample, paid: float, verdict: Verdict, row: int) -> Differences:
    if math.isnan(verdict.scores[row]):
        return  # of a text that did not end, which is named already
    gold = None if verdict.gold is None else float(verdict.gold[row])
    for name, expected in (("score", paid), ("gold", gold)):
        found = getattr(sample, name)
        is_equal = expected is found is None
        if expected is not None and found is not None:
            is_equal = math.isclose(
                expected, found, rel_tol=SCORE_TOLERANCE, abs_tol=SCORE_TOLERANCE
            )
        if not is_equal:
            yield name, expected, found


def _log_probs(sample: Sample, expected: Floats) -> Differences:
    if (sample.log_probs is None) != (sample.ref_log_probs is None):
        yield "ref_log_probs", "known where log_probs are, and only there", sample.ref_log_probs
    if sample.log_probs is not None and max(sample.log_probs) > ROUNDING:
        yield "log_probs", "at most 0", max(sample.log_probs)
    found = sample.ref_log_probs
    if found is None or len(found) != len(expected):
        return
    stored = np.array([-np.inf if one is None else one for one in found])
    if not _are_close(stored, expected):
        is_close = np.isclose(stored, expected, LOG_PROB_TOLERANCE, LOG_PROB_TOLERANCE)
        worst = int(np.argmin(is_close))
        yield f"token {worst + 1}, ref_log_probs", float(expected[worst]), found[worst]


def _advantages(sample: Sample, beta: float) -> Differences:
    """What was still to be paid, less what was expected: it follows from the other numbers."""
    if sample.advantages is None:
        is_known = sample.values is not None and sample.log_probs is not None
        if is_known and None not in (sample.ref_log_probs or (None,)):
            yield "advantages", "numbers, as all they follow from is known", None
        return
    known = [one for one in sample.ref_log_probs or () if one is not None]
    is_known = len(known) == len(sample.response_ids)
    if sample.values is None or sample.log_probs is None or not is_known:
        yield "advantages", "null, as not all they follow from is known", sample.advantages
        return
    rewards = -beta * (np.array(sample.log_probs) - np.array(known))
    rewards[-1] += sample.score
    expected = np.cumsum(rewards[::-1])[::-1] - np.array(sample.values)
    found = np.array(sample.advantages)
    room = beta * rounding_room((*sample.log_probs, *known))
    if not _are_close(found, expected, room):
        worst = int(np.argmax(np.abs(found - expected)))
        yield f"token {worst + 1}, advantages", round(float(expected[worst]), 6), found[worst]


def _are_close(stored: Floats, expected: Floats, room: float = 0.0) -> bool:
    return bool(np.allclose(stored, expected, LOG_PROB_TOLERANCE, LOG_PROB_TOLERANCE + room))


def _check_honesty(
    samples: Sequence[Sample], verdict: Verdict, judge: Judge, file: str, findings: Findings
) -> None:
    """Tests whether the tokens can have been drawn with the log-probabilities they claim."""
    rows = [
        row
        for row, one in enumerate(samples)
        if one.log_probs is not None and not math.isnan(verdict.scores[row])
    ]
    if not rows:
        return
    findings.count("tests of log-probabilities", 3)
    told = [samples[row] for row in rows]
    ours = np.array([math.fsum(one.log_probs or ()) for one in told])
    theirs = np.array([math.fsum(verdict.ref_log_probs[row]) for row in rows])
    beta = judge.anchors.kl_coefficient
    best = judge.values[[one.prompt_index for one in told]]
    to_reference = theirs - ours
    to_optimum = (verdict.scores[rows] - best) / beta + to_reference
    said = frequency_log_ratios(told, judge.task.vocabulary_size)
    most = LIMIT + rounding_room(number for one in told for number in one.log_probs or ())
    for place, why, ratios in (
        ("log_probs", "a KL that is not below 0", to_reference),
        ("log_probs", "a return that is not above the optimum's", to_optimum),
        ("log_probs", "chances of tokens as often as they are said", said),
    ):
        found = log_wealth(ratios)
        if found > most:
            findings.add(file, place, f"{why}: log W up to {most:.1f}", f"{found:.1f}")


# --- result and curve ---


def _check_result(
    stored: StoredCell, samples: list[Sample], cell: Cell, judge: Judge, findings: Findings
) -> None:
    file, result = stored.file("result.json"), stored.result
    assert result is not None
    findings.count("results computed again")
    claimed = result.as_dict()
    anchors = _anchors(judge.anchors)
    wrong = list(differences(anchors, claimed["anchors"], "anchors"))
    for place, expected, found in wrong:
        findings.add(file, place, expected, found)
    try:
        again = summarise(
            samples, judge.anchors if wrong else result.anchors, tokens=result.tokens
        ).as_dict()
    except InvalidInputError as error:
        findings.add(stored.file("eval.jsonl.gz"), "all", "samples of a result", str(error))
        return
    for name, expected in again.items():
        if name != "anchors" and expected != claimed[name]:
            findings.add(file, name, f"{expected!r}, by eval.jsonl.gz", claimed[name])
    if not 0 <= result.tokens <= MOST * cell.budget_tokens:
        findings.add(file, "tokens", f"0..{MOST * cell.budget_tokens:.0f}", result.tokens)


def _anchors(anchors: Anchors) -> dict[str, float]:
    return {name: getattr(anchors, name) for name in ("reference", "optimum", "kl_coefficient")}


def _check_curve(stored: StoredCell, cell: Cell, judge: Judge, findings: Findings) -> None:
    """Checks that tokens only rise, to the result's, and that scores follow from returns."""
    if not stored.curve:
        return
    file, rows = stored.file("curves.csv"), stored.curve
    findings.count("rows of curves", len(rows))
    for number, row in enumerate(rows, 2):
        for place, expected in _follows(row, judge.anchors):
            found = row[place]
            if not math.isclose(expected, found, rel_tol=1e-6, abs_tol=1e-6):
                findings.add(file, f"line {number}, {place}", expected, found)
    tokens = [row["tokens"] for row in rows if "tokens" in row]
    for number, (before, after) in enumerate(itertools.pairwise(tokens), 3):
        if not before < after:
            findings.add(file, f"line {number}, tokens", f"over {before:.0f}", after)
    if not tokens or stored.result is None:
        return
    last = f"line {len(rows) + 1}, tokens"
    most = stored.result.tokens
    # What others count is theirs, as long as it is no more than what the environment counted.
    if tokens[-1] > most or (_is_ours(cell) and tokens[-1] != most):
        findings.add(file, last, f"{most}, by result.json", tokens[-1])


def _follows(row: dict[str, float], anchors: Anchors) -> Iterator[tuple[str, float]]:
    """Yields the columns that follow from others, and what they should be."""
    nothing = math.nan
    value = row.get("return", nothing)
    charged = row.get("reward", nothing) - anchors.kl_coefficient * row.get("kl", nothing)
    if not math.isnan(value + charged):
        yield "return", charged
    score = (value - anchors.reference) / (anchors.optimum - anchors.reference)
    if not math.isnan(score + row.get("normalised_score", nothing)):
        yield "normalised_score", score


def _is_ours(cell: Cell) -> bool:
    return cell.entry_version.startswith("textrl-envs==")
