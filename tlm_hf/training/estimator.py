"""A committee as a scikit-learn classifier of texts, for pipelines, cross-validation and grid search."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted

from ..errors import UserError
from ..evaluation.scoring import predict_logits
from ..loading import load_classifier, load_classifier_tokenizer
from .train_committee import OwnDataArguments, train_from_table

HELD_OUT = 0.15


class TLMClassifier(ClassifierMixin, BaseEstimator):
    """`tlm train-committee` with scikit-learn's interface: X is a sequence of texts, y their labels.

    scores = cross_val_score(TLMClassifier(), texts, labels)

    Of the rows 15% choose epochs and temperature, and one row of each class is set aside.

    Args:
        encoder: names or folders of encoders; None for those that the package carries.
        num_members: members of the committee.
        num_train_epochs: passes of fine-tuning; None: by the number of rows.
        learning_rate: its peak rate; None: likewise.
        max_length: tokens of a text; None: the encoder's.
        workers: members trained side by side.
        seed: of the split and of the members.
    """

    def __init__(
        self,
        encoder: list[str] | None = None,
        num_members: int = 3,
        num_train_epochs: float | None = None,
        learning_rate: float | None = None,
        max_length: int | None = None,
        workers: int = 1,
        seed: int = 0,
    ) -> None:
        self.encoder = encoder
        self.num_members = num_members
        self.num_train_epochs = num_train_epochs
        self.learning_rate = learning_rate
        self.max_length = max_length
        self.workers = workers
        self.seed = seed

    def fit(self, X: Sequence[str], y: Sequence[Any]) -> "TLMClassifier":
        """Train on n texts with n labels.

        Raises:
            UserError: a class of fewer than three texts, and as `train_committee`.
        """
        texts = list(X)  # a pandas Series is indexed by its own labels, not by places
        self.classes_, labels = np.unique(np.asarray(y), return_inverse=True)
        places, rng = np.arange(len(labels)), np.random.default_rng(self.seed)
        counts = np.bincount(labels)
        if counts.min() < 3:
            raise UserError(f"The class {self.classes_[counts.argmin()]!r} has fewer than 3 texts: give more of it.")
        aside = np.array([rng.choice(places[labels == label]) for label in range(len(counts))])
        rest = np.setdiff1d(places, aside)
        share = max(HELD_OUT, len(counts) / len(rest))
        train, validation = train_test_split(rest, test_size=share, stratify=labels[rest], random_state=self.seed)
        names = datasets.ClassLabel(names=[str(each) for each in self.classes_])
        features = datasets.Features({"text": datasets.Value("string"), "label": names})
        splits = datasets.DatasetDict()
        for split, chosen in (("train", train), ("validation", validation), ("test", aside)):
            rows = {"text": [str(texts[place]) for place in chosen], "label": labels[chosen].tolist()}
            splits[split] = datasets.Dataset.from_dict(rows, features=features)
        options = {**self.get_params(), "encoder": list(self.encoder or [])}
        with tempfile.TemporaryDirectory() as folder:
            output, _ = train_from_table(splits, OwnDataArguments(output_dir=str(Path(folder) / "out"), **options))
            self.committee_ = load_classifier(str(output))
            self.tokenizer_ = load_classifier_tokenizer(str(output), self.committee_)
        return self

    def predict_proba(self, X: Sequence[str]) -> np.ndarray:
        """Probabilities (n, classes) of n texts, in the order of `classes_`."""
        check_is_fitted(self, "committee_")
        logits, _ = predict_logits(self.committee_, self.tokenizer_, [str(text) for text in X])
        probabilities: np.ndarray = softmax(logits, axis=-1)
        return probabilities

    def predict(self, X: Sequence[str]) -> np.ndarray:
        """The most probable class (n,) of n texts."""
        predicted: np.ndarray = self.classes_[self.predict_proba(X).argmax(axis=-1)]
        return predicted
