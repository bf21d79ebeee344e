"""Choosing members against brute force; calibration against scikit-learn."""

import itertools

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from tlm_hf.evaluation.calibration import brier_score, draw_reliability, expected_calibration_error, reliability
from tlm_hf.evaluation.choosing import accuracy_by_count, accuracy_curve, draw_curve, greedy_order


@pytest.fixture
def votes():
    """Logits of 5 members for 300 texts of 3 classes, members 1 and 3 better than the others; and the labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    skill = np.array([0.3, 1.5, 0.1, 1.2, 0.0])
    logits = rng.normal(size=(300, 5, 3)) + skill[None, :, None] * np.eye(3)[labels][:, None]
    return logits.astype(np.float32), labels


def accuracy(logits, labels, members):
    mean = softmax(logits[:, list(members)].astype(np.float64), axis=-1).mean(axis=1)
    return (mean.argmax(axis=-1) == labels).mean()


def test_greedy_takes_the_best_next_member(votes):
    logits, labels = votes
    order = greedy_order(logits, labels)
    assert sorted(order) == list(range(5))
    for count in range(5):
        best = max(accuracy(logits, labels, [*order[:count], member]) for member in set(range(5)) - set(order[:count]))
        assert accuracy(logits, labels, order[: count + 1]) == pytest.approx(best)
    assert accuracy_by_count(logits, labels, order) == pytest.approx(
        [accuracy(logits, labels, order[: count + 1]) for count in range(5)]
    )


def test_the_band_is_that_of_random_orders(votes, tmp_path):
    logits, labels = votes
    order = greedy_order(logits, labels)
    curve = accuracy_curve(logits, labels, order)
    for row in curve:
        every = [accuracy(logits, labels, chosen) for chosen in itertools.combinations(range(5), row["members"])]
        bounds = np.array([min(every), row["low"], row["mean"], row["high"], max(every)])
        assert np.diff(bounds).min() >= -1e-9
        assert row["mean"] == pytest.approx(np.mean(every), abs=0.03)
    assert curve[-1]["low"] == pytest.approx(curve[-1]["high"])
    draw_curve(curve, tmp_path / "curve.png", "members")
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_brier_score_and_reliability_are_scikit_learns(votes, tmp_path):
    logits, labels = votes
    one = logits[:, 1]
    probabilities = softmax(one.astype(np.float64), axis=-1)
    assert brier_score(one, labels) == pytest.approx(
        brier_score_loss(labels, probabilities, labels=[0, 1, 2], scale_by_half=False), abs=1e-6
    )
    rows = reliability(one, labels, bins=10)
    shares, confidence = calibration_curve(
        probabilities.argmax(-1) == labels, probabilities.max(-1), n_bins=10, strategy="uniform"
    )
    np.testing.assert_allclose([row["accuracy"] for row in rows], shares, atol=1e-6)
    np.testing.assert_allclose([row["confidence"] for row in rows], confidence, atol=1e-6)
    gaps = sum(row["share"] * abs(row["accuracy"] - row["confidence"]) for row in rows)
    assert expected_calibration_error(one, labels, bins=10) == pytest.approx(gaps)
    draw_reliability({"before": rows, "after": rows}, tmp_path / "r.png", "all")
    assert (tmp_path / "r.png").stat().st_size > 5000
