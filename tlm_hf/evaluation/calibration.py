"""Temperature fitted on held-out data (Guo et al., On Calibration of Modern Neural Networks, ICML 2017)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_softmax, logit
from scipy.stats import chi2
from sklearn.metrics import f1_score

from ..models.combination_committee import MULTI
from ..runs.figure import new_figure
from .metrics import classification_metrics

BOUNDS = (np.log(0.05), np.log(20.0))  # of the logarithm of a temperature
LEAST_ERRORS = 5  # on held-out data, without which no temperature is fitted
COLOURS = ("#b5532f", "#2f6db5")


@dataclass(frozen=True)
class Temperature:
    """The temperature to use, 1 with a `note` where it was not fitted, and its 95% interval from the likelihood."""

    value: float
    interval: tuple[float, float] | None = None
    note: str | None = None


def choose_temperature(logits: np.ndarray, labels: np.ndarray, unit: str = "texts") -> Temperature:
    """The temperature fitted to logits (n, classes) of n units where held-out data determine it, else 1.

    With few errors the likelihood only says that sharper is better, and new texts pay for it. So at least
    `LEAST_ERRORS` are asked for, and a temperature below 1 only counts when its interval excludes 1.
    """
    errors = int((logits.argmax(axis=-1) != labels).sum())
    if errors < LEAST_ERRORS:
        note = f"errors: {errors} of {len(labels)} validation {unit}, and {LEAST_ERRORS} are needed to fit it"
        return Temperature(1.0, None, note)
    best = fit_temperature(logits, labels)
    # Its interval: log-likelihoods within half of the 95% quantile of chi-squared (1) of the best one's.
    allowed = _negative_log_likelihood(np.log(best), logits, labels) + chi2.ppf(0.95, df=1) / 2

    def excess(log_temperature: float) -> float:
        return _negative_log_likelihood(log_temperature, logits, labels) - allowed

    ends = (brentq(excess, bound, np.log(best)) if excess(bound) > 0 else bound for bound in BOUNDS)
    low, high = np.exp(list(ends)).tolist()
    if best < 1 <= high:
        return Temperature(1.0, (low, high), f"its 95% interval {low:.2f} to {high:.2f} holds 1")
    return Temperature(best, (low, high))


def choose_threshold(logits: np.ndarray, labels: np.ndarray, problem_type: str = MULTI) -> float:
    """The probability from which a text has a label, of the best micro F1; 0.5 for tasks of another kind."""
    if problem_type != MULTI:
        return 0.5
    grid = np.arange(0.1, 0.91, 0.05).round(2)
    scores = [f1_score(labels, logits >= logit(each), average="micro", zero_division=0) for each in grid]
    return float(max(zip(scores, -np.abs(grid - 0.5), grid, strict=True))[2])  # of equals the nearest to 0.5


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature that minimises the negative log-likelihood of softmax(logits / temperature), logits (n, classes)."""
    best = minimize_scalar(_negative_log_likelihood, bounds=BOUNDS, method="bounded", args=(logits, labels))
    return float(np.exp(best.x))


def _negative_log_likelihood(log_temperature: float, logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_softmax(logits / np.exp(log_temperature), axis=-1)[np.arange(len(labels)), labels].sum())


def calibration_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`classification_metrics` with `calibration_error` and `brier_score`."""
    error, brier = expected_calibration_error(logits, labels), brier_score(logits, labels)
    return classification_metrics(logits, labels) | {"calibration_error": error, "brier_score": brier}


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width confidence bins, weighted by their size, in [0, 1]."""
    rows = reliability(logits, labels, bins)
    return float(sum(row["share"] * abs(row["confidence"] - row["accuracy"]) for row in rows))


def brier_score(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over texts of the squared distance of softmax(logits) from the one-hot label, in [0, 2] (Brier, 1950)."""
    probabilities = np.exp(log_softmax(logits, axis=-1))
    probabilities[np.arange(len(labels)), labels] -= 1
    return float((probabilities**2).sum(axis=-1).mean())


def reliability(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> list[dict[str, float]]:
    """For each confidence bin that is not empty its mean `confidence`, its `accuracy` and its `share` of the texts."""
    probabilities = np.exp(log_softmax(logits, axis=-1))
    confidence, correct = probabilities.max(axis=-1), probabilities.argmax(axis=-1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    table = pd.DataFrame({"confidence": confidence, "accuracy": correct, "share": 1 / len(labels), "bin": bin_of})
    return table.groupby("bin").agg({"confidence": "mean", "accuracy": "mean", "share": "sum"}).to_dict("records")


def draw_reliability(diagrams: dict[str, list[dict[str, float]]], path: Path, title: str) -> None:
    """Draw accuracy against confidence (`reliability`, by name) as a PNG; a dot's area is its bin's share of texts."""
    with new_figure(path, title, "confidence (probability of the predicted class)", "accuracy", (5, 4.6)) as axes:
        axes.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1, linestyle="--")
        for (name, rows), colour in zip(diagrams.items(), COLOURS, strict=False):
            bins = pd.DataFrame(rows)
            axes.plot(bins["confidence"], bins["accuracy"], color=colour, linewidth=1, label=name)
            areas = 8 + 400 * bins["share"]
            axes.scatter(bins["confidence"], bins["accuracy"], s=areas, color=colour, alpha=0.5, linewidth=0)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.05))
        axes.legend(frameon=False, loc="upper left")
