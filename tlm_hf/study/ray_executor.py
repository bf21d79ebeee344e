"""The study's runs as tasks of a Ray cluster: each is retried on another node when its own dies.

Records and work folders must be on a path that all nodes share: a run that moves continues from its checkpoint there.
Inside a run Accelerate does the parallel work; between runs Ray only schedules.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tqdm.auto import tqdm

from ..errors import UserError
from ..runs.worker_pool import Job, work

logger = logging.getLogger(__name__)
RETRIES = 3
POLL_SECONDS = 1.0


def run_on_ray(next_jobs: Callable[[], Sequence[Job]], address: str | None = None, gpus: float = 0.0) -> None:
    """Do jobs on a cluster until there are none.

    Args:
        next_jobs: the jobs to be done from now on, in order of preference; asked again when one has ended.
        address: the cluster's; None for the variable RAY_ADDRESS, or a cluster of this machine alone.
        gpus: GPUs that each job takes beside one CPU.

    Raises:
        UserError: no cluster at the address, or what a job raises, after the others in flight have ended.
        KeyboardInterrupt: interrupted; the jobs are cancelled and continue from their last checkpoints.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"No Ray cluster answers ({error}): set RAY_ADDRESS to a running one.") from error
    resources = ray.cluster_resources()
    if resources.get("GPU", 0) < gpus:
        raise UserError(f"--gpus-per-run is {gpus:g} but the cluster has {resources.get('GPU', 0):g} GPUs: give less.")
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES, scheduling_strategy="SPREAD")(_work)
    flying: dict[Any, Job] = {}
    finished: set[str] = set()
    waiting = list(next_jobs())
    try:
        with tqdm(desc="Study on Ray", unit="run", file=sys.stderr) as bar:
            while waiting or flying:
                started = {job.name for job in flying.values()}
                ready = [job for job in waiting if job.name not in started and finished.issuperset(job.after)]
                # Jobs queued in the cluster would also start after --stop-after: send no more than it runs at once.
                for job in ready[: max(0, _slots(ray, gpus) - len(flying))]:
                    flying[remote.remote(job.function, job.arguments)] = job
                bar.total = len(finished | {job.name for job in (*waiting, *flying.values())})
                done, _ = ray.wait(list(flying), num_returns=1, timeout=POLL_SECONDS)
                for reference in done:
                    job = flying.pop(reference)
                    _raise_failure(ray, reference, job, flying)
                    finished.add(job.name)
                    bar.update(1)
                if done:
                    waiting = [job for job in next_jobs() if job.name not in finished]
    finally:
        for reference in flying:
            ray.cancel(reference, force=True)
        ray.shutdown()


def _slots(ray: Any, gpus: float) -> int:
    """How many jobs the cluster runs at once."""
    resources = ray.cluster_resources()
    slots = int(resources.get("CPU", 1))
    return max(1, min(slots, int(resources.get("GPU", 0) / gpus)) if gpus else slots)


def _work(function: Callable[[Any], Any], arguments: Any) -> None:
    """Body of a task; results are read from the shared folder."""
    work(function, arguments)


def _raise_failure(ray: Any, reference: Any, job: Job, others: dict[Any, Job]) -> None:
    """Raise what a job raised, after the others have ended: what they did since a checkpoint is kept."""
    try:
        ray.get(reference)
    except ray.exceptions.RayError as error:
        if others:
            logger.error("%s failed (%s); waiting for the other runs.", job.name, error)
            ray.wait(list(others), num_returns=len(others))
            others.clear()
        if not isinstance(error, ray.exceptions.RayTaskError):
            raise UserError(
                f"The run {job.name} ended {RETRIES + 1} times with its node ({type(error).__name__}): start the same "
                "command again, it continues."
            ) from error
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
