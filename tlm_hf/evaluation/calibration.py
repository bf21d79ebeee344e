"""Temperature fitted on held-out data (Guo et al., On Calibration of Modern Neural Networks, ICML 2017)."""

from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from ..runs.figure import new_figure

LOWEST, HIGHEST = 0.05, 20.0
COLOURS = ("#b5532f", "#2f6db5")


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature that minimises the negative log-likelihood of softmax(logits / temperature).

    Args:
        logits: float (n, classes); for a committee the log of the mean probability.
        labels: int (n,).
    """
    rows = np.arange(len(labels))

    def negative_log_likelihood(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature), axis=-1)[rows, labels].mean())

    bounds = (np.log(LOWEST), np.log(HIGHEST))
    return float(np.exp(minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded").x))


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
    return [
        {
            "confidence": float(confidence[bin_of == index].mean()),
            "accuracy": float(correct[bin_of == index].mean()),
            "share": float((bin_of == index).mean()),
        }
        for index in np.unique(bin_of)
    ]


def draw_reliability(diagrams: dict[str, list[dict[str, float]]], path: Path, title: str) -> None:
    """Draw accuracy against confidence (`reliability`, by name) as a PNG; a dot's area is its bin's share of texts."""
    with new_figure(path, title, "confidence (probability of the predicted class)", "accuracy", (5, 4.6)) as axes:
        axes.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1, linestyle="--")
        for (name, rows), colour in zip(diagrams.items(), COLOURS, strict=False):
            confidence, accuracy, share = ([row[key] for row in rows] for key in ("confidence", "accuracy", "share"))
            axes.plot(confidence, accuracy, color=colour, linewidth=1, label=name)
            areas = [8 + 400 * value for value in share]
            axes.scatter(confidence, accuracy, s=areas, color=colour, alpha=0.5, linewidth=0)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.05))
        axes.legend(frameon=False, loc="upper left")
