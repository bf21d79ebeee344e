"""Tables of texts and labels: which columns, which rows are usable, what is dropped and counted."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import datasets

from ..errors import UserError
from ..runs.atomic_files import Json
from .sources import ID, Source, check_column, read_source, reading, tells_rows_apart

SPLITS = ("train", "validation", "test")
MOST_MISSING = 0.1
"""Largest share of a split's rows whose label or title may be missing; one row may always be."""


class Row(NamedTuple):
    """A usable row: `id` is its place in the source, `key` the text without markers or title, which it is chosen by."""

    text: str
    label: int
    id: str
    key: str


@dataclass
class TaskSource:
    """What was read of a source: rows of its splits, names of the classes, rows dropped, texts with two labels."""

    rows: dict[str, list[Row]]
    names: list[str]
    dropped: Counter[str] = field(default_factory=Counter)
    two_labels: int = 0
    facts: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Columns:
    """Columns of the text, of the label, and of a title to be put before the text."""

    text: str
    label: str
    title: str | None = None


def open_table(
    task: str | datasets.Dataset | datasets.DatasetDict, config: str | None, revision: str | None
) -> tuple[str, Source]:
    """The table of a task by path or Hub name, or an object that is one: its name for messages, and its splits."""
    if isinstance(task, str):
        return task, read_source(task, config=config, revision=revision)
    splits = task if isinstance(task, datasets.DatasetDict) else datasets.DatasetDict(train=task)
    return "the data set", Source(splits.with_format(None), None)


def find_columns(table: datasets.DatasetDict, columns: Columns) -> Columns:
    """The columns of a table object: where it lacks these, its only column of strings and its only ClassLabel."""
    features = next(iter(table.values())).features
    text, label = columns.text, columns.label
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if label not in features and len(classes) == 1:
        label = classes[0]
    strings = [
        name for name, feature in features.items() if getattr(feature, "dtype", "") in ("string", "large_string")
    ]
    strings = [name for name in strings if name not in (label, columns.title)]
    if text not in features and len(strings) == 1:
        text = strings[0]
    return Columns(text, label, columns.title)


def read_rows(table: datasets.DatasetDict, name: str, columns: Columns, labels: Sequence[str] = ()) -> TaskSource:
    """The usable rows of a table's own train, validation and test splits (of its only split, as train).

    Rows without a text or with an empty label (None, NaN, blank, or -1 of a ClassLabel) are left out and counted. The
    id of a row is its own column `id` where that tells the rows of all splits apart, else its place, such as
    `train/17`. `labels` names a known task's classes; `name` is for errors.

    Raises:
        UserError: no train split or no such column, a column without text or not in UTF-8, one class alone,
            labels that are no names, or more than `MOST_MISSING` of a split's labels or titles missing.
    """
    splits = {split: table[split] for split in SPLITS if split in table}
    if "train" not in splits and splits:
        raise UserError(f"{name!r} has the splits {', '.join(splits)} but no train split: give a source with one.")
    splits = splits or {"train": next(iter(table.values()))}
    for rows in splits.values():
        check_column(rows, columns.text, name, "--text-column")
        check_column(rows, columns.label, name, "--label-column")
        if columns.title is not None:
            check_column(rows, columns.title, name, "--title-column")
    names, numbers = _read_labels(splits, name, columns.label, list(labels))
    has_ids = ID not in (columns.text, columns.label, columns.title) and tells_rows_apart(list(splits.values()), ID)
    source = TaskSource({split: [] for split in splits}, names)
    labels_of: dict[str, set[int]] = defaultdict(set)
    for split, rows in splits.items():
        titles = _read_titles(rows, split, name, columns.title)
        texts = [_text(value) for value in _cells(rows, columns.text, name)]
        ids = rows[ID][:] if has_ids else [f"{split}/{number}" for number in range(len(rows))]
        for text, number, title, row_id in zip(texts, numbers[split], titles, ids, strict=True):
            if number is None:
                source.dropped["empty label"] += 1
            elif not text:
                source.dropped["empty text"] += 1
            else:
                source.rows[split].append(Row(f"{title} {text}" if title else text, number, row_id, text))
                labels_of[text].add(number)
    if not labels_of:
        raise UserError(f"Column {columns.text!r} of {name!r} holds no text: set --text-column.")
    classes = set().union(*labels_of.values())
    if len(classes) < 2:
        raise UserError(f"The task {name!r} has 1 class in {columns.label!r}: give at least two classes.")
    source.two_labels = sum(len(found) > 1 for found in labels_of.values())
    return source


def _read_labels(
    splits: dict[str, datasets.Dataset], name: str, column: str, names: list[str]
) -> tuple[list[str], dict[str, list[int | None]]]:
    """Names of the classes, and by split the number of each row's class (None where it is empty).

    Strings, integers and whole floats are names as they are written, booleans are False and True, in sorted order; a
    ClassLabel and a known task (whose `names` are given) keep theirs.
    """
    feature = splits["train"].features[column]
    if not names and isinstance(feature, datasets.ClassLabel):
        names = list(feature.names)
    unlabelled = -1 if names else None
    values = {
        split: [_label(cell, unlabelled) for cell in _cells(rows, column, name)] for split, rows in splits.items()
    }
    for split, labels in values.items():
        _check_missing(labels, f"Column {column!r} of {name!r}", split, "fill them in, or set --label-column")
    if not names:
        different = _different_labels([value for labels in values.values() for value in labels], name, column)
        index = {value: number for number, value in enumerate(different)}
        return [str(value) for value in different], {
            split: [None if value is None else index[value] for value in labels] for split, labels in values.items()
        }
    for split, labels in values.items():
        for number, value in enumerate(labels):
            if value is not None and value not in range(len(names)):
                raise UserError(
                    f"The label {value!r} in row {number} of {split} of {name!r} is none of 0 to {len(names) - 1} "
                    f"({', '.join(names[:3])} ...): correct it, or set --label-column."
                )
    return names, {split: [None if value is None else int(value) for value in of] for split, of in values.items()}


def _different_labels(values: list[Any], name: str, column: str) -> list[Any]:
    """The strings, integers or booleans that label the rows, sorted."""
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    if len(kinds) == 1 and kinds <= {str, int, bool}:
        return sorted(set(present))
    odd = [value for value in present if not isinstance(value, str | int)]
    raise UserError(
        f"Labels must be integers or names, but column {column!r} of {name!r} holds {repr(odd[0]) if odd else 'both'}: "
        "clean it, or set --label-column."
    )


def _read_titles(rows: datasets.Dataset, split: str, name: str, column: str | None) -> list[str | None]:
    if column is None:
        return [None] * len(rows)
    titles = [_text(value) or None for value in _cells(rows, column, name)]
    remedy = "leave --title-column out, or give a source with titles in every split"
    _check_missing(titles, f"Column {column!r} of {name!r}", split, remedy)
    return titles


def _cells(rows: datasets.Dataset, column: str, name: str) -> list[Any]:
    """The values of a column; raises UserError where they are not UTF-8."""
    with reading(column, name):
        return list(rows[column][:])


def _text(value: Any) -> str:
    """A cell's text; anything but a string counts as none."""
    return value.strip() if isinstance(value, str) else ""


def _label(value: Any, unlabelled: int | None) -> Any:
    """A label as it counts: None where it is missing, a whole float as the integer that it is."""
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if unlabelled is not None and value == unlabelled else value


def _check_missing(values: Sequence[Any], where: str, split: str, remedy: str) -> None:
    """Raise UserError when more than one value and more than `MOST_MISSING` of them are None."""
    missing = sum(value is None for value in values)
    if missing > max(1, MOST_MISSING * len(values)):
        raise UserError(
            f"{where} has an empty cell in {missing} of {len(values)} rows of {split} (the first in row "
            f"{values.index(None)}, counted from 0): {remedy}."
        )
