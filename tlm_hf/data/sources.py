"""Reading tables: local files and folders (parquet, JSON, CSV, text) and Hub data sets, through `datasets`."""

import errno
import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.data_files import DataFilesDict, get_data_patterns

from ..errors import UserError
from ..runs.atomic_files import file_hash

READERS = {
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
}

BATCH = 1000
"""Texts that are read at a time."""


def data_root(given: str | None) -> Path | None:
    """Folder of real text: `--data-root`, else the variable `TLM_DATA`, else None.

    Raises:
        UserError: it is no folder; else a slip in it would send every look-up to the Hub.
    """
    root = given or os.environ.get("TLM_DATA")
    if not root:
        return None
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"{'--data-root' if given else 'TLM_DATA'} is {root}, which is no folder: give the one that holds "
            "wikipedia/ and the tasks, or leave it out."
        )
    return folder


class Source(NamedTuple):
    """What was read of a data set.

    Args:
        splits: its tables by split.
        revision: the commit, where it comes from the Hub; `sha256:` and `files_hash`, where it lies here.
    """

    splits: datasets.DatasetDict
    revision: str | None


def read_table(name: str, *, config: str | None = None, revision: str | None = None) -> datasets.DatasetDict:
    """The splits of `read_source`, for those who need no revision; raises UserError as it does."""
    return read_source(name, config=config, revision=revision).splits


def read_source(name: str, *, config: str | None = None, revision: str | None = None) -> Source:
    """Read a data set by path or Hub name.

    What `datasets` makes of local files stands in its cache under their hash: it tells files by path and time, and
    would give the old rows of a file that was replaced by another of the same time.

    Args:
        name: a file, a folder of files, or `owner/name` on the Hub.
        config: configuration of a Hub data set, or of a folder whose README.md names some.
        revision: commit, tag or branch of a Hub data set.

    Returns:
        Its splits (a single file is the split `train`) and its revision.

    Raises:
        UserError: nothing of that name, an empty or unreadable file, a folder without text or with files of different
            formats, a revision or configuration of what has none, or no room for the converted table in the cache
            folder of `datasets`.
    """
    path = Path(name).expanduser()
    try:
        if path.exists() and revision is not None:
            raise UserError(f"{name!r} lies on this machine and has no revision {revision!r}: leave the revision out.")
        # The JSON reader does not check, and a text that is no UTF-8 would only be found when it is used.
        damaged = _damaged_file(path, ("json",))
        if damaged:
            raise UserError(f"{damaged[0]!r} cannot be read: {damaged[1]} (save it as UTF-8).")
        if path.is_file():
            loaded, revision = _read_file(path, config)
        elif path.is_dir():
            loaded, revision = _read_folder(path, config)
        elif name.count("/") == 1 and not path.suffix and not name.startswith((".", "/", "~")):
            loaded = datasets.load_dataset(name, config, revision=revision)
            revision = _commit(loaded) or revision
        else:
            raise UserError(f"{name!r} is neither an existing file or folder nor a Hub data set (owner/name).")
    except UserError:
        raise
    except Exception as error:
        _check_disk(error)
        said = f"{error.__cause__ or ''}\n{error}".strip()
        if "corresponds to no data" in said:
            raise UserError(f"{name!r} has no rows: give a file or folder with text in it.") from error
        culprit, reason = _damaged_file(path) or (name, said.splitlines()[0] if said else type(error).__name__)
        raise UserError(
            f"{culprit!r} cannot be read: {reason.rstrip('. ')} (give a parquet, JSON, CSV or text file)."
        ) from error
    if isinstance(loaded, datasets.Dataset):
        loaded = datasets.DatasetDict(train=loaded)
    if not any(len(split) for split in loaded.values()):
        raise UserError(f"{name!r} has no rows: give a file or folder with text in it.")
    return Source(loaded, revision)


def files_hash(path: Path) -> str:
    """SHA-256 of a file; of a folder, over the lines that `sha256sum` prints for its tables in sorted order (hex)."""
    if path.is_file():
        return file_hash(path)
    lines = "".join(f"{file_hash(file)}  {file.relative_to(path).as_posix()}\n" for file in _tables(path))
    return hashlib.sha256(lines.encode()).hexdigest()


def _tables(folder: Path) -> list[Path]:
    """The files of a folder that can be read, in sorted order."""
    files = (file for file in sorted(folder.rglob("*")) if file.suffix in READERS and not file.name.startswith("."))
    return [file for file in files if file.is_file()]


def _read_file(path: Path, config: str | None) -> tuple[datasets.DatasetDict, str]:
    if path.suffix not in READERS:
        raise UserError(f"{path} has the ending {path.suffix!r}; known are {', '.join(READERS)}.")
    if config is not None:
        raise UserError(f"{path} is one file and has no configuration {config!r}: leave the configuration out.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty: give a file with text in it.")
    options: dict[str, Any] = {}
    if READERS[path.suffix] == "csv":  # "NA" and "None" are words like others; only an empty cell is empty
        options = {"keep_default_na": False, "na_values": [""], "delimiter": "\t" if path.suffix == ".tsv" else ","}
    digest = files_hash(path)
    return _load(digest, READERS[path.suffix], data_files=str(path), **options), f"sha256:{digest}"


def _read_folder(path: Path, config: str | None) -> tuple[datasets.DatasetDict, str]:
    files = _tables(path)
    if not files:
        raise UserError(f"The folder {path} holds no {', '.join(READERS)} file: give a folder with text in it.")
    filled = [file for file in files if file.stat().st_size]
    if not filled:
        raise UserError(f"The folder {path} holds empty files alone: give a folder with text in it.")
    is_text = all(file.suffix == ".txt" for file in filled)
    if is_text and config is not None:
        raise UserError(f"The folder {path} of text files has no configuration {config!r}: leave it out.")
    if not is_text:
        _check_formats(path)
    digest = files_hash(path)
    if is_text:
        loaded = _load(digest, "text", data_files=[str(file) for file in filled], sample_by="paragraph")
    else:
        loaded = _load(digest, str(path), config)
    return loaded, f"sha256:{digest}"


def _load(digest: str, path: str, config: str | None = None, **options: Any) -> datasets.DatasetDict:
    """`datasets.load_dataset` of files with this hash, with a cache folder of their own."""
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "tlm_hf" / "tables" / digest[:32]
    return datasets.load_dataset(path, config, cache_dir=str(cache), **options)


def _commit(splits: datasets.DatasetDict) -> str | None:
    """The commit of tables from the Hub: `datasets` names the folder of its cache files after it."""
    folders = [Path(file["filename"]).parent.name for split in splits.values() for file in split.cache_files]
    commits = [folder for folder in folders if re.fullmatch(r"[0-9a-f]{40}", folder)]
    return commits[0] if commits else None


def _check_formats(path: Path) -> None:
    """Refuse a folder of which `datasets` would read one format and pass over another in silence."""
    card = path / "README.md"
    if card.is_file() and "data_files:" in card.read_text(encoding="utf-8", errors="replace"):
        return  # the card says which files are meant
    base = path.expanduser().resolve().as_posix()
    # Where names tell splits (train.parquet, test.parquet) others, such as classes.txt, are no part of the data.
    found = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
    endings = {Path(file).suffix for files in found.values() for file in files}
    formats = sorted(endings & READERS.keys())
    if len({".json" if ending == ".jsonl" else ending for ending in formats}) > 1:
        raise UserError(
            f"The folder {path} mixes the formats {', '.join(formats)}: keep one format in it, or name one file."
        )


def _damaged_file(path: Path, readers: Collection[str | None] = tuple(READERS.values())) -> tuple[str, str] | None:
    """The first file below `path` that is no parquet file or no UTF-8, and why; None where the fault is another."""
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    for file in files:
        reader = READERS.get(file.suffix)
        if reader not in readers or file.name.startswith("."):
            continue
        try:
            if reader == "parquet":
                pq.read_metadata(file)
            else:
                with file.open(encoding="utf-8") as lines:
                    for _ in lines:
                        pass
        except UnicodeDecodeError as error:
            return str(file), f"it is not UTF-8 ({error.reason})"
        except (OSError, pa.ArrowException) as error:
            return str(file), (str(error) or type(error).__name__).splitlines()[0]
    return None


def _check_disk(error: BaseException | None) -> None:
    """Raise UserError where `error` came of a cache folder that cannot be written."""
    cache = str(datasets.config.HF_DATASETS_CACHE)
    while error is not None:
        if isinstance(error, OSError) and (
            error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
            or (isinstance(error, PermissionError | NotADirectoryError) and str(error.filename).startswith(cache))
            # Where no cache folder can be made, `datasets` names the one above it that it could not make.
            or (not Path(cache).is_dir() and error.filename and Path(cache).is_relative_to(str(error.filename)))
        ):
            raise UserError(
                f"The cache folder {cache} cannot be written ({error.strerror}): free space, or set HF_DATASETS_CACHE "
                "to a folder of your own."
            ) from error
        error = error.__cause__ or error.__context__


def check_column(table: datasets.Dataset, column: str, name: str, flag: str) -> None:
    """Raise UserError unless `table` has `column`; `flag` is the option that would mend it."""
    if column not in table.column_names:
        raise UserError(f"{name!r} has no column {column!r} (it has {', '.join(table.column_names)}): set {flag}.")


@contextmanager
def reading(column: str, name: str) -> Iterator[None]:
    """Raise UserError where a column that is read in the `with` block is no UTF-8 (parquet does not check)."""
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
    ordered = keys[order]  # equal texts stand together, in the source's order
    return order[np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])] if len(order) else order


def tells_rows_apart(tables: Sequence[datasets.Dataset], column: str) -> bool:
    """Whether a column of the tables can stand for their rows: strings, none missing, all different, in all of them."""
    keys = []
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
    return not keys or len(first_of_equal(np.concatenate(keys))) == sum(map(len, keys))


def seeded_order(texts: Iterable[str], seed: int | str) -> list[int]:
    """Indices of `texts` in an order that depends on the texts and the seed alone, never on a library's shuffle.

    A prefix of it is a random subset, and prefixes are nested; equal texts keep their relative order.
    """
    order: list[int] = key_order(text_keys(texts, seed)).tolist()
    return order
