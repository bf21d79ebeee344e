"""Checkpoint folders that are whole or recognised as damaged: sealed with a manifest, flushed, renamed, rotated.

The manifest holds size and SHA-256 of every file, so that a truncated, missing, changed or added file is found before
training starts. It guards against accidents. Against malice, weights are read from safetensors only, and any other
binary file must load with `torch.load(weights_only=True)`, which runs no code of a pickle.
"""

import errno
import json
import logging
import re
import shutil
from pathlib import Path

import torch
from safetensors import safe_open

from ..errors import UserError
from .atomic_files import Json, file_hash, flush, flush_tree, read_json

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
STATE_FILE = "trainer_state.json"
RUNNING_LOSS = "running_loss.json"
"""Summed loss of each process since the last log line, which Trainer forgets."""
KEEP = 2
"""Whole checkpoints that stay, the newest included; the best one stays beside them."""
DAMAGED = "damaged-"
"""Prefix that a damaged checkpoint gets; it goes when the run is finished."""
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors", "pytorch_model_fsdp.bin")
"""Files of which one must exist. The last is what FSDP writes; it is read with `weights_only=True`."""
PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin")
TORCH_FILES = (".bin", ".pt", ".pth", ".pkl", ".pickle")
NO_SPACE = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
TORCH_CANNOT_WRITE = r"unexpected pos \d+ vs \d+|iostream error|PytorchStreamWriter failed"
"""What torch.save says on a full disk (2.13: the first, raised from the second)."""


def step_of(checkpoint: Path) -> int:
    """Step that a folder `checkpoint-N` was written after."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Folders `checkpoint-N`, newest first, whatever their state."""
    named = (path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit())
    return sorted((path for path in named if path.is_dir()), key=step_of, reverse=True)


def _files(folder: Path) -> set[str]:
    """Names of the files under a folder but for the manifest, with `/`; a link counts as a file."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in paths} - {MANIFEST}


def seal(folder: Path, step: int, processes: int) -> None:
    """Write the manifest of a checkpoint that is complete but for it, and flush everything to disk.

    Args:
        folder: the checkpoint, still under its temporary name.
        step: optimizer steps done.
        processes: how many processes train.
    """
    files = {}
    for name in sorted(_files(folder)):
        files[name] = {"bytes": (folder / name).stat().st_size, "sha256": file_hash(folder / name)}
    manifest = {"step": step, "processes": processes, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    flush_tree(folder)


def read_manifest(folder: Path) -> Json:
    """The manifest: `step`, `processes`, `files`.

    Raises:
        ValueError: there is none, or it is damaged; says so in a few words.
    """
    try:
        manifest: Json = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"it has no {MANIFEST}") from None
    except ValueError:
        raise ValueError(f"{MANIFEST} is not JSON") from None
    if manifest.get("step") != step_of(folder):
        raise ValueError(f"{MANIFEST} is of another step")
    return manifest


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words, or None for a whole one.

    Sizes are compared first, then every byte is read once. No pickle is run.
    """
    try:
        recorded, existing = read_manifest(folder)["files"], _files(folder)
        for name, facts in recorded.items():
            if name not in existing:
                return f"{name} is missing"
            size = (folder / name).stat().st_size
            if size != facts["bytes"]:
                return f"{name} has {size} bytes in place of {facts['bytes']}"
        for name in sorted(existing - set(recorded)):
            if not Path(name).name.startswith(".DS_Store"):
                return f"{name} was added to it"
        for name, facts in recorded.items():
            if file_hash(folder / name) != facts["sha256"]:
                return f"the content of {name} has changed"
        return _find_unreadable(folder, sorted(recorded))
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except (KeyError, TypeError, AttributeError):
        return f"{MANIFEST} or {STATE_FILE} lacks an entry"


def _find_unreadable(folder: Path, names: list[str]) -> str | None:
    """What a manifest that was rewritten together with the files would hide."""
    if RUNNING_LOSS not in names:
        return f"it has no {RUNNING_LOSS}"
    if not any(name in WEIGHTS for name in names):
        return "it has no weights as safetensors"
    for name in names:
        if Path(name).name in PICKLED_WEIGHTS:
            return f"{name} holds weights as a pickle"
        if Path(name).name == ".metadata":
            return f"{name} is a pickle that torch would run; use fsdp_state_dict_type FULL_STATE_DICT"
        try:
            _open_safely(folder / name)
        except Exception:  # whatever a strange file makes it raise
            return f"{name} does not open as {Path(name).suffix}"
    if read_json(folder / STATE_FILE)["global_step"] != step_of(folder):
        return f"{STATE_FILE} is not the state after {step_of(folder)} steps"
    return None


def _open_safely(path: Path) -> None:
    """Open a file by its kind, without running code that it holds; other kinds are never loaded."""
    from transformers.trainer_pt_utils import safe_globals

    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            file.keys()
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix in TORCH_FILES:
        with safe_globals():
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def best_beside(checkpoint: Path) -> Path | None:
    """The best checkpoint that this one names, in this one's folder; None without one.

    The recorded path counts by its last part, since the run's folder may have been moved.
    """
    best = Path(read_json(checkpoint / STATE_FILE).get("best_model_checkpoint") or "")
    return checkpoint.parent / best.name if re.fullmatch(r"checkpoint-\d+", best.name) else None


def _find_damage_with_best(checkpoint: Path) -> str | None:
    damage = find_damage(checkpoint)
    if damage is not None:
        return damage
    best = best_beside(checkpoint)
    damage = None if best is None else find_damage(best)
    return None if best is None or damage is None else f"{best.name}, the best so far, is damaged: {damage}"


def _choose(folder: Path) -> Path | None:
    """Newest whole checkpoint; damaged ones that are newer are renamed and named in one sentence."""
    damages: dict[str, str] = {}
    chosen = None
    for checkpoint in list_checkpoints(folder):
        damage = _find_damage_with_best(checkpoint)
        if damage is None:
            chosen = checkpoint
            break
        damages[checkpoint.name] = damage
    for name in damages:
        shutil.rmtree(folder / f"{DAMAGED}{name}", ignore_errors=True)
        (folder / name).rename(folder / f"{DAMAGED}{name}")
    if damages:
        listed = "; ".join(f"{name} ({damage})" for name, damage in damages.items())
        then = "starting from the beginning" if chosen is None else f"continuing from {chosen.name}"
        logger.warning("Damaged in %s, renamed to %s*: %s; %s.", folder, DAMAGED, listed, then)
    return chosen


def last_whole(folder: Path) -> Path | None:
    """Newest whole checkpoint of a run, or None; newer damaged ones are renamed to `damaged-checkpoint-N`.

    Under several processes the first one looks and all of them get its answer.

    Raises:
        UserError: several processes, and this one does not see the folder of the first.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return _choose(folder)
    names: list[str | None] = [None]
    if torch.distributed.get_rank() == 0:
        chosen = _choose(folder)
        names = [None if chosen is None else chosen.name]
    torch.distributed.broadcast_object_list(names, src=0)
    if names[0] is None:
        return None
    if not (folder / names[0]).is_dir():
        raise UserError(
            f"{names[0]} is not in {folder} on every machine: choose an --output-dir on a file system that they share."
        )
    return folder / names[0]


def publish(written: Path, final_root: Path, best: Path | None) -> None:
    """Rename a sealed checkpoint into place, and only then remove older ones.

    Names `checkpoint-N` appear and vanish by one rename each, so what a kill leaves under them is whole; the rest is
    beside `written`, where the next checkpoint or the end of the run removes it.

    Args:
        written: the checkpoint under its temporary name, alone in its folder, on the same file system.
        final_root: the run's folder.
        best: the best checkpoint, to be kept whatever its age.
    """
    final = final_root / written.name
    trash = written.parent / "old"
    trash.mkdir()
    if final.exists():
        final.rename(trash / final.name)
    written.rename(final)
    flush(final_root)
    older = [path for path in list_checkpoints(final_root) if step_of(path) <= step_of(final)]
    for checkpoint in older[KEEP:]:
        if best is None or checkpoint.name != best.name:
            checkpoint.rename(trash / checkpoint.name)
    flush(final_root)
    shutil.rmtree(written.parent)


def _why_not_written(error: BaseException | None) -> str | None:
    """Why a file could not be written, for the user; None for an error of another kind.

    torch, safetensors and tokenizers write in their own languages and raise errors that have no `errno`.
    """
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        match = re.search(r"(?:os error|code:) (\d+)", str(error))
        if number is None and match is not None:
            number = int(match[1])
        if number in NO_SPACE or re.search(TORCH_CANNOT_WRITE, str(error)):
            return "no space is left (disk full, quota, or limit of file size)"
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__cause__ or error.__context__
    return None


def cannot_write(error: BaseException, what: str, folder: Path) -> UserError | None:
    """The sentence for a user whose disk is full, naming the checkpoint that stays; None for an error of another kind.

    Args:
        error: what was raised while something was written.
        what: what was written, to begin the sentence with.
        folder: the run's folder.
    """
    why = _why_not_written(error)
    if why is None:
        return None
    checkpoints = list_checkpoints(folder)
    last = f"the last good one is {checkpoints[0].name}" if checkpoints else "there is no earlier one"
    return UserError(
        f"{what} could not be written: {why}; {last}: free space in {folder} and run the same command again."
    )
