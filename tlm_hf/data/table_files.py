"""CSV, TSV, JSON, Excel and text files as they are written: cells are text, an empty one None; JSON keeps its types."""

import csv
import gzip
import io
import json
import logging
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from ..errors import UserError, check_installed, listed, refusing
from ..runs.atomic_files import Json
from .task_options import TextFormat

logger = logging.getLogger(__name__)
csv.field_size_limit(sys.maxsize)

PACKED = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".txt": "text"}  # perhaps as .gz
KINDS = {**PACKED, ".xlsx": "xlsx", ".parquet": "parquet"}
DELIMITERS = ",;\t|"
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


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
        return PACKED.get(file.with_suffix("").suffix.lower())
    return KINDS.get(file.suffix.lower())


def read_table_file(file: Path, written: TextFormat) -> FileTable:
    """Read a CSV, TSV, JSON or Excel file; raises UserError, which names the line, for what cannot be read."""
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
    except (UnicodeError, OSError, EOFError, zlib.error):
        _decode(file, encoding)  # which says where
        raise


def join_tables(tables: Sequence[FileTable]) -> pa.Table:
    """The rows of several files; raises UserError where their columns differ."""
    first = tables[0]
    for other in tables[1:]:
        check_same_columns(first.file, first.table.column_names, other.file, other.table.column_names)
    with refusing(f"The columns of {first.file} and others differ in type", "make them alike", pa.ArrowException):
        return pa.concat_tables([part.table for part in tables], promote_options="permissive")


def check_same_columns(file: Path, columns: Sequence[str], other: Path, others: Sequence[str]) -> None:
    """Raise UserError where two files of a folder differ in columns."""
    if set(columns) != set(others):
        ours, theirs = listed(columns), listed(others)
        raise UserError(f"{other} has the columns {theirs}, but {file} has {ours}: make them alike, or name one file.")


def _decode(file: Path, encoding: str | None) -> str:
    with refusing(f"{str(file)!r} cannot be read", "restore the file", OSError, EOFError, zlib.error):
        content = file.read_bytes()
        if file.suffix.lower() == ".gz":
            content = gzip.decompress(content)
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
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")


def _read_csv(file: Path, text: str, is_tsv: bool, quoting: str) -> FileTable:
    usual, first_line = "\t" if is_tsv else ",", text.lstrip("\r\n").partition("\n")[0]
    is_told = is_tsv and usual in first_line
    delimiter = usual if is_told else max(DELIMITERS, key=lambda each: (first_line.count(each), each == usual))
    if delimiter != usual:
        logger.warning("Note: the columns of %s are separated by %r.", file, delimiter)
    marks: Any = csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=marks, strict=True)
    rows, numbers, line = [], [], 1
    try:
        for row in reader:
            if row:  # not a blank line
                rows.append(row)
                numbers.append(line)
            if is_tsv and quoting == "auto" and reader.line_num > line:
                raise csv.Error("a quoted cell spans lines, which --quoting csv allows")
            if row and len(row) != len(rows[0]):
                sizes = f"{len(row)} cells, but the header has {len(rows[0])}"
                remedy = f"correct it, or put cells that hold {delimiter!r} into quotation marks"
                raise UserError(f"Line {line} of {file} has {sizes}: {remedy}.")
            line = reader.line_num + 1
    except csv.Error as error:
        remedy = "correct its quotation marks, or pass --quoting none, which reads them as text"
        raise UserError(f"Line {line} of {file} cannot be read ({error}): {remedy}.") from error
    if not rows:
        raise UserError(f"{file} is empty: give a file with text in it.")
    columns = [[row[column] or None for row in rows[1:]] for column in range(len(rows[0]))]
    return FileTable(file, _table(file, [name.strip() for name in rows[0]], columns, pa.string()), numbers[1:])


def _read_json(file: Path, text: str) -> FileTable:
    decode = json.JSONDecoder(parse_constant=lambda _: None).decode  # NaN is a missing value
    lines: dict[int, Any] = {}
    try:
        records = _from_document(file, decode(text))
    except ValueError as error:
        for number, line in enumerate(text.split("\n"), 1):
            try:
                lines |= {number: decode(line)} if line.strip() else {}
            except ValueError as at_line:
                fault = f"neither JSON ({error}) nor an object a line (line {number}: {at_line})"
                raise UserError(f"{file} is {fault}: correct it.") from error
        records = list(lines.values())
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            remedy = "give an object with the same keys for each row, as DataFrame.to_json(orient='records') does"
            raise UserError(f"Record {number} of {file} is not a JSON object: {remedy}.")
    names = list(dict.fromkeys(name for record in records for name in record))
    table = _table(file, names, [[record.get(name) for record in records] for name in names])
    return FileTable(file, table, list(lines)) if lines else FileTable(file, table, range(1, len(table) + 1), "row")


def _from_document(file: Path, document: Any) -> list[Any]:
    """Records, those under `data` or of the columns of `DataFrame.to_json()`, or the one that an object is."""
    columns = document if isinstance(document, dict) else {}
    records = columns.get("data")
    if columns and all(isinstance(column, dict) for column in columns.values()):
        rows = next(iter(columns.values()))
        records = [{name: column.get(row) for name, column in columns.items()} for row in rows]
    if not isinstance(records, list):
        return document if isinstance(document, list) else [document]
    logger.warning("Note: %s holds one JSON object, as a DataFrame writes it: %d rows.", file, len(records))
    return records


def frame_table(frame: pd.DataFrame) -> pa.Table:
    """The columns of a DataFrame; raises UserError where one mixes types."""
    return _table(Path("the DataFrame"), [str(name) for name in frame], [column for _, column in frame.items()])


def _read_excel(file: Path) -> FileTable:
    check_installed("openpyxl")
    with refusing(f"{str(file)!r} cannot be read", "save it as CSV", OSError, ValueError, KeyError, zipfile.BadZipFile):
        options: Json = {"dtype": str, "keep_default_na": False, "na_values": [""]}
        sheets: Json = pd.read_excel(file, sheet_name=None, header=None, **options)
    name, frame = next(iter(sheets.items()))
    if len(sheets) > 1:
        logger.warning("Note: of the %d sheets of %s the first is read, %r.", len(sheets), file, name)
    frame = frame[frame.notna().any(axis=1).cummax()]  # the first row with a cell has the names
    if not len(frame):
        raise UserError(f"{file} is empty: give a file with text in it.")
    header = enumerate(frame.iloc[0], 1)
    names = [(not pd.isna(cell) and cell.strip()) or f"column {place}" for place, cell in header]
    table = _table(file, names, [column[1:] for _, column in frame.items()], pa.string())
    return FileTable(file, table, [row + 1 for row in frame.index[1:]], "row")


def _table(file: Path, names: list[str], columns: Sequence[Any], kind: pa.DataType | None = None) -> pa.Table:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{file} has two columns {name!r}: rename one.")
    arrays = []
    for name, values in zip(names, columns, strict=True):
        try:
            arrays.append(pa.array(values, kind))
        except UnicodeEncodeError as error:
            raise UserError(f"Column {name!r} of {str(file)!r} holds half an emoji: correct it.") from error
        except (pa.ArrowException, OverflowError) as error:
            present = [value for value in values if value is not None and value == value]
            if not all(type(value) is int for value in present):
                kinds = " and ".join(sorted({type(value).__name__ for value in present}))
                raise UserError(f"Column {name!r} of {str(file)!r} mixes {kinds}: make them alike.") from error
            # Beyond 64 bits they are names, not numbers.
            arrays.append(pa.array([str(value) if value is not None and value == value else None for value in values]))
    return pa.Table.from_arrays(arrays, names)
