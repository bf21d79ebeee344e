"""Where a task's rows come from: the tasks of arXiv 2507.14871 with their pinned sources, and any labelled table."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import datasets

from ..errors import UserError
from .sources import check_column, reading, tells_rows_apart
from .subsets import ID

SPLITS = ("train", "validation", "test")
MOST_MISSING = 0.1
"""Largest share of a split's rows whose label or title may be missing; one row may always be."""


@dataclass(frozen=True)
class KnownTask:
    """A task of the paper: where it lies, its columns and classes, and how many texts of each class the paper takes.

    Args:
        hub: its name on the Hub; None where it is not there.
        revision: the pinned commit on the Hub.
        text_column: column of the text.
        labels: names of the classes in the order of their numbers; empty where the files name them.
        train_per_label: the paper's training texts of each class.
        test_per_label: likewise for test.
        validation_within_train: the source has no more than these, so validation comes out of `train_per_label`.
    """

    hub: str | None
    revision: str | None
    text_column: str
    labels: tuple[str, ...]
    train_per_label: int
    test_per_label: int
    validation_within_train: bool = False


KNOWN = {
    "ag_news": KnownTask(
        "fancyzhx/ag_news",
        "eb185aade064a813bc0b7f42de02595523103ca4",
        "text",
        ("World", "Sports", "Business", "Sci/Tech"),
        1000,
        1000,
    ),
    "dbpedia_14": KnownTask(
        "fancyzhx/dbpedia_14",
        "9abd46cf7fc8b4c64290f26993c540b92aa145ac",
        "content",
        (
            "Company", "EducationalInstitution", "Artist", "Athlete", "OfficeHolder", "MeanOfTransportation",
            "Building", "NaturalPlace", "Village", "Animal", "Plant", "Album", "Film", "WrittenWork",
        ),
        100,
        100,
    ),
    "fewrel": KnownTask(None, None, "tokens", (), 630, 70, validation_within_train=True),
}  # fmt: skip


class Row(NamedTuple):
    """A usable row of a source.

    Args:
        text: as it is given out.
        label: number of its class.
        id: where it stands in its source.
        key: what it is chosen and compared by: the text without markers or title, so that these do not change the
            choice of rows.
    """

    text: str
    label: int
    id: str
    key: str


@dataclass
class TaskSource:
    """What was read of a source, before rows are chosen.

    Args:
        rows: rows of the source's own splits.
        names: names of the classes, in label order.
        dropped: rows that were left out, by reason, over all splits of the source.
        two_labels: different texts that stand under two labels and were kept (in a table they may).
        facts: what else reproduces it: `source`, `revision`, columns.
    """

    rows: dict[str, list[Row]]
    names: list[str]
    dropped: Counter[str] = field(default_factory=Counter)
    two_labels: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


def read_rows(
    table: datasets.DatasetDict,
    name: str,
    columns: tuple[str, str, str | None],
    known: KnownTask | None = None,
) -> TaskSource:
    """The usable rows of a table's own train, validation and test splits (of its only split, as train).

    Rows without a text or with an empty label (None, NaN, blank, or -1 of a ClassLabel) are left out and counted.
    Labels become names: strings, integers and whole floats as they are written, booleans as False and True, in sorted
    order; a ClassLabel and a known task keep theirs. The id of a row is what its own column `id` says where that tells
    the rows of all splits apart, else where the row stands, such as `train/17`.

    Args:
        table: the splits.
        name: what to call it in errors.
        columns: of the text, of the label, and of a title to be put before the text (or None).
        known: the known task that it is.

    Raises:
        UserError: no train split or no such column, a column without text or one that is no UTF-8, one class alone,
            labels that are no names, or more than `MOST_MISSING` of a split's labels or titles missing.
    """
    text_column, label_column, title_column = columns
    splits = {split: table[split] for split in SPLITS if split in table}
    if "train" not in splits and splits:
        raise UserError(f"{name!r} has the splits {', '.join(splits)} but no train split: give a source with one.")
    if not splits:
        splits = {"train": next(iter(table.values()))}
    for rows in splits.values():
        check_column(rows, text_column, name, "--text-column")
        check_column(rows, label_column, name, "--label-column")
        if title_column is not None:
            check_column(rows, title_column, name, "--title-column")
    feature = splits["train"].features[label_column]
    names = list(known.labels) if known else list(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    labels = {
        split: [_label(value, unlabelled=-1 if names else None) for value in _cells(rows, label_column, name)]
        for split, rows in splits.items()
    }
    for split, values in labels.items():
        _check_missing(values, f"Column {label_column!r} of {name!r}", split, "fill them in, or set --label-column")
    if names is None:
        names, ids = _name_labels([value for values in labels.values() for value in values], name, label_column)
    else:
        ids = {index: index for index in range(len(names))}
    has_ids = ID not in columns and tells_rows_apart(list(splits.values()), ID)
    source = TaskSource({split: [] for split in splits}, names)
    for split, rows in splits.items():
        titles: list[str | None] = [None] * len(rows)
        if title_column is not None:
            titles = [_text(value) or None for value in _cells(rows, title_column, name)]
            where = f"Column {title_column!r} of {name!r}"
            _check_missing(
                titles, where, split, "leave --title-column out, or give a source with titles in every split"
            )
        texts = _cells(rows, text_column, name)
        row_ids = rows[ID][:] if has_ids else [f"{split}/{number}" for number in range(len(rows))]
        for number, (value, label, title) in enumerate(zip(texts, labels[split], titles, strict=True)):
            text = _text(value)
            if label is None:
                source.dropped["empty label"] += 1
            elif label.__hash__ is None or label not in ids:  # a list has no hash
                raise UserError(
                    f"The label {label!r} in row {number} of {split} of {name!r} is none of 0 to {len(names) - 1} "
                    f"({', '.join(names[:3])} ...): correct it, or set --label-column."
                )
            elif not text:
                source.dropped["empty text"] += 1
            else:
                shown = text if title is None else f"{title} {text}"
                source.rows[split].append(Row(shown, ids[label], row_ids[number], text))
    usable = [row for rows in source.rows.values() for row in rows]
    if not usable:
        raise UserError(f"Column {text_column!r} of {name!r} holds no text: set --text-column.")
    classes = {row.label for row in usable}
    if len(classes) < 2:
        raise UserError(f"The task {name!r} has {len(classes)} class in {label_column!r}: give at least two classes.")
    labels_of: dict[str, set[int]] = defaultdict(set)
    for row in usable:
        labels_of[row.key].add(row.label)
    source.two_labels = sum(len(found) > 1 for found in labels_of.values())
    return source


def _cells(rows: datasets.Dataset, column: str, name: str) -> list[Any]:
    """The values of a column; raises UserError where they are no UTF-8."""
    with reading(column, name):
        return list(rows[column][:])


def _text(value: Any) -> str:
    """A cell's text; what is no string counts as none."""
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


def _check_missing(values: list[Any], where: str, split: str, remedy: str) -> None:
    """Raise UserError when more than one value and more than `MOST_MISSING` of them are None."""
    missing = sum(value is None for value in values)
    if missing > max(1, MOST_MISSING * len(values)):
        raise UserError(
            f"{where} has an empty cell in {missing} of {len(values)} rows of {split} (the first in row "
            f"{values.index(None)}, counted from 0): {remedy}."
        )


def _name_labels(values: list[Any], name: str, column: str) -> tuple[list[str], dict[Any, int]]:
    """Class names in the sorted order of the strings, integers or booleans that label the rows."""
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    if len(kinds) == 1 and kinds <= {str, int, bool}:
        found = sorted(set(present))
        return [str(value) for value in found], {value: index for index, value in enumerate(found)}
    odd = [value for value in present if not isinstance(value, str | int)]
    raise UserError(
        f"Labels must be integers or names, but column {column!r} of {name!r} holds {repr(odd[0]) if odd else 'both'}: "
        "clean it, or set --label-column."
    )
