"""Tables of texts and labels: which columns, which rows are usable, what is left out and counted."""

import logging
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import datasets
import numpy as np

from ..errors import UserError, listed, shown
from ..runs.atomic_files import Json
from .sources import ID, TEXT_TYPES, Source, check_column, tells_rows_apart

logger = logging.getLogger(__name__)
SPLITS = ("train", "validation", "test")
MOST_MISSING = 0.1  # largest share of a split's rows whose label may be missing; one row may always be
OTHER = "other"  # the class that rare classes are merged into
SET_LABEL = "correct it, or set --label-column"


class Row(NamedTuple):
    """A usable row: `id` is its place in the source, `key` the text without markers or masks, which it is chosen by."""

    text: str
    label: int
    id: str
    key: str


@dataclass
class TaskSource:
    """What was read of a source: rows by split, names of the classes, rows left out by reason, notes to say."""

    rows: dict[str, list[Row]]
    names: list[str]
    dropped: Counter[str] = field(default_factory=Counter)
    two_labels: int = 0
    notes: list[str] = field(default_factory=list)
    facts: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A source with its name for errors, its columns of text and label, and its own splits, else its first as train."""

    source: Source
    name: str
    text: str
    label: str
    splits: dict[str, datasets.Dataset]

    @classmethod
    def open(cls, source: Source, name: str, text: str | None, label: str) -> "Table":
        """Where none is given, the columns are `text` or the only one of strings, and the only ClassLabel."""
        features = next(iter(source.splits.values())).features
        classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        if label == "label" and label not in features and len(classes) == 1:
            label = classes[0]
        if text is None:
            strings = [name for name, feature in features.items() if getattr(feature, "dtype", "") in TEXT_TYPES]
            strings = [name for name in strings if name not in (label, ID)]
            text = strings[0] if len(strings) == 1 else "text"
        splits = {split: source.splits[split] for split in SPLITS if split in source.splits}
        splits = splits or {"train": next(iter(source.splits.values()))}
        for rows in splits.values():
            check_column(rows, text, name, "--text-column")
            check_column(rows, label, name, "--label-column")
        return cls(source, name, text, label, splits)


def read_rows(table: Table, labels: Sequence[str] = ()) -> TaskSource:
    """The rows with a text and a label (not None, NaN, blank, or a ClassLabel's -1); `labels` are a known task's.

    The id of a row is its column `id` where all differ, else its place, such as `train/17`. Raises UserError for a
    column without text, labels that are not names, or too many missing.
    """
    source = TaskSource({split: [] for split in table.splits}, [])
    numbers = _read_labels(source, table, list(labels))
    has_ids = ID not in (table.text, table.label) and tells_rows_apart(list(table.splits.values()), ID)
    labels_of: dict[str, set[int]] = defaultdict(set)
    for split, rows in table.splits.items():
        ids = rows[ID][:] if has_ids else [f"{split}/{number}" for number in range(len(rows))]
        for cell, number, row_id in zip(rows[table.text][:], numbers[split], ids, strict=True):
            text = _text(cell)
            if number is None or not text:
                source.dropped["empty label" if number is None else "empty text"] += 1
            else:
                source.rows[split].append(Row(text, number, row_id, text))
                labels_of[text].add(number)
    if not labels_of:
        raise UserError(f"Column {table.text!r} of {table.name!r} holds no text: set --text-column.")
    source.two_labels = sum(len(numbers) > 1 for numbers in labels_of.values())
    return source


def _read_labels(source: TaskSource, table: Table, names: list[str]) -> dict[str, list[int | None]]:
    """The number of each row's class by split (None where it is empty); the source gets the names of the classes.

    A ClassLabel and a known task (whose `names` are given) keep their names and order; other values are sorted.
    """
    feature, column = next(iter(table.splits.values())).features[table.label], f"{table.label!r} of {table.name!r}"
    if not names and isinstance(feature, datasets.ClassLabel):
        names = list(feature.names)
    cells = {split: rows[table.label][:] for split, rows in table.splits.items()}
    values = {split: [label_of(cell, bool(names)) for cell in of_split] for split, of_split in cells.items()}
    for split, of_split in values.items():
        missing = of_split.count(None)
        if missing > max(1, MOST_MISSING * len(of_split)):
            raise UserError(
                f"Column {column} has an empty cell in {missing} of {len(of_split)} rows of {split} (the first in "
                f"{table.source.place(split, of_split.index(None))}): fill them in, or set --label-column."
            )
        for row, value in enumerate(of_split) if names else ():
            if value is not None and value not in range(len(names)):
                raise UserError(
                    f"The label {shown(value)} in {table.source.place(split, row)} of {table.name!r} is none of 0 to "
                    f"{len(names) - 1} ({', '.join(names[:3])} ...): {SET_LABEL}."
                )
    different: Sequence[Any] = range(len(names))
    if not names:
        every = [value for of_split in values.values() for value in of_split if value is not None]
        different = _different_labels(every, column)
        source.notes += _joined_spellings([cell for of_split in cells.values() for cell in of_split])
    source.names = names or [str(value) for value in different]
    index: dict[Any, int | None] = {value: number for number, value in enumerate(different)} | {None: None}
    return {split: [index[value] for value in of_split] for split, of_split in values.items()}


def _different_labels(values: list[Any], column: str) -> list[Any]:
    """The different values in alphabetical order, or in order of size where all are whole numbers."""
    kinds = {type(value) for value in values}
    if len(kinds) == 1 and kinds <= {str, int, bool}:
        different = sorted(set(values))
        if kinds == {str} and all(re.fullmatch(r"[+-]?\d+", value) for value in different):
            different.sort(key=int)
        return different
    odd = [value for value in values if not isinstance(value, str | int)]
    held = shown(odd[0]) if odd else "both"
    raise UserError(f"Labels must be integers or names, but column {column} holds {held}: {SET_LABEL}.")


def _joined_spellings(cells: list[Any]) -> list[str]:
    """A note on labels that differ in outer blanks or in their Unicode form alone."""
    spellings: dict[str, set[str]] = defaultdict(set)
    for cell in cells:
        if isinstance(cell, str):
            spellings[label_of(cell)].add(ascii(cell))
    joined = [" and ".join(sorted(written)) for label, written in spellings.items() if label and len(written) > 1]
    return [f"{len(joined)} classes are spelled in several ways, such as {joined[0]}"] if joined else []


class LabelledText(NamedTuple):
    """A text, the cell of its label as it was read, and where an editor shows its row."""

    text: str
    label: Any
    place: str


def read_labelled(table: Table, split: str | None) -> list[LabelledText]:
    """The rows with text of a table's own split, by default `test`, else `all`; labels may be anything.

    Raises UserError for a split that the table has not, and for none with text.
    """
    split = split or ("test" if "test" in table.splits else "all")
    if split not in ("all", *table.splits):
        raise UserError(f"{table.name!r} has no {split} split of its own: give --split all.")
    labelled = [
        LabelledText(_text(text), label, table.source.place(each, row))
        for each, rows in table.splits.items()
        for row, (text, label) in enumerate(zip(rows[table.text][:], rows[table.label][:], strict=True))
        if split in ("all", each) and _text(text)
    ]
    if not labelled:
        raise UserError(f"Column {table.text!r} of {table.name!r} holds no text: set --text-column.")
    return labelled


def label_sets(rows: Sequence[LabelledText], names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Texts, and which of the classes each one has: bool (texts, classes).

    A label is `a|b` or a list of names; an empty cell is a text without any. Raises UserError for another name.
    """
    chosen = np.zeros((len(rows), len(names)), dtype=bool)
    for row, (_, cell, place) in enumerate(rows):
        parts = cell if isinstance(cell, list) else str("" if cell is None else cell).split("|")
        for name in filter(None, (label_of(str(part)) for part in parts)):
            if name not in names:
                raise UserError(
                    f"The label {shown(name)} in {place} is none of the model's ({listed(names)}): {SET_LABEL}."
                )
            chosen[row, names.index(name)] = True
    return [row.text for row in rows], chosen


def numbers_of(rows: Sequence[LabelledText]) -> tuple[list[str], np.ndarray]:
    """Texts, and the finite number that labels each: float64 (texts,); rows without one are left out and counted.

    Raises UserError for a label that is no number.
    """
    numbers = np.full(len(rows), math.nan)
    for row, (_, cell, place) in enumerate(rows):
        try:
            numbers[row] = math.nan if label_of(cell) is None else float(cell)
        except (TypeError, ValueError):
            numbers[row] = math.inf
        if math.isinf(numbers[row]):
            raise UserError(f"The label {shown(cell)} in {place} is not a number: {SET_LABEL}.")
    labelled = np.flatnonzero(~np.isnan(numbers))
    if len(labelled) < len(rows):
        logger.warning("Note: %d of %d rows have no label and are left out.", len(rows) - len(labelled), len(rows))
    if not len(labelled):
        raise UserError("No row has a label: set --label-column.")
    return [rows[int(row)].text for row in labelled], numbers[labelled]


def without_rare_classes(source: TaskSource, drop: int, merge: int) -> None:
    """Leave out the classes of fewer than `drop` texts, and make those of fewer than `merge` one class, `OTHER`.

    Raises UserError where fewer than two classes are left.
    """
    counts = Counter(row.label for rows in source.rows.values() for row in rows)
    labels = range(len(source.names))
    large = [label for label in labels if counts[label] >= max(drop, merge)]
    merged = [label for label in labels if drop <= counts[label] < merge]
    names = [source.names[label] for label in large]
    names += [OTHER] if merged and OTHER not in names else []
    if len(names) < 2:
        raise UserError("Fewer than two classes are left: give smaller --drop-rare-classes or --merge-rare-classes.")
    numbers = {label: number for number, label in enumerate(large)}
    numbers |= {label: names.index(OTHER) for label in merged}
    for split, rows in source.rows.items():
        source.rows[split] = [row._replace(label=numbers[row.label]) for row in rows if row.label in numbers]
        source.dropped["rare class"] += len(rows) - len(source.rows[split])
    for verb, classes in (("left out", set(labels) - set(numbers)), (f"merged into {OTHER!r}", merged)):
        if classes:
            rare = listed((source.names[label] for label in sorted(classes)), 80)
            source.notes.append(f"{len(classes)} rare classes are {verb} ({rare})")
    source.names = names


def _text(value: Any) -> str:
    """A cell's text; anything but a string counts as none."""
    return value.strip() if isinstance(value, str) else ""


def label_of(value: Any, is_number: bool = False) -> Any:
    """A label as it counts: None where it is missing, a whole float as the integer that it is.

    With `is_number` it is the number of a class, perhaps written as text; -1 is a missing one.
    """
    if isinstance(value, str):
        value = unicodedata.normalize("NFC", value.strip()) or None
        return int(value) if value and is_number and value.isdecimal() else value
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if is_number and value == -1 else value
