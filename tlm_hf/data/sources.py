"""Reading tables: local files and folders (parquet, JSON, CSV, text) and Hub data sets, through `datasets`."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets

from ..errors import UserError

READERS = {
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
}


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
        config: configuration of a Hub data set.
        revision: commit, tag or branch of a Hub data set.

    Returns:
        Its splits; a single file is the split `train`.

    Raises:
        UserError: nothing of that name, an empty or unreadable file, or a folder without text.
    """
    path = Path(name).expanduser()
    try:
        if path.is_file():
            loaded = _read_file(path)
        elif path.is_dir():
            loaded = _read_folder(path)
        elif name.count("/") == 1 and not path.suffix and not name.startswith((".", "/", "~")):
            loaded = datasets.load_dataset(name, config, revision=revision)
        else:
            raise UserError(f"{name!r} is neither an existing file or folder nor a Hub data set (owner/name).")
    except UserError:
        raise
    except Exception as error:
        said = f"{error.__cause__ or ''}\n{error}".strip()
        if "corresponds to no data" in said:
            raise UserError(f"{name!r} has no rows: give a file or folder with text in it.") from error
        reason = said.splitlines()[0].rstrip(". ") if said else type(error).__name__
        raise UserError(f"{name!r} cannot be read: {reason} (give a parquet, JSON, CSV or text file).") from error
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


def _read_folder(path: Path) -> datasets.DatasetDict:
    files = [file for file in sorted(path.rglob("*")) if file.suffix in READERS and not file.name.startswith(".")]
    if not files:
        raise UserError(f"The folder {path} holds no {', '.join(READERS)} file: give a folder with text in it.")
    files = [file for file in files if file.stat().st_size]
    if not files:
        raise UserError(f"The folder {path} holds empty files alone: give a folder with text in it.")
    if all(file.suffix == ".txt" for file in files):
        return datasets.load_dataset("text", data_files=[str(file) for file in files], sample_by="paragraph")
    return datasets.load_dataset(str(path))


def check_column(table: datasets.Dataset, column: str, name: str, flag: str) -> None:
    """Raise UserError unless `table` has `column`; `flag` is the option that would mend it."""
    if column not in table.column_names:
        raise UserError(f"{name!r} has no column {column!r} (it has {', '.join(table.column_names)}): set {flag}.")


def text_hash(texts: Iterable[str]) -> str:
    """SHA-256 over texts in order, with lengths, so that moving a boundary changes it."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def seeded_order(texts: list[str], seed: int | str) -> list[int]:
    """Indices of `texts` in an order that depends on the texts and the seed alone, never on a library's shuffle.

    A prefix of it is a random subset, and prefixes are nested; equal texts keep their relative order.
    """
    keys = [hashlib.sha256(f"{seed}\0{text}".encode()).digest() for text in texts]
    return sorted(range(len(texts)), key=keys.__getitem__)
