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
from .sources import ID, Source, check_column, tells_rows_apart

logger = logging.getLogger(__name__)
SPLITS = ("train", "validation", "test")
MOST_MISSING = 0.1
"""Largest share of a split's rows whose label or title may be missing; one row may always be."""
OTHER = "other"
"""The class that rare classes are merged into."""


class Row(NamedTuple):
    """A usable row: `id` is its place in the source, `key` the text without markers or title, which it is chosen by."""

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
class Columns:
    """Columns of the text, of the label, and of a title to be put before the text."""

    text: str
    label: str
    title: str | None = None


def find_columns(table: datasets.DatasetDict, text: str | None, label: str, title: str | None) -> Columns:
    """The columns of a table; where none was given, `text` or its only column of strings, and its only ClassLabel."""
    features = next(iter(table.values())).features
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if label == "label" and label not in features and len(classes) == 1:
        label = classes[0]
    if text is None:
        strings = [
            name for name, feature in features.items() if getattr(feature, "dtype", "") in ("string", "large_string")
        ]
        strings = [name for name in strings if name not in (label, title, ID)]
        text = strings[0] if len(strings) == 1 else "text"
    return Columns(text, label, title)


def read_rows(table: Source, name: str, columns: Columns, labels: Sequence[str] = ()) -> TaskSource:
    """The usable rows of a table's own train, validation and test splits (of its first split, as train).

    Rows without a text or with an empty label (None, NaN, blank, or -1 of a ClassLabel) are left out and counted. The
    id of a row is its own column `id` where that tells the rows of all splits apart, else its place, such as
    `train/17`. `labels` names a known task's classes; `name` is for errors.

    Raises:
        UserError: no such column, a column without text, labels that are no names, or more than
            `MOST_MISSING` of a split's labels or titles missing.
    """
    splits = own_splits(table, name, columns)
    source = TaskSource({split: [] for split in splits}, [])
    numbers = _read_labels(source, table, splits, name, columns.label, list(labels))
    has_ids = ID not in (columns.text, columns.label, columns.title) and tells_rows_apart(list(splits.values()), ID)
    labels_of: dict[str, set[int]] = defaultdict(set)
    for split, rows in splits.items():
        titles = _titles(rows, columns)
        if columns.title is not None:
            remedy = "leave --title-column out, or give a source with titles in every split"
            _check_missing([title or None for title in titles], table, split, columns.title, name, remedy)
        texts = [_text(value) for value in rows[columns.text][:]]
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
    source.two_labels = sum(len(numbers) > 1 for numbers in labels_of.values())
    return source


def _titles(rows: datasets.Dataset, columns: Columns) -> list[str]:
    """What stands before the text of each row; empty without a column of titles."""
    return [""] * len(rows) if columns.title is None else [_text(value) for value in rows[columns.title][:]]


def own_splits(table: Source, name: str, columns: Columns) -> dict[str, datasets.Dataset]:
    """A table's train, validation and test splits, else its first as train; raises UserError for no such column."""
    splits = {split: table.splits[split] for split in SPLITS if split in table.splits}
    splits = splits or {"train": next(iter(table.splits.values()))}
    for rows in splits.values():
        check_column(rows, columns.text, name, "--text-column")
        check_column(rows, columns.label, name, "--label-column")
        if columns.title is not None:
            check_column(rows, columns.title, name, "--title-column")
    return splits


def _read_labels(
    source: TaskSource, table: Source, splits: dict[str, datasets.Dataset], name: str, column: str, names: list[str]
) -> dict[str, list[int | None]]:
    """The number of each row's class by split (None where it is empty); the source gets the names of the classes.

    Strings without outer blanks and in Unicode NFC, integers and whole floats are names as they are written, booleans
    are False and True, in sorted order (numbers by size); a ClassLabel and a known task (whose `names` are given) keep
    theirs.
    """
    feature = next(iter(splits.values())).features[column]
    if not names and isinstance(feature, datasets.ClassLabel):
        names = list(feature.names)
    cells = {split: list(rows[column][:]) for split, rows in splits.items()}
    values = {split: [label_of(cell, bool(names)) for cell in of_split] for split, of_split in cells.items()}
    for split, of_split in values.items():
        _check_missing(of_split, table, split, column, name, "fill them in, or set --label-column")
    if not names:
        every = [value for of_split in values.values() for value in of_split if value is not None]
        different = _different_labels(every, name, column)
        source.names = [str(value) for value in different]
        source.notes += _joined_spellings([cell for of_split in cells.values() for cell in of_split])
        index: dict[Any, int | None] = {value: number for number, value in enumerate(different)} | {None: None}
        return {split: [index[value] for value in of_split] for split, of_split in values.items()}
    source.names = names
    for split, of_split in values.items():
        for row, value in enumerate(of_split):
            if value is not None and value not in range(len(names)):
                raise UserError(
                    f"The label {shown(value)} in {table.place(split, row)} of {name!r} is none of 0 to "
                    f"{len(names) - 1} ({', '.join(names[:3])} ...): correct it, or set --label-column."
                )
    return {split: [None if value is None else int(value) for value in of] for split, of in values.items()}


def _different_labels(values: list[Any], name: str, column: str) -> list[Any]:
    """The strings, integers or booleans that label the rows, sorted."""
    kinds = {type(value) for value in values}
    if len(kinds) == 1 and kinds <= {str, int, bool}:
        different = sorted(set(values))
        if kinds == {str} and all(re.fullmatch(r"[+-]?\d+", value) for value in different):
            different.sort(key=int)
        return different
    odd = [value for value in values if not isinstance(value, str | int)]
    raise UserError(
        f"Labels must be integers or names, but column {column!r} of {name!r} holds "
        f"{shown(odd[0]) if odd else 'both'}: clean it, or set --label-column."
    )


def _joined_spellings(cells: list[Any]) -> list[str]:
    """A note on labels that differ in outer blanks or in their Unicode form alone."""
    spellings: dict[str, set[str]] = defaultdict(set)
    for cell in set(cells) if all(isinstance(cell, str | None) for cell in cells) else ():
        if cell and cell.strip():
            spellings[label_of(cell)].add(cell)
    joined = {label: sorted(written) for label, written in spellings.items() if len(written) > 1}
    if not joined:
        return []
    label, written = next(iter(sorted(joined.items())))
    spelled = " and ".join(ascii(cell) for cell in written)
    return [f"{len(joined)} classes are spelled in several ways (blanks, Unicode form), such as {label} as {spelled}"]


class LabelledText(NamedTuple):
    """A text, the cell of its label as it was read, and where an editor shows its row."""

    text: str
    label: Any
    place: str


def read_labelled(table: Source, name: str, columns: Columns, split: str | None) -> list[LabelledText]:
    """The rows with text of a table's own split, by default `test`, else `all`; labels may be anything.

    Raises UserError for a split that the table has not, and for none with text.
    """
    splits = own_splits(table, name, columns)
    split = split or ("test" if "test" in splits else "all")
    if split not in ("all", *splits):
        raise UserError(f"{name!r} has no {split} split of its own: give --split all.")
    labelled = []
    for each in splits if split == "all" else (split,):
        rows = splits[each]
        texts = [_text(value) for value in rows[columns.text][:]]
        for row, (title, text, label) in enumerate(
            zip(_titles(rows, columns), texts, rows[columns.label][:], strict=True)
        ):
            if text:
                labelled.append(LabelledText(f"{title} {text}".strip(), label, table.place(each, row)))
    if not labelled:
        raise UserError(f"Column {columns.text!r} of {name!r} holds no text: set --text-column.")
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
                    f"The label {shown(name)} in {place} is none of the model's ({listed(names)}): correct it, or set "
                    "--label-column."
                )
            chosen[row, names.index(name)] = True
    return [row.text for row in rows], chosen


def numbers_of(rows: Sequence[LabelledText]) -> tuple[list[str], np.ndarray]:
    """Texts, and the finite number that labels each: float64 (texts,); rows without one are left out and counted.

    Raises UserError for a label that is no number.
    """
    texts, numbers = [], []
    for text, cell, place in rows:
        try:
            number = math.nan if label_of(cell) is None else float(cell)
        except (TypeError, ValueError):
            number = math.inf
        if math.isinf(number):
            raise UserError(f"The label {shown(cell)} in {place} is not a number: correct it, or set --label-column.")
        if not math.isnan(number):
            texts.append(text)
            numbers.append(number)
    if len(texts) < len(rows):
        logger.warning("Note: %d of %d rows have no label and are left out.", len(rows) - len(texts), len(rows))
    if not texts:
        raise UserError("No row has a label: set --label-column.")
    return texts, np.array(numbers)


def without_rare_classes(source: TaskSource, drop: int, merge: int) -> None:
    """Leave out the classes of fewer than `drop` texts, and make those of fewer than `merge` one class, `OTHER`.

    Raises UserError where fewer than two classes are left.
    """
    counts = Counter(row.label for rows in source.rows.values() for row in rows)
    kept = [label for label in range(len(source.names)) if counts[label] >= max(drop, merge)]
    merged = [label for label in range(len(source.names)) if drop <= counts[label] < merge]
    names = [source.names[label] for label in kept]
    numbers = {label: number for number, label in enumerate(kept)}
    if merged and OTHER not in names:
        names.append(OTHER)
    numbers |= {label: names.index(OTHER) for label in merged}
    if len(names) < 2:
        raise UserError("Fewer than two classes are left: give smaller --drop-rare-classes or --merge-rare-classes.")
    for split, rows in source.rows.items():
        left = [row for row in rows if row.label in numbers]
        source.dropped["rare class"] += len(rows) - len(left)
        source.rows[split] = [row._replace(label=numbers[row.label]) for row in left]
    gone = [name for label, name in enumerate(source.names) if label not in numbers]
    for verb, classes in (("left out", gone), (f"merged into {OTHER!r}", [source.names[label] for label in merged])):
        if classes:
            source.notes.append(f"{len(classes)} rare classes are {verb} ({listed(classes, 80)})")
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


def _check_missing(values: Sequence[Any], table: Source, split: str, column: str, name: str, remedy: str) -> None:
    """Raise UserError when more than one value and more than `MOST_MISSING` of them are None."""
    missing = sum(value is None for value in values)
    if missing > max(1, MOST_MISSING * len(values)):
        first = table.place(split, list(values).index(None))
        raise UserError(
            f"Column {column!r} of {name!r} has an empty cell in {missing} of {len(values)} rows of {split} (the first "
            f"in {first}): {remedy}."
        )
