"""What a push or `tlm release status` finds: each branch on the Hub held against what was staged for it."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import GitRefs, RepoFile

from .client import Hub
from .manifest import MANIFEST_FILE, describe_files, git_hash

NOT_OURS = frozenset({".gitattributes"})
"""Files of the Hub itself."""
MAIN = "main"
MISSING = (RepositoryNotFoundError, RevisionNotFoundError)


@dataclass
class Change:
    """What one branch of one repository needs.

    Attributes:
        repo_id, repo_type, revision: where.
        folder: what it is to hold.
        version: of this release.
        head: commit that this was compared with; None where there is no repository or branch yet.
        add: paths to send with their sizes in bytes.
        delete: paths that are there and no longer belong there.
        same: how many files are there already.
        foreign: path of a file that was changed there by others since the last release, or None.
        hub_version: version of the release that is there, or None.
        taken: path of a file that is another one under the tag of this version, or None.
    """

    repo_id: str
    repo_type: str
    revision: str
    folder: Path
    version: str
    head: str | None = None
    add: dict[str, int] = field(default_factory=dict)
    delete: list[str] = field(default_factory=list)
    same: int = 0
    foreign: str | None = None
    hub_version: str | None = None
    taken: str | None = None

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
                "--overwrite if this release is to take its place."
            )
        if self.hub_version is not None and version_numbers(self.hub_version) > version_numbers(self.version):
            return (
                f"{self.where} is at {self.hub_version} on the Hub, which is newer than {self.version}: raise "
                "`version` in the release file, then stage and verify again."
            )
        if self.taken is not None:
            return (
                f"{self.where} was released as {self.version} with other files ({self.taken} is one): raise `version` "
                "in the release file, then stage and verify again."
            )
        return None


def _is_same(found: str | None, facts: Mapping[str, Any]) -> bool:
    """Whether a hash from the Hub, of the content (LFS) or git's, is that of a file with these facts."""
    return found is not None and found in (facts.get("git"), facts.get("sha256"))


def version_numbers(version: str) -> tuple[int, ...]:
    """A version in the order of versions; () for what is none, which then is older than any."""
    try:
        return tuple(int(part) for part in version.split("."))
    except ValueError:
        return ()


class Comparison:
    """Compares staged folders with the Hub; changes nothing.

    Args:
        hub: the Hub.
        output: folder of the staged release.
        release: what its `release.json` holds.
    """

    def __init__(self, hub: Hub, output: Path, release: dict[str, Any]) -> None:
        self.hub, self.api, self.output, self.release = hub, hub.api, output, release

    @property
    def tag(self) -> str:
        """`vX.Y.Z`."""
        return f"v{self.release['version']}"

    def compare_all(self) -> dict[str, list[Change]]:
        """Every branch of every repository, by `repo_id`, main last: it is what people see.

        Raises:
            UserError: see `Hub.call`.
        """
        return {
            entry["repo_id"]: [self.compare(entry, revision) for revision in [*entry["revisions"], MAIN]]
            for entry in self.release["repositories"]
        }

    def leftovers(self) -> list[str]:
        """Branches that an earlier release left on the Hub and this one has no longer, as `owner/name@branch`."""
        found = []
        for entry in self.release["repositories"]:
            if entry["repo_type"] != "model":  # others have none
                continue
            try:
                refs = self._refs(entry["repo_id"], entry["repo_type"], expected=MISSING)
            except MISSING:
                continue
            names = {branch.name for branch in refs.branches} - {MAIN, *entry["revisions"]}
            found += [f"{entry['repo_id']}@{name}" for name in sorted(names)]
        return found

    def head(self, repo_id: str, repo_type: str, revision: str) -> str | None:
        """Commit of a branch; None where there is no such branch or repository."""
        try:
            info = self.hub.call(
                f"looking at {repo_id}", self.api.repo_info, repo_id, repo_type=repo_type, revision=revision,
                expected=MISSING,
            )  # fmt: skip
        except MISSING:
            return None
        return info.sha

    def tags(self, repo_id: str, repo_type: str) -> dict[str, str]:
        """Commits by the name of their tag."""
        return {tag.name: tag.target_commit for tag in self._refs(repo_id, repo_type).tags}

    def _refs(self, repo_id: str, repo_type: str, expected: tuple[type[Exception], ...] = ()) -> GitRefs:
        return self.hub.call(
            f"listing branches and tags of {repo_id}", self.api.list_repo_refs, repo_id, repo_type=repo_type,
            expected=expected,
        )  # fmt: skip

    def compare(self, entry: dict[str, Any], revision: str = MAIN) -> Change:
        """What a branch needs to hold what was staged for it.

        Raises:
            UserError: see `Hub.call`.
        """
        folder = self.output / (entry["folder"] if revision == MAIN else entry["revisions"][revision])
        change = Change(entry["repo_id"], entry["repo_type"], revision, folder, self.release["version"])
        local = describe_files(folder)
        manifest = folder / MANIFEST_FILE
        local[MANIFEST_FILE] = {"size": manifest.stat().st_size, "git": git_hash(manifest), "sha256": None}
        change.head = self.head(change.repo_id, change.repo_type, revision)
        remote = {} if change.head is None else self._files(change, change.head)
        for path, facts in local.items():
            if _is_same(remote.get(path), facts):
                change.same += 1
            else:
                change.add[path] = facts["size"]
        change.delete = sorted(set(remote) - set(local) - NOT_OURS)
        if change.is_empty:
            change.hub_version = change.version
        elif set(remote) - NOT_OURS:
            self._look_for_changes(change, remote, local)
        return change

    def _files(self, change: Change, commit: str) -> dict[str, str]:
        """Hash of every file of a commit: of its content for LFS files, git's for others."""

        def listed() -> dict[str, str]:
            tree = self.api.list_repo_tree(change.repo_id, repo_type=change.repo_type, revision=commit, recursive=True)
            return {
                item.path: item.lfs.sha256 if item.lfs else item.blob_id for item in tree if isinstance(item, RepoFile)
            }

        return self.hub.call(f"listing {change.repo_id}", listed)

    def _look_for_changes(self, change: Change, remote: dict[str, str], local: dict[str, dict[str, Any]]) -> None:
        """Fill in `foreign`, `hub_version` and `taken`."""
        if change.revision != MAIN and change.head == self.head(change.repo_id, change.repo_type, MAIN):
            return  # a branch that was only begun: it holds what main does, and no release of its own
        if MANIFEST_FILE not in remote:
            if not self._is_new(change):
                change.foreign = sorted(set(remote) - NOT_OURS)[0]
            return
        files, change.hub_version = self._read_manifest(change)
        if change.hub_version is None:
            change.foreign = MANIFEST_FILE
            return
        names = sorted({*files, *remote} - NOT_OURS - {MANIFEST_FILE})
        change.foreign = next((name for name in names if not _is_same(remote.get(name), files.get(name, {}))), None)
        if change.hub_version == change.version and self.tag in (tags := self.tags(change.repo_id, change.repo_type)):
            # Under a tag nothing moves: of main the tag says what was released, of a branch its manifest.
            released = self._files(change, tags[self.tag]) if change.revision == MAIN else {
                name: facts.get("sha256") for name, facts in files.items()
            }  # fmt: skip
            ours = set(local) - ({MANIFEST_FILE} if change.revision != MAIN else set())
            names = sorted({*ours, *released} - NOT_OURS)
            change.taken = next((name for name in names if not _is_same(released.get(name), local.get(name, {}))), None)

    def _is_new(self, change: Change) -> bool:
        """Whether nobody has written there: the Hub's first commit alone, which gives a Space a README of its own."""
        commits = self.hub.call(
            f"listing commits of {change.repo_id}", self.api.list_repo_commits, change.repo_id,
            repo_type=change.repo_type, revision=change.head,
        )  # fmt: skip
        return len(commits) == 1

    def _read_manifest(self, change: Change) -> tuple[dict[str, Any], str | None]:
        """Files and version of the release that is there; no version where its manifest is damaged."""
        with tempfile.TemporaryDirectory(prefix="tlm-push-") as cache:
            path = self.hub.call(
                f"reading the manifest of {change.repo_id}", self.api.hf_hub_download, change.repo_id, MANIFEST_FILE,
                repo_type=change.repo_type, revision=change.head, cache_dir=cache,
            )  # fmt: skip
            try:
                found = json.loads(Path(path).read_text(encoding="utf-8"))
                return {str(name): dict(facts) for name, facts in found["files"].items()}, str(found["version"])
            except (ValueError, KeyError, TypeError, AttributeError):
                return {}, None


def describe_changes(
    changes: dict[str, list[Change]], leftovers: Sequence[str] = (), *, overwrite: bool = False
) -> dict[str, Any]:
    """What a push would do, file by file, without doing any of it; also `tlm release status`.

    Args:
        changes: of `Comparison.compare_all`.
        leftovers: of `Comparison.leftovers`.
        overwrite: whether the push would be one with --overwrite.

    Returns:
        `table`, `repositories` (local and Hub version, files to send with their bytes, files to delete, `refused`: why
        a push would refuse, or None), `differing`.
    """
    lines: list[str] = []
    found: list[dict[str, Any]] = []
    for change in (change for branches in changes.values() for change in branches):
        refused = change.refusal(overwrite)
        state = (
            "is not there" if change.head is None
            else "is up to date" if change.is_empty
            else f"was changed by others ({change.foreign})" if change.foreign
            else "differs"
        )  # fmt: skip
        commit = "" if change.is_empty or refused else f'; commit "Release {change.version}":'
        lines.append(
            f"{change.where}: here {change.version}, on the Hub {change.hub_version or '-'}; it {state}{commit}"
        )
        if refused:
            lines.append(f"    REFUSED: {refused}")
        lines += [f"    send    {size:>12,} bytes  {path}" for path, size in change.add.items()]
        lines += [f"    delete  {'':>12}        {path}" for path in change.delete]
        found.append(
            {"repository": change.where, "here": change.version, "hub": change.hub_version, "send": change.add,
             "delete": change.delete, "foreign": change.foreign, "is_there": change.head is not None,
             "refused": refused}
        )  # fmt: skip
    total = sum(sum(each["send"].values()) for each in found)
    lines.append(f"{sum(len(each['send']) for each in found)} files, {total:,} bytes to send.")
    lines += [f"{branch} is on the Hub and not in this release; it stays as it is." for branch in leftovers]
    refusals = sum(1 for each in found if each["refused"])
    if refusals:
        lines.append(f"A push would be refused, and send nothing: {refusals} of {len(found)} branches, see above.")
    return {
        "table": "\n".join(lines),
        "repositories": found,
        "differing": sum(1 for each in found if each["send"] or each["delete"]),
        "refused": refusals,
        "leftovers": list(leftovers),
    }
