"""Checkpoints sealed with every file's hash, flushed, renamed into place, rotated, and found again."""

import contextlib
import errno
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from ..errors import UserError
from .atomic_files import file_hash, flush, flush_tree, read_json

logger = logging.getLogger(__name__)
MANIFEST, STATE_FILE = "manifest.json", "trainer_state.json"
RUNNING_LOSS = "running_loss.json"  # of each process since the last log line, which Trainer forgets
PARTIAL = ".partial"  # folder inside a run's folder for what is being written
KEEP = 2  # whole checkpoints that stay, the newest included; the best one stays beside them
DAMAGED = "damaged-"  # prefix that a damaged checkpoint gets; it goes when the run is finished
NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
TORCH_CANNOT_WRITE = r"unexpected pos \d+ vs \d+|iostream error|PytorchStreamWriter failed"  # on a full disk


def step_of(checkpoint: Path) -> int:
    """Step that a folder `checkpoint-N` was written after."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Folders `checkpoint-N`, newest first, whatever their state."""
    folders = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(filter(Path.is_dir, folders), key=step_of, reverse=True)


def _hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of each file but the manifest, by its path with `/`; a link counts as a file."""
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    names = {path.relative_to(folder).as_posix() for path in paths if path.name != ".DS_Store"} - {MANIFEST}
    return {name: file_hash(folder / name) for name in sorted(names)}


def seal(folder: Path, step: int, processes: int) -> None:
    """Write the manifest of a checkpoint after `step` optimizer steps in so many processes; flush all to disk."""
    manifest = {"step": step, "processes": processes, "files": _hash_files(folder)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    flush_tree(folder)


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words, or None for a whole one."""
    try:
        manifest, files = read_json(folder / MANIFEST), _hash_files(folder)
    except (UserError, OSError):
        return f"{MANIFEST} or another file cannot be read"
    if manifest.get("step") != step_of(folder):
        return f"{MANIFEST} is of another step"
    recorded = manifest.get("files", {})
    changed = [name for name in sorted(recorded.keys() | files.keys()) if recorded.get(name) != files.get(name)]
    return f"missing, added or changed: {', '.join(changed)}" if changed else None


def best_beside(checkpoint: Path) -> Path | None:
    """The best checkpoint that this one names, in this one's folder, which may have been moved; None without one."""
    best = Path(read_json(checkpoint / STATE_FILE).get("best_model_checkpoint") or "")
    return checkpoint.parent / best.name if re.fullmatch(r"checkpoint-\d+", best.name) else None


def _choose(folder: Path) -> Path | None:
    """Newest whole checkpoint; damaged ones that are newer are renamed and named in one sentence."""
    for checkpoint in list_checkpoints(folder):
        damage = find_damage(checkpoint)
        best = best_beside(checkpoint) if damage is None else None
        if best is not None and (damage := find_damage(best)):
            damage = f"{best.name}, the best so far, is damaged: {damage}"
        if damage is None:
            return checkpoint
        renamed = folder / f"{DAMAGED}{checkpoint.name}"
        shutil.rmtree(renamed, ignore_errors=True)
        checkpoint.rename(renamed)
        words = "%s is damaged (%s), and is now %s: the run continues from the one before it, or from its beginning."
        logger.warning(words, checkpoint, damage, renamed.name)
    return None


def last_whole(folder: Path) -> Path | None:
    """Newest whole checkpoint, or None; newer damaged ones are renamed. Of several processes the first looks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return _choose(folder)
    answer = [_choose(folder) if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(answer, src=0)
    if answer[0] is not None and not answer[0].is_dir():
        remedy = "choose an --output-dir on a file system that they share"
        raise UserError(f"{answer[0]} is not on every machine: {remedy}.")
    return answer[0]


def publish(written: Path, final_root: Path, best: str) -> None:
    """Rename a sealed checkpoint, alone in its folder, into place, and only then remove older ones but for the `best`.

    Names `checkpoint-N` appear and vanish by one rename each, so what a kill leaves under them is whole.
    """
    final, trash = final_root / written.name, written.parent / "old"
    trash.mkdir()
    if final.exists():
        final.rename(trash / final.name)
    written.rename(final)
    flush(final_root)
    older = [path for path in list_checkpoints(final_root) if step_of(path) <= step_of(final)]
    for checkpoint in older[KEEP:]:
        if checkpoint.name != best:
            checkpoint.rename(trash / checkpoint.name)
    flush(final_root)
    shutil.rmtree(written.parent)


def _why_not_written(error: BaseException | None) -> str | None:
    """Why a file could not be written; None for an error of another kind. Errors of torch and Rust have no `errno`."""
    while error is not None:
        match = re.search(r"(?:os error|code:) (\d+)", str(error))
        number = getattr(error, "errno", None) or (match and int(match[1]))
        if number in NO_SPACE or re.search(TORCH_CANNOT_WRITE, str(error)):
            return "no space is left (disk full, quota, or limit of file size)"
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def writing(what: str, folder: Path) -> Iterator[None]:
    """While `what` is written in a run's folder: an error removes `.partial`; a UserError names what stays."""
    try:
        yield
    except Exception as error:
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        why = _why_not_written(error)
        if why is None:
            raise
        whole = list_checkpoints(folder)
        last = f"the last good one is {whole[0].name}" if whole else "there is no earlier one"
        remedy = f"free space in {folder} and run the same command again"
        raise UserError(f"{what} could not be written: {why}; {last}: {remedy}.") from error
