"""The numbers that are read off a model: fixed-mask loss, logits, metrics, temperature, calibration error."""

import numpy as np
import pytest
import torch
from helpers_masking import make_rows
from scipy.special import log_softmax, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from tlm_hf.data.masking import HELD_OUT_STREAM, MaskingCollator
from tlm_hf.evaluation.calibration import (
    brier_score,
    choose_temperature,
    draw_reliability,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from tlm_hf.evaluation.scoring import masked_lm_score, predict_logits


@pytest.mark.parametrize("training", [False, True])
def test_masked_lm_score_is_stock_bert_text_by_text(build_pair, tokenizer, training):
    ours, stock = build_pair("masked_lm", vocab_size=len(tokenizer), num_hidden_layers=2, max_position_embeddings=32)
    ours.train(training)
    texts = [row["input_ids"].tolist() for row in make_rows(tokenizer, 30)]
    texts[4] = [tokenizer.cls_token_id, tokenizer.sep_token_id]  # nothing to mask
    collate = MaskingCollator(tokenizer, 0.15, 0, HELD_OUT_STREAM)
    total, count = 0.0, 0
    for item, ids in enumerate(texts):
        batch = collate([{"input_ids": ids, "item": item}])
        with torch.no_grad():
            scores = stock(batch["input_ids"]).logits[0].double().log_softmax(-1).numpy()
        for place, label in enumerate(batch["labels"][0].tolist()):
            if label != -100:
                total, count = total - scores[place, label], count + 1
    assert count > 30
    for batch_size in (1, 7, 64):
        found = masked_lm_score(ours, tokenizer, texts, batch_size=batch_size)
        assert found["masked_tokens"] == count
        assert found["loss"] == pytest.approx(total / count, abs=1e-5)
        assert found["perplexity"] == pytest.approx(np.exp(total / count), rel=1e-4)
    assert ours.training is training
    nothing = masked_lm_score(ours, tokenizer, texts[4:5])
    assert nothing["masked_tokens"] == 0
    assert np.isnan(nothing["loss"])


def test_predicted_logits_keep_the_order_of_the_texts(build_pair, tokenizer, sentences):
    ours, stock = build_pair("classifier", vocab_size=len(tokenizer), num_labels=3)
    texts = [*sentences, "boat " * 40, "", "salt"]
    logits, truncated = predict_logits(ours, tokenizer, texts, batch_size=4)
    longer = [len(tokenizer(text, verbose=False)["input_ids"]) > 16 for text in texts]
    assert truncated == sum(longer) >= 1
    assert logits.shape == (len(texts), 3)
    assert logits.dtype == np.float32
    for row, text in zip(logits, texts, strict=True):
        encoded = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            expected = stock(encoded["input_ids"]).logits[0].numpy()
        np.testing.assert_allclose(row, expected, atol=1e-5, rtol=1e-5)


def make_predictions(seed, count=200, classes=4, scale=3.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return rng.normal(size=(count, classes)) * scale + 2.0 * np.eye(classes)[labels], labels


@pytest.mark.parametrize(("seed", "scale"), [(0, 3.0), (1, 0.9), (2, 5.0)])
def test_the_temperature_and_its_interval_are_those_of_a_fine_grid(seed, scale):
    """The half quantile of chi-squared with one degree of freedom is 1.9207."""
    logits, labels = make_predictions(seed, scale=scale)
    grid, rows = np.geomspace(0.05, 20.0, 4001), np.arange(len(labels))
    losses = np.array([-log_softmax(logits / each, axis=-1)[rows, labels].sum() for each in grid])
    best, within = grid[np.argmin(losses)], grid[losses <= losses.min() + 1.9207]
    assert 0.06 < best < 19.0  # inside, so that it says something
    assert fit_temperature(logits, labels) == pytest.approx(best, rel=3e-3)
    found = choose_temperature(logits, labels)
    assert found.interval == pytest.approx((within[0], within[-1]), rel=5e-3)
    assert found.value == (1.0 if best < 1 <= within[-1] else fit_temperature(logits, labels))
    assert (found.note is None) == (found.value != 1.0)


def test_the_temperature_stays_where_validation_cannot_tell():
    """200 easy texts: with no error on 30 of them sharper is always better there, and worse on the others."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    logits = 2.5 * np.eye(2)[labels] + rng.normal(size=(200, 2))
    wrong = logits.argmax(-1) != labels
    easy = np.flatnonzero(~wrong)[:30]
    rest = np.setdiff1d(np.arange(200), easy)
    assert wrong.any()
    assert fit_temperature(logits[easy], labels[easy]) < 0.1
    found = choose_temperature(logits[easy], labels[easy])
    assert (found.value, found.interval) == (1.0, None)
    assert "errors: 0 of 30" in found.note
    loss = [log_loss(labels[rest], softmax(logits[rest] / value, axis=-1)) for value in (found.value, 0.05)]
    assert loss[0] < loss[1]
    # Sharper only where the interval excludes 1; softer wherever the likelihood says so.
    logits, labels = make_predictions(3, count=60, scale=0.9)
    unsure = logits * fit_temperature(logits, labels) ** -1 * 0.9
    assert fit_temperature(unsure, labels) == pytest.approx(0.9, rel=1e-3)
    assert choose_temperature(unsure, labels).value == 1.0
    assert choose_temperature(unsure / 6, labels).value == pytest.approx(0.15, rel=1e-3)
    assert choose_temperature(unsure * 1.5, labels).value == pytest.approx(1.35, rel=1e-3)


def test_calibration_error_of_examples_worked_by_hand():
    confidence, is_right = np.array([0.55, 0.65, 0.95, 0.85]), np.array([1, 0, 1, 0])
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1))
    labels = 1 - is_right
    # Ten bins, one text in each: |1-.55|, |0-.65|, |1-.95|, |0-.85|, a quarter of each.
    assert expected_calibration_error(logits, labels, bins=10) == pytest.approx((0.45 + 0.65 + 0.05 + 0.85) / 4)
    # Two bins, all texts in the upper one: mean confidence .75, half of them right.
    assert expected_calibration_error(logits, labels, bins=2) == pytest.approx(0.25)
    # Five bins: .55 alone; .65 alone; .95 and .85 together, mean .9, half right.
    assert expected_calibration_error(logits, labels, bins=5) == pytest.approx(0.25 * 0.45 + 0.25 * 0.65 + 0.5 * 0.4)
    sure = np.array([[1000.0, 0.0], [1000.0, 0.0]])  # confidence 1 belongs to the last bin
    assert expected_calibration_error(sure, np.array([0, 1])) == pytest.approx(0.5)


def test_brier_score_and_reliability_are_scikit_learns(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    one = (rng.normal(size=(300, 3)) + 1.5 * np.eye(3)[labels]).astype(np.float32)
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
