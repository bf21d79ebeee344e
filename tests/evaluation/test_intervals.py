"""Intervals of scores on a test split. Oracles: scikit-learn on resampled rows, and scipy's bootstrap."""

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, f1_score, r2_score

from tlm_hf.evaluation.intervals import Interval, draw_scores, intervals
from tlm_hf.models.combination_committee import MULTI, REGRESSION, SINGLE

RNG = np.random.default_rng(0)
LABELS = RNG.integers(3, size=150)
OURS, THEIRS = (np.where(RNG.random(150) < share, LABELS, RNG.integers(3, size=150)) for share in (0.7, 0.5))
SETS = RNG.random((150, 3)) < 0.4
METRICS = {"macro_f1": lambda y, p: f1_score(y, p, average="macro"), "accuracy": accuracy_score, "r2": r2_score}
METRICS |= {"micro_f1": lambda y, p: f1_score(y, p, average="micro"), "subset_accuracy": accuracy_score}


@pytest.mark.parametrize(
    ("problem_type", "labels", "answers"),
    [
        (SINGLE, LABELS, OURS),
        (MULTI, SETS, SETS ^ (RNG.random((150, 3)) < 0.2)),
        (REGRESSION, LABELS + 0.5, LABELS + RNG.normal(size=150)),
    ],
)
def test_scores_are_scikit_learns_and_intervals_those_of_a_bootstrap(problem_type, labels, answers):
    rows = RNG.integers(150, size=(400, 150))
    drawn = draw_scores({"ours": answers, "same": answers}, labels, problem_type, 3)
    for metric, values in drawn["ours"].items():
        np.testing.assert_array_equal(values, drawn["same"][metric])
        assert len(values) == 1001
    for name, interval in intervals(drawn["ours"], 150).items():
        if name in METRICS:
            assert interval.value == pytest.approx(METRICS[name](labels, answers))
            drawn = np.percentile([METRICS[name](labels[each], answers[each]) for each in rows], [2.5, 97.5])
            assert (interval.low, interval.high) == pytest.approx(tuple(drawn), abs=0.04), name


def test_a_difference_is_paired_on_texts():
    drawn = draw_scores({"ours": OURS, "theirs": THEIRS}, LABELS, SINGLE, 3)
    difference = Interval.of_draws(drawn["ours"]["accuracy"] - drawn["theirs"]["accuracy"])
    gains = (OURS == LABELS).astype(float) - (THEIRS == LABELS)
    expected = bootstrap((gains,), np.mean, method="percentile", n_resamples=2000, rng=1).confidence_interval
    assert difference.value == pytest.approx(gains.mean())
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_a_class_that_nobody_names_is_left_out_and_no_mistake_leaves_an_interval():
    found = intervals(draw_scores({"": np.array([0, 1, 1])}, np.array([0, 1, 0]), SINGLE, 3)[""], 3)
    assert found["macro_f1"].value == pytest.approx(f1_score([0, 1, 0], [0, 1, 1], average="macro"))
    perfect = intervals(draw_scores({"": LABELS}, LABELS, SINGLE, 3)[""], 150)["accuracy"]
    assert (perfect.value, perfect.high) == (1, 1)
    assert perfect.low < 0.99
