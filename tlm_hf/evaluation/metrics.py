"""Metrics as an `evaluate` module kept in the package, since `evaluate.load` needs the network."""

import datasets
import evaluate
import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, f1_score


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
    """Accuracy, macro F1 and cross-entropy.

    Args:
        logits: float (n, classes); softmax(logits) are the probabilities.
        labels: int (n,).

    Returns:
        `accuracy` and `macro_f1` in [0, 1], `loss` in nats per text.
    """
    metric = AccuracyAndF1(keep_in_memory=True)
    scores: dict[str, float] = metric.compute(predictions=logits.argmax(axis=-1), references=labels)
    loss = -log_softmax(logits, axis=-1)[np.arange(len(labels)), labels].mean()
    return {**scores, "loss": float(loss)}
