"""What must never go up: secrets, paths and names of this machine, pickles, code that is not ours."""

import getpass
import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ..errors import UserError
from ..runs.atomic_files import file_hash

SECRETS = {
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40,})"),
    "an AWS key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    "a Slack token": re.compile(r"\bxox[abposr]-[A-Za-z0-9-]{10,}"),
    "an API key": re.compile(r"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,}"),
    "a Google key": re.compile(r"\bAIza[A-Za-z0-9_-]{35}\b"),
    "a password in an address": re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/:@]{3,}@[\w.-]+"),
}
ALLOWED = frozenset(
    {".json", ".safetensors", ".md", ".py", ".png", ".svg", ".parquet", ".npz", ".txt", ".yaml", ".css", ".csv"}
)
"""Kinds of files that a repository may hold; no pickle is among them (arrays in .npz are read without)."""
TEXT = frozenset({".json", ".md", ".py", ".txt", ".yaml", ".css", ".csv", ".svg", ""})
LICENCE = "LICENSE"
COMMON_NAMES = frozenset(
    {"root", "user", "admin", "runner", "ubuntu", "home", "work", "jovyan", "app", "nobody", "python"}
)
"""User names that identify nobody, and that many texts have as common words."""
SHORTEST_NAME = 4
PATH_FIELDS = frozenset({"settings", "command", "corpus", "task", "task_options", "model", "members"})
"""Fields of results and manifests that hold paths, where every absolute one is of some machine."""
ABSOLUTE = re.compile(r"(?<=')/[^'\n]+(?=')|(?<![\w.$/])(?:/[\w.@+-]+)+/?")
"""A path as a word, or between the quotes that a command has around one with spaces; no part of an address."""
START = r"(?:(?<![\w.-])|(?<=\\[nrt]))"
"""Where a path can begin: not within a word, but after an escaped line break of JSON."""
HOME = re.compile(START + r"(?:/home/|/Users/|[A-Z]:\\+Users\\+)[\w.-]+")


def check_folder(folder: Path, code: dict[str, str], places: Iterable[Path] = ()) -> None:
    """Refuse a staged folder that must not be published.

    Args:
        folder: the staged folder.
        code: SHA-256 by name of the Python files that may be in it.
        places: folders of this machine that must not be named, beside the home folder, the working folder and that of
            the variable TLM_DATA.

    Raises:
        UserError: one sentence that names the file: a secret (not shown), a path, user name or e-mail address of this
            machine, a kind of file that does not belong there, arrays that need pickle, or foreign code.
    """
    private = {"a path of this machine": _paths(places), "a path of a home folder": HOME} | _identity()
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).as_posix()
        name = f"{folder.name}/{inside}"
        if path.is_symlink():
            raise UserError(f"{name} is a link: put the file itself there.")
        if path.is_dir():
            continue
        suffix = path.suffix.lower()
        if suffix not in ALLOWED and path.name != LICENCE:
            raise UserError(
                f"{name} is not a file of a release (weights as safetensors, data as parquet): take it out of what is "
                "released."
            )
        if suffix == ".py" and code.get(inside) != file_hash(path):
            raise UserError(f"{name} is code that is not of this package: restore it from there, or take it out.")
        if suffix == ".npz":
            _check_arrays(path, name)
        elif suffix == ".parquet":
            for column in pq.read_table(path).columns:
                if str(column.type) in ("string", "large_string"):
                    _check_text(name, "\n".join(value for value in column.to_pylist() if value is not None), {})
        elif suffix in TEXT:
            _check_text(name, _read_text(path, name), private)


def _read_text(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text: save it as such, or take it out.") from error


def _check_arrays(path: Path, name: str) -> None:
    """Refuse an .npz that needs pickle to be read, since that runs code."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            for key in stored:
                stored[key]
    except (OSError, ValueError) as error:
        raise UserError(f"{name} is not a plain array file: make it again without objects in it.") from error


def _identity() -> dict[str, re.Pattern[str]]:
    """The user's name and e-mail address, as far as they can be told from common words."""
    patterns = {}
    try:
        user = getpass.getuser()
        git = subprocess.run(["git", "config", "user.email"], capture_output=True, text=True, check=False)
        email = git.stdout.strip()
    except (OSError, KeyError):  # a container without a name for the user, or without git
        return {}
    if len(user) >= SHORTEST_NAME and user.lower() not in COMMON_NAMES:
        patterns["the name of this machine's user"] = re.compile(rf"(?<![\w.-]){re.escape(user)}(?![\w.-])")
    if "@" in email:
        patterns["the e-mail address of this shell"] = re.compile(re.escape(email), re.IGNORECASE)
    return patterns


def _paths(places: Iterable[Path]) -> re.Pattern[str]:
    """Finds each of these folders where it begins a path; those beside a run are as private as the run itself."""
    own = {Path.home(), Path.cwd()}
    if root := os.environ.get("TLM_DATA"):
        own.add(Path(root).absolute())
    given = {place.expanduser().absolute() for place in places}
    private = {form for place in own | given for form in (place, place.resolve())}
    private |= {place.parent for place in private if len(place.parents) > 2 and place not in own}
    names = sorted(str(place) for place in private if len(place.parts) > 1)
    return re.compile("|".join(rf"{START}{re.escape(name)}(?![\w-])" for name in names) or r"(?!)")


def _check_text(name: str, text: str, private: dict[str, re.Pattern[str]]) -> None:
    for what, pattern in SECRETS.items():
        if match := pattern.search(text):
            line = text.count("\n", 0, match.start()) + 1
            raise UserError(
                f"{name}, line {line}, holds what looks like {what}: take it out (and withdraw it) before a release."
            )
    for what, pattern in private.items():
        if match := pattern.search(text):
            raise UserError(f"{name} holds {what} ({match.group(0)!r}): take it out of what is released.")


def redact(text: object, *secrets: str | None) -> str:
    """A message without secrets: those that are given, and all that look like one."""
    shown = str(text)
    for secret in filter(None, secrets):
        shown = shown.replace(secret, "***")
    for pattern in SECRETS.values():
        shown = pattern.sub("***", shown)
    return shown


def without_paths(value: Any, places: Iterable[Path] = ()) -> Any:
    """JSON values in which absolute paths are cut to their last part; everything else is left as it is.

    Args:
        value: results, or a manifest.
        places: see `check_folder`. A text that names none of them, outside of `PATH_FIELDS`, is left as it is.
    """
    private = (_paths(places), HOME)

    def cut(item: Any, field: str | None) -> Any:
        if isinstance(item, dict):
            return {key: cut(each, field or (key if key in PATH_FIELDS else None)) for key, each in item.items()}
        if isinstance(item, list):
            return [cut(each, field and "words") for each in item]
        if not isinstance(item, str) or (field is None and not any(pattern.search(item) for pattern in private)):
            return item
        if field not in (None, "command") and item.startswith("/") and "\n" not in item:  # one path, maybe with spaces
            return Path(item).name or item
        return ABSOLUTE.sub(lambda match: Path(match.group(0)).name, item)

    return cut(value, None)
