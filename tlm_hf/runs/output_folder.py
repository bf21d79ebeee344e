"""Output folders of long work: each belongs to one run, says so in `run.json`, and lets the same command continue it.

A finished run has `results.json`, written last; until then checkpoints lie in `checkpoint-N` folders, each renamed into
place when whole (see `training.trainer`).
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import UserError
from .atomic_files import flush_tree, write_json
from .checkpoints import cannot_write, last_whole, list_checkpoints
from .provenance import commit, portable, provenance

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

RUN_FILE = "run.json"
RESULTS_FILE = "results.json"
PARTIAL = ".partial"


_HELD: dict[str, BinaryIO] = {}
"""Records that this process holds locked, until their runs are finished or it ends."""


def is_main_process() -> bool:
    """Whether this is the process that writes (rank 0 under torchrun and `accelerate launch`)."""
    return int(os.environ.get("RANK", "0")) == 0


class Run:
    """The output folder of one run.

    Args:
        folder: the output folder; made when missing.
        kind: what the run does (`pretrain`, `finetune`, ...).
        settings: everything that decides the result, inputs' hashes included; JSON values.

    Raises:
        UserError: the folder holds something else, or a run with other settings; the sentence names the first three.
    """

    def __init__(self, folder: str | Path, kind: str, settings: dict[str, Any]) -> None:
        self.folder = Path(folder).expanduser()
        self.kind = kind
        self.commit = commit()  # at the start: the checkout may move on while the run goes on
        self.settings = json.loads(json.dumps(settings))
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"The output folder {folder} is a file: choose another --output-dir.")
        record = self.folder / RUN_FILE
        if record.is_file():
            self._check_same(record)
            if self.results is None:
                self._lock(record)
            elif is_main_process():
                self._remove_checkpoints()  # killed between its results and this
            return
        # A log, or the record that a process killed at its very start (or running beside this one) had not yet renamed.
        harmless = (".log", ".tmp")
        others = [entry.name for entry in self.folder.iterdir()] if self.folder.is_dir() else []
        others = [name for name in others if not name.endswith(harmless)]
        if others and (is_main_process() or others != [RUN_FILE]):  # process 0 of this very run may have been faster
            raise UserError(
                f"The output folder {folder} holds other files and no {RUN_FILE}: choose an empty or new --output-dir."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"The output folder {folder} cannot be made ({error.strerror}): choose another --output-dir."
            ) from error
        if is_main_process():
            write_json(record, {"kind": kind, "settings": self.settings})
            self._lock(record)

    def _lock(self, record: Path) -> None:
        """Hold the folder until the run or this process ends (where the system can): two commands never share it."""
        if fcntl is None or not is_main_process():
            return
        name = str(record.resolve())
        if name in _HELD:  # the same process again: a notebook cell after an interrupt
            return
        held = record.open("rb")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            held.close()
            if not isinstance(error, BlockingIOError):  # a file system without locks
                return
            raise UserError(
                f"Another process is working in {self.folder}: wait for it, or choose another --output-dir."
            ) from None
        _HELD[name] = held

    def _release(self) -> None:
        """Let the folder go: the work in it is over."""
        held = _HELD.pop(str((self.folder / RUN_FILE).resolve()), None)
        if held is not None:
            held.close()

    def _check_same(self, record: Path) -> None:
        try:
            there = json.loads(record.read_text(encoding="utf-8"))
            kind, settings = there["kind"], there["settings"]
        except (ValueError, KeyError) as error:
            raise UserError(f"{record} is not readable as a run's record: choose another --output-dir.") from error
        if kind != self.kind:
            raise UserError(
                f"The output folder {self.folder} belongs to another run (a {kind}, not a {self.kind}): choose another "
                "--output-dir."
            )
        keys = sorted(set(settings) | set(self.settings))
        differing = [key for key in keys if settings.get(key) != self.settings.get(key)]
        if differing == ["threads"] and self.results is not None:
            return  # a finished run is only read
        if differing == ["threads"]:
            there_were = settings["threads"]
            raise UserError(
                f"The run in {self.folder} began with {there_were} CPU threads and would go on with "
                f"{self.settings['threads']}, which rounds otherwise: add --num-threads {there_were}."
            )
        if differing:
            details = ", ".join(
                f"{key} {settings.get(key)!r} there and {self.settings.get(key)!r} here" for key in differing[:3]
            )
            raise UserError(
                f"The output folder {self.folder} belongs to another run ({details}): choose another --output-dir, or "
                "delete that folder."
            )

    @property
    def results(self) -> dict[str, Any] | None:
        """Results of the finished run, or None."""
        path = self.folder / RESULTS_FILE
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def last_checkpoint(self) -> Path | None:
        """Newest whole checkpoint, or None; a damaged one is passed over with a sentence (`runs.checkpoints`).

        Under several processes all of them must call this, after the Trainer was made.
        """
        return last_whole(self.folder)

    def discard(self) -> None:
        """Give the folder back: a run that was refused after it had taken the folder leaves no record there."""
        if not list_checkpoints(self.folder) and self.results is None:
            self._release()
            (self.folder / RUN_FILE).unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def describe(self, results: dict[str, Any]) -> dict[str, Any]:
        """Results with the run's kind, settings and provenance added, as `results.json` holds them."""
        return {
            "kind": self.kind,
            **results,
            "settings": portable(self.settings),
            **provenance(),
            "commit": self.commit,
        }

    def finish(self, save: Callable[[Path], None] | None, results: dict[str, Any]) -> dict[str, Any]:
        """Put the model files in place, then the results, then remove the checkpoints.

        Args:
            save: writes the model and its tokenizer into the folder that it is given; None for a run without a model.
            results: metrics and what else the run found.

        Returns:
            The results with settings and provenance added, as written.

        Raises:
            UserError: no space for the files; the last checkpoint stays.
        """
        written = self.describe(results)
        try:
            if save is not None:
                self._put_in_place(save)
            write_json(self.folder / RESULTS_FILE, written)
        except Exception as error:
            shutil.rmtree(self.folder / PARTIAL, ignore_errors=True)
            sentence = cannot_write(error, "The results", self.folder)
            if sentence is None:
                raise
            raise sentence from error
        self._remove_checkpoints()
        self._release()
        return written

    def _put_in_place(self, save: Callable[[Path], None]) -> None:
        """Write the model's files under a temporary name, flush them, and move them into the folder."""
        partial = self.folder / PARTIAL
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        save(partial)
        flush_tree(partial)
        for file in partial.iterdir():
            file.replace(self.folder / file.name)
        partial.rmdir()

    def _remove_checkpoints(self) -> None:
        """Of a finished run no checkpoint is needed."""
        for path in (*self.folder.glob("checkpoint-*"), self.folder / PARTIAL):
            shutil.rmtree(path, ignore_errors=True)
