"""A committee as a scikit-learn classifier of texts, for pipelines, cross-validation and grid search."""

import contextlib
import logging
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pandas as pd
import torch
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from ..data.kinds import label_feature
from ..data.tables import SPLITS
from ..errors import UserError, refusing, shown
from ..evaluation.scoring import predict_logits
from ..models.combination_committee import MULTI, SINGLE
from .train_committee import train_from_table
from .train_committee_options import OwnDataArguments

logger = logging.getLogger(__name__)
HELD_OUT = 0.15


def _texts_in(X: Sequence[str]) -> list[str]:
    if isinstance(X, str):
        raise UserError("X is one text: give a sequence of texts, such as [X].")
    if getattr(X, "ndim", 1) != 1:
        raise UserError("X is a table: give one column of it, a sequence of texts.")
    texts = list(X)  # a pandas Series is indexed by its own labels
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"X has {shown(text)} at {place} (from 0), which is no text: fill or drop it.")
    return texts


@contextlib.contextmanager
def _unchanged() -> Iterator[None]:
    """Give back random numbers and torch's threads, which a training sets for the whole process."""
    of_python, threads = random.getstate(), torch.get_num_threads()
    of_numpy = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002
            torch.set_num_threads(threads)


@dataclass(eq=False, repr=False)
class TLMClassifier(ClassifierMixin, BaseEstimator):
    """`tlm train-committee` with scikit-learn's interface: X is a sequence of n texts.

    scores = cross_val_score(TLMClassifier(), texts, labels)

    y is their labels (n,), or of several labels a text 0 and 1, (n, labels). Each member holds out other 15% of the
    rows, which choose epochs, temperature and threshold; one row (of each class) is set aside. The arguments are the
    command's options of these names.
    """

    encoder: list[str] | str | None = None
    num_members: int = 3
    num_train_epochs: float | None = None
    learning_rate: float | None = None
    class_weights: str | None = None
    max_length: int | None = None
    workers: int = 1
    seed: int = 0

    def fit(self, X: Sequence[str], y: Any) -> "TLMClassifier":
        """Train on n texts; ValueError for a class of fewer than three, or columns of y with others than 0 and 1."""
        texts = _texts_in(X)
        check_consistent_length(texts, y)
        with refusing("y has lists", "give 0 and 1, one column a label (sklearn's MultiLabelBinarizer)", ValueError):
            missing, y = np.argwhere(pd.isna(np.asarray(y, dtype=object))), np.asarray(y)
        self.several_ = y.ndim == 2 and y.shape[1] > 1
        if len(missing) and not self.several_:
            raise UserError(f"y has no label at {missing[0][0]} (from 0): fill or drop it.")
        filled = [place for place, text in enumerate(texts) if text.strip()]
        if len(filled) < len(texts):
            logger.warning("%d texts are blank and were left out.", len(texts) - len(filled))
            texts, y = [texts[place] for place in filled], y[filled]
        if self.several_:
            if not set(y.ravel().tolist()) <= {0, 1}:
                raise UserError("y has several columns and other values than 0 and 1: give one column for each label.")
            self.classes_, groups = np.arange(y.shape[1]), np.zeros(len(y), dtype=int)
            cells: list[Any] = [np.flatnonzero(row).tolist() for row in y]
        else:
            check_classification_targets(np.asarray(y.tolist()))
            self.classes_, groups = np.unique(column_or_1d(y, warn=True), return_inverse=True)
            cells = groups.tolist()
        counts = np.bincount(groups)
        if len(y) < 3:
            raise UserError(f"{len(y)} texts are too few: give at least 3.")
        if counts.min() < 3:
            rarest = self.classes_.tolist()[counts.argmin()]
            raise UserError(f"The class {rarest!r} has fewer than 3 texts: give more of it.")
        rng = np.random.default_rng(self.seed)
        chosen: dict[str, list[int]] = {split: [] for split in SPLITS}
        for group, count in enumerate(counts):
            of_group = rng.permutation(np.flatnonzero(groups == group))
            held_out = max(1, round(HELD_OUT * (count - 1)))
            for split, part in zip(SPLITS, np.split(of_group, [count - held_out - 1, count - 1]), strict=True):
                chosen[split] += part.tolist()
        label = label_feature(MULTI if self.several_ else SINGLE, [str(each) for each in self.classes_])
        features = datasets.Features({"text": datasets.Value("string"), "label": label})
        rows = datasets.Dataset.from_dict({"text": texts, "label": cells}, features=features)
        splits = datasets.DatasetDict({split: rows.select(places) for split, places in chosen.items()})
        options = {**self.get_params(), "encoder": self.encoder or []}
        with tempfile.TemporaryDirectory() as folder, _unchanged():
            _, _, joined = train_from_table(splits, OwnDataArguments(output_dir=f"{folder}/out", **options))
        assert joined is not None  # the folder is new
        self.committee_, self.tokenizer_ = joined.committee, joined.tokenizer
        return self

    def predict_proba(self, X: Sequence[str]) -> np.ndarray:
        """Probabilities (n, classes) of n texts, in the order of `classes_`; of several labels each for itself."""
        check_is_fitted(self, "committee_")
        logits, _ = predict_logits(self.committee_, self.tokenizer_, _texts_in(X))
        return np.asarray(expit(logits.astype(float)) if self.several_ else softmax(logits, axis=-1))

    def predict(self, X: Sequence[str]) -> np.ndarray:
        """The most probable class (n,) of n texts; of several labels 0 and 1 (n, labels)."""
        probabilities = self.predict_proba(X)
        if self.several_:
            return (probabilities >= self.committee_.config.threshold).astype(int)
        return np.asarray(self.classes_[probabilities.argmax(axis=-1)])
