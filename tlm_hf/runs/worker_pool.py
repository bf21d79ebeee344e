"""Running several trainings side by side on one machine: one process and one core each, one progress bar for all."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..errors import UserError
from .quiet import quiet_libraries

LOG_FILE = "train.log"
PROGRESS_FILE = "progress.log"
"""Share of a run that is done; ends in .log, so that an output folder that holds nothing else still counts as empty."""
POLL_SECONDS = 0.5
LOG_SECONDS = 20
STOP_SIGNAL: int | None = getattr(signal, "SIGUSR1", None)
"""Asks a training to save and stop; unlike a second SIGINT it never ends it at once (`training.trainer`)."""


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Args:
        name: unique; shown to the user.
        function: a top-level function of one argument, such as `training.pretrain.pretrain`.
        arguments: its argument, a dataclass with `output_dir`.
        after: names of jobs that must be finished first.
        weight: expected work in any unit, for the progress bar.
    """

    name: str
    function: Callable[[Any], dict[str, Any]]
    arguments: Any
    after: tuple[str, ...] = ()
    weight: float = 1.0


def write_progress(folder: Path, share: float) -> None:
    """Note how much of the run in `folder` is done, 0 to 1."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROGRESS_FILE).write_text(f"{share:.4f}\n")


def read_progress(folder: Path) -> float:
    """What `write_progress` noted last; 0 where it noted nothing."""
    try:
        return float((folder / PROGRESS_FILE).read_text())
    except (OSError, ValueError):
        return 0.0


def end_with_parent() -> None:
    """Start of a worker: if the command that started it is killed, end too, or two would write to one folder.

    The parent is known since the worker was made: one that is killed while the worker still imports is missed as well.
    """
    parent = parent_process()

    def watch() -> None:
        while parent is not None and os.getppid() == parent.pid:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def work(function: Callable[[Any], dict[str, Any]], arguments: Any) -> dict[str, Any]:
    """Body of a worker: everything that the training prints goes to `train.log` in its output folder."""
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG_FILE).open("a") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        quiet_libraries()
        return function(arguments)


def ask_to_stop(pool: ProcessPoolExecutor) -> None:
    """Tell every worker to save and stop: of an interrupt a terminal tells all, `kill` or a notebook the parent."""
    for process in list((pool._processes or {}).values()):
        if STOP_SIGNAL is not None and process.is_alive():
            os.kill(process.pid or 0, STOP_SIGNAL)


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """Jobs reordered as little as needed for each to stand behind those that it comes after.

    Raises:
        ValueError: a job that comes after one that is not there, or after itself.
    """
    ordered: list[Job] = []
    waiting = list(jobs)
    while waiting:
        names = {job.name for job in ordered}
        ready = next((job for job in waiting if names.issuperset(job.after)), None)
        if ready is None:
            raise ValueError(f"The job {waiting[0].name!r} waits for jobs that never end: {waiting[0].after}.")
        ordered.append(ready)
        waiting.remove(ready)
    return ordered


def run_jobs(
    jobs: Sequence[Job], workers: int, description: str, wanted: Callable[[], Sequence[Job]] | None = None
) -> dict[str, dict[str, Any]]:
    """Run jobs, as many at once as there are workers, and show one progress bar with the time left.

    Args:
        jobs: in order of preference; a job starts when those that it comes after are done.
        workers: processes of one thread each; 1 runs everything in this process.
        description: what the progress bar says.
        wanted: called whenever a job has ended, gives the jobs that are to be done from there on, in order of
            preference (those that are done or running may be among them); None for `jobs` alone.

    Returns:
        Results by job name. A job whose output folder is finished returns its results at once.

    Raises:
        UserError: what a job raises, after the others in flight have ended; a process that was killed.
        KeyboardInterrupt: interrupted; every training has saved a checkpoint.
    """
    results: dict[str, dict[str, Any]] = {}
    jobs = in_order(jobs)
    waiting, weights = list(jobs), {job.name: job.weight for job in jobs}
    layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} elapsed, {remaining} left{postfix}"

    def look_again(bar: tqdm, running: Sequence[str]) -> list[Job]:
        """The jobs that wait now, after one has ended."""
        if wanted is None:
            return waiting
        again = [job for job in in_order(wanted()) if job.name not in results and job.name not in running]
        weights.update({job.name: job.weight for job in again})
        there = {*results, *running, *(job.name for job in again)}
        bar.total = sum(weight for name, weight in weights.items() if name in there)
        return again

    with tqdm(total=sum(weights.values()), desc=description, bar_format=layout, file=sys.stderr) as bar:
        if workers == 1:
            while waiting:
                job = waiting.pop(0)
                bar.set_postfix_str(job.name)
                folder = Path(job.arguments.output_dir)
                folder.mkdir(parents=True, exist_ok=True)
                with (folder / LOG_FILE).open("a") as log, redirect_stdout(log), redirect_stderr(log):
                    results[job.name] = job.function(job.arguments)
                bar.update(job.weight)
                waiting = look_again(bar, ())
            return results
        before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")}
        os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        try:
            with ProcessPoolExecutor(workers, get_context("spawn"), initializer=end_with_parent) as pool:
                try:
                    next_line = 0.0
                    flying: dict[Future, Job] = {}
                    while waiting or flying:
                        for job in list(waiting):
                            if len(flying) < workers and all(name in results for name in job.after):
                                flying[pool.submit(work, job.function, job.arguments)] = job
                                waiting.remove(job)
                        done, _ = wait(flying, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                        for future in done:
                            job = flying.pop(future)
                            try:
                                results[job.name] = future.result()
                            except BrokenProcessPool as error:
                                raise UserError(
                                    f"A process ended by itself beside {job.name} (killed for want of memory?): the "
                                    "same command goes on from the last checkpoints, with fewer --workers."
                                ) from error
                        if done:
                            waiting = look_again(bar, [job.name for job in flying.values()])
                        finished = sum(weights[name] for name in results)
                        bar.n = finished + sum(
                            job.weight * read_progress(Path(job.arguments.output_dir)) for job in flying.values()
                        )
                        bar.set_postfix_str(", ".join(job.name for job in flying.values()), refresh=False)
                        if time.monotonic() >= next_line:  # in a log file every line stays, so there are fewer of them
                            bar.refresh()
                            next_line = time.monotonic() + (POLL_SECONDS if sys.stderr.isatty() else LOG_SECONDS)
                except KeyboardInterrupt:
                    ask_to_stop(pool)
                    raise
        except KeyboardInterrupt:
            sys.stderr.write("\nInterrupted: every training saves a checkpoint ...\n")
            raise
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
    return results
