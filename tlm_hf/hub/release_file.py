"""The release file: one YAML that names every repository of a release.

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
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import HFValidationError, validate_repo_id

from ..errors import UserError
from ..runs.atomic_files import Json

FORMATS = {
    "version": (re.compile(r"\d+\.\d+\.\d+"), "write it as X.Y.Z"),
    "visibility": (re.compile("private|public"), "choose private or public"),
    "language": (re.compile("[a-z]{2,3}|multilingual"), "write the Hub's code, such as en"),
}
LICENCES = frozenset(
    re.findall(
        r"\S+",
        """
        afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc
        cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0
        cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0
        cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
        gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1
        openrail openrail++ osl-3.0 other pddl postgresql unlicense wtfpl zlib
        """,
    )
)
"""What the Hub accepts on a card; it would refuse another only when earlier repositories are already up."""
BRANCH = re.compile(
    r"(?!main$|HEAD$|refs$|v\d+\.\d+\.\d+$|[0-9a-fA-F]{40}$)[A-Za-z0-9_](?:\.?[A-Za-z0-9_-])*(?<!\.lock)"
)
"""Branches that are also names of folders, and that git and the Hub read as nothing else (main, a tag, a commit)."""
ARXIV = re.compile(r"\d{4}\.\d{4,5}")
LONGEST_DESCRIPTION = 150
"""Characters of a collection's description (`HfApi.create_collection`)."""


@dataclass(frozen=True)
class Kind:
    """What a kind of repository is called, and what the release file may say of it."""

    section: str
    repo_type: Literal["dataset", "model", "space"]
    source: str
    keys: tuple[str, ...] = ()


KINDS = {
    "data": Kind("data", "dataset", "folder"),
    "encoder": Kind("encoders", "model", "run", ("corpus", "data", "example", "revisions")),
    "adapter": Kind("adapters", "model", "run", ("base", "task", "data", "example", "revisions")),
    "classifier": Kind("classifiers", "model", "run", ("base", "task", "data", "example", "revisions")),
    "committee": Kind("committees", "model", "run", ("members", "task", "data", "example", "revisions")),
    "space": Kind("spaces", "space", "demo", ("committees", "deep", "encoders")),
}
"""In the order in which they are made, verified and pushed: what is linked to comes before what links to it."""
LINKS = {
    "base": ("encoder", "classifier"),
    "members": ("classifier",),
    "data": ("data",),
    "committees": ("committee",),
    "deep": ("classifier",),
    "encoders": ("encoder",),
}
"""Fields that name other repositories, and the kinds that they may name."""


@strict
@dataclass
class Entry:
    """One repository of the release file.

    Args:
        name: without the namespace.
        kind: see `KINDS`.
        source: folder that it is made from (`folder`, `run` or `demo`).
        revisions: further runs of the same kind by branch, such as `seed-1` or `step-500`.
        example: text of the card's snippet and widget.
        corpus, task: what a model was trained on, in words.
        base: the encoder that it was trained from, or one of its branches (`name@branch`).
        members: those classifiers of a committee that have a repository, or are a branch.
        data: data sets that it was trained on.
        committees, deep, encoders: models of the Space, by task or by what people read.
    """

    name: str
    kind: str
    source: Path
    revisions: dict[str, Path] = field(default_factory=dict)
    example: str | None = None
    corpus: str | None = None
    task: str | None = None
    base: str | None = None
    members: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    committees: dict[str, str] = field(default_factory=dict)
    deep: dict[str, str] = field(default_factory=dict)
    encoders: dict[str, str] = field(default_factory=dict)

    @property
    def is_model(self) -> bool:
        """Whether it is made from a run."""
        return KINDS[self.kind].repo_type == "model"

    @property
    def links(self) -> list[tuple[str, str]]:
        """`(field, name)` of each repository, of this release or `owner/name`, that it is made from or shows."""
        named: dict[str, Iterable[str]] = {
            "base": [self.base] if self.base else [],
            "members": self.members,
            "data": self.data,
            "committees": self.committees.values(),
            "deep": self.deep.values(),
            "encoders": self.encoders.values(),
        }
        return [(key, name) for key, names in named.items() for name in names]


@strict
@dataclass
class Collection:
    """The collection that holds all of it, together with the papers (arXiv numbers)."""

    title: str
    description: str = ""
    papers: list[str] = field(default_factory=list)


@strict
@dataclass
class Release:
    """What a release file says, checked; `entries` are in the order of `KINDS`."""

    version: str
    namespace: str
    entries: tuple[Entry, ...]
    visibility: str = "private"
    licence: str = "apache-2.0"
    language: str = "en"
    collection: Collection | None = None

    def place(self, name: str) -> str:
        """`owner/name`, or `owner/name@branch`, of a repository of this release; another one's as it is."""
        return name if "/" in name else f"{self.namespace}/{name}"

    def repo_id(self, name: str) -> str:
        """The same without the branch."""
        return self.place(name).partition("@")[0]


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is written twice; YAML itself would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        if doubled := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(problem=f"{doubled[0]!r} is there twice")
        return super().construct_mapping(node, deep)


def read_release(path: str | Path) -> Release:
    """Read and check a release file.

    Raises:
        UserError: a mistake in it, or a folder that is missing.
    """
    file = Path(path).expanduser()
    try:
        release = _release(yaml.load(file.read_text(encoding="utf-8"), Loader=_UniqueKeys))
        _check_links(release)
    except OSError as error:
        raise UserError(f"The release file {file} cannot be read ({error.strerror}): name one that exists.") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The release file {file} is not valid YAML ({reason}): correct it.") from error
    except ValueError as error:
        raise UserError(f"The release file {file}: {' '.join(str(error).split())}.") from error
    return release


def _release(content: object) -> Release:
    sections = {facts.section: kind for kind, facts in KINDS.items()}
    fields = [name for name in Release.__annotations__ if name != "entries"]
    content = _mapping(content, "it", [*fields, *sections], ["version", "namespace"])
    entries: list[Entry] = []
    for section, kind in sections.items():
        repositories = _mapping(content.pop(section, None) or {}, section)
        entries += [_entry(name, kind, values) for name, values in repositories.items()]
    if not entries:
        raise ValueError("it names no repository: add a section such as encoders")
    if content.get("collection") is not None:
        values = _mapping(content["collection"], "collection", list(Collection.__annotations__), ["title"])
        content["collection"] = _made(Collection, "collection", values)
    release: Release = _made(Release, "it", {**content, "entries": tuple(entries)})
    for key, (pattern, remedy) in FORMATS.items():
        if not pattern.fullmatch(getattr(release, key)):
            raise ValueError(f"{key} is {getattr(release, key)!r}: {remedy}")
    if release.licence not in LICENCES:
        raise ValueError(
            f"licence is {release.licence!r}, which the Hub does not accept{_nearest(release.licence, LICENCES)}"
        )
    if release.collection is not None and len(release.collection.description) > LONGEST_DESCRIPTION:
        raise ValueError(f"the Hub accepts {LONGEST_DESCRIPTION} characters as description: shorten the collection's")
    for paper in release.collection.papers if release.collection else []:
        if not ARXIV.fullmatch(paper):
            raise ValueError(f"the paper {paper!r} is not an arXiv number: write it as 2507.14871")
    return release


def _entry(name: str, kind: str, values: object) -> Entry:
    facts = KINDS[kind]
    required = [facts.source, *(["base"] if kind == "adapter" else [])]  # an adapter loads on its base
    values = dict(_mapping(values, name, [facts.source, *facts.keys], required))
    source = Path(str(values.pop(facts.source))).expanduser()
    branches = _mapping(values.pop("revisions", {}), f"revisions of {name}")
    revisions = {branch: Path(str(folder)).expanduser() for branch, folder in branches.items()}
    entry: Entry = _made(Entry, name, {**values, "name": name, "kind": kind, "source": source, "revisions": revisions})
    return entry


def _mapping(values: object, where: str, known: Sequence[str] = (), required: Sequence[str] = ()) -> Json:
    """The values, which must be a mapping; where keys are known, of those alone."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be a mapping")
    for key in values:
        if known and key not in known:
            raise ValueError(f"{where} has the unknown key {key!r}{_nearest(str(key), known)}")
    for key in required:
        if key not in values:
            raise ValueError(f"{where} has no {key!r}: add it")
    return values


def _made(record: Any, where: str, values: Json) -> Any:
    """A record of these values, whose types it checks."""
    try:
        return record(**values)
    except StrictDataclassError as error:
        reason = str(error).splitlines()[-1].strip().removeprefix("TypeError: ")
        raise ValueError(f"{where}: {reason}; put a text in quotes and a list in brackets") from error


def _nearest(word: str, choices: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(choices), 1)
    return f" (did you mean {close[0]!r}?)" if close else f": choose among {', '.join(sorted(choices))}"


def _check_links(release: Release) -> None:
    """Folders that exist, names that the Hub accepts, each once, and links to repositories of the right kind."""
    kinds: dict[str, str] = {}
    for entry in release.entries:
        if entry.name in kinds:
            raise ValueError(f"{entry.name} names two repositories: choose another name")
        _check_id(release.repo_id(entry.name))
        kinds[entry.name] = entry.kind
        for branch in entry.revisions:
            if not BRANCH.fullmatch(branch):
                raise ValueError(f"{entry.name} has the branch {branch!r}: choose a name such as seed-1 or step-500")
            kinds[f"{entry.name}@{branch}"] = entry.kind
        for folder in (entry.source, *entry.revisions.values()):
            if not folder.is_dir():
                raise ValueError(f"{entry.name} is made from {folder}, and there is no such folder: correct the path")
    for entry in release.entries:
        for key, link in entry.links:
            what = f"{key} of {entry.name} names {link!r}"
            if "@" in link and entry.kind in ("adapter", "space"):
                # peft and the Space open the main branch of what they are given.
                raise ValueError(f"{what}, and only a main branch can be opened: release it as a repository")
            if "/" in link:
                _check_id(link.partition("@")[0])
                if link.removeprefix(f"{release.namespace}/") in kinds:  # else its weights would go unchecked
                    raise ValueError(f"{what}, which is of this release: leave out the namespace")
            elif link not in kinds:
                raise ValueError(f"{what}, which is not in this release{_nearest(link, kinds)}")
            elif kinds[link] not in LINKS[key]:
                raise ValueError(f"{what}, of the kind {kinds[link]}: name one of the kind {' or '.join(LINKS[key])}")


def _check_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            f"the Hub does not accept the name {repo_id} ({str(error).splitlines()[0].rstrip('.')})"
        ) from error
