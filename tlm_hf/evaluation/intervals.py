"""How sure a test split is: 95% intervals of accuracy, macro F1, and the difference of two models on its texts."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

DRAWS = 2000
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Interval:
    """A value in [0, 1] (a difference: in [-1, 1]) and the ends of its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson_interval(right: int, texts: int) -> Interval:
    """Accuracy of `right` among `texts` test texts, with Wilson's interval: other texts, not other seeds."""
    ends = binomtest(right, texts).proportion_ci(method="wilson")
    return Interval(right / texts, float(ends.low), float(ends.high))


def score_predictions(predicted: np.ndarray, labels: np.ndarray, classes: int) -> tuple[Interval, Interval]:
    """Accuracy with Wilson's interval, and macro F1 with that of a bootstrap over texts, of class ids (texts,)."""
    pairs, counts = np.unique(np.stack([labels, predicted]), axis=1, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(labels), counts / len(labels), size=DRAWS)
    f1 = _macro_f1(drawn, pairs, classes)
    value = float(_macro_f1(counts[None], pairs, classes)[0])
    accuracy = wilson_interval(int((predicted == labels).sum()), len(labels))
    return accuracy, Interval(value, *map(float, np.percentile(f1, PERCENTILES)))


def accuracy_difference(ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray) -> Interval:
    """Accuracy of one model's predictions less another's, with a bootstrap over texts (texts,)."""
    gains = (ours == labels).astype(int) - (theirs == labels).astype(int)
    shares = np.bincount(gains + 1, minlength=3) / len(labels)
    drawn = np.random.default_rng(0).multinomial(len(labels), shares, size=DRAWS)
    differences = (drawn[:, 2] - drawn[:, 0]) / len(labels)
    return Interval(float(gains.mean()), *map(float, np.percentile(differences, PERCENTILES)))


def _macro_f1(counts: np.ndarray, pairs: np.ndarray, classes: int) -> np.ndarray:
    """Macro F1 (draws,) of counts (draws, pairs) of the pairs (label, prediction), int (2, pairs).

    A class that is neither labelled nor predicted is left out, as scikit-learn leaves it out.
    """
    of_label, of_prediction = (np.eye(classes)[side] for side in pairs)  # (pairs, classes)
    totals = counts @ of_label + counts @ of_prediction
    right = counts @ (of_label * of_prediction)
    with np.errstate(invalid="ignore"):
        f1: np.ndarray = np.nanmean(2 * right / totals, axis=1)
    return f1
