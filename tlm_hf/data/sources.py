"""Reading tables: local files and folders (parquet, JSON, CSV, text) and Hub data sets, through `datasets`."""

import errno
import hashlib
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.data_files import DataFilesDict, get_data_patterns

from ..errors import UserError

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
    """Folder of real text: `--data-root`, else the variable `TLM_DATA`, else None."""
    root = given or os.environ.get("TLM_DATA")
    return Path(root) if root else None


def read_table(
    name: str,
    *,
    config: str | None = None,
    revision: str | None = None,
) -> datasets.DatasetDict:
    """Read a data set by path or Hub name.

    Args:
        name: a file, a folder of files, or `owner/name` on the Hub.
        config: configuration of a Hub data set, or of a folder whose README.md names some.
        revision: commit, tag or branch of a Hub data set.

    Returns:
        Its splits; a single file is the split `train`.

    Raises:
        UserError: nothing of that name, an empty or unreadable file, a folder without text or with files of different
            formats, or no room for the converted table in the cache folder of `datasets`.
    """
    path = Path(name).expanduser()
    try:
        # The JSON reader does not check, and a text that is no UTF-8 would only be found when it is used.
        damaged = _damaged_file(path, ("json",))
        if damaged:
            raise UserError(f"{damaged[0]!r} cannot be read: {damaged[1]} (save it as UTF-8).")
        if path.is_file():
            loaded = _read_file(path)
        elif path.is_dir():
            loaded = _read_folder(path, config)
        elif name.count("/") == 1 and not path.suffix and not name.startswith((".", "/", "~")):
            loaded = datasets.load_dataset(name, config, revision=revision)
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
    return loaded


def _read_file(path: Path) -> datasets.DatasetDict:
    if path.suffix not in READERS:
        raise UserError(f"{path} has the ending {path.suffix!r}; known are {', '.join(READERS)}.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty: give a file with text in it.")
    options: dict[str, Any] = {}
    if READERS[path.suffix] == "csv":  # "NA" and "None" are words like others; only an empty cell is empty
        options = {"keep_default_na": False, "na_values": [""], "delimiter": "\t" if path.suffix == ".tsv" else ","}
    return datasets.load_dataset(READERS[path.suffix], data_files=str(path), **options)


def _read_folder(path: Path, config: str | None) -> datasets.DatasetDict:
    files = [file for file in sorted(path.rglob("*")) if file.suffix in READERS and not file.name.startswith(".")]
    if not files:
        raise UserError(f"The folder {path} holds no {', '.join(READERS)} file: give a folder with text in it.")
    files = [file for file in files if file.stat().st_size]
    if not files:
        raise UserError(f"The folder {path} holds empty files alone: give a folder with text in it.")
    if all(file.suffix == ".txt" for file in files):
        return datasets.load_dataset("text", data_files=[str(file) for file in files], sample_by="paragraph")
    _check_formats(path)
    return datasets.load_dataset(str(path), config)


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


def seeded_order(texts: Iterable[str], seed: int | str) -> list[int]:
    """Indices of `texts` in an order that depends on the texts and the seed alone, never on a library's shuffle.

    A prefix of it is a random subset, and prefixes are nested; equal texts keep their relative order.
    """
    order: list[int] = key_order(text_keys(texts, seed)).tolist()
    return order
