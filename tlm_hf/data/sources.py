"""Reading data sets: local files and folders (CSV, TSV, JSON, Excel, parquet, text) and data sets of the Hub."""

import contextlib
import glob
import hashlib
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.table import table_cast

from ..errors import UserError, first_line, listed, refusing
from ..runs.atomic_files import file_hash, replacing
from .table_files import KINDS, FileTable, check_same_columns, join_tables, kind_of, read_lines, read_table_file
from .task_options import PLAIN, TextFormat

SPLIT_WORDS = {"train": "train training", "validation": "validation valid val dev"}
SPLIT_WORDS |= {"test": "test testing eval evaluation"}  # words in the names of files and folders
TEXT_TYPES = ("string", "large_string")
LOCAL_REMEDY = "give parquet, JSON, CSV or text with rows, and room in HF_DATASETS_CACHE"
BATCH = 1000
IN_MEMORY = 2**23  # bytes of parquet tables; larger ones are mapped from a copy in the cache
OTHER_CLASSES = "give different names to the numbers of {!r}: save them with one list of names, or as text."
ID = "id"  # column of the row's place in the source, such as `train/17` or `wikipedia/train.parquet/93`
logger = logging.getLogger(__name__)


def data_root(given: str | None) -> Path | None:
    """Folder of real text: `--data-root`, else the variable `TLM_DATA`, else None; UserError where it is no folder."""
    root = given or os.environ.get("TLM_DATA")
    folder = Path(root).expanduser() if root else None
    if folder is not None and not folder.is_dir():
        option = "--data-root" if given else "TLM_DATA"
        raise UserError(f"{option} is {root}, which is not a folder: give the one that holds wikipedia/ and the tasks.")
    return folder


class Source(NamedTuple):
    """The tables of a data set by split, and its CSV, JSON or Excel files."""

    splits: datasets.DatasetDict
    files: Mapping[str, Sequence[FileTable]] = {}

    def place(self, split: str, row: int) -> str:
        """Where a row (from 0) is, as an editor shows it: `line 7 of train.csv`, else `row 6 of train`."""
        places = ((part, number) for part in self.files.get(split, ()) for number in part.numbers)
        part, number = next(itertools.islice(places, row, None), (None, row + 1))
        return f"row {number} of {split}" if part is None else f"{part.unit} {number} of {part.file}"


def read_source(
    name: str,
    config: str | None = None,
    revision: str | None = None,
    written: TextFormat = PLAIN,
    text_unit: str | None = "line",
) -> Source:
    """Read a file (as the split `train`), a folder or a Hub data set; UserError for what cannot be read.

    Nothing is guessed (no number, no date), so the columns can be written back bit for bit. `config` may be one of a
    folder's README.md; `text_unit` is `line`, `paragraph`, or None for paragraphs where there are blank lines.
    """
    path = Path(name).expanduser()
    if path.exists():
        if revision is not None:
            raise UserError(f"{name!r} is on this machine and has no revision {revision!r}: leave the revision out.")
        source = _read_local(path, config, written, text_unit)
    elif name.count("/") == 1 and kind_of(path) is None and not name.startswith((".", "/", "~")):
        remedy = "check the path, or owner/name and the network"
        source = Source(_load(name, path=name, name=config, revision=revision, remedy=remedy))
    else:
        raise UserError(f"{name!r} is neither an existing file or folder nor a Hub data set (owner/name).")
    if not any(map(len, source.splits.values())):
        raise UserError(f"{name!r} has no rows: give a file or folder with text in it.")
    return source


def _read_local(path: Path, config: str | None, written: TextFormat, text_unit: str | None) -> Source:
    tables = tables_in(path)
    by_split = _find_files(path, tables, config)
    files: dict[str, list[FileTable]] = {}
    every = [file for parts in (by_split or {}).values() for file in parts]
    kind = _one_format(every) if every else None
    if by_split is None:
        loaded = _load(str(path), path=str(path), name=config, cache_dir=str(_cache_of(path, tables)))
    elif kind == "parquet":
        if sum(map(_size_in_memory, every)) > IN_MEMORY:
            named = {split: [glob.escape(str(part)) for part in parts] for split, parts in by_split.items()}
            loaded = _load(str(path), path=kind, data_files=named, cache_dir=str(_cache_of(path, tables)))
        else:
            loaded = _load(str(path), _read_parquet, files=by_split)
    elif kind == "text":
        loaded = datasets.DatasetDict(train=_read_texts(every, text_unit, written.encoding, _cache_of(path, tables)))
    else:
        files = {split: [read_table_file(file, written) for file in parts] for split, parts in by_split.items()}
        loaded = datasets.DatasetDict({split: datasets.Dataset(join_tables(parts)) for split, parts in files.items()})
    return Source(loaded, files)


def _cache_of(path: Path, tables: Sequence[Path]) -> Path:
    """The folder of the cache for these files, named after their contents."""
    lines = "".join(f"{file_hash(file)}  {file.relative_to(path).as_posix()}\n" for file in tables)
    return Path(datasets.config.HF_DATASETS_CACHE, "tlm_hf", "tables", hashlib.sha256(lines.encode()).hexdigest()[:32])


def _size_in_memory(file: Path) -> int:
    metadata = pq.read_metadata(file)
    return sum(metadata.row_group(place).total_byte_size for place in range(metadata.num_row_groups))


def _read_parquet(files: Mapping[str, Sequence[Path]]) -> datasets.DatasetDict:
    """Parquet files of each split in memory: a copy in the cache would outlive what was deleted."""
    splits = {}
    for split, parts in files.items():
        first, *others = map(pq.read_table, parts)
        schema = datasets.Features.from_arrow_schema(first.schema).arrow_schema
        tables = [table_cast(each.select(first.column_names), schema) for each in (first, *others)]
        splits[split] = datasets.Dataset(pa.concat_tables(tables))
    return datasets.DatasetDict(splits)


def is_text(name: str) -> bool:
    """Whether a path is a text file or a folder of text files alone."""
    return {kind_of(file) for file in tables_in(Path(name).expanduser())} == {"text"}


def _read_texts(files: Sequence[Path], unit: str | None, encoding: str | None, cache: Path) -> datasets.Dataset:
    """Lines or paragraphs of text files; with no unit, paragraphs if a file has a blank line between two texts."""
    if unit is None:
        texts_of = (_texts([file], "paragraph", encoding) for file in files)
        unit = "paragraph" if any(next(itertools.islice(texts, 1, None), None) for texts in texts_of) else "line"
        logger.info("%s ...: each %s is a text (--text-unit line or paragraph says otherwise).", files[0], unit)
    schema, texts = pa.schema({"text": pa.string()}), _texts(files, unit, encoding)
    batches = (pa.record_batch([batch], schema=schema) for batch in in_batches(texts))
    return cached(cache / f"{unit}-{encoding}.arrow", schema, lambda: batches)


def _texts(files: Sequence[Path], unit: str, encoding: str | None) -> Iterator[str]:
    """The lines of text files, or their paragraphs, which blank lines end."""
    for file in files:
        lines = read_lines(file, encoding)
        if unit == "line":
            yield from lines
        else:
            paragraphs = itertools.groupby(lines, lambda line: not line.strip())
            yield from ("\n".join(part) for is_blank, part in paragraphs if not is_blank)


def tables_in(path: Path) -> list[Path]:
    """The files of a folder that can be read, in sorted order; or the file itself."""
    if path.is_file():
        return [path] if kind_of(path) else []
    shown = (each for each in sorted(path.rglob("*")) if not re.search(r"(^|/)\.", each.relative_to(path).as_posix()))
    return [file for file in shown if kind_of(file) and file.is_file()]


def _find_files(path: Path, tables: list[Path], config: str | None) -> dict[str, list[Path]] | None:
    """The files of each split; None where `datasets` is to read what a folder's README.md names."""
    filled = [file for file in tables if file.stat().st_size]
    if not filled:
        what = "is not, or is empty" if path.is_file() else "holds none, or they are empty"
        raise UserError(f"Tables and texts are {', '.join(KINDS)}, and {path} {what}: give a file or folder with text.")
    kinds = {kind_of(file) for file in filled}
    is_plain, card = path.is_file() or kinds == {"text"}, path / "README.md"
    if not is_plain and card.is_file() and "data_files:" in card.read_text(encoding="utf-8", errors="replace"):
        if kinds & {"parquet", "text"}:
            return None
        builder = _load(str(path), datasets.load_dataset_builder, path=str(path), name=config)
        named = {str(split): [*map(Path, files)] for split, files in builder.config.data_files.items()}
        return named if builder.info.features is None else None
    if config is not None:
        raise UserError(f"{path} has no README.md that names {config!r}: leave the configuration out.")
    split_by_file = {} if is_plain else {file: _split_of_file(file.relative_to(path)) for file in filled}
    found = {split: [file for file in filled if split_by_file.get(file) == split] for split in SPLIT_WORDS}
    found = {split: files for split, files in found.items() if files}
    unread = [file.name for file, split in split_by_file.items() if split is None]
    if unread and found:
        logger.warning("Note: of %s these are not read, for their names tell no split: %s.", path, listed(unread))
    if not found and len(filled) > 1 and kinds != {"text"}:
        logger.info("%s: its %d files are one table, for no name tells a split.", path, len(filled))
    return found or {"train": filled}


def split_of(name: str) -> str | None:
    """The split that a word of a name tells, of a file or of a split of a data set; None for words of several."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    found = [split for split, names in SPLIT_WORDS.items() if words.intersection(names.split())]
    return found[0] if len(found) == 1 else None


def _split_of_file(path: Path) -> str | None:
    """A name of nothing else (`test-0.csv`) tells the split before the nearest folder does, another name after it."""
    stem, folders = path.name.partition(".")[0], reversed(path.parts[:-1])
    by_name, by_folder = split_of(stem), next(filter(None, map(split_of, folders)), None)
    is_plain = set(re.findall(r"[a-z]+", stem.lower())) <= {"of", *" ".join(SPLIT_WORDS.values()).split()}
    if by_name and by_folder and by_name != by_folder:
        told = by_name if is_plain else by_folder
        logger.warning("Note: %s is read as %s, though its name and its folder tell different splits.", path, told)
    return (is_plain and by_name) or by_folder or by_name


def _one_format(files: list[Path]) -> str | None:
    """The format of all files; parquet files must have one set of columns."""
    if len({kind_of(file) for file in files}) > 1:
        names = ", ".join(sorted({file.suffix.lower() for file in files}))
        raise UserError(f"The folder {files[0].parent} mixes the formats {names}: keep one format, or name one file.")
    kind = kind_of(files[0])
    classes: dict[str, Any] = {}
    columns: list[str] = []  # of the first file
    for file in files if kind == "parquet" else ():
        with refusing(f"{str(file)!r} cannot be read", "restore the file", OSError, ValueError, pa.ArrowException):
            schema = pq.read_schema(file)
            columns = columns or schema.names
            check_same_columns(files[0], columns, file, schema.names)
            found = {name: class_names_in(each) for name, each in datasets.Features.from_arrow_schema(schema).items()}
        for name in (name for name, names in found.items() if names and classes.setdefault(name, names) != names):
            raise UserError(f"{files[0]} and {file} {OTHER_CLASSES.format(name)}")
    return kind


def class_names_in(feature: Any) -> tuple[str, ...] | None:
    """The names of a ClassLabel, or of a list of them; None of another feature."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return None if names is None else tuple(names)


def _load(source: str, load: Callable[..., Any] | None = None, remedy: str = LOCAL_REMEDY, **options: Any) -> Any:
    """`datasets.load_dataset` (or its builder), whose errors become one sentence."""
    try:
        return (load or datasets.load_dataset)(**options)
    except Exception as error:  # the readers raise anything
        reason = first_line(error.__cause__ or error.__context__ or error)
        raise UserError(f"{source!r} cannot be read: {reason} ({remedy}).") from error


def check_column(table: datasets.Dataset, column: str, name: str, flag: str) -> None:
    """Raise UserError unless `table` has `column`, in UTF-8; `flag` is the option that names another."""
    if column not in table.column_names:
        raise UserError(f"{name!r} has no column {column!r} (it has {listed(table.column_names)}): set {flag}.")
    with refusing(f"Column {column!r} of {name!r} is not UTF-8", "save it as UTF-8", pa.ArrowInvalid):
        table.data.column(column).validate(full=True)  # parquet does not check


def in_batches(texts: Iterable[Any]) -> Iterator[list[Any]]:
    """Lists of `BATCH` texts; a column of a table is read list by list from the memory-mapped file."""
    if isinstance(texts, datasets.Column):
        yield from (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
    else:
        rest = iter(texts)
        while batch := list(itertools.islice(rest, BATCH)):
            yield batch


def each_text(texts: Iterable[str]) -> Iterator[str]:
    """The texts, of a column of a table in batches."""
    return itertools.chain.from_iterable(in_batches(texts))


def text_hash(texts: Iterable[str]) -> str:
    """SHA-256 over texts in order, with lengths, so that moving a boundary changes it."""
    digest = hashlib.sha256()
    for encoded in (text.encode() for text in each_text(texts)):
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def text_keys(texts: Iterable[str], seed: int | str) -> np.ndarray:
    """Sort keys of texts for a seed: SHA-256 of seed, NUL and text, bytes (texts,)."""
    digests = (hashlib.sha256(f"{seed}\0{text}".encode()).digest() for text in each_text(texts))
    return np.frombuffer(b"".join(digests), "S32")


def left_out(counts: Mapping[str, int]) -> str:
    """`left out 2 (empty), 1 (duplicates)` of rows by reason; empty where there are none."""
    words = ", ".join(f"{count} ({reason})" for reason, count in counts.items() if count)
    return words and f"left out {words}"


def seeded_order(texts: Iterable[str], seed: int | str) -> list[int]:
    """Indices of `texts` in an order of the texts and the seed alone, so that prefixes are nested random subsets."""
    return [*map(int, np.argsort(text_keys(texts, seed), kind="stable"))]


def mapped(rows: datasets.Dataset, function: Callable[..., Any], **options: Any) -> datasets.Dataset:
    """`Dataset.map` by batches into new columns; UserError where its cache cannot be written."""
    with refusing("The texts cannot be kept", "free space, or set HF_DATASETS_CACHE", OSError):
        if "cache_file_name" in options:
            Path(options["cache_file_name"]).parent.mkdir(parents=True, exist_ok=True)
        return rows.map(function, batched=True, remove_columns=rows.column_names, **options)


def cached(
    file: Path, schema: pa.Schema, make: Callable[[], Iterable[pa.RecordBatch]], variable: str = "HF_DATASETS_CACHE"
) -> datasets.Dataset:
    """A table mapped from a file of the cache, made where that is missing or damaged; `variable` moves the cache."""
    with contextlib.suppress(OSError, pa.ArrowException):
        return datasets.Dataset.from_file(str(file))
    batches = make()
    full_disk = refusing(f"{file} cannot be written", f"free space, or set {variable}", OSError)
    with full_disk, replacing(file) as draft, pa.ipc.new_stream(str(draft), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return datasets.Dataset.from_file(str(file))
