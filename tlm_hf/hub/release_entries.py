"""What a release is made of: its repositories, by kind, and the collection that holds them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

RepoType = Literal["dataset", "model", "space"]


@dataclass(frozen=True)
class Entry:
    """One repository of the release file.

    Args:
        name: the repository's, without namespace.
    """

    kind: ClassVar[str] = ""
    repo_type: ClassVar[RepoType] = "model"
    name: str

    @property
    def linked(self) -> list[str]:
        """Names of repositories, of this release or `owner/name`, that it is made from or shows."""
        return []

    @property
    def folders(self) -> dict[str, Path]:
        """What it is made from, by the key that names it in the release file."""
        return {}


@dataclass(frozen=True)
class DataEntry(Entry):
    """A data set folder of `tlm prepare-data` or `tlm overlap`."""

    kind: ClassVar[str] = "data"
    repo_type: ClassVar[RepoType] = "dataset"
    folder: Path

    @property
    def folders(self) -> dict[str, Path]:
        """See `Entry`."""
        return {"folder": self.folder}


@dataclass(frozen=True)
class ModelEntry(Entry):
    """A run folder; `revisions` are further runs of the same kind, as branches of the same repository.

    Args:
        run: output folder of a finished run.
        revisions: run folders by the name of the branch, such as `seed-1` or `step-500`.
        example: text of the card's snippet and widget.
    """

    run: Path
    revisions: dict[str, Path] = field(default_factory=dict)
    example: str | None = None

    @property
    def folders(self) -> dict[str, Path]:
        """See `Entry`."""
        return {"run": self.run, **{f"revisions: {name}": run for name, run in self.revisions.items()}}


@dataclass(frozen=True)
class EncoderEntry(ModelEntry):
    """A pre-trained encoder; `corpus` in words, `data` the data sets that it was trained on."""

    kind: ClassVar[str] = "encoder"
    corpus: str | None = None
    data: list[str] = field(default_factory=list)

    @property
    def linked(self) -> list[str]:
        """See `Entry`."""
        return list(self.data)


@dataclass(frozen=True)
class ClassifierEntry(ModelEntry):
    """A fine-tuned classifier; `base` the encoder that it was trained from (or `encoder@branch`), `task` in words."""

    kind: ClassVar[str] = "classifier"
    base: str | None = None
    task: str | None = None
    data: list[str] = field(default_factory=list)

    @property
    def linked(self) -> list[str]:
        """See `Entry`."""
        return [*([self.base] if self.base else []), *self.data]


@dataclass(frozen=True)
class AdapterEntry(ClassifierEntry):
    """The LoRA adapter of a fine-tuning with `--lora-rank`; it loads on its `base`, which it therefore needs."""

    kind: ClassVar[str] = "adapter"


@dataclass(frozen=True)
class CommitteeEntry(ModelEntry):
    """A committee; `members` those of its classifiers that have a repository, or are a branch (`name@branch`)."""

    kind: ClassVar[str] = "committee"
    members: list[str] = field(default_factory=list)
    task: str | None = None
    data: list[str] = field(default_factory=list)

    @property
    def linked(self) -> list[str]:
        """See `Entry`."""
        return [*self.members, *self.data]


@dataclass(frozen=True)
class SpaceEntry(Entry):
    """The Space; `demo` the folder with `demo.json`, and the repositories of its models, by task or name."""

    kind: ClassVar[str] = "space"
    repo_type: ClassVar[RepoType] = "space"
    demo: Path
    committees: dict[str, str] = field(default_factory=dict)
    deep: dict[str, str] = field(default_factory=dict)
    encoders: dict[str, str] = field(default_factory=dict)

    @property
    def linked(self) -> list[str]:
        """See `Entry`."""
        return [*self.committees.values(), *self.deep.values(), *self.encoders.values()]

    @property
    def folders(self) -> dict[str, Path]:
        """See `Entry`."""
        return {"demo": self.demo}


@dataclass(frozen=True)
class Collection:
    """The collection that holds all of it, together with the papers (arXiv numbers)."""

    title: str
    description: str = ""
    papers: list[str] = field(default_factory=list)


SECTIONS: dict[str, type[Entry]] = {
    "data": DataEntry,
    "encoders": EncoderEntry,
    "adapters": AdapterEntry,
    "classifiers": ClassifierEntry,
    "committees": CommitteeEntry,
    "spaces": SpaceEntry,
}
"""In the order in which they are made, verified and pushed: what is linked to stands before what links to it."""


@dataclass(frozen=True)
class Release:
    """What a release file says, checked.

    Args:
        version: `X.Y.Z`; its tag is `vX.Y.Z`.
        namespace: user or organization.
        visibility: private or public.
        licence: the Hub's identifier.
        language: the Hub's identifier of the models' language.
        entries: the repositories, in the order of `SECTIONS`.
        collection: None for none.
    """

    version: str
    namespace: str
    entries: tuple[Entry, ...]
    visibility: Literal["private", "public"] = "private"
    licence: str = "apache-2.0"
    language: str = "en"
    collection: Collection | None = None

    def place(self, name: str) -> str:
        """`owner/name`, or `owner/name@branch`, of a repository of this release; another one's as it is."""
        return name if "/" in name else f"{self.namespace}/{name}"

    def repo_id(self, name: str) -> str:
        """The same without the branch."""
        return self.place(name).partition("@")[0]
