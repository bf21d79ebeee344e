"""How sure a test split is: 95% intervals of a model's scores, and of the difference of two on the same texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array, eye_array, hstack
from scipy.stats import binomtest, rankdata

from ..models.combination_committee import REGRESSION, SINGLE

DRAWS, AT_ONCE = 1000, 50


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95% interval: of other test texts, not of other seeds."""

    value: float
    low: float
    high: float

    @classmethod
    def of_draws(cls, values: np.ndarray) -> "Interval":
        """Of the value of the texts themselves, and those of the draws, (1 + draws,)."""
        return cls(float(values[0]), *map(float, np.percentile(values[1:], (2.5, 97.5))))


def draw_scores(
    answers: Mapping[str, np.ndarray], labels: np.ndarray, problem_type: str, classes: int
) -> dict[str, dict[str, np.ndarray]]:
    """Each metric (1 + draws,) of each model: of the texts themselves, then of texts drawn with replacement.

    `answers` by model are those of `metrics.answers_of`, labels those of `data.kinds.labels_of`; all models have the
    same draws. As in scikit-learn, a class that is neither labelled nor predicted is left out of macro F1.
    """
    texts, columns = len(labels), list(answers.values())
    counts: np.ndarray = np.ones(texts)
    if problem_type == SINGLE:  # texts of equal label and answers are drawn together
        patterns, counts = np.unique(np.stack([labels, *columns]), axis=1, return_counts=True)
        labels, *columns = patterns
    terms = [_terms(each, labels, problem_type, classes) for each in columns]
    rng, sums = np.random.default_rng(0), [[each.T @ counts[:, None]] for each in terms]
    for _ in range(0, DRAWS, AT_ONCE):
        drawn = rng.multinomial(texts, counts / texts, size=AT_ONCE).T.astype(float)
        for chunks, each in zip(sums, terms, strict=True):
            chunks.append(each.T @ drawn)
    return {name: _scores(problem_type, np.hstack(each), texts) for name, each in zip(answers, sums, strict=True)}


def _terms(answers: np.ndarray, labels: np.ndarray, problem_type: str, classes: int) -> Any:
    """What the scores need the sums of over texts, (texts, terms): sparse, or of numbers dense."""
    if problem_type == REGRESSION:
        number, rank, ranked = (each - each.mean() for each in (labels, rankdata(answers), rankdata(labels)))
        products = number**2, rank**2, ranked**2, rank * ranked
        return np.stack([(answers - labels) ** 2, number, rank, ranked, *products], axis=1)
    right = (answers == labels).reshape(len(labels), -1).all(axis=1)
    if problem_type == SINGLE:
        one_hot = eye_array(classes, format="csr")
        answers, labels = one_hot[answers], one_hot[labels]
    answers, labels = csr_array(answers, dtype=float), csr_array(labels, dtype=float)
    return hstack([csr_array(right[:, None], dtype=float), answers * labels, answers + labels], format="csr")


def _scores(problem_type: str, sums: np.ndarray, texts: int) -> dict[str, np.ndarray]:
    """Metrics (draws,) of the sums of `_terms`, (terms, draws)."""
    if problem_type == REGRESSION:
        error, number, rank, ranked, *squares = sums / texts
        variance, of_rank, of_ranked, both = squares - np.stack([number**2, rank**2, ranked**2, rank * ranked])
        return {
            "r2": 1 - error / np.maximum(variance, 1e-12 * variance[0]),
            "rmse": np.sqrt(error),
            "spearman": both / np.sqrt(np.maximum(of_rank * of_ranked, 1e-12)),
        }
    right, (hits, total) = sums[0] / texts, np.split(sums[1:], 2)
    of_class = 2 * hits / np.maximum(total, 1)
    if problem_type == SINGLE:
        return {"accuracy": right, "macro_f1": of_class.sum(axis=0) / (total > 0).sum(axis=0)}
    return {
        "micro_f1": 2 * hits.sum(axis=0) / np.maximum(total.sum(axis=0), 1),
        "macro_f1": of_class.mean(axis=0),
        "subset_accuracy": right,
    }


def intervals(scores: dict[str, np.ndarray], texts: int) -> dict[str, Interval]:
    """The interval of each metric of `draw_scores`; of the accuracy Wilson's, which is not empty where all is right."""
    measured = {metric: Interval.of_draws(values) for metric, values in scores.items()}
    if "accuracy" in measured:
        accuracy = measured["accuracy"].value
        ends = binomtest(round(accuracy * texts), texts).proportion_ci(method="wilson")
        measured["accuracy"] = Interval(accuracy, float(ends.low), float(ends.high))
    return measured
