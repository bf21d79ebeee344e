"""CSV, TSV, JSON, Excel and text files as people have them: read as they are written, or refused in one sentence.

Cells of CSV, TSV and Excel files are text (`007` stays `007`), and only an empty cell is None; values of JSON keep
their types. Endings count in any case, and `.gz` may follow them.
"""

import csv
import gzip
import io
import json
import logging
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa

from ..errors import UserError, check_installed, listed
from ..runs.atomic_files import Json
from .task_options import TextFormat

logger = logging.getLogger(__name__)
csv.field_size_limit(sys.maxsize)

KINDS = {
    ".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".xlsx": "xlsx", ".parquet": "parquet",
    ".txt": "text",
}  # fmt: skip
PACKED = ("csv", "tsv", "json", "text")
"""Kinds whose files may be packed (`.gz`)."""
DELIMITERS = ",;\t|"
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
HEADER = 100_000
"""Characters at the start of a file among which the delimiter is looked for."""


@dataclass(frozen=True)
class FileTable:
    """The rows of a file, and the number of each as an editor shows it: of its `line`, or of its `row`."""

    file: Path
    table: pa.Table
    numbers: Sequence[int]
    unit: str = "line"


def kind_of(file: Path) -> str | None:
    """One of `KINDS` by the file's ending; None for any other file."""
    if file.suffix.lower() == ".gz":
        kind = kind_of(file.with_suffix(""))
        return kind if kind in PACKED else None
    return KINDS.get(file.suffix.lower())


def read_table_file(file: Path, written: TextFormat) -> FileTable:
    """Read a CSV, TSV, JSON or Excel file.

    Raises:
        UserError: the file cannot be decoded, a row has more or fewer cells than the header, two columns have one name,
            or the JSON is neither rows nor columns; the message names the line.
    """
    kind = kind_of(file)
    if kind == "xlsx":
        return _read_excel(file)
    text = _decode(file, written.encoding)
    return _read_json(file, text) if kind == "json" else _read_csv(file, text, kind == "tsv", written.quoting)


def read_lines(file: Path, encoding: str | None) -> Iterator[str]:
    """The lines of a text file, one after another, without their ends; raises UserError as `read_table_file`."""
    opener = gzip.open if file.suffix.lower() == ".gz" else open
    try:
        with opener(file, "rb") as content:
            marked = _marked_encoding(content.read(3))
        with opener(file, "rt", encoding=encoding or marked) as lines:
            for number, line in enumerate(lines):
                if "\0" in line:
                    raise UnicodeError("zero bytes")
                yield (line if number else line.removeprefix("\ufeff")).rstrip("\n")
    except (UnicodeError, OSError, EOFError, zlib.error) as error:
        _decode(file, encoding)  # which says where
        raise UserError(f"{str(file)!r} cannot be read ({error}): save it as UTF-8.") from error


def join_tables(tables: Sequence[FileTable]) -> pa.Table:
    """The rows of several files; raises UserError where their columns differ."""
    first = tables[0]
    for other in tables[1:]:
        check_same_columns(first.file, first.table.column_names, other.file, other.table.column_names)
    parts = [part.table.select(first.table.column_names) for part in tables]
    try:
        return pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException as error:
        names = ", ".join(str(part.file) for part in tables[:3])
        raise UserError(f"The columns of {names} differ in type ({error}): make them alike.") from error


def check_same_columns(file: Path, columns: Sequence[str], other: Path, others: Sequence[str]) -> None:
    """Raise UserError where two files of a folder differ in columns."""
    if set(columns) != set(others):
        raise UserError(
            f"{other} has the columns {listed(others)}, but {file} beside it has {listed(columns)}: "
            "make them alike, or name one file."
        )


def _decode(file: Path, encoding: str | None) -> str:
    try:
        content = file.read_bytes()
        if file.suffix.lower() == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{str(file)!r} cannot be read ({error}): restore the file.") from error
    try:
        text = content.decode(encoding or _marked_encoding(content))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        remedy = "give its --encoding" if encoding else "save it as UTF-8, or pass --encoding cp1252 (or what it is in)"
        raise UserError(f"{str(file)!r} is not {encoding or 'UTF-8'} in line {line}: {remedy}.") from error
    if "\0" in text:
        raise UserError(f"{str(file)!r} holds zero bytes: save it as UTF-8, or pass --encoding utf-16-le.")
    return text.removeprefix("\ufeff")


def _marked_encoding(content: bytes) -> str:
    """The encoding that a file's byte-order mark names, else UTF-8."""
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")


def _read_csv(file: Path, text: str, is_tsv: bool, quoting: str) -> FileTable:
    usual = "\t" if is_tsv else ","
    told = re.match(r"sep=(.)\r?\n", text, re.IGNORECASE)  # a first line for Excel
    text = text[told.end() :] if told else text
    delimiter = told[1] if told else _find_delimiter(text[:HEADER], usual)
    if delimiter != usual:
        logger.warning("Note: the columns of %s are separated by %r.", file, delimiter)
    parse = partial(_parse, file, text, delimiter, 2 if told else 1)
    if quoting == "none":
        (header, *rows), lines = parse(csv.QUOTE_NONE)
    elif quoting == "csv" or '"' not in text:
        (header, *rows), lines = parse(csv.QUOTE_MINIMAL)
    else:
        (header, *rows), lines = (_parse_tsv if is_tsv else _parse_csv)(file, parse)
    for row, line in zip(rows, lines[1:], strict=True):
        if len(row) != len(header):
            raise UserError(
                f"Line {line} of {file} has {len(row)} cells, but the header has {len(header)}: correct it, or put "
                f"cells that hold {delimiter!r} into quotation marks."
            )
    columns = zip(*rows, strict=True) if rows else [[] for _ in header]
    arrays = [pa.array([cell or None for cell in column], pa.string()) for column in columns]
    return FileTable(file, _table(file, [name.strip() for name in header], arrays), lines[1:])


def _find_delimiter(text: str, default: str) -> str:
    """The one of `DELIMITERS` that makes most columns of the header, `default` among equals."""

    def columns(delimiter: str) -> int:
        return next((len(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row), 0)

    return max(DELIMITERS, key=lambda delimiter: (columns(delimiter), delimiter == default))


Parsed = tuple[list[list[str]], list[int]]
"""Rows of cells, and the line at which each begins."""


def _parse(
    file: Path, text: str, delimiter: str, first: int, quoting: Literal[0, 3], skipinitialspace: bool = False
) -> Parsed:
    """The rows that are not blank, of a text that begins in line `first` of the file."""
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=quoting,
        skipinitialspace=skipinitialspace,
        strict=True,
    )
    rows, lines, line = [], [], first
    try:
        for row in reader:
            if row:
                rows.append(row)
                lines.append(line)
            line = reader.line_num + first
    except csv.Error as error:
        raise UserError(
            f"Line {line} of {file} cannot be read ({error}): correct its quotation marks, or pass --quoting none, "
            "which reads them as text."
        ) from error
    if not rows:
        raise UserError(f"{file} is empty: give a file with text in it.")
    return rows, lines


def _parse_csv(file: Path, parse: Callable[..., Parsed]) -> Parsed:
    """Rows of a CSV file with quotation marks, before which there may be blanks."""
    parsed = parse(csv.QUOTE_MINIMAL)
    if not any(cell.startswith(" ") and cell.lstrip(" ").startswith('"') for row in parsed[0] for cell in row):
        return parsed
    try:
        trimmed = parse(csv.QUOTE_MINIMAL, skipinitialspace=True)
    except UserError:
        return parsed
    if any(len(row) != len(trimmed[0][0]) for row in trimmed[0]):
        return parsed
    logger.warning("Note: %s has blanks before quotation marks: blanks at the start of a cell are left out.", file)
    return trimmed


def _parse_tsv(file: Path, parse: Callable[..., Parsed]) -> Parsed:
    """Rows of a TSV file with quotation marks: they are read as text where they would take in further lines."""
    plain = parse(csv.QUOTE_NONE)
    is_plain = all(len(row) == len(plain[0][0]) for row in plain[0])
    try:
        quoted = parse(csv.QUOTE_MINIMAL)
    except UserError:
        if not is_plain:
            raise
        quoted = ([], [])
    if quoted[1] == plain[1] or not is_plain:
        if len(quoted[1]) < len(plain[1]):
            same = next((row for row, line in enumerate(quoted[1]) if line != plain[1][row]), len(quoted[1]))
            logger.warning(
                "Note: a quoted cell of %s spans lines from line %d (--quoting none reads quotation marks as text).",
                file,
                plain[1][same - 1],
            )
        return quoted
    rows = zip(*plain, strict=True)
    line = next((line for row, line in rows if any(cell[:1] == '"' and cell.count('"') % 2 for cell in row)), 1)
    logger.warning(
        "Note: in line %d of %s a quotation mark is not closed: quotation marks of this file are read as text "
        "(--quoting csv reads them as such).",
        line,
        file,
    )
    return plain


def _read_json(file: Path, text: str) -> FileTable:
    try:
        document = json.loads(text, parse_constant=lambda _: None)  # NaN is a missing value
    except ValueError as error:
        if text.lstrip()[:1] == "[":
            raise UserError(f"{file} is not whole JSON ({error}): correct it.") from error
        records, lines = _json_lines(file, text)
        return FileTable(file, _from_records(file, records), lines)
    table = _from_document(file, document)
    return FileTable(file, table, range(1, len(table) + 1), "row")


def _json_lines(file: Path, text: str) -> tuple[list[Any], list[int]]:
    """The objects of JSON lines, and the line of each."""
    records, lines = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                records.append(json.loads(line, parse_constant=lambda _: None))
            except ValueError as error:
                raise UserError(f"Line {number} of {file} is not JSON ({error}): correct it.") from error
            lines.append(number)
    return records, lines


def _from_document(file: Path, document: Any) -> pa.Table:
    """A table of a JSON list of rows, or of one of the forms that pandas writes."""
    if not isinstance(document, dict):
        return _from_records(file, document if isinstance(document, list) else [document])
    form, records = "", [document]
    data, values = document.get("data"), list(document.values())
    if isinstance(data, list) and isinstance(document.get("columns"), list):
        form, records = "split", [dict(zip(document["columns"], row, strict=False)) for row in data]
    elif isinstance(data, list):
        form, records = "table", data
    elif values and all(isinstance(value, dict) for value in values):
        rows_are_outside = len(document) > max(map(len, values)) and not all(row.isdecimal() for row in values[0])
        if all(name.isdecimal() for name in document) or rows_are_outside:
            form, records = "index", values
        else:
            form, rows = "columns", dict.fromkeys(row for column in values for row in column)
            records = [{name: column.get(row) for name, column in document.items()} for row in rows]
    elif values and all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1:
        form, records = "list", [dict(zip(document, row, strict=True)) for row in zip(*values, strict=True)]
    if form:
        logger.warning(
            "Note: %s holds one JSON object in the form %r of a DataFrame: %d rows.", file, form, len(records)
        )
    return _from_records(file, records)


def _from_records(file: Path, records: list[Any]) -> pa.Table:
    odd = next((number for number, record in enumerate(records, 1) if not isinstance(record, dict)), None)
    if odd is not None:
        raise UserError(
            f"Record {odd} of {file} is not a JSON object: give one object with the same keys for each row."
        )
    names = list(dict.fromkeys(name for record in records for name in record))
    return _table(file, names, [_json_column(file, name, [record.get(name) for record in records]) for name in names])


def _json_column(file: Path, name: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError) as error:
        present = [value for value in values if value is not None and value == value]
        if all(type(value) is int for value in present):  # beyond 64 bits: names, not numbers
            return pa.array([str(value) if value is not None and value == value else None for value in values])
        kinds = sorted({type(value).__name__ for value in present})
        raise UserError(f"Column {name!r} of {str(file)!r} mixes {' and '.join(kinds)}: make them alike.") from error


def frame_table(frame: pd.DataFrame) -> pa.Table:
    """The columns of a DataFrame; raises UserError where one mixes types."""
    source = Path("the DataFrame")
    columns = [_json_column(source, str(name), frame.iloc[:, place]) for place, name in enumerate(frame)]
    return _table(source, [str(name) for name in frame], columns)


def _read_excel(file: Path) -> FileTable:
    check_installed("openpyxl")
    try:
        sheets: Json = pd.read_excel(file, sheet_name=None, dtype=str, keep_default_na=False, na_values=[""])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{str(file)!r} cannot be read ({error}): save it as CSV.") from error
    name, frame = next(iter(sheets.items()))
    if len(sheets) > 1:
        logger.warning("Note: of the %d sheets of %s the first is read, %r.", len(sheets), file, name)
    arrays = [pa.array([None if cell != cell else cell for cell in frame[name]], pa.string()) for name in frame]
    return FileTable(file, _table(file, [str(name) for name in frame], arrays), range(2, len(frame) + 2), "row")


def _table(file: Path, names: list[str], arrays: list[pa.Array]) -> pa.Table:
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise UserError(f"{file} has two columns {double!r}: rename one.")
    return pa.Table.from_arrays(arrays, names)
