"""How sure a test split is: 95% intervals of a model's scores, and of the difference of two on the same texts."""

from dataclasses import dataclass

import numpy as np
from scipy.special import logit
from scipy.stats import binomtest, rankdata

from ..models.combination_committee import MULTI, REGRESSION, SINGLE

DRAWS = 1000
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95% interval: of other test texts, not of other seeds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @classmethod
    def of_draws(cls, values: np.ndarray) -> "Interval":
        """Of the value of the texts themselves, and those of the draws, (1 + draws,)."""
        return cls(float(values[0]), *map(float, np.percentile(values[1:], PERCENTILES)))


def answers_of(logits: np.ndarray, problem_type: str, threshold: float = 0.5) -> np.ndarray:
    """What logits (texts, classes) say: class ids (texts,), bool (texts, labels), or numbers (texts,)."""
    if problem_type == MULTI:
        chosen: np.ndarray = logits >= logit(threshold)
        return chosen
    return logits[:, 0].astype(float) if problem_type == REGRESSION else logits.argmax(axis=-1)


def draw_scores(answers: np.ndarray, labels: np.ndarray, problem_type: str, classes: int) -> dict[str, np.ndarray]:
    """Each metric (1 + draws,): of the texts themselves, then of texts drawn with replacement, equally for all models.

    `answers` are as `answers_of` gives them, and labels as `data.kinds.labels_of`. Of one label a text a class that is
    neither labelled nor predicted is left out of macro F1, as scikit-learn does.
    """
    count = len(labels)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    weights = np.concatenate([np.ones((1, count)), drawn])
    if problem_type == REGRESSION:
        return _number_scores(weights / count, answers, labels)
    right, one_hot = answers == labels, np.eye(classes)
    if problem_type == SINGLE:
        answers, labels = one_hot[answers], one_hot[labels]
    hits, total = weights @ (answers * labels), weights @ answers + weights @ labels
    of_class = 2 * hits / np.maximum(total, 1)
    if problem_type == SINGLE:
        return {"accuracy": weights @ right / count, "macro_f1": of_class.sum(axis=1) / (total > 0).sum(axis=1)}
    return {
        "micro_f1": 2 * hits.sum(axis=1) / np.maximum(total.sum(axis=1), 1),
        "macro_f1": of_class.mean(axis=1),
        "subset_accuracy": weights @ right.all(axis=1) / count,
    }


def _number_scores(weights: np.ndarray, values: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics (draws,) of values (texts,), with weights of texts (draws, texts)."""
    error = weights @ (values - numbers) ** 2

    def covariance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        product: np.ndarray = weights @ (one * other) - (weights @ one) * (weights @ other)
        return product

    one, other = rankdata(values), rankdata(numbers)
    scale = np.sqrt(np.maximum(covariance(one, one) * covariance(other, other), 1e-12))
    variance = covariance(numbers, numbers)
    return {
        "r2": 1 - error / np.maximum(variance, 1e-12 * variance[0]),
        "rmse": np.sqrt(error),
        "spearman": covariance(one, other) / scale,
    }


def intervals(scores: dict[str, np.ndarray], texts: int) -> dict[str, Interval]:
    """The interval of each metric of `draw_scores`; of the accuracy Wilson's, which is not empty where all is right."""
    found = {metric: Interval.of_draws(values) for metric, values in scores.items()}
    if "accuracy" in found:
        accuracy = found["accuracy"].value
        ends = binomtest(round(accuracy * texts), texts).proportion_ci(method="wilson")
        found["accuracy"] = Interval(accuracy, float(ends.low), float(ends.high))
    return found
