"""What a push or `tlm release status` finds: each branch on the Hub compared with what was staged for it."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from ..runs.atomic_files import Json, read_json
from .client import Hub
from .manifest import MANIFEST_FILE, Repository, StagedRelease, describe_files, git_hash

HUBS_OWN = frozenset({".gitattributes"})
"""Files that the Hub itself makes."""
MAIN = "main"
MISSING = (RepositoryNotFoundError, RevisionNotFoundError)


@dataclass
class Change:
    """What one branch of one repository needs.

    Attributes:
        folder: what the branch is to hold.
        version: of this release.
        head: commit that this was compared with; None where there is no repository or branch yet.
        add: paths to send with their sizes in bytes.
        delete: paths to delete.
        foreign: a file that others changed since the last release.
        hub_version: version of the release that the branch holds.
        tagged: a file that was released under this version with other content.
    """

    repo_id: str
    repo_type: str
    revision: str
    folder: Path
    version: str
    head: str | None = None
    add: dict[str, int] = field(default_factory=dict)
    delete: list[str] = field(default_factory=list)
    foreign: str | None = None
    hub_version: str | None = None
    tagged: str | None = None

    @property
    def is_empty(self) -> bool:
        """Nothing to send or delete."""
        return not self.add and not self.delete

    @property
    def where(self) -> str:
        """`owner/name`, or `owner/name@branch`."""
        return self.repo_id + ("" if self.revision == MAIN else f"@{self.revision}")

    def refusal(self, overwrite: bool) -> str | None:
        """Why this must not be sent, in one sentence; None where it may be."""
        if self.is_empty:
            return None
        if self.foreign is not None and not overwrite:
            return (
                f"{self.where} was changed on the Hub by others ({self.foreign}): look at it there, and add "
                "--overwrite if this release is to replace it."
            )
        remedy = "raise `version` in the release file, then stage and verify again."
        if version_numbers(self.hub_version) > version_numbers(self.version):
            return f"{self.where} is at {self.hub_version} on the Hub, which is newer than {self.version}: {remedy}"
        if self.tagged is not None:
            return f"{self.where} was released as {self.version} with another {self.tagged}: {remedy}"
        return None

    def describe(self, overwrite: bool) -> list[str]:
        """What a push would do with it, line by line."""
        refused = self.refusal(overwrite)
        lines = [f"{self.where}: here {self.version}, on the Hub {self.hub_version or '-'}"]
        lines += [f"    REFUSED: {refused}"] if refused else []
        lines += [f"    send    {size:>12,} bytes  {path}" for path, size in self.add.items()]
        return lines + [f"    delete  {'':>12}        {path}" for path in self.delete]


def version_numbers(version: str | None) -> tuple[int, ...]:
    """A version in the order of versions; () for what is not one, which then is older than any."""
    try:
        return tuple(int(part) for part in str(version).split("."))
    except ValueError:
        return ()


def _is_same(remote: str | None, facts: Mapping[str, str]) -> bool:
    """Whether a hash from the Hub, of the content (LFS) or git's, is that of a file with these facts."""
    return remote is not None and remote in (facts.get("git"), facts.get("sha256"))


def _first_difference(remote: Mapping[str, str], local: Mapping[str, Json]) -> str | None:
    names = sorted({*remote, *local} - HUBS_OWN)
    return next((name for name in names if not _is_same(remote.get(name), local.get(name, {}))), None)


class Comparison:
    """Compares a staged release with the Hub; changes nothing. Every method raises what `Hub.call` raises."""

    def __init__(self, hub: Hub, staged: StagedRelease) -> None:
        self.hub, self.api, self.staged = hub, hub.api, staged
        self.tag = f"v{staged.version}"

    def compare_all(self) -> dict[str, list[Change]]:
        """Every branch of every repository, by `repo_id`, main last: it is what people see."""
        return {
            repository.repo_id: [self.compare(repository, revision) for revision in [*repository.revisions, MAIN]]
            for repository in self.staged.repositories
        }

    def head(self, repo_id: str, repo_type: str, revision: str) -> str | None:
        """Commit of a branch; None where there is no such branch or repository."""
        what = f"looking at {repo_id}"
        try:
            info = self.hub.call(
                what, self.api.repo_info, repo_id, repo_type=repo_type, revision=revision, expected=MISSING
            )
        except MISSING:
            return None
        return info.sha

    def tags(self, repo_id: str, repo_type: str) -> set[str]:
        """Names of the tags."""
        what = f"listing tags of {repo_id}"
        refs = self.hub.call(what, self.api.list_repo_refs, repo_id, repo_type=repo_type)
        return {tag.name for tag in refs.tags}

    def compare(self, repository: Repository, revision: str = MAIN) -> Change:
        """What a branch needs to hold what was staged for it."""
        name = repository.folder if revision == MAIN else repository.revisions[revision]
        folder = self.staged.output / name
        change = Change(repository.repo_id, repository.repo_type, revision, folder, self.staged.version)
        manifest = folder / MANIFEST_FILE
        local = describe_files(folder)
        local[MANIFEST_FILE] = {"size": manifest.stat().st_size, "git": git_hash(manifest)}
        change.head = self.head(change.repo_id, change.repo_type, revision)
        remote = {} if change.head is None else self._files(change, change.head)
        change.add = {path: facts["size"] for path, facts in local.items() if not _is_same(remote.get(path), facts)}
        change.delete = sorted(set(remote) - set(local) - HUBS_OWN)
        if change.is_empty:
            change.hub_version = change.version
        elif set(remote) - HUBS_OWN:
            self._look_for_changes(change, remote, local)
        return change

    def _files(self, change: Change, commit: str) -> dict[str, str]:
        """Hash of every file of a commit: of its content for LFS files, git's for others."""

        def listed() -> dict[str, str]:
            tree = self.api.list_repo_tree(change.repo_id, repo_type=change.repo_type, revision=commit, recursive=True)
            files = [item for item in tree if isinstance(item, RepoFile)]
            return {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files}

        return self.hub.call(f"listing {change.repo_id}", listed)

    def _look_for_changes(self, change: Change, remote: dict[str, str], local: dict[str, Json]) -> None:
        """Fill in `foreign`, `hub_version` and `tagged`."""
        if change.revision != MAIN and change.head == self.head(change.repo_id, change.repo_type, MAIN):
            return  # a branch that was only begun holds what main does, and no release
        if MANIFEST_FILE not in remote:
            if not self._is_new(change):
                change.foreign = sorted(set(remote) - HUBS_OWN)[0]
            return
        files, change.hub_version = self._read_manifest(change)
        if change.hub_version is None:
            change.foreign = MANIFEST_FILE
            return
        change.foreign = _first_difference({k: v for k, v in remote.items() if k != MANIFEST_FILE}, files)
        if change.hub_version == change.version and self.tag in self.tags(change.repo_id, change.repo_type):
            released = {name: str(facts.get("sha256")) for name, facts in files.items()}
            here = {name: facts for name, facts in local.items() if name != MANIFEST_FILE}
            change.tagged = _first_difference(released, here) or (None if change.foreign else MANIFEST_FILE)

    def _is_new(self, change: Change) -> bool:
        """Whether nobody has written there: the Hub's first commit alone, which gives a Space a README."""
        what = f"listing commits of {change.repo_id}"
        commits = self.hub.call(
            what, self.api.list_repo_commits, change.repo_id, repo_type=change.repo_type, revision=change.head
        )
        return len(commits) == 1

    def _read_manifest(self, change: Change) -> tuple[dict[str, Json], str | None]:
        """Files and version of the release that is there; no version where its manifest is damaged."""
        with tempfile.TemporaryDirectory(prefix="tlm-push-") as cache:
            path = self.hub.call(
                f"reading the manifest of {change.repo_id}",
                self.api.hf_hub_download,
                change.repo_id,
                MANIFEST_FILE,
                repo_type=change.repo_type,
                revision=change.head,
                cache_dir=cache,
            )
            try:
                manifest = read_json(path)
                return {str(name): dict(facts) for name, facts in manifest["files"].items()}, str(manifest["version"])
            except (ValueError, KeyError, TypeError, AttributeError):
                return {}, None


def describe_changes(changes: dict[str, list[Change]], *, overwrite: bool = False) -> Json:
    """What a push would do, file by file, without doing any of it; also `tlm release status`.

    Returns:
        `table`; `repositories`: one row for each branch; how many of them are `differing` and `refused`.
    """
    branches = [change for each in changes.values() for change in each]
    rows = [
        {
            "repository": change.where,
            "here": change.version,
            "hub": change.hub_version,
            "send": change.add,
            "delete": change.delete,
            "foreign": change.foreign,
            "refused": change.refusal(overwrite),
        }
        for change in branches
    ]
    sizes = [size for change in branches for size in change.add.values()]
    lines = [line for change in branches for line in change.describe(overwrite)]
    lines.append(f"{len(sizes)} files, {sum(sizes):,} bytes to send.")
    refused = sum(row["refused"] is not None for row in rows)
    if refused:
        lines.append(f"A push would be refused, and send nothing: {refused} of {len(rows)} branches, see above.")
    return {
        "table": "\n".join(lines),
        "repositories": rows,
        "differing": sum(not change.is_empty for change in branches),
        "refused": refused,
    }
