"""What `tlm train-committee` says of committees of several labels a text, or of a number: scores and doubtful rows."""

from typing import Any

import datasets
import numpy as np
from scipy.special import expit, logit
from scipy.stats import rankdata

from ..data.kinds import as_one_text, labels_of, problem_of, texts_of
from ..evaluation.intervals import PERCENTILES, Interval
from ..evaluation.metrics import HEADLINE
from ..models.combination_committee import MULTI
from ..runs.atomic_files import Json
from .committee_report import COMMITTEE, LINEAR, LISTED, recommend
from .join_committee import Joined

DRAWS = 500
"""Of the bootstrap over test texts."""


def score_kind(task: datasets.DatasetDict, joined: Joined, linear: Json) -> Json:
    """Scores of all models on test with 95% intervals, the committee's headline less the linear model's, doubts."""
    problem_type, labels, train = problem_of(task), labels_of(task["test"]), labels_of(task["train"])
    answers = {COMMITTEE: joined.logits}
    members = joined.member_logits.swapaxes(0, 1) / joined.committee.config.temperature  # as the threshold takes them
    answers |= {f"member {index}": each for index, each in enumerate(members)}
    answers[LINEAR] = linear["logits"]["test"]
    count, several, shares = len(labels), problem_type == MULTI, train.mean(axis=0)
    if several:
        limits = dict.fromkeys(answers, joined.committee.config.threshold) | {LINEAR: linear["threshold"]}
        answers = {name: each >= logit(limits[name]) for name, each in answers.items()}
        answers["commonest labels"] = np.tile(shares >= min(0.5, shares.max()), (count, 1))
    else:
        answers = {name: each[:, 0].astype(float) for name, each in answers.items()}
        answers["mean of the training rows"] = np.full(count, shares)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    weights = np.concatenate([np.ones((1, count)), draws]) / count  # the first row are the texts themselves
    measure = _label_scores if several else _number_scores
    scores = {name: measure(weights, each, labels) for name, each in answers.items()}
    metric = HEADLINE[problem_type]
    difference = _interval(scores[COMMITTEE][metric] - scores[LINEAR][metric])
    rows = [
        {"model": name, **{each: vars(_interval(values)) for each, values in of_model.items()}}
        for name, of_model in scores.items()
    ]
    return {
        "scores": rows,
        "difference": vars(difference),
        "recommendation": recommend(difference, rows, metric),
        "doubtful": (_doubtful_labels if several else _doubtful_numbers)(task["test"], joined, labels),
    }


def _interval(values: np.ndarray) -> Interval:
    return Interval(float(values[0]), *map(float, np.percentile(values[1:], PERCENTILES)))


def _label_scores(weights: np.ndarray, chosen: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics (draws,) of what is chosen, bool (texts, labels), with weights of texts (draws, texts)."""
    hits, total = weights @ (chosen * labels), weights @ (chosen + labels)
    return {
        "micro_f1": 2 * hits.sum(axis=1) / np.maximum(total.sum(axis=1), 1e-12),
        "macro_f1": (2 * hits / np.maximum(total, 1e-12)).mean(axis=1),
        "subset_accuracy": weights @ (chosen == labels).all(axis=1),
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


def _doubtful_labels(test: datasets.Dataset, joined: Joined, labels: np.ndarray) -> dict[str, list[Json]]:
    """The texts whose labels are least certain together, and the most certain ones with a wrong label."""
    probabilities, texts = expit(joined.logits.astype(float)), as_one_text(texts_of(test))
    chosen, certain = probabilities >= joined.committee.config.threshold, np.maximum(probabilities, 1 - probabilities)
    sure, wrong = certain.prod(axis=1), np.flatnonzero((chosen != labels).any(axis=1))

    def names(row: np.ndarray) -> str:
        return "|".join(name for name, there in zip(joined.results["labels"], row, strict=True) if there) or "none"

    def describe(row: Any) -> Json:
        words = {"text": texts[row], "label": names(labels[row]), "predicted": names(chosen[row])}
        return {**words, "probability": float(sure[row])}

    worst = wrong[np.argsort(-sure[wrong], kind="stable")]
    order = {"most uncertain": np.argsort(sure, kind="stable"), "confidently wrong": worst}
    return {kind: [describe(row) for row in rows[:LISTED]] for kind, rows in order.items()}


def _doubtful_numbers(test: datasets.Dataset, joined: Joined, numbers: np.ndarray) -> dict[str, list[Json]]:
    """The texts on which the members differ most, and those of the largest errors."""
    texts, spread = as_one_text(texts_of(test)), joined.member_logits[:, :, 0].std(axis=1)
    values = joined.logits[:, 0]

    def describe(row: Any) -> Json:
        predicted = f"{values[row]:.4g} (spread {spread[row]:.2g})"
        return {"text": texts[row], "label": f"{numbers[row]:.4g}", "predicted": predicted, "probability": None}

    order = {"members differ most": np.argsort(-spread), "largest errors": np.argsort(-np.abs(values - numbers))}
    return {kind: [describe(row) for row in rows[:LISTED]] for kind, rows in order.items()}
