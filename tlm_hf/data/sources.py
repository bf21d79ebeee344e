"""Reading tables: local files and folders (parquet, JSON, CSV, text) and Hub data sets, through `datasets`."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.data_files import DataFilesDict, get_data_patterns

from ..errors import UserError
from ..runs.atomic_files import Json, file_hash, replacing

READERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".txt": "text"}
BATCH = 1000
"""Texts that are read at a time."""
ID = "id"
"""Column of the row's id: its place in the source, such as `train/17` or `wikipedia/train.parquet/93`."""
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.ENOTDIR)


def data_root(given: str | None) -> Path | None:
    """Folder of real text: `--data-root`, else the variable `TLM_DATA`, else None.

    Raises:
        UserError: it is not a folder (a slip in it would otherwise send every look-up to the Hub).
    """
    root = given or os.environ.get("TLM_DATA")
    if not root:
        return None
    folder = Path(root).expanduser()
    if not folder.is_dir():
        option = "--data-root" if given else "TLM_DATA"
        raise UserError(f"{option} is {root}, which is not a folder: give the one that holds wikipedia/ and the tasks.")
    return folder


class Source(NamedTuple):
    """The tables of a data set by split, and its revision: the Hub's commit, or `sha256:` and `_files_hash`."""

    splits: datasets.DatasetDict
    revision: str | None


def read_table(name: str, *, config: str | None = None, revision: str | None = None) -> datasets.DatasetDict:
    """The splits of `read_source`; raises UserError as it does."""
    return read_source(name, config=config, revision=revision).splits


def read_source(name: str, *, config: str | None = None, revision: str | None = None) -> Source:
    """Read a data set by path or Hub name.

    Args:
        name: a file (which becomes the split `train`), a folder of files, or `owner/name` on the Hub.
        config: configuration of a Hub data set, or of a folder whose README.md names some.
        revision: commit, tag or branch of a Hub data set.

    Raises:
        UserError: no such data set, an empty or unreadable file, a folder without text or of several formats, a
            revision or configuration of what has none, or no room in the cache folder of `datasets`.
    """
    path = Path(name).expanduser()
    if path.exists():
        if revision is not None:
            raise UserError(f"{name!r} is on this machine and has no revision {revision!r}: leave the revision out.")
        _check_files(_tables(path))
        options = _file_options(path, config) if path.is_file() else _folder_options(path, config)
        # `datasets` finds its cache by path and time, and a file may be replaced by another of the same time.
        digest = _files_hash(path)
        cache = Path(datasets.config.HF_DATASETS_CACHE, "tlm_hf", "tables", digest[:32])
        loaded = _load(name, options | {"cache_dir": str(cache)})
        revision = f"sha256:{digest}"
    elif name.count("/") == 1 and not path.suffix and not name.startswith((".", "/", "~")):
        loaded = _load(name, {"path": name, "name": config, "revision": revision})
        # The commit: `datasets` names the folder of its cache files after it.
        folders = [Path(file["filename"]).parent.name for split in loaded.values() for file in split.cache_files]
        revision = next((folder for folder in folders if re.fullmatch(r"[0-9a-f]{40}", folder)), revision)
    else:
        raise UserError(f"{name!r} is neither an existing file or folder nor a Hub data set (owner/name).")
    if not any(len(split) for split in loaded.values()):
        raise UserError(f"{name!r} has no rows: give a file or folder with text in it.")
    return Source(loaded, revision)


def _files_hash(path: Path) -> str:
    """SHA-256 of a file; of a folder, over the lines that `sha256sum` prints for its tables in sorted order (hex)."""
    if path.is_file():
        return file_hash(path)
    lines = "".join(f"{file_hash(file)}  {file.relative_to(path).as_posix()}\n" for file in _tables(path))
    return hashlib.sha256(lines.encode()).hexdigest()


def _tables(path: Path) -> list[Path]:
    """The file itself, or the files of a folder that can be read, in sorted order."""
    if path.is_file():
        return [path]
    files = (file for file in sorted(path.rglob("*")) if file.suffix in READERS and not file.name.startswith("."))
    return [file for file in files if file.is_file()]


def _check_files(files: list[Path]) -> None:
    """Raise UserError for a file that is not whole parquet or not UTF-8; `datasets` would not name it."""
    for file in files:
        try:
            if READERS.get(file.suffix) == "parquet":
                pq.read_metadata(file)
            elif file.suffix in READERS:
                with file.open(encoding="utf-8") as lines:
                    for _ in lines:
                        pass
        except UnicodeDecodeError as error:
            raise UserError(f"{str(file)!r} is not UTF-8 ({error.reason}): save it as UTF-8.") from error
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{str(file)!r} cannot be read ({_first_line(error)}): restore the file.") from error


def _file_options(path: Path, config: str | None) -> dict[str, Any]:
    """How `datasets.load_dataset` is to read one file."""
    if path.suffix not in READERS or path.stat().st_size == 0:
        raise UserError(f"{path} is empty or of another kind than {', '.join(READERS)}: give a file with text in it.")
    if config is not None:
        raise UserError(f"{path} is one file and has no configuration {config!r}: leave the configuration out.")
    options: dict[str, Any] = {"path": READERS[path.suffix], "data_files": str(path)}
    if READERS[path.suffix] == "csv":  # "NA" and "None" are words like others; only an empty cell is empty
        options |= {"keep_default_na": False, "na_values": [""], "delimiter": "\t" if path.suffix == ".tsv" else ","}
    return options


def _folder_options(path: Path, config: str | None) -> dict[str, Any]:
    """How `datasets.load_dataset` is to read a folder; refuses one of which it would silently read only a part."""
    filled = [file for file in _tables(path) if file.stat().st_size]
    if not filled:
        raise UserError(f"The folder {path} holds no {', '.join(READERS)} file with text: give a folder with text.")
    if all(file.suffix == ".txt" for file in filled):
        if config is not None:
            raise UserError(f"The folder {path} of text files has no configuration {config!r}: leave it out.")
        return {"path": "text", "data_files": [str(file) for file in filled], "sample_by": "paragraph"}
    card = path / "README.md"
    if not card.is_file() or "data_files:" not in card.read_text(encoding="utf-8", errors="replace"):
        # Where names tell splits (train.parquet, test.parquet), other files are not part of the data.
        base = path.resolve().as_posix()
        data_files = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
        endings = {Path(file).suffix for split in data_files.values() for file in split} & READERS.keys()
        if len({ending.replace(".jsonl", ".json") for ending in endings}) > 1:
            raise UserError(
                f"The folder {path} mixes the formats {', '.join(sorted(endings))}: keep one format, or name one file."
            )
    return {"path": str(path), "name": config}


def _load(name: str, options: dict[str, Any]) -> datasets.DatasetDict:
    """`datasets.load_dataset`, whose errors become one sentence."""
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return datasets.load_dataset(**options)
    except Exception as error:  # the readers raise anything
        cause = error.__cause__ or error.__context__ or error
        if isinstance(cause, OSError) and cause.errno in _DISK_ERRORS:
            raise UserError(
                f"The cache folder {cache} cannot be written ({cause.strerror}): free space, or set HF_DATASETS_CACHE."
            ) from error
        if "corresponds to no data" in f"{error} {cause}":
            raise UserError(f"{name!r} has no rows: give a file or folder with text in it.") from error
        raise UserError(f"{name!r} cannot be read: {_first_line(cause)} (give parquet, JSON, CSV or text).") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")


def check_column(table: datasets.Dataset, column: str, name: str, flag: str) -> None:
    """Raise UserError unless `table` has `column`; `flag` is the option that names another."""
    if column not in table.column_names:
        raise UserError(f"{name!r} has no column {column!r} (it has {', '.join(table.column_names)}): set {flag}.")


@contextmanager
def reading(column: str, name: str) -> Iterator[None]:
    """Raise UserError where a column that is read in the block is not UTF-8 (parquet does not check)."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"Column {column!r} of {name!r} is not UTF-8 ({error.reason}): save it as UTF-8.") from error


def each_text(column: datasets.Column) -> Iterator[str]:
    """The texts of a column, read in batches from the memory-mapped table."""
    for start in range(0, len(column), BATCH):
        yield from column[start : start + BATCH]


def text_hash(texts: Iterable[str]) -> str:
    """SHA-256 over texts in order, with lengths, so that moving a boundary changes it."""
    digest = hashlib.sha256()
    for text in each_text(texts) if isinstance(texts, datasets.Column) else texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def text_keys(texts: Iterable[str], seed: int | str) -> np.ndarray:
    """Sort keys of texts for a seed: SHA-256 of seed, NUL and text as uint64 (texts, 4), high word first."""
    digests = b"".join(hashlib.sha256(f"{seed}\0{text}".encode()).digest() for text in texts)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(len(digests) // 32, 4)


def key_order(keys: np.ndarray) -> np.ndarray:
    """Indices that sort `text_keys` of shape (texts, 4); equal keys keep their relative order. int64 (texts,)."""
    return np.lexsort(keys.T[::-1])


def first_of_equal(keys: np.ndarray) -> np.ndarray:
    """Indices of different keys (texts, 4) in their order; of equal ones the first in the source."""
    order = key_order(keys)
    ordered = keys[order]  # equal keys are neighbours, in the source's order
    return order[np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])] if len(order) else order


def tells_rows_apart(tables: Sequence[datasets.Dataset], column: str) -> bool:
    """Whether a column identifies the rows of all tables together: valid strings, none missing, all different."""
    keys = [text_keys([], "")]
    for table in tables:
        if getattr(table.features.get(column), "dtype", None) not in ("string", "large_string"):
            return False
        for start in range(0, len(table), BATCH):
            try:
                values = table[column][start : start + BATCH]
            except UnicodeDecodeError:
                return False
            if None in values:
                return False
            keys.append(text_keys(values, ""))
    every = np.concatenate(keys)
    return len(first_of_equal(every)) == len(every)


def seeded_order(texts: Iterable[str], seed: int | str) -> list[int]:
    """Indices of `texts` in an order that depends on the texts and the seed alone, never on a library's shuffle.

    A prefix of it is a random subset, and prefixes are nested; equal texts keep their relative order.
    """
    order: list[int] = key_order(text_keys(texts, seed)).tolist()
    return order


def describe_split(split: datasets.Dataset, **facts: Any) -> datasets.Dataset:
    """Keep the facts that reproduce a split with it, as JSON in `info.description`, which `save_to_disk` keeps.

    `rows` and `sha256` (`text_hash` of the column `text`) are added to them.
    """
    described = split.with_format(None)
    facts |= {"rows": len(split), "sha256": text_hash(split["text"])}
    described.info.description = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    return described


def facts_of(split: datasets.Dataset) -> Json:
    """The facts that `describe_split` kept; empty where there are none, or where rows were added or left out since."""
    try:
        facts = json.loads(split.info.description or "{}")
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) and facts.get("rows") == len(split) else {}


def read_cached(path: Path) -> pa.Table | None:
    """A parquet file of a cache; None where it is missing or damaged, so that it is made again."""
    try:
        return pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException):
        return None


def write_cached(table: pa.Table, path: Path) -> None:
    """Write a parquet file of a cache whole or not at all."""
    with replacing(path) as draft:
        pq.write_table(table, draft, compression="zstd")
