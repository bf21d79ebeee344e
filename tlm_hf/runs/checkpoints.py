"""Checkpoint folders that are whole or recognised as damaged: sealed with a manifest, flushed, renamed, rotated.

The manifest holds size and SHA-256 of every file, so that a truncated, missing, changed or added file is found before
training starts. It guards against accidents, not against malice; against that, every file that is not safetensors or
JSON must be loadable with `torch.load(weights_only=True)`, which runs no code of a pickle, and nothing else is loaded.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import UserError
from .atomic_files import file_hash, flush, flush_tree

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
STATE_FILE = "trainer_state.json"
RUNNING_LOSS = "running_loss.json"
"""Summed loss of each process since the last log line, which Trainer forgets."""
KEPT = 2
"""Whole checkpoints that stay, the newest included; the best one stays beside them."""
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors", "pytorch_model_fsdp.bin")
"""Files of which one must be there. The last is what FSDP writes; it is read with `weights_only=True`."""
NO_SPACE = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))

TORCH_CANNOT_WRITE = r"unexpected pos \d+ vs \d+|iostream error|PytorchStreamWriter failed"
"""What torch.save says on a full disk (2.13: the first, raised from the second)."""


def step_of(checkpoint: Path) -> int:
    """Step that a folder `checkpoint-N` was written after."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Folders `checkpoint-N`, newest first, whatever their state."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted((path for path in found if path.is_dir()), key=step_of, reverse=True)


def _content(folder: Path) -> list[str]:
    """Names of the files under a folder but for the manifest, with `/`; a link counts as a file."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(name for path in paths if (name := path.relative_to(folder).as_posix()) != MANIFEST)


def _digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of the manifest itself, its own entry `sha256` left out."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def seal(folder: Path, step: int, processes: int) -> None:
    """Write the manifest of a checkpoint that is complete but for it, and flush everything to disk.

    Args:
        folder: the checkpoint, still under its temporary name.
        step: optimizer steps done.
        processes: how many processes train.
    """
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_hash(folder / name)} for name in _content(folder)
    }
    manifest: dict[str, Any] = {"step": step, "processes": processes, "files": files}
    manifest["sha256"] = _digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    flush_tree(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest: `step`, `processes`, `files`.

    Raises:
        ValueError: there is none, or not as it was written; says so in a few words.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        whole = manifest["sha256"] == _digest(manifest) and manifest["step"] == step_of(folder)
    except FileNotFoundError:
        raise ValueError(f"it has no {MANIFEST}") from None
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{MANIFEST} is not as it was written")
    return manifest


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words, or None for a whole one.

    Sizes are compared first, then every byte is read once. No pickle is run.
    """
    try:
        files = read_manifest(folder)["files"]
        there = set(_content(folder))
        for name in files:
            if name not in there:
                return f"{name} is missing"
            size = (folder / name).stat().st_size
            if size != files[name]["bytes"]:
                return f"{name} has {size} bytes in place of {files[name]['bytes']}"
        added = sorted(name for name in there - set(files) if not Path(name).name.startswith(".DS_Store"))
        if added:
            return f"{added[0]} was added to it"
        for name in files:
            if file_hash(folder / name) != files[name]["sha256"]:
                return f"the content of {name} has changed"
        return _unsafe_or_unreadable(folder, sorted(files))
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except (KeyError, TypeError, AttributeError):
        return "its files are not of the kind that was written"


def _unsafe_or_unreadable(folder: Path, names: list[str]) -> str | None:
    """What a manifest that was rewritten together with the files would hide."""
    from transformers.trainer_pt_utils import safe_globals

    if not any(name in WEIGHTS for name in names):
        return "it has no weights as safetensors"
    for name in names:
        path, last = folder / name, Path(name).name
        if last == ".metadata":
            return f"{name} is a pickle that torch would run; use fsdp_state_dict_type FULL_STATE_DICT"
        if last in ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin"):
            return f"{name} holds weights as a pickle"
        if last.endswith(".safetensors"):
            try:
                with safe_open(path, "pt") as file:
                    file.keys()
            except (SafetensorError, OSError):
                return f"{name} is not a safetensors file"
        elif last.endswith(PICKLED):
            try:
                with safe_globals():
                    torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except Exception:  # whatever a strange file makes it raise
                return f"{name} holds more than tensors and numbers, or is no file of torch.save"
        elif last.endswith(".json"):
            try:
                json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                return f"{name} is not JSON"
    if RUNNING_LOSS not in names:
        return f"it has no {RUNNING_LOSS}"
    state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    if state["global_step"] != step_of(folder):
        return f"{STATE_FILE} is not the state after {step_of(folder)} steps"
    return None


def best_beside(checkpoint: Path) -> Path | None:
    """The best checkpoint that this one names, where it lies now; None without one.

    The recorded path counts by its last part, since the run's folder may have been moved.
    """
    state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    named = state.get("best_model_checkpoint")
    if named is None or not re.fullmatch(r"checkpoint-\d+", Path(named).name):
        return None
    return checkpoint.parent / Path(named).name


def _damage_with_best(checkpoint: Path) -> str | None:
    damage = find_damage(checkpoint)
    if damage is not None:
        return damage
    best = best_beside(checkpoint)
    if best is None or best == checkpoint:
        return None
    damage = find_damage(best)
    return None if damage is None else f"{best.name}, the best so far, is damaged: {damage}"


def _choose(folder: Path) -> Path | None:
    damages: dict[str, str] = {}
    for checkpoint in list_checkpoints(folder):
        damage = _damage_with_best(checkpoint)
        if damage is None:
            if damages:
                logger.warning("%s; going on from %s instead.", _tell(folder, damages), checkpoint.name)
            return checkpoint
        damages[checkpoint.name] = damage
    if damages:
        logger.warning("%s; no whole checkpoint is left, so training starts anew.", _tell(folder, damages))
    return None


def _tell(folder: Path, damages: dict[str, str]) -> str:
    return f"Damaged in {folder}: " + "; ".join(f"{name} ({damage})" for name, damage in damages.items())


def last_whole(folder: Path) -> Path | None:
    """Newest whole checkpoint of a run, or None; one sentence is logged about damaged ones, which stay where they are.

    Under several processes the first one looks and all of them get its answer.

    Raises:
        UserError: several processes, and this one does not see the folder of the first.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return _choose(folder)
    main = torch.distributed.get_rank() == 0
    answer: list[Any] = [None]
    if main:
        chosen = _choose(folder)
        answer = [None if chosen is None else chosen.name]
    torch.distributed.broadcast_object_list(answer, src=0)
    if answer[0] is None:
        return None
    if not (folder / answer[0]).is_dir():
        raise UserError(
            f"{answer[0]} is not in {folder} on every machine: choose an --output-dir on a file system that they share."
        )
    return folder / answer[0]


def publish(written: Path, final_root: Path, best: Path | None, rejected: set[str]) -> None:
    """Rename a sealed checkpoint into place, and only then remove those that are no longer needed.

    Names `checkpoint-N` appear and vanish by one rename each, so what a kill leaves under them is whole; the rest lies
    beside `written`, where the next checkpoint or the end of the run removes it.

    Args:
        written: the checkpoint under its temporary name, alone in its folder, on the same file system.
        final_root: the run's folder.
        best: the best checkpoint, to be kept whatever its age.
        rejected: names of checkpoints that were not used at the start although they were newer than the one that was;
            they stay until a whole one of their step or a later one is there, and then count as nothing.
    """
    final = final_root / written.name
    trash = written.parent / "old"
    trash.mkdir()
    if final.exists():
        final.rename(trash / final.name)
    written.rename(final)
    flush(final_root)
    passed = [path for path in list_checkpoints(final_root) if step_of(path) <= step_of(final)]
    keep = {path.name for path in [path for path in passed if path == final or path.name not in rejected][:KEPT]}
    if best is not None:
        keep.add(best.name)
    for checkpoint in passed:
        if checkpoint.name in rejected:
            rejected.remove(checkpoint.name)
            done = "written anew" if checkpoint == final else f"removed, since {final.name} is whole"
            logger.warning("The damaged %s was %s.", checkpoint.name, done)
        if checkpoint.name not in keep:
            checkpoint.rename(trash / checkpoint.name)
    flush(final_root)
    shutil.rmtree(written.parent)


def why_not_written(error: BaseException | None) -> str | None:
    """Why a file could not be written, for the user; None for an error of another kind.

    torch, safetensors and tokenizers write in their own languages and raise errors that have no `errno`.
    """
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number is None and (found := re.search(r"(?:os error|code:) (\d+)", str(error))) is not None:
            number = int(found[1])
        if number in NO_SPACE or re.search(TORCH_CANNOT_WRITE, str(error)):
            return "no space is left (disk full, quota, or limit of file size)"
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__cause__ or error.__context__
    return None


def cannot_write(error: BaseException, what: str, folder: Path, rejected: Container[str] = ()) -> UserError | None:
    """The sentence for a user whose disk is full, naming the checkpoint that stays; None for an error of another kind.

    Args:
        error: what was raised while something was written.
        what: what was written, to begin the sentence with.
        folder: the run's folder.
        rejected: names of damaged checkpoints.
    """
    why = why_not_written(error)
    if why is None:
        return None
    last = next((path for path in list_checkpoints(folder) if path.name not in rejected), None)
    stays = "there is no earlier one" if last is None else f"the last good one is {last.name}"
    return UserError(
        f"{what} could not be written: {why}; {stays}: free space in {folder} and run the same command again."
    )
