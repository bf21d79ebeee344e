"""The rows of a table with their labels: a class, several (`a|b` or a list), or a number for each text."""

import logging
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import datasets

from ..errors import UserError, listed, shown
from .kinds import KINDS, MULTI, REGRESSION, SINGLE, VALUE
from .tables import Row, Table, TaskSource

logger = logging.getLogger(__name__)
MOST_MISSING = 0.1  # largest share of a split's rows without text or label; one row may always be
MANY = 20  # numbers as labels from which they may be amounts
SET_LABEL = "correct it, or set --label-column"


def read_rows(table: Table, labels: Sequence[str] = (), problem_type: str | None = None) -> TaskSource:
    """The rows with a text and a label (not None, NaN, blank, or a ClassLabel's -1); `labels` are a known task's.

    `problem_type` is one of `KINDS`, or None for a guess. UserError for no text, unreadable labels, or many missing.
    """
    kind = KINDS["single" if labels else problem_type or "single"]
    are_lists = isinstance(table.label_feature, datasets.List)
    if not labels and problem_type is None and are_lists:
        logger.warning("Note: labels of %s are lists: a text may have several (--problem-type multi).", table.name)
        kind = MULTI
    source = TaskSource({split: [] for split in table.source.splits}, [], problem_type=kind)
    numbers = _read_numbers(source, table) if kind == REGRESSION else _read_classes(source, table, list(labels))
    names, is_guess = source.names, problem_type is None and not labels and kind == SINGLE
    if is_guess and are_amounts(names):
        logger.warning("Note: %d numbers are read as classes; --problem-type regression learns amounts.", len(names))
    joined = [name for name in names if "|" in name]
    if is_guess and (len(joined) > len(names) / 2 or any(set(name.split("|")) & set(names) for name in joined)):
        logger.warning("Note: labels such as %s are one class each; --problem-type multi splits at |.", joined[0])
    labels_of: dict[str, set[Any]] = defaultdict(set)
    for split, rows in table.source.splits.items():
        columns = []
        for column in filter(None, (table.text, table.pair)):
            columns.append([(cell.strip() or None) if isinstance(cell, str) else None for cell in rows[column][:]])
            _check_missing(table, split, columns[-1], column)
        for place, (label, *texts) in enumerate(zip(numbers[split], *columns, strict=True)):
            if label is None or None in texts:
                source.dropped["empty label" if label is None else "empty text"] += 1
            else:
                text, *pair = texts
                source.rows[split].append(Row(text, label, f"{split}/{place}", "\0".join(texts), *pair))
                labels_of["\0".join(texts)].add(label)
    if kind == MULTI and not are_lists:  # a list says itself how many labels it has
        sizes = [len(row.label) for rows in source.rows.values() for row in rows]
        if bare := sizes.count(0):
            source.notes.append(f"{bare} texts have no label, and count as having none of them")
        if max(sizes, default=0) < 2:
            source.notes.append("no text has two labels; in a text cell, separate labels with |")
    source.two_labels = sum(len(numbers) > 1 for numbers in labels_of.values())
    return source


def _read_classes(source: TaskSource, table: Table, names: list[str]) -> dict[str, list[Any]]:
    """By split the number of each row's class (None: empty), or all of several; known names keep their order."""
    several, feature = source.problem_type == MULTI, getattr(table.label_feature, "feature", table.label_feature)
    if not names and isinstance(feature, datasets.ClassLabel):
        names = list(feature.names)

    def labels_in(cell: Any) -> list[Any]:
        parts = cell.split("|") if several and isinstance(cell, str) else cell
        parts = parts if several and isinstance(parts, list) else [cell]
        known = [label for part in parts if (label := label_of(part, bool(names))) is not None]
        return [names.index(label) if label in names else label for label in known]

    cells = {split: rows[table.label][:] for split, rows in table.source.splits.items()}
    labels = {split: [labels_in(cell) for cell in of_split] for split, of_split in cells.items()}
    for split, of_split in labels.items():
        if not several:
            _check_missing(table, split, [each or None for each in of_split], table.label)
        for row, label in ((row, label) for row, each in enumerate(of_split) for label in each if names):
            if label not in range(len(names)):
                place = f"{table.source.place(split, row)} of {table.name!r}"
                known = f"0 to {len(names) - 1} ({', '.join(names[:3])} ...)"
                raise UserError(f"The label {shown(label)} in {place} is none of {known}: {SET_LABEL}.")
    different: Sequence[Any] = range(len(names))
    if not names:
        every = [label for of_split in labels.values() for each in of_split for label in each]
        different = _different_labels(every, f"Column {table.label!r} of {table.name!r}")
        source.notes += _joined_spellings([cell for of_split in cells.values() for cell in of_split if not several])
        folded = Counter(str(label).casefold() for label in different)
        if alike := [str(label) for label in different if folded[str(label).casefold()] > 1]:
            words = "labels that differ in case alone are classes of their own (spell alike what is one)"
            source.notes.append(f"{words}: {listed(alike)}")
    source.names = names or [str(label) for label in different]
    index = {label: number for number, label in enumerate(different)}
    numbers = {split: [sorted({index[label] for label in each}) for each in rows] for split, rows in labels.items()}
    if several:
        return {split: [tuple(each) for each in rows] for split, rows in numbers.items()}
    return {split: [each[0] if each else None for each in rows] for split, rows in numbers.items()}


def _check_missing(table: Table, split: str, values: list[Any], column: str) -> None:
    missing, of = values.count(None), f"Column {column!r} of {table.name!r}"
    option = {table.label: "--label-column", table.pair: "--text-pair-column"}.get(column, "--text-column")
    if missing == len(values) > 0:
        what = "label" if column == table.label else "text"
        raise UserError(f"{of} holds no {what} in {split}: set {option}, or leave that split out.")
    if missing > max(1, MOST_MISSING * len(values)):
        first = f"the first in {table.source.place(split, values.index(None))}"
        rows = f"{missing} of {len(values)} rows of {split} ({first})"
        raise UserError(f"{of} has an empty cell in {rows}: fill them in, leave these rows out, or set {option}.")


def _different_labels(values: list[Any], column: str) -> list[Any]:
    """The different values in alphabetical order, or in order of size where all are whole numbers."""
    if not values:
        raise UserError(f"{column} holds no label: set --label-column.")
    kinds = {type(value) for value in values}
    if len(kinds) == 1 and kinds <= {str, int, bool}:
        different = sorted(set(values))
        if kinds == {str} and all(re.fullmatch(r"[+-]?\d+", value) for value in different):
            different.sort(key=int)
        return different
    odd = [value for value in values if not isinstance(value, str | int)]
    held = shown(odd[0]) if odd else "both"
    remedy = f"{SET_LABEL}, or give --problem-type regression"
    raise UserError(f"{column} holds {held}, and labels are integers or names: {remedy}.")


def _joined_spellings(cells: list[Any]) -> list[str]:
    """A note on labels that differ in outer blanks or in their Unicode form alone."""
    spellings: dict[str, set[str]] = defaultdict(set)
    for cell in cells:
        if isinstance(cell, str):
            spellings[label_of(cell)].add(ascii(cell))
    joined = [" and ".join(sorted(written)) for label, written in spellings.items() if label and len(written) > 1]
    return [f"{len(joined)} classes are spelled in several ways, such as {joined[0]}"] if joined else []


def _read_numbers(source: TaskSource, table: Table) -> dict[str, list[float | None]]:
    source.names = [VALUE]
    numbers: dict[str, list[float | None]] = {}
    for split, rows in table.source.splits.items():
        numbers[split] = []
        for row, cell in enumerate(rows[table.label][:]):
            try:
                number = None if label_of(cell) is None else float(cell)
            except (TypeError, ValueError):
                number = math.inf
            if number is not None and not math.isfinite(number):
                place = table.source.place(split, row)
                remedy = "write a decimal point" if re.fullmatch(r"[+-]?\d+,\d+", str(cell)) else SET_LABEL
                raise UserError(f"The label {shown(cell)} in {place} is not a number: {remedy}.")
            numbers[split].append(number)
        _check_missing(table, split, numbers[split], table.label)
    return numbers


def are_amounts(names: Sequence[str]) -> bool:
    """Whether classes are so many numbers that they may be amounts."""
    return len(names) > MANY and all(re.fullmatch(r"[+-]?\d+([.,]\d+)?", name) for name in names)


def label_of(value: Any, is_number: bool = False) -> Any:
    """A label as it counts, None if missing; with `is_number` the number of a class, of which -1 is a missing one."""
    if isinstance(value, str):
        value = unicodedata.normalize("NFC", value.strip()) or None
        return int(value) if value and is_number and value.isdecimal() else value
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if is_number and value == -1 else value
