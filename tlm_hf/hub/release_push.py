"""`tlm release push`: a verified release up to the Hub, each repository in one commit, in an order in which links hold.

What is up is told from the Hub itself, so the same command continues after an interrupt, from this machine or another.
"""

import json
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from ..errors import UserError
from .hub_client import Hub, ParentChangedError
from .manifest import MANIFEST_FILE, describe_files, git_hash
from .release_collection import push_collection
from .release_stage import read_staged
from .release_verify import check_verified

logger = logging.getLogger(__name__)
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
        head: commit that this was compared with; None where there is no repository or branch yet.
        add: paths to send with their sizes in bytes.
        delete: paths that are there and no longer belong there.
        same: how many files are there already.
        foreign: path of a file that was changed there by others since the last release, or None.
        hub_version: version of the release that is there, or None.
    """

    repo_id: str
    repo_type: str
    revision: str
    folder: Path
    head: str | None = None
    add: dict[str, int] = field(default_factory=dict)
    delete: list[str] = field(default_factory=list)
    same: int = 0
    foreign: str | None = None
    hub_version: str | None = None

    @property
    def is_empty(self) -> bool:
        """Nothing to send or delete."""
        return not self.add and not self.delete


class Publisher:
    """Compares staged folders with the Hub and sends what differs.

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

    def compare(self, entry: dict[str, Any], revision: str = MAIN) -> Change:
        """What a branch needs to hold what was staged for it."""
        folder = self.output / (entry["folder"] if revision == MAIN else entry["revisions"][revision])
        change = Change(entry["repo_id"], entry["repo_type"], revision, folder)
        local = describe_files(folder)
        manifest = folder / MANIFEST_FILE
        local[MANIFEST_FILE] = {"size": manifest.stat().st_size, "git": git_hash(manifest), "sha256": None}
        change.head = self.head(change.repo_id, change.repo_type, revision)
        remote = {} if change.head is None else self._remote(change)
        for path, facts in local.items():
            if path in remote and remote[path] in (facts["git"], facts["sha256"]):
                change.same += 1
            else:
                change.add[path] = facts["size"]
        change.delete = sorted(set(remote) - set(local) - NOT_OURS)
        if not change.is_empty and set(remote) - NOT_OURS:
            change.foreign, change.hub_version = self._look_for_changes(change, remote)
        elif change.is_empty:
            change.hub_version = self.release["version"]
        return change

    def _remote(self, change: Change) -> dict[str, str]:
        """Hash of every file of a commit: of its content for LFS files, git's for others."""

        def listed() -> dict[str, str]:
            tree = self.api.list_repo_tree(
                change.repo_id, repo_type=change.repo_type, revision=change.head, recursive=True
            )
            return {
                item.path: item.lfs.sha256 if item.lfs else item.blob_id for item in tree if isinstance(item, RepoFile)
            }

        return self.hub.call(f"listing {change.repo_id}", listed)

    def _look_for_changes(self, change: Change, remote: dict[str, str]) -> tuple[str | None, str | None]:
        """The first file that is not as the last release left it, and that release's version."""
        if MANIFEST_FILE not in remote:
            return sorted(set(remote) - NOT_OURS)[0], None
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
                found = json.loads(Path(path).read_text(encoding="utf-8"))
                files, version = found["files"], str(found["version"])
            except (ValueError, KeyError, TypeError):
                return MANIFEST_FILE, None
        for name in sorted({*files, *remote} - NOT_OURS - {MANIFEST_FILE}):
            known = files.get(name, {})
            if name not in remote or remote[name] not in (known.get("git"), known.get("sha256")):
                return name, version
        return None, version

    def push(self, entry: dict[str, Any], *, overwrite: bool) -> int:
        """Bring a repository to what was staged; returns how many commits that took.

        Raises:
            UserError: someone else changed it, its version is taken, or what `Hub.call` raises.
        """
        repo_id, repo_type = entry["repo_id"], entry["repo_type"]
        if self.head(repo_id, repo_type, MAIN) is None:
            more: dict[str, Any] = {"space_sdk": "gradio"} if repo_type == "space" else {}
            self.hub.call(
                f"making {repo_id}", self.api.create_repo, repo_id, repo_type=repo_type, private=True,
                exist_ok=True, **more,
            )  # fmt: skip
        self._set_variables(entry)
        commits = 0
        for revision in [*entry["revisions"], MAIN]:  # main last: it is what people see
            commits += self._push_revision(entry, revision, overwrite)
        self._tag(entry)
        return commits

    def _set_variables(self, entry: dict[str, Any]) -> None:
        """Environment variables of a Space, before the code that reads them."""
        if not entry["variables"]:
            return
        repo_id = entry["repo_id"]
        there = self.hub.call(f"reading the variables of {repo_id}", self.api.get_space_variables, repo_id)
        for name, value in entry["variables"].items():
            if name not in there or there[name].value != value:
                self.hub.call(f"setting {name} of {repo_id}", self.api.add_space_variable, repo_id, name, value)

    def _push_revision(self, entry: dict[str, Any], revision: str, overwrite: bool) -> int:
        change = self.compare(entry, revision)
        where = change.repo_id + ("" if revision == MAIN else f"@{revision}")
        if change.is_empty:
            logger.info("%s: nothing to send, all %d files are there.", where, change.same)
            return 0
        if change.head is None:  # a branch: it begins where main stands
            self.hub.call(
                f"making the branch {where}", self.api.create_branch, change.repo_id, branch=revision,
                repo_type=change.repo_type, exist_ok=True,
            )  # fmt: skip
            change = self.compare(entry, revision)
            if change.is_empty:
                return 0
        if change.foreign is not None and not overwrite:
            raise UserError(
                f"{where} was changed on the Hub by others ({change.foreign}): look at it there, and add --overwrite "
                "if this release is to take its place."
            )
        if revision == MAIN and self.tag in self._tags(entry):
            raise UserError(
                f"{where} was released as {self.release['version']} with other files ({sorted(change.add)[0]} is one): "
                "raise `version` in the release file, then stage and verify again."
            )
        size = sum(change.add.values())
        logger.info(
            "%s: sending %d files (%.1f MB), deleting %d; %d are there.", where, len(change.add), size / 1e6,
            len(change.delete), change.same,
        )  # fmt: skip
        self._commit(entry, change, where)
        return 1

    def _commit(self, entry: dict[str, Any], change: Change, where: str) -> None:
        """One commit on the head that was looked at; whether it arrived is asked of the Hub, not of the connection."""

        def send() -> None:
            if self.head(change.repo_id, change.repo_type, change.revision) != change.head:
                raise ParentChangedError(where)  # also an earlier attempt whose answer was lost
            operations: list[Any] = [
                CommitOperationAdd(path_in_repo=path, path_or_fileobj=change.folder / path) for path in change.add
            ]
            operations += [CommitOperationDelete(path_in_repo=path) for path in change.delete]
            self.api.create_commit(
                change.repo_id, operations, repo_type=change.repo_type, revision=change.revision,
                commit_message=f"Release {self.release['version']}", parent_commit=change.head,
            )  # fmt: skip

        try:
            self.hub.call(f"sending {where}", send, expected=(ParentChangedError,))
        except ParentChangedError as error:
            if self.compare(entry, change.revision).is_empty:
                return
            raise UserError(
                f"{where} was changed on the Hub by others while it was being sent, and was left as it is: look at it "
                "there, then push again."
            ) from error

    def _tags(self, entry: dict[str, Any]) -> dict[str, str]:
        refs = self.hub.call(
            f"listing tags of {entry['repo_id']}",
            self.api.list_repo_refs,
            entry["repo_id"],
            repo_type=entry["repo_type"],
        )
        return {tag.name: tag.target_commit for tag in refs.tags}

    def _tag(self, entry: dict[str, Any]) -> None:
        repo_id, repo_type = entry["repo_id"], entry["repo_type"]
        head, tags = self.head(repo_id, repo_type, MAIN), self._tags(entry)
        if self.tag not in tags:
            self.hub.call(
                f"tagging {repo_id}", self.api.create_tag, repo_id, tag=self.tag, revision=head, repo_type=repo_type,
                exist_ok=True,
            )  # fmt: skip

    def show(self, entry: dict[str, Any]) -> None:
        """Make a repository public."""
        repo_id, repo_type = entry["repo_id"], entry["repo_type"]
        info = self.hub.call(f"looking at {repo_id}", self.api.repo_info, repo_id, repo_type=repo_type)
        if info.private:
            self.hub.call(
                f"making {repo_id} public", self.api.update_repo_settings, repo_id, repo_type=repo_type, private=False
            )


def push(
    output_dir: str,
    *,
    public: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    hub: Hub | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Bring the Hub to a staged and verified release.

    Order: data sets, encoders, adapters, classifiers, committees, the Space, the collection, so that what is linked to
    is there first. A repository is at its old commit or at its new one, never between; its tag follows. A second push
    of the same release does nothing.

    Args:
        output_dir: folder of the staged release.
        public: make everything public in the end; otherwise new repositories are private and old ones as they were.
        overwrite: also over what others changed on the Hub since the last release.
        dry_run: only say what would go up.
        hub: the Hub; None for one with the user's token.
        sleep: how to wait between attempts.

    Returns:
        `table`, for people; `commits` made; `repositories` with their changes.

    Raises:
        UserError: not verified, no token, no rights, someone else's change, or a Hub that does not answer.
    """
    output, release = read_staged(output_dir)
    check_verified(output, release)
    hub = hub or Hub(sleep=sleep)
    hub.check_namespace(release["namespace"])
    publisher = Publisher(hub, output, release)
    public = public or release["visibility"] == "public"
    if dry_run:
        return describe_changes(publisher, release)
    commits = 0
    for place, entry in enumerate(release["repositories"], start=1):
        logger.info("%d of %d: %s", place, len(release["repositories"]), entry["repo_id"])
        commits += publisher.push(entry, overwrite=overwrite)
    if public:
        for entry in release["repositories"]:
            publisher.show(entry)
    collection = None
    if release["collection"] is not None:
        collection = push_collection(hub, release, public=public)
    lines = [f"{entry['repo_type']:<8}{entry['repo_id']}" for entry in release["repositories"]]
    lines += [f"collection {collection}"] if collection else []
    lines.append(f"{commits} commits; tag v{release['version']}; {'public' if public else 'new ones are private'}.")
    return {"table": "\n".join(lines), "commits": commits, "collection": collection}


def describe_changes(publisher: Publisher, release: dict[str, Any]) -> dict[str, Any]:
    """What a push would do, file by file, without doing any of it; also `tlm release status`.

    Returns:
        `table`, `repositories` (local and Hub version, files to send with their bytes, files to delete),
        `differing`.
    """
    lines, found = [], []
    for entry in release["repositories"]:
        for revision in [*entry["revisions"], MAIN]:
            change = publisher.compare(entry, revision)
            where = change.repo_id + ("" if revision == MAIN else f"@{revision}")
            state = (
                "is not there" if change.head is None
                else "is up to date" if change.is_empty
                else f"was changed by others ({change.foreign})" if change.foreign
                else "differs"
            )  # fmt: skip
            lines.append(
                f"{where}: here {release['version']}, on the Hub {change.hub_version or '-'}; it {state}"
                + ("" if change.is_empty else f'; commit "Release {release["version"]}":')
            )
            lines += [f"    send    {size:>12,} bytes  {path}" for path, size in change.add.items()]
            lines += [f"    delete  {'':>12}        {path}" for path in change.delete]
            found.append(
                {"repository": where, "here": release["version"], "hub": change.hub_version, "send": change.add,
                 "delete": change.delete, "foreign": change.foreign, "is_there": change.head is not None}
            )  # fmt: skip
    total = sum(sum(each["send"].values()) for each in found)
    lines.append(f"{sum(len(each['send']) for each in found)} files, {total:,} bytes to send.")
    return {
        "table": "\n".join(lines),
        "repositories": found,
        "differing": sum(1 for each in found if each["send"] or each["delete"]),
    }


def status(output_dir: str, *, hub: Hub | None = None) -> dict[str, Any]:
    """Local version, version on the Hub, and what differs, for every repository of a staged release.

    Raises:
        UserError: nothing staged, no token, or a Hub that does not answer.
    """
    output, release = read_staged(output_dir)
    return describe_changes(Publisher(hub or Hub(), output, release), release)
