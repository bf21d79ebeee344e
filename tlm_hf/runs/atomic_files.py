"""Files on disk: what is in them, and that they are there for good before something else relies on it."""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import filelock
import yaml

from ..errors import UserError, refusing

os.umask(UMASK := os.umask(0))  # it can only be read by setting it
Json: TypeAlias = dict[str, Any]  # a JSON object on its way from or to a file


def read_json(path: str | Path) -> Json:
    """Read a file that holds one JSON object; UserError where it is missing, unreadable, or holds something else."""
    unreadable = refusing(f"{path} cannot be read", "check the path", OSError)
    with unreadable, refusing(f"{path} is not JSON", "write it again or name another file", ValueError):
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object: write it again or name another file.")
    return content


class _UniqueKeys(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        names = [(key.tag, key.value) for key, _ in node.value if not key.tag.endswith(":merge")]
        for tag, name in names:
            if names.count((tag, name)) > 1:
                raise yaml.YAMLError(f"line {node.start_mark.line + 1}: a section has {name!r} twice")
        return node


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; besides PyYAML's errors YAMLError for a key that one section has twice."""
    return yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file under, which is then flushed and renamed: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield draft
        flush(draft)
        draft.replace(path)
        flush(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all; missing folders are made."""
    with replacing(Path(path)) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON whole or not at all, as `write_text`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def file_hash(path: Path) -> str:
    """SHA-256 of a file (hex)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_tree(folder: Path) -> None:
    """Flush a folder to disk, files before folders, so that a rename is never seen before its content.

    Whom the umask lets read may read all files: safetensors leaves its own to the owner alone.
    """
    for path in [*sorted(folder.rglob("*"), key=Path.is_dir), folder]:
        if path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError):  # not every file system has modes
                path.chmod(path.stat().st_mode | (0o444 & ~UMASK))
        flush(path)


@contextlib.contextmanager
def whole_folder(destination: Path) -> Iterator[Path]:
    """A new folder to fill, which then takes the place of `destination`; after an error nothing has changed."""
    partial, old = (destination.with_name(f".{destination.name}.{word}") for word in ("partial", "old"))

    def clean() -> None:
        if old.exists() and not destination.exists():  # a kill or an interrupt came between the two renames
            old.rename(destination)
        for rest in (partial, old):
            shutil.rmtree(rest, ignore_errors=True)

    clean()
    partial.mkdir(parents=True)
    try:
        yield partial
        flush_tree(partial)
        if destination.exists():
            destination.rename(old)
        partial.rename(destination)
    finally:
        clean()


def flush(path: Path) -> None:
    """Flush one file, or the names in one folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(path: Path, option: str) -> filelock.BaseFileLock:
    """Lock a file, which the system frees when this process dies; UserError where another process holds it."""
    holder = filelock.FileLock(path, is_singleton=True)
    try:
        holder.acquire(blocking=False)
    except filelock.Timeout:
        raise UserError(f"Another process works in {path.parent}: wait, or choose another {option}.") from None
    except (NotImplementedError, OSError):  # no locks on this file system
        pass
    return holder
