"""Intervals of scores on a test split. Oracles: scikit-learn on resampled rows, and scipy's bootstrap."""

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, f1_score

from tlm_hf.evaluation.intervals import accuracy_difference, score_predictions

RNG = np.random.default_rng(0)
LABELS = RNG.integers(3, size=150)
OURS, THEIRS = (np.where(RNG.random(150) < share, LABELS, RNG.integers(3, size=150)) for share in (0.7, 0.5))


def test_scores_are_scikit_learns_and_intervals_those_of_a_bootstrap():
    accuracy, macro_f1 = score_predictions(OURS, LABELS, 3)
    assert accuracy.value == pytest.approx(accuracy_score(LABELS, OURS))
    assert macro_f1.value == pytest.approx(f1_score(LABELS, OURS, average="macro"))
    rows = RNG.integers(150, size=(400, 150))
    for interval, metric in (
        (accuracy, accuracy_score),
        (macro_f1, lambda y, p: f1_score(y, p, average="macro")),
    ):
        drawn = np.percentile([metric(LABELS[each], OURS[each]) for each in rows], [2.5, 97.5])
        assert (interval.low, interval.high) == pytest.approx(tuple(drawn), abs=0.02)
    assert "0." in str(accuracy)


def test_a_difference_is_paired_on_texts():
    difference = accuracy_difference(OURS, THEIRS, LABELS)
    gains = (OURS == LABELS).astype(float) - (THEIRS == LABELS)
    expected = bootstrap((gains,), np.mean, method="percentile", n_resamples=2000, rng=1).confidence_interval
    assert difference.value == pytest.approx(gains.mean())
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    same = accuracy_difference(OURS, OURS, LABELS)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_a_class_that_nobody_names_is_left_out():
    _, macro_f1 = score_predictions(np.array([0, 1, 1]), np.array([0, 1, 0]), 3)
    assert macro_f1.value == pytest.approx(f1_score([0, 1, 0], [0, 1, 1], average="macro"))
