"""`tlm release push --target DIRECTORY`: the same tree without a Hub, loadable by path as `owner/name` from there."""

import json
import shutil
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runs.atomic_files import flush_tree, write_json
from .compare import version_numbers
from .manifest import MANIFEST_FILE, describe_files, tree_hash
from .stage import OWNED, RELEASE_FILE, read_staged, staged_folders
from .verify import check_verified


def push_to_directory(
    output_dir: str, target: str, *, overwrite: bool = False, dry_run: bool = False
) -> dict[str, Any]:
    """Copy a verified release into a folder; each repository is put in place whole, and equal ones are left alone.

    Args:
        output_dir: folder of the staged release.
        target: the folder; made when missing.
        overwrite: also over repositories there that were changed since they were put there.
        dry_run: only say what would be copied.

    Returns:
        `table`, for people; `copied`, names of the folders.

    Raises:
        UserError: not verified, changed there by others, a folder that holds a newer version, or one that is no shelf.
    """
    output, release = read_staged(output_dir)
    check_verified(output, release)
    root = Path(target).expanduser()
    if output.resolve() in (root.resolve(), *root.resolve().parents):
        raise UserError(f"--target {target} lies in the folder of the staged release: choose another.")
    if root.exists() and not root.is_dir():
        raise UserError(f"--target {target} is a file: choose a folder.")
    before = _record(root)
    if not overwrite and version_numbers(str(before.get("version"))) > version_numbers(release["version"]):
        raise UserError(
            f"{target} holds version {before['version']}, which is newer than {release['version']}: raise `version` in "
            "the release file, or add --overwrite to go back."
        )
    folders = [folder for _, folder in staged_folders(release)]
    differing = [folder for folder in folders if tree_hash(output / folder) != _tree(root / folder)]
    for folder in differing:
        changed = _changed(root / folder)
        if changed is not None and not overwrite:
            raise UserError(
                f"{folder} in {target} was changed by others ({changed}): look at it, and add --overwrite if this "
                "release is to take its place."
            )
    if not dry_run:
        for folder in differing:
            _put(output / folder, root / folder)
        if before != release:
            write_json(root / RELEASE_FILE, release)
    left = [
        folder
        for _, folder in (staged_folders(before) if before else [])
        if folder not in folders and (root / folder).is_dir()
    ]
    lines = [f"{'copy ' if folder in differing else 'there'}  {folder}" for folder in folders]
    lines += [f"stays  {folder} (of an earlier release)" for folder in left]
    if any("@" in folder for folder in folders):
        lines.append("A branch opens by its path, NAME@BRANCH: transformers ignores `revision` where a name is a path.")
    lines.append(f"{len(differing)} of {len(folders)} folders {'would be copied' if dry_run else 'copied'}.")
    return {"table": "\n".join(lines), "copied": differing}


def _record(root: Path) -> dict[str, Any]:
    """`release.json` of a shelf; {} where there is none.

    Raises:
        UserError: a file of that name that no push wrote, or a folder in which a release is staged.
    """
    if (root / OWNED).exists():
        raise UserError(f"In {root} a release is staged: choose another --target.")
    if not (root / RELEASE_FILE).exists():
        return {}
    try:
        return read_staged(str(root))[1]
    except UserError as error:
        raise UserError(
            f"{root / RELEASE_FILE} is none that a release left: take it away, or choose another --target."
        ) from error


def _tree(folder: Path) -> str | None:
    return tree_hash(folder) if folder.is_dir() else None


def _changed(folder: Path) -> str | None:
    """The first file that is not as the manifest there says; None where all are, or there is no folder."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    try:
        known = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return MANIFEST_FILE
    there = describe_files(folder)
    return next((name for name in sorted({*known, *there}) if known.get(name) != there.get(name)), None)


def _put(source: Path, target: Path) -> None:
    """Copy a folder beside its place, then exchange the two."""
    partial, old = (target.with_name(f".{target.name}.{word}") for word in ("partial", "old"))
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, partial)
    flush_tree(partial)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
