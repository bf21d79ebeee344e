"""Accuracy, macro F1 and cross-entropy of a classifier, as a module of `evaluate` (whose `load` needs the network)."""

import datasets
import evaluate
import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support


class AccuracyAndF1(evaluate.Metric):
    """`accuracy` and `macro_f1` (unweighted mean over classes) of class ids (n,), by scikit-learn."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(
            description="Share of correct predictions, and mean F1 over classes.",
            citation="Pedregosa et al., Scikit-learn: Machine Learning in Python, JMLR 12, 2011",
            inputs_description="class ids (n,)",
            features=features,
        )

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0)),
        }


def classification_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores on texts whose labels are known.

    Args:
        logits: float (n, classes); softmax(logits) are the probabilities.
        labels: int (n,).

    Returns:
        `accuracy` and `macro_f1` (unweighted mean over classes) in [0, 1], `loss` in nats per text.
    """
    scores = AccuracyAndF1(keep_in_memory=True).compute(predictions=logits.argmax(axis=-1), references=labels)
    loss = -log_softmax(logits, axis=-1)[np.arange(len(labels)), labels].mean()
    return {**scores, "loss": float(loss)}


def class_metrics(logits: np.ndarray, labels: np.ndarray, names: list[str]) -> dict[str, dict[str, float]]:
    """`precision`, `recall`, `f1` (0 where undefined) and number of `texts` of each class, by its name.

    Args:
        logits: float (n, classes).
        labels: int (n,).
        names: of the classes, in the order of the logits.
    """
    places = range(len(names))
    table = precision_recall_fscore_support(labels, logits.argmax(axis=-1), labels=places, zero_division=0)
    rows = zip(*(map(float, column) for column in table), strict=True)
    columns = ("precision", "recall", "f1", "texts")
    return {name: dict(zip(columns, row, strict=True)) for name, row in zip(names, rows, strict=True)}


def class_table(classes: dict[str, dict[str, float]]) -> str:
    """`class_metrics` as aligned rows."""
    width = max(len(name) for name in ("class", *classes))
    rows = [f"{'class':<{width}}  precision  recall      f1   texts"]
    for name, row in classes.items():
        rows.append(
            f"{name:<{width}}  {row['precision']:9.3f}  {row['recall']:6.3f}  {row['f1']:6.3f}  {row['texts']:6,.0f}"
        )
    return "\n".join(rows)
