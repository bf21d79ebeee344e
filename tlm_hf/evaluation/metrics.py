"""Accuracy, macro F1 and cross-entropy of a classifier."""

import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, f1_score


def classification_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores on texts whose labels are known.

    Args:
        logits: float (n, classes); softmax(logits) are the probabilities.
        labels: int (n,).

    Returns:
        `accuracy` and `macro_f1` (unweighted mean over classes) in [0, 1], `loss` in nats per text.
    """
    predictions = logits.argmax(axis=-1)
    return {
        "accuracy": float(accuracy_score(labels, predictions)),
        "macro_f1": float(f1_score(labels, predictions, average="macro", zero_division=0)),
        "loss": float(-log_softmax(logits, axis=-1)[np.arange(len(labels)), labels].mean()),
    }
