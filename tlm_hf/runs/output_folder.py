"""Output folders of long work: each belongs to one run, says so in `run.json`, and the same command continues it."""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock

from ..errors import UserError, refusing, shown
from .atomic_files import Json, flush_tree, lock, read_json, write_json
from .checkpoints import DAMAGED, PARTIAL, list_checkpoints, writing
from .provenance import commit, portable, provenance

logger = logging.getLogger(__name__)
RUN_FILE, LOCK = "run.json", ".lock"
RESULTS_FILE = "results.json"  # written last
HARMLESS = (".log", ".tmp", LOCK)  # endings in a new run's folder: logs, and what a process killed at its start leaves


def is_main_process() -> bool:
    """Whether this is the process that writes (rank 0 under torchrun and `accelerate launch`)."""
    return int(os.environ.get("RANK", "0")) == 0


def _difference(name: str, before: Any, now: Any) -> str:
    if re.search(r"\b[0-9a-f]{64}\b", f"{before} {now}"):
        return f"another {name.removesuffix('_sha256')} than there"
    return f"{name} {shown(before)} there and {shown(now)} here"


class Run:
    """The output folder of one run, locked until the run or this process ends: two processes never share it.

    `settings` are all that decides the result, inputs' hashes included, as JSON values. Raises UserError where the
    folder holds something else, a run with other settings, or one that another process works on.
    """

    def __init__(self, folder: str | Path, kind: str, settings: Json) -> None:
        self.folder, self.kind = Path(folder).expanduser(), kind
        self.commit = commit()  # at the start: the checkout may change during the run
        self.settings: Json = json.loads(json.dumps(settings))
        self._lock: filelock.BaseFileLock | None = None
        record = self.folder / RUN_FILE
        begun = record.is_file()
        if begun:
            self._compare(read_json(record))
        else:
            self._make_folder()
        if not is_main_process():
            return
        if self.results is not None:
            logger.info("%s is finished: what was found then follows.", self.folder)
            self._remove_checkpoints()  # killed between its results and this
            return
        self._lock = lock(self.folder / LOCK, "--output-dir")
        if not begun:
            write_json(record, {"kind": kind, "settings": self.settings})

    def _make_folder(self) -> None:
        with refusing(f"The output folder {self.folder} cannot be used", "choose another --output-dir", OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            names = [path.name for path in self.folder.iterdir() if not path.name.endswith(HARMLESS)]
        if names and (is_main_process() or names != [RUN_FILE]):  # process 0 of this very run may have been faster
            raise UserError(f"{self.folder} holds other files and no {RUN_FILE}: choose an empty or new --output-dir.")

    def _compare(self, record: Json) -> None:
        """Refuse a folder of another run; the threads of a finished one, which is only read, may differ."""
        now = {"kind": self.kind, **self.settings}
        before = {"kind": record.get("kind"), **record.get("settings", {})}
        differing = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
        if not differing or (differing == ["threads"] and self.results is not None):
            return
        shown = ["kind"] if "kind" in differing else differing[:3]
        details = ", ".join(_difference(name, before.get(name), now.get(name)) for name in shown)
        remedy = "choose another --output-dir, or delete that folder"
        if differing == ["threads"]:  # another number of them rounds otherwise
            remedy = f"add --num-threads {before['threads']}"
        raise UserError(f"The output folder {self.folder} belongs to another run ({details}): {remedy}.")

    @property
    def results(self) -> Json | None:
        """Results of the finished run, or None."""
        path = self.folder / RESULTS_FILE
        return read_json(path) if path.is_file() else None

    def discard(self) -> None:
        """Give the folder back: a run that was refused after it had taken the folder leaves no record there."""
        if list_checkpoints(self.folder) or self.results is not None:
            return
        (self.folder / RUN_FILE).unlink(missing_ok=True)
        self._release()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def describe(self, results: Json) -> Json:
        """Results with the run's kind, settings and provenance, as `results.json` holds them."""
        settings = portable(self.settings)
        return {"kind": self.kind, **results, "settings": settings, **provenance(), "commit": self.commit}

    def finish(self, save: Callable[[Path], Any] | None, results: Json) -> Json:
        """Put the files that `save` writes in place, then the results (as `describe`), and remove the checkpoints."""
        if not is_main_process():
            return results
        described = self.describe(results)
        with writing("The results", self.folder):
            if save is not None:
                partial = self.folder / PARTIAL
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                save(partial)
                flush_tree(partial)
                for path in partial.iterdir():
                    final = self.folder / path.name
                    if final.is_dir():  # of a run that was killed before its results were written
                        shutil.rmtree(final)
                    path.replace(final)
                partial.rmdir()
            write_json(self.folder / RESULTS_FILE, described)
        self._remove_checkpoints()
        self._release()
        return described

    def _release(self) -> None:
        if self._lock is not None:
            (self.folder / LOCK).unlink(missing_ok=True)
            self._lock.release()

    def _remove_checkpoints(self) -> None:
        own = re.compile(rf"({DAMAGED})?checkpoint-\d+|{re.escape(PARTIAL)}")  # a user's copies have other names
        for path in self.folder.iterdir():
            if own.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
