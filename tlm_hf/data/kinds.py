"""What kind a task is, by its rows: a class, several labels or a number for each text, or for each pair of texts."""

from typing import Any, TypeAlias

import datasets
import numpy as np

from ..models.combination_committee import MULTI, REGRESSION, SINGLE

KINDS = {"single": SINGLE, "multi": MULTI, "regression": REGRESSION}  # `problem_type` by `--problem-type`
NAMES = {problem_type: name for name, problem_type in KINDS.items()}
PAIR = "text_pair"
VALUE = "value"  # name of a regression's only output
Rows: TypeAlias = datasets.DatasetDict | datasets.Dataset


def _label(task: Rows) -> Any:
    return (task if isinstance(task, datasets.Dataset) else next(iter(task.values()))).features["label"]


def problem_of(task: Rows) -> str:
    """The `problem_type` of a task, or of a split."""
    return {datasets.ClassLabel: SINGLE, datasets.List: MULTI}.get(type(_label(task)), REGRESSION)


def class_names(task: Rows) -> list[str]:
    """Names of the classes, in label order."""
    return [VALUE] if problem_of(task) == REGRESSION else list(getattr(_label(task), "feature", _label(task)).names)


def label_feature(problem_type: str, names: list[str]) -> Any:
    """The column `label` of a task."""
    classes = datasets.ClassLabel(names=names)
    return {SINGLE: classes, MULTI: datasets.List(classes), REGRESSION: datasets.Value("float64")}[problem_type]


def texts_of(rows: datasets.Dataset) -> list[Any]:
    """The texts as a tokenizer takes them: n strings, or n tuples of two."""
    texts: list[Any] = rows["text"][:]
    return list(zip(texts, rows[PAIR][:], strict=True)) if PAIR in rows.column_names else texts


def as_one_text(texts: list[Any]) -> list[str]:
    """Each pair as one text, for what takes no pairs; single texts stay."""
    return [text if isinstance(text, str) else " [SEP] ".join(text) for text in texts]


def per_label(*splits: datasets.Dataset) -> dict[str, int]:
    """How many rows of the splits together each class has; of a regression none."""
    if problem_of(splits[0]) == REGRESSION:
        return {}
    names, labels = class_names(splits[0]), np.concatenate([labels_of(rows) for rows in splits])
    counts = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels.astype(int), minlength=len(names))
    return dict(zip(names, counts.astype(int).tolist(), strict=True))


def labels_of(rows: datasets.Dataset) -> np.ndarray:
    """Class ids (n,); of several labels 0. and 1. (n, classes); of a regression numbers (n,)."""
    labels = rows["label"][:]
    if problem_of(rows) != MULTI:
        return np.array(labels)
    chosen = np.zeros((len(labels), len(class_names(rows))))
    for row, numbers in enumerate(labels):
        chosen[row, numbers] = 1
    return chosen
