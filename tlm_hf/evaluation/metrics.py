"""Scores of classifiers (accuracy and F1 as a module of `evaluate`, whose `load` needs the network) and regressions."""

import datasets
import evaluate
import numpy as np
import pandas as pd
from scipy.special import log_softmax, logit
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support, r2_score, root_mean_squared_error

from ..models.combination_committee import MULTI, REGRESSION, SINGLE
from ..runs.atomic_files import Json

HEADLINE = {SINGLE: "accuracy", MULTI: "micro_f1", REGRESSION: "r2"}  # the metric that models are compared by


def answers_of(logits: np.ndarray, problem_type: str, threshold: float = 0.5) -> np.ndarray:
    """What logits (n, classes) say: class ids (n,), bool (n, classes), or numbers (n,)."""
    if problem_type == MULTI:
        return np.greater_equal(logits, logit(threshold))
    return logits[:, 0].astype(float) if problem_type == REGRESSION else logits.argmax(axis=-1)


class AccuracyAndF1(evaluate.Metric):
    """`accuracy` and `macro_f1` (unweighted mean over classes) of class ids (n,), by scikit-learn."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of correct predictions, and mean F1 over classes.",
            citation="Pedregosa et al., Scikit-learn, JMLR 12, 2011",
            features=datasets.Features(dict.fromkeys(("predictions", "references"), datasets.Value("int64"))),
        )

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0)),
        }


def classification_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`accuracy`, `macro_f1` (unweighted mean over classes) and `loss` in nats, of logits (n, classes), labels (n,)."""
    scores = AccuracyAndF1(keep_in_memory=True).compute(predictions=logits.argmax(axis=-1), references=labels)
    return {**scores, "loss": float(-log_softmax(logits, axis=-1)[np.arange(len(labels)), labels].mean())}


def measure(problem_type: str, logits: np.ndarray, labels: np.ndarray, threshold: float = 0.5) -> Json:
    """The metrics of logits (n, classes), by the kind of the task; labels as `data.kinds.labels_of` has them.

    Of several labels a text those of probability `threshold` or more are predicted, and `subset_accuracy` is the share
    of texts whose labels are all right. A regression, with logits (n, 1), has None where all of a side are equal.
    """
    if problem_type == SINGLE:
        return classification_metrics(logits, labels)
    if problem_type == REGRESSION:
        values, varies = logits[:, 0].astype("float64"), np.ptp(labels) > 0
        both_vary = varies and np.ptp(values) > 0
        return {
            "rmse": float(root_mean_squared_error(labels, values)),
            "r2": float(r2_score(labels, values)) if varies else None,
            "pearson": float(pearsonr(labels, values).statistic) if both_vary else None,
            "spearman": float(spearmanr(labels, values).statistic) if both_vary else None,
        }
    chosen = answers_of(logits, MULTI, threshold)
    micro, macro = (f1_score(labels, chosen, average=mean, zero_division=0) for mean in ("micro", "macro"))
    scores = {"micro_f1": micro, "macro_f1": macro, "subset_accuracy": accuracy_score(labels, chosen)}
    return {name: float(value) for name, value in scores.items()}


def class_metrics(
    logits: np.ndarray, labels: np.ndarray, names: list[str], threshold: float = 0.5
) -> dict[str, dict[str, float]]:
    """`precision`, `recall`, `f1` (0 where undefined) and number of `texts` of each class, by its name.

    Logits are (n, classes), in the order of the names; labels (n,), or of several a text (n, classes).
    """
    predicted = answers_of(logits, SINGLE if labels.ndim == 1 else MULTI, threshold)
    table = precision_recall_fscore_support(labels, predicted, labels=range(len(names)), zero_division=0)
    columns = ["precision", "recall", "f1", "texts"]
    return pd.DataFrame(np.stack(table, axis=1), index=names, columns=columns).to_dict("index")


def class_table(classes: dict[str, dict[str, float]]) -> str:
    """`class_metrics` as aligned rows."""
    table = pd.DataFrame.from_dict(classes, orient="index").astype({"texts": int})
    return table.to_string(float_format="{:.3f}".format)
