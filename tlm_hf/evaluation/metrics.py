"""Metrics as `evaluate` modules kept in the package, since `evaluate.load` needs the network."""

from typing import Any

import datasets
import evaluate
import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, f1_score

_CITATION = "Pedregosa et al., Scikit-learn: Machine Learning in Python, JMLR 12, 2011"


def _info(description: str) -> evaluate.MetricInfo:
    features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
    return evaluate.MetricInfo(
        description=description, citation=_CITATION, inputs_description="class ids (n,)", features=features
    )


class Accuracy(evaluate.Metric):
    """Share of predictions that equal their reference; int ids (n,) each (scikit-learn `accuracy_score`)."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Share of correct predictions.")

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class MacroF1(evaluate.Metric):
    """Unweighted mean of the classes' F1; int ids (n,) each (scikit-learn `f1_score`, macro)."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("Mean F1 over classes.")

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0))}


def classification_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1 and cross-entropy.

    Args:
        logits: float (n, classes); softmax(logits) are the probabilities.
        labels: int (n,).

    Returns:
        `accuracy` and `macro_f1` in [0, 1], `loss` in nats per text.
    """
    predictions = logits.argmax(axis=-1)
    metrics = evaluate.combine([Accuracy(keep_in_memory=True), MacroF1(keep_in_memory=True)])
    found: dict[str, float] = metrics.compute(predictions=predictions, references=labels)
    found["loss"] = float(-log_softmax(logits, axis=-1)[np.arange(len(labels)), labels].mean())
    return found
