"""What a push or `tlm release status` finds: each branch on the Hub compared with what was staged for it."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub.hf_api import RepoFile
from packaging.version import InvalidVersion, Version

from ..errors import UserError
from ..runs.atomic_files import Json, read_json
from .client import MISSING, Hub
from .manifest import MANIFEST_FILE, Repository, StagedRelease, describe_files

HUBS_OWN = frozenset({".gitattributes"})  # files that the Hub itself makes
MAIN = "main"


@dataclass
class Change:
    """What one branch (`where`: `owner/name`, or `owner/name@branch`) needs to hold a folder of a release."""

    where: str
    folder: Path
    version: str
    revision: str  # name of the branch
    head: str | None = None  # the commit that was looked at; None without a branch
    add: dict[str, int] = field(default_factory=dict)  # sizes in bytes
    delete: list[str] = field(default_factory=list)
    foreign: str | None = None  # a file that others changed since the release there
    hub_version: str | None = None  # of that release

    @property
    def is_empty(self) -> bool:
        """Nothing to send or delete."""
        return not self.add and not self.delete

    def refusal(self, overwrite: bool) -> str | None:
        """Why this must not be sent, in one sentence; None where it may be."""
        if self.foreign is not None and not overwrite:
            remedy = "look at it, and add --overwrite to replace it"
            return f"{self.where} was changed by others ({self.foreign}): {remedy}."
        if MANIFEST_FILE in self.add and self.hub_version and Version(self.hub_version) >= Version(self.version):
            release = f"{self.where} was released as {self.hub_version} with other content"
            remedy = "raise `version` in the release file, then stage and verify again"
            return f"{release}, and {self.version} is not newer: {remedy}."
        return None


def compare_branch(hub: Hub, staged: StagedRelease, repository: Repository, where: str) -> Change:
    """What a branch on the Hub needs to hold what was staged for it."""
    change = Change(where, staged.output / where, staged.version, where.partition("@")[2] or MAIN)
    repo_id, change.head = repository.repo_id, _head_of(hub, repository, change.revision)
    at = {"repo_type": repository.repo_type, "revision": change.head}
    present: dict[str, str] = {}
    if change.head is not None:
        tree = [each for each in hub.list_repo_tree(repo_id, recursive=True, **at) if isinstance(each, RepoFile)]
        present = {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in tree}
    local = describe_files(change.folder)
    change.add = {path: facts["size"] for path, facts in local.items() if not _is_same(present.get(path), facts)}
    change.delete = sorted(set(present) - set(local) - HUBS_OWN)
    if change.is_empty:
        change.hub_version = staged.version
    elif MANIFEST_FILE in present:
        with tempfile.TemporaryDirectory(prefix="tlm-push-") as cache:
            file = hub.hf_hub_download(repo_id, MANIFEST_FILE, cache_dir=cache, **at)
            change.hub_version, change.foreign = _released(file, present)
    elif others := set(present) - HUBS_OWN:
        is_new = repository.repo_type == "space" and len(hub.list_repo_commits(repo_id, **at)) == 1
        # A new Space has the Hub's README.
        change.foreign = min(others - ({"README.md"} if is_new else set()), default=None)
    if change.add and change.revision != MAIN and change.head == _head_of(hub, repository, MAIN):
        change.foreign = change.hub_version = None  # a branch that was only begun holds what main does
    return change


def _head_of(hub: Hub, repository: Repository, revision: str) -> str | None:
    try:
        return str(hub.repo_info(repository.repo_id, repo_type=repository.repo_type, revision=revision).sha)
    except MISSING:
        return None


def _released(manifest: str, present: dict[str, str]) -> tuple[str | None, str | None]:
    """The version of the release whose manifest is there, and a file that differs from it."""
    try:
        released = read_json(manifest)
        names = sorted({*present, *released["files"]} - HUBS_OWN - {MANIFEST_FILE})
        changed = [name for name in names if not _is_same(present.get(name), released["files"].get(name, {}))]
        return str(Version(released["version"])), next(iter(changed), None)
    except (UserError, ValueError, KeyError, TypeError, AttributeError, InvalidVersion):
        return None, MANIFEST_FILE


def _is_same(present: str | None, facts: Json) -> bool:
    return present is not None and present in (facts.get("git"), facts.get("sha256"))


def compare_all(hub: Hub, staged: StagedRelease) -> list[Change]:
    """Every branch of every repository, main last: it is what people see."""
    every = [(repository, where) for repository in staged.repositories for where in reversed(repository.tree)]
    return [compare_branch(hub, staged, repository, where) for repository, where in every]


def describe_changes(changes: list[Change], *, overwrite: bool = False) -> Json:
    """What a push would do, as a `table`, and how many branches would be `refused`."""
    lines, refusals = [], [change.refusal(overwrite) for change in changes]
    for change, refused in zip(changes, refusals, strict=True):
        lines.append(f"{change.where}: here {change.version}, there {change.hub_version or '-'}")
        lines += [f"    REFUSED, so that a push sends nothing: {refused}"] if refused else []
        lines += [f"    send    {size:>12,} bytes  {path}" for path, size in change.add.items()]
        lines += [f"    delete  {'':>12}        {path}" for path in change.delete]
    sizes = [size for change in changes for size in change.add.values()]
    lines.append(f"{len(sizes)} files, {sum(sizes):,} bytes to send.")
    return {"table": "\n".join(lines), "refused": len(refusals) - refusals.count(None)}


def check_allowed(changes: list[Change], overwrite: bool) -> None:
    """Refuse the whole of a release where one branch must not be sent: UserError."""
    for refusal in filter(None, (change.refusal(overwrite) for change in changes)):
        raise UserError(f"{refusal} Nothing was sent; --dry-run lists every refusal.")
