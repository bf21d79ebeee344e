"""The release file: one YAML that names every repository of a release (docs/tutorials/publish.md has every field)."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import validate_repo_id

from ..errors import UserError
from ..runs.atomic_files import Json, read_yaml

BRANCH = re.compile(r"(?!(?:main|HEAD|refs|[0-9a-f]{40})$)\w[\w-]*", re.ASCII)
"""Names of branches; they are also names of folders, and no dot keeps them apart from tags."""


class Kind(NamedTuple):
    """A kind of repository: its section, the kind of run that it is made from (None: a demonstration), its keys."""

    section: str
    run: str | None
    keys: tuple[str, ...]


CLASSIFIER = ("task", "example")
KINDS = {  # in the order in which they are made, verified and pushed: links hold at every moment
    "encoder": Kind("encoders", "pretrain", ("corpus", "example", "revisions")),
    "adapter": Kind("adapters", "finetune", ("base", *CLASSIFIER)),
    "classifier": Kind("classifiers", "finetune", ("base", *CLASSIFIER, "revisions")),
    "committee": Kind("committees", "committee", ("members", *CLASSIFIER, "revisions")),
    "frozen": Kind("frozen", "freeze", ("base", *CLASSIFIER)),
    "space": Kind("spaces", None, ("committees", "deep", "encoders")),
}
LINKS = {"base": ("encoder", "classifier", "committee"), "members": ("classifier",)}  # fields that name others
LINKS |= {"committees": ("committee",), "deep": ("classifier",), "encoders": ("encoder",)}


@strict
@dataclass
class Entry:
    """One repository, made from `source` (`run` or `demo`); `base` and `members` may be branches."""

    name: str
    kind: str
    source: Path
    revisions: dict[str, Path] = field(default_factory=dict)
    example: str | None = None
    corpus: str | None = None
    task: str | None = None
    base: str | None = None
    members: list[str] = field(default_factory=list)
    committees: dict[str, str] = field(default_factory=dict)
    deep: dict[str, str] = field(default_factory=dict)
    encoders: dict[str, str] = field(default_factory=dict)

    @property
    def links(self) -> list[tuple[str, str]]:
        """`(field, name)` of each repository, of this release or `owner/name`, that it is made from or shows."""
        named = {"base": [self.base] if self.base else [], "members": self.members}
        named |= {key: list(getattr(self, key).values()) for key in ("committees", "deep", "encoders")}
        return [(key, name) for key, names in named.items() for name in names]


@strict
@dataclass
class Release:
    """What a release file says, checked; `entries` are in the order of `KINDS`."""

    version: str
    namespace: str
    entries: tuple[Entry, ...]
    licence: str = "apache-2.0"
    language: str = "en"

    def place(self, name: str) -> str:
        """`owner/name`, or `owner/name@branch`, of a repository of this release; another one's as it is."""
        return name if "/" in name else f"{self.namespace}/{name}"

    def repo_id(self, name: str) -> str:
        """The same without the branch."""
        return self.place(name).partition("@")[0]


def read_release(path: str | Path) -> Release:
    """Read and check a release file; UserError for a mistake in it, or a folder that is missing."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"There is no release file {file}: give --release-file.")
    try:
        release = _release(read_yaml(file))
        _check_entries(release)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"The release file {file}: {' '.join(str(error).split())}.") from error
    return release


def _release(content: Any) -> Release:
    known = [each.name for each in fields(Release) if each.name != "entries"]
    content = _mapping(content, "it", [*known, *(kind.section for kind in KINDS.values())])
    entries = []
    for kind, (section, run, keys) in KINDS.items():
        source = "run" if run else "demo"
        for name, values in _mapping(content.pop(section, None) or {}, section).items():
            values = _mapping(values, name, [source, *keys])
            for key in (source, "base") if kind == "adapter" else (source,):
                if key not in values:
                    raise ValueError(f"{name} has no {key!r}: add it")
            branches = _mapping(values.get("revisions", {}), f"revisions of {name}")
            values["revisions"] = {branch: Path(str(folder)).expanduser() for branch, folder in branches.items()}
            folder = Path(str(values.pop(source))).expanduser()
            entries.append(_build(Entry, name, {"name": name, "kind": kind, "source": folder, **values}))
    if not entries:
        raise ValueError("it names no repository: add a section such as encoders")
    release: Release = _build(Release, "it", {**content, "entries": tuple(entries)})
    if not re.fullmatch(r"\d+\.\d+\.\d+", release.version):
        raise ValueError(f"version is {release.version!r}: write it as X.Y.Z")
    return release


def _mapping(values: Any, where: str, known: Iterable[str] = ()) -> Json:
    """A copy of the values, which must be a mapping; where keys are known, of those alone."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be a mapping")
    for key in values:
        if known and key not in known:
            raise ValueError(f"{where} has the unknown key {key!r}{_nearest(str(key), known)}")
    return dict(values)


def _build(record: Any, where: str, values: Json) -> Any:
    try:
        return record(**values)
    except (StrictDataclassError, TypeError) as error:
        raise ValueError(f"{where}: {str(error).splitlines()[-1].strip().removeprefix('TypeError: ')}") from error


def _nearest(word: str, choices: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(choices), 1)
    return f" (did you mean {close[0]!r}?)" if close else f": choose among {', '.join(sorted(choices))}"


def _check_entries(release: Release) -> None:
    """Folders that exist, names that the Hub accepts, each once, and links to repositories of the right kind."""
    kinds: dict[str, str] = {}
    for entry in release.entries:
        if entry.name in kinds:
            raise ValueError(f"{entry.name} names two repositories: choose another name")
        validate_repo_id(release.repo_id(entry.name))
        kinds |= dict.fromkeys([entry.name, *(f"{entry.name}@{branch}" for branch in entry.revisions)], entry.kind)
        for branch in entry.revisions:
            if not BRANCH.fullmatch(branch):
                raise ValueError(f"{entry.name} has the branch {branch!r}: choose a name such as seed-1")
        for folder in (entry.source, *entry.revisions.values()):
            if not folder.is_dir():
                raise ValueError(f"{entry.name} is made from {folder}, and there is no such folder: correct the path")
    for entry in release.entries:
        for key, link in entry.links:
            what = f"{key} of {entry.name} names {link!r}"
            if "@" in link and entry.kind in ("adapter", "space"):
                # peft and the Space open the main branch of what they are given.
                raise ValueError(f"{what}, and only a main branch can be opened: release it as a repository")
            if "/" not in link and link not in kinds:
                raise ValueError(f"{what}, which is not in this release{_nearest(link, kinds)}")
            if "/" not in link and kinds[link] not in LINKS[key]:
                raise ValueError(f"{what}, of the kind {kinds[link]}: name one of the kind {' or '.join(LINKS[key])}")
            if "/" in link and link.removeprefix(f"{release.namespace}/") in kinds:  # else its weights go unchecked
                raise ValueError(f"{what}, which is of this release: leave out the namespace")
