"""Files on disk: what is in them, and that they are there for good before something else relies on it."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import filelock

from ..errors import UserError

logger = logging.getLogger(__name__)

Json: TypeAlias = dict[str, Any]
"""A JSON object on its way from or to a file."""


def read_json(path: str | Path) -> Json:
    """Read a file that holds one JSON object.

    Raises:
        UserError: the file is missing, unreadable, or holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): write it again or name another file.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object: write it again or name another file.")
    return content


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all: to a temporary name, flushed to disk, then renamed.

    Missing parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON whole or not at all, as `write_text`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def file_hash(path: Path) -> str:
    """SHA-256 of a file (hex)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_tree(folder: Path) -> None:
    """Flush all files of a folder and then the folders to disk, so that a rename is never seen before its content."""
    folders = [folder]
    for path in folder.rglob("*"):
        if path.is_dir():
            folders.append(path)
        elif path.is_file():
            flush(path)
    for path in reversed(folders):
        flush(path)


def flush(path: Path) -> None:
    """Flush one file, or the names in one folder, to disk."""
    if path.is_dir() and os.name == "nt":  # Windows flushes names by itself and opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[bool]:
    """Hold the lock of a cache's folder, waiting for who holds it; what was made meanwhile is there afterwards.

    Args:
        folder: need not exist yet; its parent must. The lock is a hidden file beside it, free when its holder dies.

    Yields:
        False where the file system has no locks: then the first rename wins.
    """
    lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            logger.info("Another process is making %s: waiting for it.", folder)
            lock.acquire()
        alone = True
    except (NotImplementedError, OSError):
        alone = False
    try:
        yield alone
    finally:
        lock.release()
