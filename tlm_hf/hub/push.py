"""`tlm release push`: a verified release up to the Hub, each repository in one commit, in an order in which links hold.

The Hub itself says what is up, so the same command continues after an interrupt, from this machine or another. With
`--target` the same tree is copied into a folder instead.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from ..errors import UserError
from ..runs.atomic_files import Json, flush_tree, read_json
from .client import Hub, ParentChangedError
from .compare import MAIN, Change, Comparison, describe_changes, version_numbers
from .manifest import MANIFEST_FILE, RELEASE_FILE, Repository, StagedRelease, changed_file, read_staged, tree_hash
from .verify import check_verified

logger = logging.getLogger(__name__)
NOTES = {
    "data": "data",
    "encoder": "pre-trained encoder",
    "adapter": "LoRA adapter",
    "classifier": "fine-tuned classifier",
    "committee": "soft committee",
    "space": "demonstration",
}
"""What the collection says of each kind."""


class Publisher(Comparison):
    """Sends what differs; see `Comparison` for its arguments."""

    def push(self, repository: Repository, changes: list[Change], *, overwrite: bool) -> int:
        """Bring a repository to what was staged; returns how many commits that took."""
        repo_id, repo_type = repository.repo_id, repository.repo_type
        if changes[-1].head is None:
            options: Json = {"repo_type": repo_type, "private": True, "exist_ok": True}
            options |= {"space_sdk": "gradio"} if repo_type == "space" else {}
            self.hub.call(f"making {repo_id}", self.api.create_repo, repo_id, **options)
        self._set_variables(repository)
        commits, head = 0, None
        for change in changes:
            head, sent = self._push_branch(repository, change, overwrite)
            commits += sent
        if self.tag not in self.tags(repo_id, repo_type):  # on the commit of this push, whatever came after it
            tagging: Json = {"tag": self.tag, "revision": head, "repo_type": repo_type, "exist_ok": True}
            self.hub.call(f"tagging {repo_id}", self.api.create_tag, repo_id, **tagging)
        return commits

    def _set_variables(self, repository: Repository) -> None:
        """Environment variables of a Space, before the code that reads them."""
        if not repository.variables:
            return
        repo_id = repository.repo_id
        current = self.hub.call(f"reading the variables of {repo_id}", self.api.get_space_variables, repo_id)
        for name, value in repository.variables.items():
            if name not in current or current[name].value != value:
                self.hub.call(f"setting {name} of {repo_id}", self.api.add_space_variable, repo_id, name, value)

    def _push_branch(self, repository: Repository, change: Change, overwrite: bool) -> tuple[str | None, int]:
        """The commit at which a branch then is, and how many commits that took."""
        if change.head is None:
            if change.revision != MAIN:  # a branch begins at the head of main
                options: Json = {"branch": change.revision, "repo_type": change.repo_type, "exist_ok": True}
                what = f"making the branch {change.where}"
                self.hub.call(what, self.api.create_branch, change.repo_id, **options)
            change = self.compare(repository, change.revision)
        if change.is_empty:
            logger.info("%s: nothing to send.", change.where)
            return change.head, 0
        if refusal := change.refusal(overwrite):
            raise UserError(refusal)
        size = sum(change.add.values()) / 1e6
        logger.info("%s: %d files (%.1f MB), %d to delete.", change.where, len(change.add), size, len(change.delete))
        return self._commit(repository, change), 1

    def _commit(self, repository: Repository, change: Change) -> str | None:
        """One commit on the head that was looked at; the Hub, not the connection, says whether it arrived."""

        def send() -> str:
            if self.head(change.repo_id, change.repo_type, change.revision) != change.head:
                raise ParentChangedError(change.where)  # also an earlier attempt whose answer was lost
            operations: list[Any] = [
                CommitOperationAdd(path_in_repo=path, path_or_fileobj=change.folder / path) for path in change.add
            ]
            operations += [CommitOperationDelete(path_in_repo=path) for path in change.delete]
            commit = self.api.create_commit(
                change.repo_id,
                operations,
                repo_type=change.repo_type,
                revision=change.revision,
                commit_message=f"Release {self.staged.version}",
                parent_commit=change.head,
            )
            return str(commit.oid)

        try:
            return self.hub.call(f"sending {change.where}", send, expected=(ParentChangedError,))
        except ParentChangedError as error:
            now = self.compare(repository, change.revision)
            if now.is_empty:
                return now.head
            raise UserError(
                f"{change.where} was changed on the Hub by others while it was being sent, and was left as it is: look "
                "at it there, then push again."
            ) from error

    def show(self, repository: Repository) -> None:
        """Make a repository public."""
        repo_id, repo_type = repository.repo_id, repository.repo_type
        info = self.hub.call(f"looking at {repo_id}", self.api.repo_info, repo_id, repo_type=repo_type)
        if info.private:
            what = f"making {repo_id} public"
            self.hub.call(what, self.api.update_repo_settings, repo_id, repo_type=repo_type, private=False)

    def push_collection(self, wanted: Json, *, public: bool) -> str:
        """Make the collection, or bring the one of this title up to date; what others added stays. Returns its slug."""
        api, title, description, owner = self.api, wanted["title"], wanted["description"], self.staged.namespace

        def find() -> str | None:
            return next((each.slug for each in api.list_collections(owner=owner) if each.title == title), None)

        slug = self.hub.call(f"looking for the collection {title!r}", find)
        if slug is None:
            options: Json = {"namespace": owner, "description": description or None, "private": True, "exists_ok": True}
            slug = self.hub.call(f"making the collection {title!r}", api.create_collection, title, **options).slug
        current = self.hub.call(f"reading the collection {slug}", api.get_collection, slug)
        changes: Json = {}
        if (current.description or "") != description:
            changes["description"] = description
        if public and current.private:
            changes["private"] = False
        if changes:
            self.hub.call(f"describing the collection {slug}", api.update_collection_metadata, slug, **changes)
        listed = {(item.item_type, item.item_id) for item in current.items}
        items = [(each.repo_type, each.repo_id, NOTES[each.kind]) for each in self.staged.repositories]
        items += [("paper", number, "the paper") for number in wanted["papers"]]
        for kind, name, note in items:
            if (kind, name) not in listed:
                what = f"adding {name} to the collection"
                self.hub.call(what, api.add_collection_item, slug, name, kind, note=note, exists_ok=True)
        return str(slug)


def push(
    output_dir: str, *, public: bool = False, overwrite: bool = False, dry_run: bool = False, hub: Hub | None = None
) -> Json:
    """Bring the Hub to a staged and verified release.

    Every branch is compared with the Hub before the first write: where one must not be sent, nothing is. A repository
    is at its old commit or at its new one, never between; its tag follows.

    Args:
        output_dir: folder of the staged release.
        public: make everything public in the end; otherwise new repositories are private and old ones as they were.
        overwrite: also over what others changed on the Hub since the last release.
        dry_run: only say what would go up.
        hub: the Hub; None for one with the user's token.

    Returns:
        `table`, for people; `commits` made; `collection`, its slug or None. With `dry_run` see `describe_changes`.

    Raises:
        UserError: not verified, no token, no rights, someone else's change, a version that is taken or older than
            what is there, or a Hub that does not answer.
    """
    staged = read_staged(output_dir)
    check_verified(staged)
    hub = hub or Hub()
    hub.check_namespace(staged.namespace)
    publisher = Publisher(hub, staged)
    logger.info("Comparing %d repositories with the Hub ...", len(staged.repositories))
    changes = publisher.compare_all()
    if dry_run:
        return describe_changes(changes, overwrite=overwrite)
    refusals = [each for branches in changes.values() for change in branches if (each := change.refusal(overwrite))]
    if refusals:
        raise UserError(f"{refusals[0]} Nothing was sent; --dry-run lists every refusal.")
    commits = 0
    for place, repository in enumerate(staged.repositories, start=1):
        logger.info("%d of %d: %s", place, len(staged.repositories), repository.repo_id)
        commits += publisher.push(repository, changes[repository.repo_id], overwrite=overwrite)
    public = public or staged.visibility == "public"
    if public:
        for repository in staged.repositories:
            publisher.show(repository)
    collection = publisher.push_collection(staged.collection, public=public) if staged.collection else None
    lines = [f"{repository.repo_type:<8}{repository.repo_id}" for repository in staged.repositories]
    lines += [f"collection {collection}"] if collection else []
    lines.append(f"{commits} commits; tag {publisher.tag}; {'public' if public else 'new ones are private'}.")
    return {"table": "\n".join(lines), "commits": commits, "collection": collection}


def status(output_dir: str, *, hub: Hub | None = None) -> Json:
    """Local version, version on the Hub, and what differs, for every repository of a staged release.

    Raises:
        UserError: nothing staged, no token, or a Hub that does not answer.
    """
    comparison = Comparison(hub or Hub(), read_staged(output_dir))
    return describe_changes(comparison.compare_all())


def push_to_directory(output_dir: str, target: str, *, overwrite: bool = False, dry_run: bool = False) -> Json:
    """Copy a verified release into a folder, from which it loads by path as `owner/name`.

    Each repository is put in place whole. `overwrite` also replaces what others changed there, or what is newer.

    Returns:
        `table`, for people; `copied`, names of the folders.

    Raises:
        UserError: not verified, changed there by others, newer there, or a release is staged there.
    """
    staged = read_staged(output_dir)
    check_verified(staged)
    root = Path(target).expanduser()
    if staged.output.resolve() in (root.resolve(), *root.resolve().parents) or (root / RELEASE_FILE).exists():
        raise UserError(f"In --target {target} a release is staged: choose another folder.")
    folders = [folder for _, folder in staged.folders]
    differing = [folder for folder in folders if tree_hash(staged.output / folder) != tree_hash(root / folder)]
    if not overwrite:
        for folder in differing:
            _check_replaceable(root / folder, staged)
    if not dry_run:
        for folder in differing:
            _replace(staged.output / folder, root / folder)
    lines = [f"{'copy ' if folder in differing else 'equal'}  {folder}" for folder in folders]
    lines.append(f"{len(differing)} of {len(folders)} folders {'would be copied' if dry_run else 'copied'}.")
    return {"table": "\n".join(lines), "copied": differing}


def _check_replaceable(folder: Path, staged: StagedRelease) -> None:
    """Refuse to replace a copied repository that others changed, or that is of a newer version."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if changed := changed_file(folder):
        raise UserError(f"{folder} was changed by others ({changed}): add --overwrite to replace it.")
    version = read_json(folder / MANIFEST_FILE).get("version")
    if version_numbers(version) > version_numbers(staged.version):
        raise UserError(f"{folder} is of version {version}, which is newer than {staged.version}: add --overwrite.")


def _replace(source: Path, target: Path) -> None:
    """Copy a folder beside its place, then exchange the two."""
    partial, old = (target.with_name(f".{target.name}.{word}") for word in ("partial", "old"))
    for rest in (partial, old):
        shutil.rmtree(rest, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, partial)
    flush_tree(partial)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
