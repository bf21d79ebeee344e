"""The row that stands in every table: TF-IDF (1-2 grams) + logistic regression, from scikit-learn."""

import datasets
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from .metrics import classification_metrics

INVERSE_REGULARISATION = (1.0, 10.0, 100.0)


def linear_model(strength: float = 10.0, seed: int = 0) -> Pipeline:
    """The model that is to be fitted: TF-IDF of words and pairs of words, logistic regression with `C=strength`."""
    return make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        LogisticRegression(C=strength, max_iter=2000, random_state=seed),
    )


def tfidf_baseline(task: datasets.DatasetDict, seed: int = 0) -> dict[str, float]:
    """Fit on the training split, choose the regularisation on validation, score on test.

    Args:
        task: splits train, validation, test with `text` and `label`.
        seed: of the solver.

    Returns:
        `accuracy`, `macro_f1`, `loss` on the test split, `validation_accuracy`, and the chosen `C`.
    """
    best: tuple[float, float, Pipeline] | None = None
    for strength in INVERSE_REGULARISATION:
        model = linear_model(strength, seed)
        try:
            model.fit(task["train"]["text"][:], task["train"]["label"][:])
        except ValueError:  # a small table in which no two texts share a word: keep the words that stand in one
            model[0].min_df = 1
            model.fit(task["train"]["text"][:], task["train"]["label"][:])
        accuracy = float(model.score(task["validation"]["text"][:], task["validation"]["label"][:]))
        if best is None or accuracy > best[0]:
            best = (accuracy, strength, model)
    assert best is not None
    accuracy, strength, model = best
    logits = model.predict_log_proba(task["test"]["text"][:])
    metrics = classification_metrics(logits, np.array(task["test"]["label"][:]))
    return {**metrics, "validation_accuracy": accuracy, "C": strength}
