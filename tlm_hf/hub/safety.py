"""What must never go up: secrets, paths of this machine, pickles."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import UserError, refusing

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
TEXT = frozenset({".json", ".md", ".py", ".txt", ".yaml", ".css", ".csv", ".svg"})
ALLOWED = TEXT | {".safetensors", ".png", ".npz"}  # of a repository; no pickle is among them (.npz is read without)
START = r"(?:(?<![\w.-])|(?<=\\[nrt]))"  # where a path can begin: not within a word, but after an escaped line break
HOME = START + r"(?:/home/|/Users/|[A-Z]:\\+Users\\+)[\w.-]+"


def check_folder(folder: Path, places: Iterable[Path] = ()) -> None:
    """Refuse (UserError) a staged folder with a secret, a foreign file, or a path of this machine or `places`."""
    # Folders beside a run are as private as the run itself.
    folders = {form for place in places for form in (place.expanduser().absolute(), place.expanduser().resolve())}
    folders |= {place.parent for place in folders if len(place.parents) > 2}
    folders |= {Path.home(), Path.cwd(), Path(os.environ.get("TLM_DATA") or "/").absolute()}
    names = sorted(str(place) for place in folders if len(place.parts) > 1)
    private = re.compile("|".join([HOME, *(rf"{START}{re.escape(name)}(?![\w-])" for name in names)]))
    for path in filter(Path.is_file, sorted(folder.rglob("*"))):
        name = path.relative_to(folder.parent).as_posix()
        if path.suffix not in ALLOWED:
            raise UserError(f"{name} is not a file of a release (safetensors, pictures, text): take it out.")
        with refusing(f"{name} cannot be read as what its name says", "make it again", OSError, ValueError):
            if path.suffix == ".npz":
                with np.load(path, allow_pickle=False) as stored:
                    dict(stored)
            text = path.read_text(encoding="utf-8") if path.suffix in TEXT else ""
        for what, pattern in SECRETS.items():
            if match := pattern.search(text):
                line = text.count("\n", 0, match.start()) + 1
                raise UserError(f"{name}, line {line}, holds what looks like {what}: take it out, and withdraw it.")
        if path.suffix in TEXT and (match := private.search(text)):
            raise UserError(f"{name} holds a path of this machine ({match.group(0)!r}): take it out.")


def redact(text: object, *secrets: str | None) -> str:
    """A message without secrets: those that are given, and all that look like one."""
    shown = str(text)
    for pattern in (*(re.compile(re.escape(secret)) for secret in secrets if secret), *SECRETS.values()):
        shown = pattern.sub("***", shown)
    return shown
