"""Files on disk: what is in them, and that they are there for good before something else relies on it."""

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import filelock

logger = logging.getLogger(__name__)


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
