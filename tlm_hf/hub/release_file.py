"""The release file: one YAML that names every repository of a release, read with the line of each mistake.

    version: 0.1.0
    namespace: tiny-lab            # user or organization on the Hub
    visibility: private            # or public; private where it is left out
    licence: apache-2.0            # of the models and the Space; data sets state that of their source
    data:
      tlm-wikipedia: {folder: outputs/tlm-wikipedia}                       # made by `tlm prepare-data` or `tlm overlap`
    encoders:
      tlm-bert1: {run: outputs/bert-1, corpus: English Wikipedia, data: [tlm-wikipedia], revisions: {seed-1: outputs/b}}
    classifiers:
      tlm-bert1-news: {run: outputs/news, base: tlm-bert1, task: news by section}
    committees:
      tlm-committee-news: {run: outputs/committee, members: [tlm-bert1-news], task: news by section}
    adapters:
      tlm-bert1-news-lora: {run: outputs/news-lora, base: tlm-bert1, task: news by section}
    spaces:
      tlm-demo: {demo: outputs/demo, committees: {ag_news: tlm-committee-news}, encoders: {bert-1: tlm-bert1}}
    collection: {title: Tiny language models, description: Encoders of one to six layers., papers: ["2507.14871"]}

Paths are relative to the folder that the command is started in, as in every command.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_origin

from huggingface_hub.utils import HFValidationError, validate_repo_id

from .hub_names import VERSION, known, no_branch
from .release_entries import SECTIONS, AdapterEntry, Collection, Entry, Release, SpaceEntry
from .release_yaml import Reader, Unquoted

LONGEST_DESCRIPTION = 150
"""Characters of a collection's description (`HfApi.create_collection`)."""
ARXIV = re.compile(r"\d{4}\.\d{4,5}")
FREE_TEXT = ("corpus", "task", "example", "title", "description")
"""Fields that may have several lines."""
OTHER_KEYS = ("version", "namespace", "visibility", "licence", "language", "collection")


def read_release(path: str | Path) -> Release:
    """Read and check a release file; the folders that it names are looked for, not opened.

    Raises:
        UserError: one sentence with the line: no YAML, an unknown or doubled key, a value of the wrong type, a name
            that the Hub does not take, a link to nothing, or a folder that is missing.
    """
    reader = Reader(Path(path).expanduser())
    top = reader.value
    if not isinstance(top, dict):
        raise reader.refusal((), "it must be a mapping with version, namespace and sections of repositories")
    for key in top:
        _check_key(reader, (key,), [*OTHER_KEYS, *SECTIONS])
    for key in ("version", "namespace"):
        if key not in top:
            raise reader.refusal((), f"{key!r} is missing")
    values = {key: _value(reader, (key,), str, top[key]) for key in OTHER_KEYS if key in top and key != "collection"}
    if not VERSION.fullmatch(values["version"]):
        raise reader.refusal(("version",), f"version is {values['version']!r}: write it as X.Y.Z")
    if values.get("visibility", "private") not in ("private", "public"):
        raise reader.refusal(("visibility",), f"visibility is {values['visibility']!r}: choose private or public")
    for key in ("licence", "language"):
        if key in values and values[key] not in known(key):
            raise reader.refusal(
                (key,), f"{values[key]!r} is no {key} that the Hub knows{_meant(values[key], known(key))}"
            )
    entries = tuple(_entries(reader, top))
    if not entries:
        raise reader.refusal((), "it names no repository: add a section such as encoders")
    _check_names(reader, values["namespace"], entries)
    collection = None
    if "collection" in top:
        collection = _build(reader, ("collection",), Collection, top["collection"], {})
        _check_collection(reader, collection)
    return Release(entries=entries, collection=collection, **values)


def _check_collection(reader: Reader, collection: Collection) -> None:
    """What the Hub would refuse after all else is up, since the collection comes last."""
    if len(collection.description) > LONGEST_DESCRIPTION:
        raise reader.refusal(
            ("collection", "description"),
            f"the description has {len(collection.description)} characters, and the Hub takes {LONGEST_DESCRIPTION}",
        )
    for place, number in enumerate(collection.papers):
        if not ARXIV.fullmatch(number):
            raise reader.refusal(
                ("collection", "papers", place), f"{number!r} is no number of an arXiv paper: write it as 2507.14871"
            )


def _entries(reader: Reader, top: dict[str, Any]) -> Iterator[Entry]:
    for section, entry_class in SECTIONS.items():
        there = {} if top.get(section) is None else top[section]
        if not isinstance(there, dict):
            raise reader.refusal((section,), f"{section} must be a mapping of names to what they are made from")
        for name, value in there.items():
            entry = _build(reader, (section, name), entry_class, value, {"name": name})
            for key, folder in entry.folders.items():
                if not _is_folder(folder):
                    raise reader.refusal(
                        (section, name, *key.split(": ")),
                        f"{key} of {name} is {folder}, which is no folder here: make it first, or correct the path",
                    )
            if isinstance(entry, AdapterEntry) and entry.base is None:
                raise reader.refusal((section, name), f"the adapter {name} loads on an encoder: name it as base")
            if isinstance(entry, AdapterEntry | SpaceEntry):
                # peft and the Space open the main branch of what they are given.
                for link in entry.linked:
                    if "@" in link:
                        raise reader.refusal(
                            (section, name),
                            f"{name} opens main branches only: release {link} as a repository of its own",
                        )
            for revision in getattr(entry, "revisions", {}):
                if reason := no_branch(revision):
                    raise reader.refusal(
                        (section, name, "revisions", revision), f"{revision!r} is no name of a branch ({reason})"
                    )
            yield entry


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def _build(reader: Reader, where: tuple[Any, ...], wanted: type, value: Any, given: dict[str, Any]) -> Any:
    """A dataclass from a mapping: unknown and missing keys and wrong types are refused."""
    if not isinstance(value, dict):
        raise reader.refusal(where, f"{where[-1]} must be a mapping")
    known_fields = {entry.name: entry for entry in fields(wanted) if entry.name not in given}
    for key in value:
        _check_key(reader, (*where, key), list(known_fields))
    for name, entry in known_fields.items():
        if name not in value and entry.default is MISSING and entry.default_factory is MISSING:
            raise reader.refusal(where, f"{where[-1]} has no {name!r}")
    found = {key: _value(reader, (*where, key), known_fields[key].type, item) for key, item in value.items()}
    return wanted(**given, **found)


def _value(reader: Reader, where: tuple[Any, ...], wanted: Any, value: Any) -> Any:
    name = next(part for part in reversed(where) if isinstance(part, str))
    if get_origin(wanted) is dict:
        if isinstance(value, dict):
            inner = get_args(wanted)[1]
            return {key: _value(reader, (*where, key), inner, item) for key, item in value.items()}
        raise reader.refusal(where, f"{name} must be a mapping")
    if get_origin(wanted) is list:
        if isinstance(value, list):
            return [_value(reader, (*where, place), str, item) for place, item in enumerate(value)]
        raise reader.refusal(where, f"{name} must be a list, such as [{value}]")
    if isinstance(value, Unquoted):
        raise reader.refusal(where, f"{name} must be text {value.hint}")
    if not isinstance(value, str) or not value.strip():
        raise reader.refusal(where, f"{name} must be text, and {_what(value)} stands there")
    if name not in FREE_TEXT and ("\n" in value or "\t" in value):
        raise reader.refusal(where, f"{name} must be text on one line")
    if wanted is not Path:
        return value
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # ~somebody
        raise reader.refusal(where, f"{name} is {value}, and there is no such user here") from error


def _what(value: Any) -> str:
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else "nothing"


def _check_key(reader: Reader, where: tuple[Any, ...], choices: list[str]) -> None:
    if where[-1] not in choices:
        raise reader.refusal(where, f"{where[-1]!r} is no key there{_meant(str(where[-1]), choices)}")


def _meant(word: str, choices: Any) -> str:
    close = difflib.get_close_matches(word, list(choices), 1)
    listed = list(choices)
    return f" (did you mean {close[0]!r}?)" if close else f": choose among {', '.join(listed[:12])}"


LINKS = {
    "base": ("encoder", "classifier"),
    "data": ("data",),
    "committees": ("committee",),
    "deep": ("classifier",),
    "encoders": ("encoder",),
}
"""What a field may point to; members are compared by their weights."""


def _check_names(reader: Reader, namespace: str, entries: tuple[Entry, ...]) -> None:
    """Names that the Hub takes, each once, and links that lead somewhere, to what the field is for."""
    sections = {entry_class.kind: section for section, entry_class in SECTIONS.items()}
    kinds = {entry.name: entry.kind for entry in entries}
    branches = {f"{entry.name}@{branch}" for entry in entries for branch in getattr(entry, "revisions", {})}
    seen: set[str] = set()
    for entry in entries:
        where = (sections[entry.kind], entry.name)
        _check_id(reader, where, f"{namespace}/{entry.name}")
        if entry.name in seen:
            raise reader.refusal(where, f"{entry.name} names two repositories: choose another name")
        seen.add(entry.name)
        for link in entry.linked:
            known_ones = branches if "@" in link else set(kinds)
            if "/" not in link and link not in known_ones:
                raise reader.refusal(
                    where,
                    f"{entry.name} points to {link!r}, which is no {'branch' if '@' in link else 'repository'} of this "
                    f"release{_meant(link, known_ones)}",
                )
            if "/" in link:
                _check_id(reader, where, link.partition("@")[0])
            # Named so, its weights would go unchecked.
            if link.startswith(f"{namespace}/") and link.partition("/")[2].partition("@")[0] in kinds:
                raise reader.refusal(where, f"{link!r} is of this release: write it as {link.partition('/')[2]}")
        for field_name, wanted in LINKS.items():
            value = getattr(entry, field_name, None) or []
            for link in [value] if isinstance(value, str) else value.values() if isinstance(value, dict) else value:
                name = link.partition("@")[0]
                if kinds.get(name, wanted[0]) not in wanted:
                    raise reader.refusal(
                        (*where, field_name),
                        f"{field_name} of {entry.name} names {link}, of the kind {kinds[name]}: name one of the kind "
                        f"{' or '.join(wanted)}",
                    )


def _check_id(reader: Reader, where: tuple[str, ...], repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise reader.refusal(where, f"{repo_id} is no name for a repository ({reason})") from error
