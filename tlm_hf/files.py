"""Files on disk: what is in them, and that they are there for good before something else relies on it."""

import hashlib
import os
from pathlib import Path


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
