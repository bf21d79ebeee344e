"""`tlm release push`: a verified release up to the Hub, one commit a repository, in an order in which links hold."""

import logging
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from ..errors import UserError
from ..runs.atomic_files import Json
from .client import Hub, ParentChangedError
from .compare import MAIN, Change, check_allowed, compare_all, compare_branch, describe_changes
from .manifest import Repository, StagedRelease, read_staged
from .verify import read_verified

logger = logging.getLogger(__name__)


def push(
    output_dir: str, *, public: bool = False, overwrite: bool = False, dry_run: bool = False, hub: Hub | None = None
) -> Json:
    """Bring the Hub to a staged and verified release; `dry_run` only says what would go up (`describe_changes`).

    Where one branch must not be sent, nothing is. A repository is at its old commit or at its new one, never between.
    New repositories are private unless `public`. Raises UserError for a release that is not verified or not newer, that
    the Hub refuses, and, unless `overwrite`, for what others changed.
    """
    staged = read_verified(output_dir)
    hub = hub or Hub()
    logger.info("Comparing %d repositories with the Hub ...", len(staged.repositories))
    changes = compare_all(hub, staged)
    if dry_run:
        return describe_changes(changes, overwrite=overwrite)
    check_allowed(changes, overwrite)
    commits = 0
    for place, repository in enumerate(staged.repositories, start=1):
        logger.info("%d of %d: %s", place, len(staged.repositories), repository.repo_id)
        branches = [change for change in changes if change.where in repository.tree]
        commits += _push_one(hub, staged, repository, branches, overwrite)
    for repository in staged.repositories if public else []:
        if hub.repo_info(repository.repo_id, repo_type=repository.repo_type).private:
            hub.update_repo_settings(repository.repo_id, repo_type=repository.repo_type, private=False)
    lines = [f"{repository.repo_type:<8}{repository.repo_id}" for repository in staged.repositories]
    lines.append(f"{commits} commits; tag v{staged.version}; {'public' if public else 'new ones are private'}.")
    return {"table": "\n".join(lines), "commits": commits}


def status(output_dir: str, *, hub: Hub | None = None) -> Json:
    """Local version, version on the Hub, and what differs, for every repository of a staged release."""
    return describe_changes(compare_all(hub or Hub(), read_staged(output_dir)))


def _push_one(hub: Hub, staged: StagedRelease, repository: Repository, changes: list[Change], overwrite: bool) -> int:
    """Bring a repository to what was staged; returns how many commits that took."""
    repo_id, repo_type, tag = repository.repo_id, repository.repo_type, f"v{staged.version}"
    if changes[-1].head is None:
        sdk = {"space_sdk": "gradio"} if repo_type == "space" else {}
        hub.create_repo(repo_id, repo_type=repo_type, private=True, exist_ok=True, **sdk)
    commits = 0
    for change in changes:
        if change.head is None:
            if change.revision != MAIN:  # a branch begins at the head of main
                hub.create_branch(repo_id, branch=change.revision, repo_type=repo_type, exist_ok=True)
            change = compare_branch(hub, staged, repository, change.where)
            check_allowed([change], overwrite)
        head = change.head
        if not change.is_empty:
            logger.info("%s: %d files, %d to delete.", change.where, len(change.add), len(change.delete))
            head, commits = _commit(hub, staged, repository, change), commits + 1
    if tag not in {each.name for each in hub.list_repo_refs(repo_id, repo_type=repo_type).tags}:
        # On the commit of this push, whatever came after it.
        hub.create_tag(repo_id, tag=tag, revision=head, repo_type=repo_type, exist_ok=True)
    return commits


def _commit(hub: Hub, staged: StagedRelease, repository: Repository, change: Change) -> str | None:
    """One commit on the head that was looked at; the Hub, not the connection, says whether it arrived."""
    files: list[Any] = [CommitOperationAdd(path, change.folder / path) for path in change.add]
    files += [CommitOperationDelete(path) for path in change.delete]
    at = {"repo_type": repository.repo_type, "revision": change.revision, "parent_commit": change.head}
    try:
        return str(hub.create_commit(repository.repo_id, files, commit_message=f"Release {staged.version}", **at).oid)
    except ParentChangedError as error:
        now = compare_branch(hub, staged, repository, change.where)
        if now.is_empty:
            return now.head
        raise UserError(f"{change.where} was changed by others meanwhile: look at it, then push again.") from error
