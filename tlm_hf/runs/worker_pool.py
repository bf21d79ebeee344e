"""Running several trainings side by side on one machine: one process each, one progress bar for all."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tqdm.auto import tqdm

from ..errors import UserError
from .atomic_files import Json
from .quiet import quiet_libraries

LOG_FILE = "train.log"
PROGRESS_FILE = "progress.log"  # share of a run that is done; with a log alone a folder still counts as empty
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
POLL_SECONDS, LOG_SECONDS = 0.5, 20
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} elapsed, {remaining} left{postfix}"


@dataclass(frozen=True)
class Job:
    """A top-level function with a unique name, which comes `after` jobs of these names; `weight` in any unit."""

    name: str
    function: Callable[..., Json]
    arguments: Any
    after: tuple[str, ...] = ()
    weight: float = 1.0

    @property
    def progress(self) -> tuple[float, str]:
        """The weight of what is done, and name with numbers, by what `write_progress` noted last."""
        try:
            share, _, note = (_folder_of(self.arguments) / PROGRESS_FILE).read_text().strip().partition(" ")
            return self.weight * float(share), f"{self.name} {note}".strip()
        except (OSError, ValueError):
            return 0.0, self.name


def run_jobs(
    jobs: Sequence[Job],
    workers: int,
    description: str,
    wanted: Callable[[], Sequence[Job]] | None = None,
    *,
    devices: Sequence[str] = (),
    show: bool = True,
    elsewhere: Any = None,
) -> dict[str, Json]:
    """Run jobs, as many at once as there are workers, under one progress bar; returns their results by name.

    Jobs are in order of preference; `wanted`, called whenever one has ended, gives all to do from now on. Workers are
    processes of one thread each (1: this process), which take the `devices` (CUDA_VISIBLE_DEVICES) in turn; `elsewhere`
    is an Executor with `slots()` in their place. Raises UserError for what a job raises, after those in flight have
    ended, or a process that was killed; ValueError for jobs that wait for one that never ends.
    """
    executor = elsewhere or _processes(workers, devices)
    in_children = workers > 1 or elsewhere is not None
    submit = executor.submit if in_children else _submit_here
    waiting, done = list(jobs), 0.0
    running: dict[Future[Json], Job] = {}
    results: dict[str, Json] = {}
    pause = POLL_SECONDS if sys.stderr.isatty() else LOG_SECONDS
    bar = tqdm(desc=description, bar_format=BAR, mininterval=pause, miniters=0, file=sys.stderr, disable=not show)
    # A worker would run the caller's script again and, without `if __name__ == "__main__"`, train again.
    script = vars(sys.modules["__main__"])
    needed = "__file__" not in script or any(job.function.__module__ == "__main__" for job in jobs)
    without_script = patch.dict(script, {} if needed else {"__file__": None})
    with bar, patch.dict(os.environ, ONE_THREAD if in_children else {}), without_script, executor:
        try:
            while waiting or running:
                free = (elsewhere.slots() if elsewhere else workers) - len(running)
                ready = [job for job in waiting if results.keys() >= set(job.after)][: max(0, free)]
                if not ready and not running:
                    raise ValueError(f"The job {waiting[0].name!r} waits for jobs that never end: {waiting[0].after}.")
                waiting = [job for job in waiting if job not in ready]
                bar.total = done + sum(job.weight for job in [*running.values(), *ready, *waiting])
                found = [job.progress for job in [*running.values(), *ready]]
                bar.set_postfix_str("; ".join(words for _, words in found), refresh=False)
                bar.update(done + sum(weight for weight, _ in found) - bar.n)
                for job in ready:
                    running[submit(work, job.function, job.arguments, in_children)] = job
                for future in wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    results[job.name] = _result(job, future)
                    done += job.weight
                    if wanted is not None:
                        known = results.keys() | {other.name for other in running.values()}
                        waiting = [other for other in wanted() if other.name not in known]
        except KeyboardInterrupt:
            sys.stderr.write("\nInterrupted: every training saves a checkpoint ...\n")
            for process in list((getattr(executor, "_processes", None) or {}).values()):
                process.terminate()  # unlike a second SIGINT it never ends a training at once (`callbacks.Interrupt`)
            raise
        bar.total = done
        bar.update(done - bar.n)
    return results


def _processes(workers: int, devices: Sequence[str]) -> ProcessPoolExecutor:
    context = get_context("spawn")
    queue = context.SimpleQueue()
    for number in range(workers if devices else 0):
        queue.put(devices[number % len(devices)])
    return ProcessPoolExecutor(workers, context, _start_worker, (queue if devices else None,))


def _end_idle(*_: Any) -> None:
    """Of SIGTERM: its default would kill a worker that waits with the lock of the queue, which the others then lack."""
    sys.exit(1)


def _start_worker(devices: Any) -> None:
    """Take a device; end if the command that started the worker is killed, or two would write to one folder."""
    signal.signal(signal.SIGTERM, _end_idle)
    parent: Any = parent_process()

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices.get()


def write_progress(folder: Path, share: float, note: str = "") -> None:
    """Note how much of the run in `folder` is done, 0 to 1, and its last numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROGRESS_FILE).write_text(f"{share:.4f} {note}\n")


def _folder_of(arguments: Any) -> Path:
    return Path(arguments["output_dir"] if isinstance(arguments, dict) else arguments.output_dir)


def work(function: Callable[..., Json], arguments: Any, in_child: bool = True) -> Json:
    """Do a job; everything that it prints goes to `train.log` in its output folder."""
    folder = _folder_of(arguments)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG_FILE).open("a") as log, contextlib.ExitStack() as redirections:
        if in_child:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            quiet_libraries()
            if signal.getsignal(signal.SIGTERM) is _end_idle:  # not idle now
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                redirections.callback(signal.signal, signal.SIGTERM, _end_idle)
        else:
            redirections.enter_context(contextlib.redirect_stdout(log))
            redirections.enter_context(contextlib.redirect_stderr(log))
        return function(**arguments) if isinstance(arguments, dict) else function(arguments)


def _submit_here(function: Callable[..., Any], *args: Any) -> Future[Any]:
    """Run it in this process, at once; bad input waits in the future, as from a child process."""
    future: Future[Any] = Future()
    try:
        future.set_result(function(*args))
    except UserError as error:
        future.set_exception(error)
    return future


def _result(job: Job, future: Future[Json]) -> Json:
    try:
        return future.result()
    except UserError as error:
        raise UserError(f"{job.name}: {error}") from error
    except BrokenProcessPool:
        words = f"The process of {job.name} or one beside it was killed, perhaps for want of memory (see {LOG_FILE})"
        raise UserError(f"{words}: the same command continues; --workers 1 needs the least memory.") from None
