"""`tlm release push`: a verified release up to the Hub, each repository in one commit, in an order in which links hold.

What is up is told from the Hub itself, so the same command continues after an interrupt, from this machine or another.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from ..errors import UserError
from .client import Hub, ParentChangedError
from .compare import MAIN, Change, Comparison, describe_changes
from .release_collection import push_collection
from .stage import read_staged
from .verify import check_verified

logger = logging.getLogger(__name__)


class Publisher(Comparison):
    """Sends what differs; see `Comparison` for its arguments."""

    def push(self, entry: dict[str, Any], changes: list[Change], *, overwrite: bool) -> int:
        """Bring a repository to what was staged; returns how many commits that took.

        Args:
            entry: the repository, as in `release.json`.
            changes: of its branches, as they were found before anything was written.
            overwrite: also over what others changed.

        Raises:
            UserError: someone else changed it meanwhile, or what `Hub.call` raises.
        """
        repo_id, repo_type = entry["repo_id"], entry["repo_type"]
        if changes[-1].head is None:
            more: dict[str, Any] = {"space_sdk": "gradio"} if repo_type == "space" else {}
            self.hub.call(
                f"making {repo_id}", self.api.create_repo, repo_id, repo_type=repo_type, private=True,
                exist_ok=True, **more,
            )  # fmt: skip
        self._set_variables(entry)
        commits = 0
        head = None
        for change in changes:
            head, sent = self._push_branch(entry, change, overwrite)
            commits += sent
        self._tag(entry, head)
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

    def _push_branch(self, entry: dict[str, Any], change: Change, overwrite: bool) -> tuple[str | None, int]:
        """The commit at which a branch then is, and how many commits that took."""
        if change.head is None:
            if change.revision != MAIN:  # a branch begins where main stands
                self.hub.call(
                    f"making the branch {change.where}", self.api.create_branch, change.repo_id,
                    branch=change.revision, repo_type=change.repo_type, exist_ok=True,
                )  # fmt: skip
            change = self.compare(entry, change.revision)
        if change.is_empty:
            logger.info("%s: nothing to send, all %d files are there.", change.where, change.same)
            return change.head, 0
        refused = change.refusal(overwrite)
        if refused:
            raise UserError(refused)
        size = sum(change.add.values())
        logger.info(
            "%s: sending %d files (%.1f MB), deleting %d; %d are there.", change.where, len(change.add), size / 1e6,
            len(change.delete), change.same,
        )  # fmt: skip
        return self._commit(entry, change), 1

    def _commit(self, entry: dict[str, Any], change: Change) -> str | None:
        """One commit on the head that was looked at; whether it arrived is asked of the Hub, not of the connection.

        Returns:
            The commit that was made.
        """

        def send() -> str:
            if self.head(change.repo_id, change.repo_type, change.revision) != change.head:
                raise ParentChangedError(change.where)  # also an earlier attempt whose answer was lost
            operations: list[Any] = [
                CommitOperationAdd(path_in_repo=path, path_or_fileobj=change.folder / path) for path in change.add
            ]
            operations += [CommitOperationDelete(path_in_repo=path) for path in change.delete]
            made = self.api.create_commit(
                change.repo_id, operations, repo_type=change.repo_type, revision=change.revision,
                commit_message=f"Release {self.release['version']}", parent_commit=change.head,
            )  # fmt: skip
            return str(made.oid)

        try:
            return self.hub.call(f"sending {change.where}", send, expected=(ParentChangedError,))
        except ParentChangedError as error:
            now = self.compare(entry, change.revision)
            if now.is_empty:
                return now.head
            raise UserError(
                f"{change.where} was changed on the Hub by others while it was being sent, and was left as it is: look "
                "at it there, then push again."
            ) from error

    def _tag(self, entry: dict[str, Any], commit: str | None) -> None:
        """Tag the commit that this push made or found, whatever came after it."""
        repo_id, repo_type = entry["repo_id"], entry["repo_type"]
        if self.tag not in self.tags(repo_id, repo_type):
            self.hub.call(
                f"tagging {repo_id}", self.api.create_tag, repo_id, tag=self.tag, revision=commit, repo_type=repo_type,
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

    Everything is compared with the Hub before the first write: where one branch must not be sent, nothing is. Order:
    data sets, encoders, adapters, classifiers, committees, the Space, the collection, so that what is linked to is
    there first. A repository is at its old commit or at its new one, never between; its tag follows. A second push
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
        UserError: not verified, no token, no rights, someone else's change, a version that is taken or older than
            what is there, or a Hub that does not answer.
    """
    output, release = read_staged(output_dir)
    check_verified(output, release)
    hub = hub or Hub(sleep=sleep)
    hub.check_namespace(release["namespace"])
    publisher = Publisher(hub, output, release)
    public = public or release["visibility"] == "public"
    logger.info("Comparing %d repositories with the Hub ...", len(release["repositories"]))
    changes = publisher.compare_all()
    if dry_run:
        return describe_changes(changes, publisher.leftovers(), overwrite=overwrite)
    refusals = [each for branches in changes.values() for change in branches if (each := change.refusal(overwrite))]
    if refusals:
        more = f" {len(refusals) - 1} more would be refused: see --dry-run." if len(refusals) > 1 else ""
        raise UserError(f"{refusals[0]} Nothing was sent.{more}")
    return _send(publisher, changes, public=public, overwrite=overwrite)


def _send(publisher: Publisher, changes: dict[str, list[Change]], *, public: bool, overwrite: bool) -> dict[str, Any]:
    """Everything that writes, in order."""
    hub, release = publisher.hub, publisher.release
    commits = 0
    for place, entry in enumerate(release["repositories"], start=1):
        logger.info("%d of %d: %s", place, len(release["repositories"]), entry["repo_id"])
        commits += publisher.push(entry, changes[entry["repo_id"]], overwrite=overwrite)
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


def status(output_dir: str, *, hub: Hub | None = None) -> dict[str, Any]:
    """Local version, version on the Hub, and what differs, for every repository of a staged release.

    Raises:
        UserError: nothing staged, no token, or a Hub that does not answer.
    """
    output, release = read_staged(output_dir)
    comparison = Comparison(hub or Hub(), output, release)
    return describe_changes(comparison.compare_all(), comparison.leftovers())
